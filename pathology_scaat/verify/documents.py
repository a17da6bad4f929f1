"""Re-reading what ``evaluate``, ``compare`` and ``report`` wrote: its bytes, and of what it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.checksums import sums_problem
from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.artifacts.output_names import (
    CARD_SUMS,
    COMPARISON_SUMS,
    CRATE_NAME,
    REPORT_SUMS,
)
from pathology_scaat.training.run_bundles import known_fingerprints
from pathology_scaat.verify.bundles import check_bundle
from pathology_scaat.verify.findings import Report

UNSIGNED = "its bytes cannot be checked: an earlier version kept no checksums of it"
_STATED_MODEL = re.compile(r"^- fingerprint ([0-9a-f]{64}) ", re.MULTILINE)
_FOR_PEOPLE = "report/"
"""What people fill in: it is told where they have, and no fault."""


def check_documents(out_dir: Path, deep: bool, report: Report) -> None:
    """Report on trust card, comparison, model card, checklists and RO-Crate, where they are.

    Their bytes are read where it goes ``deep``.
    """
    models = known_fingerprints(out_dir)
    _check_card(out_dir, models, deep, report)
    _check_comparison(out_dir, deep, report)
    _check_report(out_dir, models, deep, report)
    _check_crate(out_dir, deep, report)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _sums(folder: Path, name: str, remedy: str, deep: bool) -> tuple[list[str], str]:
    """What does not agree with the checksums of a folder, and what to add where there are none."""
    if not (folder / name).is_file():
        return [], f"; {UNSIGNED}"
    broken = sums_problem(folder, name) if deep else None
    return [f"{broken}; {remedy}"] if broken else [], ""


def _which(models: frozenset[str]) -> str:
    return "the one" if len(models) == 1 else "those"


def _check_card(out_dir: Path, models: frozenset[str], deep: bool, report: Report) -> None:
    folder = out_dir / "evaluation"
    if not (folder / "trust_card.json").exists() and not (folder / CARD_SUMS).exists():
        return
    problems, more = _sums(folder, CARD_SUMS, "run 'scaat evaluate' again", deep)
    card = _json(folder / "trust_card.json")
    if card is None and not problems:
        problems = ["cannot be read; run 'scaat evaluate' again"]
    stated = str((card or {}).get("model_fingerprint", ""))
    if card is not None and models and stated not in models:
        problems.append(
            f"is of another model than {_which(models)} in this folder; run 'scaat evaluate' again"
        )
    report.add("evaluation/trust_card.json", problems, f"trust card of a model's maps{more}")


def _check_comparison(out_dir: Path, deep: bool, report: Report) -> None:
    folder = out_dir / "comparison"
    for bundle in sorted((folder / "models").glob("*")):
        if bundle.is_dir() and (bundle / "config.json").exists():
            name = bundle.relative_to(out_dir).as_posix()
            check_bundle(name, bundle, deep, _described, report)
    if not (folder / "comparison.json").exists() and not (folder / COMPARISON_SUMS).exists():
        return
    problems, more = _sums(folder, COMPARISON_SUMS, "run 'scaat compare' again", deep)
    if not problems and _json(folder / "comparison.json") is None:
        problems = ["cannot be read; run 'scaat compare' again"]
    report.add("comparison/comparison.json", problems, f"comparison of methods{more}")


def _described(path: Path) -> tuple[str, str]:
    from pathology_scaat.training.bundle import load_bundle

    bundle = load_bundle(path)
    config = bundle.config
    words = f"{config.backbone}, {config.method}, of a comparison"
    return words, bundle.fingerprint


def _check_report(out_dir: Path, models: frozenset[str], deep: bool, report: Report) -> None:
    folder = out_dir / "report"
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    more = "" if (folder / REPORT_SUMS).is_file() else f"; {UNSIGNED}"
    if deep and not more and (changed := sums_problem(folder, REPORT_SUMS)):
        more = f"; {changed}: it was filled in by hand, or damaged"
    problems = []
    card = folder / "model_card.md"
    if card.is_file() and models:
        found = _STATED_MODEL.search(card.read_text(encoding="utf-8", errors="replace"))
        if found is not None and found[1] not in models:
            problems.append(
                f"model_card.md is of another model than {_which(models)} in this folder; "
                "run 'scaat report' again"
            )
    report.add("report", problems, f"model card and checklists{more}")


def _check_crate(out_dir: Path, deep: bool, report: Report) -> None:
    path = out_dir / CRATE_NAME
    if not path.exists():
        return
    graph = (_json(path) or {}).get("@graph")
    if not isinstance(graph, list):
        report.add(CRATE_NAME, ["cannot be read; run 'scaat report' again"], "")
        return
    files = [e for e in graph if isinstance(e, dict) and e.get("@type") == "File"]
    stale = [
        name
        for entity in files
        if not (name := str(entity.get("@id"))).startswith(_FOR_PEOPLE)
        and not _is_described(out_dir, name, entity, deep)
    ]
    problems = [
        f"describes another {name} than the one that is here; run 'scaat report' again"
        for name in stale
    ]
    report.add(CRATE_NAME, problems, f"RO-Crate of {len(files)} files")


def _is_described(out_dir: Path, name: str, entity: dict[str, Any], deep: bool) -> bool:
    path = out_dir / name
    inside = path.resolve().is_relative_to(out_dir.resolve())
    there = inside and path.is_file()
    return there and (not deep or file_sha256(path) == entity.get("sha256"))

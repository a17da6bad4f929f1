"""Re-reading heads on features: their configurations, weights, predictions and figures."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.verify.bundles import check_bundle
from pathology_scaat.verify.findings import Report


def head_folders_in(out_dir: Path) -> list[Path]:
    """Folders that heads were trained or predicted in: the output folder, one a target."""
    targets = sorted(path for path in (out_dir / "targets").glob("*") if path.is_dir())
    return [path for path in (out_dir, *targets) if _heads(path)]


def check_heads(out_dir: Path, deep: bool, report: Report) -> None:
    """Report on each head of an output folder."""
    for folder in head_folders_in(out_dir):
        for path in _heads(folder):
            _check_head(out_dir, path, deep, report)


def _heads(folder: Path) -> list[Path]:
    found = [folder / "head", *sorted((folder / "folds").glob("*/head"))]
    return [path for path in found if path.is_dir()]


def _described(path: Path) -> tuple[str, str]:
    from pathology_scaat.training.heads.bundle import load_head

    head = load_head(path)
    config = head.config
    return f"head on {config.n_features} features, {config.target.column}", head.fingerprint


def _check_head(out_dir: Path, path: Path, deep: bool, report: Report) -> None:
    check_bundle(path.relative_to(out_dir).as_posix(), path, deep, _described, report)

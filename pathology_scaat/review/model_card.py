"""What the first page says of the model: how good, on what, and what is not known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.redaction import redact
from pathology_scaat.errors import ScaatError
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.saliency.methods_of_maps import card_is_of, method_words, methods_of_maps
from pathology_scaat.system.rounding import decimals
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.run_bundles import bundle_of_results

PERFORMANCE = "performance.json"
HOW = "predictions.json"
OTHERS_PREDICTED = "another model than this one has predicted: run 'scaat predict' again"
NOT_HERE = (
    "the model that made these maps is not in this folder, so that nothing is known of it here: "
    "start the review with --model BUNDLE"
)
TRUST_CARD = "evaluation/trust_card.json"
NO_INTERVAL = "bootstrap samples of the patients do not differ, or most have one class only"
ONE_SEED = (
    "not known: one training was done; another seed gives another model, and by how much it "
    "would differ was not measured"
)


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON; empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def model_card(out: Path, model: Path | None = None) -> dict[str, Any]:
    """The model as rows of (what, what is known of it), and what must be read first.

    Returns
    -------
    dict
        ``facts``: list of [name, text]; ``warnings``: sentences that come first; ``positive_class``
        and ``fingerprint`` where the model is at hand; ``problem`` where it is not.
    """
    own = Workspace(out).model
    try:
        config = read_bundle_config(model or bundle_of_results(out) or own)
    except ScaatError as error:
        if model is None and not own.exists():
            problem = NOT_HERE
        else:
            problem = redact(f"the model cannot be read: {error.problem}")
        measured = read_json(out / PERFORMANCE)
        warnings = _read_first(measured)
        return {"problem": problem, "facts": _performance(measured), "warnings": warnings}
    fingerprint = model_fingerprint(config)
    measured, predicted = (_of_model(out / name, fingerprint) for name in (PERFORMANCE, HOW))
    facts = ModelFacts.of_json(config.facts(""), fingerprint)
    methods = methods_of_maps(out, fingerprint)
    warnings = [facts.warning] if facts.warning else []
    warnings += [said for said in _read_first(measured) if said != facts.warning]
    rows = [
        ["model", f"{fingerprint[:12]}: {config.backbone}, trained with {config.trained_by}"],
        ["classes", ", ".join(config.class_names)],
        ["maps speak of", config.positive_class],
        ["at", f"{config.mpp:g} µm/px" if config.mpp else "unknown µm/px"],
        ["probabilities of patches", "calibrated" if config.is_calibrated else "not calibrated"],
        *([["terms of its weights", config.terms]] if config.terms else []),
        ["quality of patches", _quality(config, facts)],
        *_performance(measured),
        ["probabilities of slides", _calibration_of_slides(predicted)],
        ["slides", facts.slides],
        ["age of its data", facts.age],
        ["spread over seeds", ONE_SEED],
        ["maps made by", method_words(methods) or "not known: no map of this model is here"],
        ["faithfulness of maps", _trust(out, fingerprint, methods)],
    ]
    return {
        "facts": rows,
        "warnings": warnings,
        "positive_class": config.positive_class,
        "fingerprint": fingerprint,
    }


def _of_model(path: Path, fingerprint: str) -> dict[str, Any]:
    """What a file says of a model's predictions; that it is of others only, where it is."""
    found = read_json(path)
    models = found.get("models", (found.get("prediction") or {}).get("models"))
    named = {one.get("fingerprint") for one in models or () if isinstance(one, dict)}
    return {"of_others": True} if named and fingerprint not in named else found


def _calibration_of_slides(predicted: dict[str, Any]) -> str:
    """Whether what is said of whole slides is calibrated; that of patches may be and this not."""
    if predicted.get("of_others"):
        return f"not known: {OTHERS_PREDICTED}"
    return str(predicted.get("calibration") or "not known to be calibrated")


def _quality(config: BundleConfig, facts: ModelFacts) -> str:
    if config.held_out is not None:
        return facts.quality
    if config.bag is not None:
        return "not known: it learnt from slides, and patches have no labels"
    return facts.quality


def _read_first(measured: dict[str, Any]) -> list[str]:
    """What no figure of slides is to be read without."""
    found = measured.get("read_first")
    return [said for said in found if isinstance(said, str)] if isinstance(found, list) else []


def _performance(found: dict[str, Any]) -> list[list[str]]:
    """AUROC of slides and patients with intervals; what is not there is stated to be unknown."""
    if found.get("of_others"):
        return [["quality of slides", f"not known: {OTHERS_PREDICTED}"]]
    levels = found.get("levels")
    if not isinstance(levels, dict):
        return [["quality of slides", "not known: no labelled held-out slides were predicted"]]
    on = str(found.get("evaluated_on", "slides of unknown origin"))
    rows = []
    several = len(found.get("class_names") or ()) > 2
    name = "AUROC, mean over classes," if several else "AUROC"
    for unit in ("slide", "patient"):
        level = levels.get(unit)
        if isinstance(level, dict):
            text = _estimate(level, "auroc")
            rows.append([f"quality of {unit}s", f"{name} {text}; {level.get('n')} {unit}s, {on}"])
    return rows


def _estimate(level: dict[str, Any], name: str) -> str:
    value, bounds = level.get(name), (level.get("intervals_95") or {}).get(name)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "not measurable"
    if not (isinstance(bounds, list) and len(bounds) == 2):
        why = level.get("no_intervals") or NO_INTERVAL
        return f"{decimals(value, 2)} (no interval: {why})"
    low, high = (decimals(end, 2) for end in bounds)
    return f"{decimals(value, 2)} (95 % interval {low} to {high})"


def _trust(out: Path, fingerprint: str, methods: dict[str, int]) -> str:
    card = read_json(out / TRUST_CARD)
    if not card:
        return "nobody has measured it: 'scaat evaluate' does"
    if card.get("model_fingerprint") != fingerprint:
        return "measured for another model than this one: run 'scaat evaluate' again"
    measured = str(card.get("explanation_method", ""))
    if not card_is_of(measured, methods):
        return f"measured for maps by '{measured}' alone: run 'scaat evaluate' again"
    entries = card.get("entries")
    verdicts = [e.get("verdict") for e in entries or () if isinstance(e, dict)]
    counts = [f"{verdicts.count(v)} {v}" for v in ("good", "unclear", "poor") if v in verdicts]
    held_out = card.get("held_out")
    seen = "" if held_out is True else "; on images that the model " + (
        "has seen: too good" if held_out is False else "may have seen"
    )  # fmt: skip
    return (
        f"measured: {', '.join(counts) or 'no question answered'}{seen} (evaluation/trust_card.md)"
    )

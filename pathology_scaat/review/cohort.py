"""What the review pages show of a cohort, out of the artifacts of a run."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, Workspace
from pathology_scaat.artifacts.redaction import redact
from pathology_scaat.artifacts.status import STAGES, StatusTable
from pathology_scaat.errors import ScaatError
from pathology_scaat.export.sidecar import read_sidecar, sidecar_path
from pathology_scaat.review.regions import ReviewRegion, ordered, overlay_path, read_regions
from pathology_scaat.review.verdicts import WHOLE_SLIDE, Verdict, VerdictTable
from pathology_scaat.stitching import SlideMap
from pathology_scaat.training.bundle import read_bundle_config

PERFORMANCE = "results/performance.json"
TRUST_CARD = "evaluation/trust_card.json"
MAX_TABLE_BYTES = 64 << 20


@dataclass(frozen=True)
class SlidePaper:
    """What is known of one slide for its page."""

    channels: tuple[str, ...]
    frame_px: tuple[int, int, int, int]
    """Box of the map in the slide's level-0 pixels: x, y, width, height."""
    target_class: str
    regions: tuple[ReviewRegion, ...]


def read_predictions(out: Path) -> dict[str, dict[str, str]]:
    """Rows of the table of predictions by slide id; empty where there is none."""
    path = out / PREDICTIONS_NAME
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            return {}
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return {row["slide_id"]: row for row in csv.DictReader(stream)}
    except (OSError, KeyError, ValueError, csv.Error):
        return {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def cohort_rows(out: Path, verdicts: VerdictTable) -> list[dict[str, Any]]:
    """One row per slide of ``slides.csv``, failed ones included."""
    space, predictions = Workspace(out), read_predictions(out)
    current = verdicts.current()
    rows = []
    for status in StatusTable(out).rows():
        slide_id = status["slide_id"]
        record = read_sidecar(sidecar_path(space.overlays, slide_id)) or {}
        predicted = predictions.get(slide_id, {})
        mine = [v for v in current.values() if v.slide_id == slide_id]
        failed = next((s for s in STAGES if status.get(s) == "failed"), "")
        rows.append(
            {
                "slide_id": slide_id,
                "status": f"failed in {failed}" if failed else _progress(status),
                "failed": bool(failed),
                "reason": status.get("reason", ""),
                "split": status.get("split", ""),
                "notes": status.get("notes", ""),
                "n_patches": status.get("n_patches", ""),
                "n_regions": record.get("n_regions"),
                "probabilities": {
                    name.removeprefix("p_"): value
                    for name, value in predicted.items()
                    if name and name.startswith("p_")
                },
                "uncertainty": predicted.get("uncertainty") or predicted.get("entropy", ""),
                "unlike_training": predicted.get("unlike_training")
                or status.get("unlike_training", ""),
                "n_judged": len({v.region_id for v in mine if v.region_id != WHOLE_SLIDE}),
                "slide_verdicts": sorted(
                    f"{v.reviewer}: {v.answer}" for v in mine if v.region_id == WHOLE_SLIDE
                ),
                "has_map": space.map(slide_id).is_dir(),
            }
        )
    return rows


def _progress(status: dict[str, str]) -> str:
    done = [stage for stage in STAGES if status.get(stage) == "done"]
    return f"{done[-1]} done" if done else "pending"


def model_card(out: Path, model: Path | None = None) -> dict[str, Any]:
    """What the page says of the model, its performance and its trust card, where they are known."""
    card: dict[str, Any] = {"performance": _read_json(out / PERFORMANCE)}
    trust = _read_json(out / TRUST_CARD)
    card["trust_card"] = bool(trust)
    try:
        config = read_bundle_config(model or Workspace(out).model)
    except ScaatError as error:
        card["problem"] = redact(f"the model is not here: {error.problem}")
        return card
    card |= {
        "backbone": config.backbone,
        "classes": list(config.class_names),
        "positive_class": config.positive_class,
        "mpp": config.mpp,
        "method": config.trained_by,
        "probability": "calibrated" if config.is_calibrated else "not calibrated",
        "terms": config.terms,
        "metrics": {k: v for k, v in config.metrics.items() if isinstance(v, int | float)},
    }
    return card


def slide_paper(out: Path, slide_id: str, order: str) -> SlidePaper:
    """Map channels and regions of a slide.

    Raises
    ------
    StoreError
        If its map or overlay cannot be read.
    """
    space = Workspace(out)
    slide_map = SlideMap(space.map(slide_id))
    box = slide_map.frame_px
    path = overlay_path(space.overlays, slide_id)
    regions = ordered(read_regions(path), order) if path is not None else ()
    record = read_sidecar(sidecar_path(space.overlays, slide_id)) or {}
    offset = tuple(record.get("coordinates", {}).get("offset_px", (box.x, box.y)))
    frame = slide_map.meta.slide.frame_px
    shift = (offset[0] - frame.x, offset[1] - frame.y)
    return SlidePaper(
        slide_map.channel_names,
        (box.x, box.y, box.width, box.height),
        slide_map.meta.target_class,
        tuple(_shifted(region, shift) for region in regions),
    )


def _shifted(region: ReviewRegion, shift: tuple[int, int]) -> ReviewRegion:
    """A region of an exported file, whose frame may be the canvas, in the viewer's frame."""
    if shift == (0, 0):
        return region
    rings = tuple(tuple((x + shift[0], y + shift[1]) for x, y in ring) for ring in region.rings)
    return ReviewRegion(
        region.region_id, region.name, rings, region.area_um2, region.saliency, region.probability
    )


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the page takes it."""
    return {
        "reviewer": verdict.reviewer,
        "region_id": verdict.region_id,
        "answer": verdict.answer,
        "blind": verdict.blind,
        "note": verdict.note,
    }

"""What the review pages show of a cohort, out of the artifacts of a run."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES
from pathology_scaat.artifacts.table_cells import id_cell
from pathology_scaat.export.model_facts import ROLE_WORDS, ModelFacts
from pathology_scaat.export.report.contact_sheet import ROLE_SHORT
from pathology_scaat.export.sidecar import read_sidecar, sidecar_path
from pathology_scaat.review.map_scale import ChannelScale, channel_scales
from pathology_scaat.review.regions import ReviewRegion, ordered, overlay_path, read_regions
from pathology_scaat.review.verdicts import WHOLE_SLIDE, Verdict, VerdictTable
from pathology_scaat.saliency.schema import UNLIKE_SLIDE_SHARE
from pathology_scaat.stitching import SlideMap
from pathology_scaat.system.rounding import percent

MAX_TABLE_BYTES = 64 << 20


@dataclass(frozen=True)
class SlideDetails:
    """What is known of one slide for its page."""

    channels: tuple[str, ...]
    class_names: tuple[str, ...]
    frame_px: tuple[int, int, int, int]
    """Box of the map in the slide's level-0 pixels: x, y, width, height."""
    target_class: str
    regions: tuple[ReviewRegion, ...]
    scales: tuple[ChannelScale, ...]
    """How each channel is coloured."""
    role: str
    """What the slide served for in training, in words."""
    warnings: tuple[str, ...]
    """What must be read before the map."""


_BY_USE = {"test": 0, "external test": 1, "val": 3, "train": 4}
"""Of several predictions of a slide (folds) that of a model which never saw it is shown."""


def read_predictions(out: Path) -> dict[str, dict[str, str]]:
    """Rows of the table of predictions by slide id; empty where there is none."""
    path = out / PREDICTIONS_NAME
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            return {}
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = sorted(csv.DictReader(stream), key=lambda row: _BY_USE.get(row["split"], 2))
            return {row["slide_id"]: row for row in reversed(rows)}
    except (OSError, KeyError, ValueError, csv.Error):
        return {}


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
                "role": _role(record, status),
                "notes": status.get("notes", ""),
                "n_patches": status.get("n_patches", ""),
                "n_regions": record.get("n_regions"),
                "probabilities": _probabilities(predicted),
                "uncertainty": _uncertainty(predicted),
                "refer": _refer(predicted),
                "disagreement": _number(predicted.get("disagreement")),
                "unlike_training": _unlike(record, status),
                "model": str(record.get("model_fingerprint", "")),
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
    if not done:
        return "pending"
    return "done" if done[-1] == STAGES[-1] else f"{done[-1]} done"


def _role(record: dict[str, Any], status: dict[str, str]) -> str:
    """What a slide served for: by the model's own record, else by the table of the run."""
    model = record.get("model") or {}
    role, split = str(model.get("slide_role", "unknown")), status.get("split", "")
    if role != "unknown" and role in ROLE_SHORT:
        return ROLE_SHORT[role]
    # The run's table knows nothing of a model that was trained elsewhere.
    return f"{split} by the run's table" if split and not model.get("imported") else "not known"


def _unlike(record: dict[str, Any], status: dict[str, str]) -> float | None:
    """Share of a slide's patches that are unlike the training data; None where unknown."""
    summary = record.get("slide_summary") or {}
    for value in (summary.get("unlike_share"), status.get("unlike_training")):
        if (share := _number(value)) is not None:
            return share
    return None


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _probabilities(predicted: dict[str, str]) -> dict[str, float | None]:
    return {
        name.removeprefix("p_"): _number(value)
        for name, value in predicted.items()
        if name and name.startswith("p_")
    }


def _refer(predicted: dict[str, str]) -> str:
    """Why the prediction refers the patient to a pathologist; empty where it does not."""
    if predicted.get("refer") != "yes":
        return ""
    return predicted.get("refer_reason") or "the reason is not recorded"


def _uncertainty(predicted: dict[str, str]) -> float | None:
    """Entropy of the slide's probabilities, 0 (sure) to 1 (undecided); None where unknown."""
    values = list(_probabilities(predicted).values())
    known = [p for p in values if p is not None and p > 0]
    if len(values) < 2 or None in values:
        return None
    return abs(sum(p * math.log(p) for p in known)) / math.log(len(values))


def slide_details(out: Path, slide_id: str, order: str) -> SlideDetails:
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
    facts = ModelFacts.of(slide_map.meta)
    shift = frame_shift(out, slide_id)
    return SlideDetails(
        slide_map.channel_names,
        slide_map.meta.class_names,
        (box.x, box.y, box.width, box.height),
        slide_map.meta.target_class,
        tuple(_shifted(region, shift) for region in regions),
        channel_scales(slide_map, facts),
        ROLE_WORDS[facts.role],
        (*_warnings(facts, _unlike(record, {})), *_checks(out, slide_id)),
    )


def frame_shift(out: Path, slide_id: str) -> tuple[float, float]:
    """From an exported file's coordinates, whose frame may be the canvas, to the viewer's.

    Raises
    ------
    StoreError
        If the slide's map cannot be read.
    """
    space = Workspace(out)
    frame = SlideMap(space.map(slide_id)).meta.slide.frame_px
    record = read_sidecar(sidecar_path(space.overlays, slide_id)) or {}
    x, y = record.get("coordinates", {}).get("offset_px", (frame.x, frame.y))
    return x - frame.x, y - frame.y


def _warnings(facts: ModelFacts, unlike: float | None) -> tuple[str, ...]:
    said = [facts.warning] if facts.warning else []
    if unlike is not None and unlike >= UNLIKE_SLIDE_SHARE:
        said.append(
            f"Unlike the training data: {percent(unlike)} of this slide's patches. "
            "What the model says of it may mean nothing."
        )
    return tuple(said)


def _checks(out: Path, slide_id: str) -> tuple[str, ...]:
    """Notes of the slide that ask for a look at it: of its µm/px, its pixels, its background."""
    notes = StatusTable(out).column("notes").get(id_cell(slide_id), "")
    return tuple(note for note in notes.split("; ") if note.startswith("CHECK THE "))


def _shifted(region: ReviewRegion, shift: tuple[float, float]) -> ReviewRegion:
    """A region of an exported file, whose frame may be the canvas, in the viewer's frame."""
    if not any(shift):
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

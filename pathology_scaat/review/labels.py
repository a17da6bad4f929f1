"""Verdicts as labels for the next training: GeoJSON in the slide's own coordinates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import StoreError
from pathology_scaat.review.regions import ReviewRegion, overlay_path, read_regions
from pathology_scaat.review.verdicts import WHOLE_SLIDE, Verdict


@dataclass(frozen=True)
class ReviewLabels:
    """What was written.

    Attributes
    ----------
    files : mapping
        Label file by slide id.
    counts : mapping
        Regions by class over all slides.
    contradicted : int
        Regions about which readers disagree: they label nothing.
    gone : int
        Verdicts about regions that the present overlays do not hold (another model's).
    """

    files: dict[str, Path]
    counts: dict[str, int]
    contradicted: int
    gone: int


def write_labels(
    out: Path, verdicts: Iterable[Verdict], folder: Path, negative_class: str
) -> ReviewLabels:
    """One GeoJSON per slide of the regions that readers confirmed or rejected.

    A region labels its class where all readers who decided said yes, the negative class where
    all said no, and nothing where they contradict each other or nobody was sure. Coordinates are
    those of the overlay, as QuPath shows the slide.

    Raises
    ------
    StoreError
        If an overlay is damaged or a file cannot be written.
    """
    answers: dict[str, dict[str, list[Verdict]]] = {}
    for verdict in verdicts:
        if verdict.region_id != WHOLE_SLIDE and verdict.answer in ("yes", "no"):
            answers.setdefault(verdict.slide_id, {}).setdefault(verdict.region_id, []).append(
                verdict
            )
    files: dict[str, Path] = {}
    counts: Counter[str] = Counter()
    contradicted = gone = 0
    for slide_id, regions in sorted(answers.items()):
        path = overlay_path(Workspace(out).overlays, slide_id)
        known = {r.region_id: r for r in read_regions(path)} if path is not None else {}
        features = []
        for region_id, said in sorted(regions.items()):
            if region_id not in known:
                gone += len(said)
                continue
            if len({v.answer for v in said}) > 1:
                contradicted += 1
                continue
            name = said[0].target_class if said[0].answer == "yes" else negative_class
            features.append(_feature(known[region_id], name))
            counts[name] += 1
        if features:
            files[slide_id] = folder / f"{slide_id}.geojson"
            _write(files[slide_id], features)
    return ReviewLabels(files, dict(counts), contradicted, gone)


def _feature(region: ReviewRegion, class_name: str) -> dict[str, object]:
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[list(p) for p in r] for r in region.rings],
        },
        "properties": {
            "objectType": "annotation",
            "name": region.name,
            "classification": {"name": class_name},
        },
    }


def _write(path: Path, features: list[dict[str, object]]) -> None:
    text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
    try:
        with atomic_path(path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(
            path.name, f"cannot be written ({error.strerror})", "check free disk space"
        ) from None

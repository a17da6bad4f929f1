"""How good a run is where the truth is known: held-out patches, and maps against polygons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency import SaliencyStore
from pathology_scaat.saliency.metrics.functional.localisation import (
    SlideLocalisation,
    slide_localisation,
)
from pathology_scaat.stitching import SlideMap
from pathology_scaat.stitching.schema import PROBABILITY_PREFIX, SALIENCY_CHANNEL
from pathology_scaat.verbs.workspace import Workspace


@dataclass(frozen=True)
class PatchScore:
    """Held-out patches: how many, of how many slides, and the AUC of the target class.

    ``auc`` is NaN where only one class occurs.
    """

    n_patches: int
    n_positive: int
    n_slides: int
    auc: float


def patch_score(out: Path, slide_ids: Sequence[str]) -> PatchScore:
    """AUC of the target's probability over the labelled patches of some slides."""
    from sklearn.metrics import roc_auc_score

    space = Workspace(out)
    truths: list[NDArray[np.bool_]] = []
    scores: list[NDArray[np.float32]] = []
    for slide_id in slide_ids:
        patches = PatchStore(space.patches(slide_id))
        explained = SaliencyStore(space.saliency(slide_id))
        labelled = patches.labels >= 0
        target = patches.meta.class_names.index(explained.meta.target_class)
        truths.append(patches.labels[labelled] == target)
        scores.append(explained.target_probability[labelled])
    truth = np.concatenate(truths) if truths else np.zeros(0, dtype=bool)
    auc = float("nan")
    if 0 < truth.sum() < truth.size:
        auc = float(roc_auc_score(truth, np.concatenate(scores)))
    return PatchScore(int(truth.size), int(truth.sum()), len(slide_ids), auc)


def polygon_mask(
    polygons: Sequence[LabelledPolygon], slide_map: SlideMap
) -> NDArray[np.bool_]:
    """Which map pixels lie in any polygon, (H, W) bool on the map's own grid."""
    size = slide_map.size_px(0)
    image = Image.new("1", (size.width, size.height))
    draw = ImageDraw.Draw(image)
    frame, scale = slide_map.frame_px, slide_map.scale_px

    def to_map(ring: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        # PIL fills by pixel centres; map pixel p covers [p, p + 1)
        return [((x - frame.x) / scale - 0.5, (y - frame.y) / scale - 0.5) for x, y in ring]

    for polygon in polygons:
        for part in getattr(polygon.geometry, "geoms", [polygon.geometry]):
            draw.polygon(to_map([(x, y) for x, y, *_ in part.exterior.coords]), fill=1)
            for hole in part.interiors:
                draw.polygon(to_map([(x, y) for x, y, *_ in hole.coords]), fill=0)
    return np.asarray(image, dtype=bool)


@dataclass(frozen=True)
class MapScore:
    """One slide's maps against the truth: saliency, and probability beside it."""

    slide_id: str
    saliency: SlideLocalisation
    probability: SlideLocalisation


def map_score(out: Path, slide_id: str, truth_path: Path, truth_class: str) -> MapScore:
    """Pixel average precision of a slide's saliency and probability on the truth's polygons.

    Only pixels with data (tissue that was explained) take part; chance is the share of truth
    among them.
    """
    slide_map = SlideMap(Workspace(out).map(slide_id))
    polygons = [p for p in read_annotations(truth_path) if p.class_name == truth_class]
    mask = polygon_mask(polygons, slide_map)
    saliency = slide_map.read(SALIENCY_CHANNEL)
    probability = slide_map.read(PROBABILITY_PREFIX + slide_map.meta.target_class)
    return MapScore(
        slide_id=slide_id,
        saliency=slide_localisation(saliency, mask),
        probability=slide_localisation(probability, mask),
    )

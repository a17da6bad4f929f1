"""How good a run is where the truth is known: held-out patches, and maps against polygons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hed

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.annotations.labels import class_areas
from pathology_scaat.annotations.model import Area
from pathology_scaat.annotations.rasterize import area_mask
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.export.raster.thumbnail import frame_thumbnail
from pathology_scaat.metrics.functional.localisation import SlideLocalisation, slide_localisation
from pathology_scaat.metrics.functional.roc import roc_auc
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.copied_labels import copied_class
from pathology_scaat.saliency import SaliencyStore
from pathology_scaat.slides import open_slide
from pathology_scaat.stitching import SlideMap
from pathology_scaat.stitching.schema import EVIDENCE_PREFIX, PROBABILITY_PREFIX, SALIENCY_CHANNEL
from pathology_scaat.training.positive_class import doubtful_label

FloatImage = NDArray[np.float32]


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
    """AUC of the target's probability over the labelled patches of some slides.

    Slides whose label was copied onto patches that it may be wrong for take no part.
    """
    space = Workspace(out)
    truths: list[NDArray[np.bool_]] = []
    scores: list[NDArray[np.float32]] = []
    for slide_id in slide_ids:
        patches = PatchStore(space.patches(slide_id))
        if doubtful_label(copied_class(patches.meta), patches.meta.class_names):
            continue
        explained = SaliencyStore(space.saliency(slide_id))
        labelled = patches.labels >= 0
        target = patches.meta.class_names.index(explained.meta.target_class)
        truths.append(patches.labels[labelled] == target)
        scores.append(explained.target_probability[labelled])
    truth = np.concatenate(truths) if truths else np.zeros(0, dtype=bool)
    auc = roc_auc(np.concatenate(scores), truth) if scores else float("nan")
    return PatchScore(int(truth.size), int(truth.sum()), len(truths), auc)


def polygon_mask(polygons: Sequence[LabelledPolygon], slide_map: SlideMap) -> NDArray[np.bool_]:
    """Which map pixels lie in any polygon, (H, W) bool on the map's own grid."""
    return _on_map([p.geometry for p in polygons], slide_map)


def class_mask(
    polygons: Sequence[LabelledPolygon], class_name: str, slide_map: SlideMap
) -> NDArray[np.bool_]:
    """Which map pixels belong to a class by the rule of the labels, (H, W) bool."""
    (areas,) = class_areas(polygons, (class_name,))
    return _on_map(areas, slide_map)


def _on_map(areas: Sequence[Area], slide_map: SlideMap) -> NDArray[np.bool_]:
    size, frame = slide_map.size_px(0), slide_map.frame_px
    shape = (size.height, size.width)
    return area_mask(areas, (frame.x, frame.y), slide_map.scale_px, shape)


def nuclear_stain(slide_path: Path, slide_map: SlideMap, mpp: float | None) -> FloatImage:
    """Haematoxylin density of the slide on the map's grid, (H, W) float32, NaN off the map.

    The baseline that a saliency map must beat: dark nuclei stand out without any model.
    Colour deconvolution after Ruifrok and Johnston (2001).
    """
    with open_slide(slide_path, mpp=mpp) as slide:
        image = frame_thumbnail(slide, slide_map.size_px(0), slide_map.scale_px)
    density: FloatImage = rgb2hed(image)[..., 0].astype(np.float32)
    density[np.isnan(slide_map.read(SALIENCY_CHANNEL))] = np.nan
    return density


@dataclass(frozen=True)
class MapScore:
    """One slide's maps against the truth: evidence, saliency, probability, and plain stain."""

    slide_id: str
    evidence: SlideLocalisation
    saliency: SlideLocalisation
    probability: SlideLocalisation
    nuclear_stain: SlideLocalisation


def map_score(
    out: Path,
    slide_id: str,
    truth_path: Path,
    truth_class: str,
    slide_path: Path,
    mpp: float | None = None,
) -> MapScore:
    """Pixel average precision of a slide's maps on the truth's polygons.

    Only pixels with data (tissue that was explained) take part; chance is the share of truth
    among them.
    """
    slide_map = SlideMap(Workspace(out).map(slide_id))
    frame = slide_map.frame_px
    polygons = read_annotations(truth_path, offset_px=(frame.x, frame.y))
    mask = class_mask(polygons, truth_class, slide_map)
    saliency = slide_map.read(SALIENCY_CHANNEL)
    evidence = slide_map.read(EVIDENCE_PREFIX + slide_map.meta.target_class)
    probability = slide_map.read(PROBABILITY_PREFIX + slide_map.meta.target_class)
    return MapScore(
        slide_id=slide_id,
        evidence=slide_localisation(evidence, mask),
        saliency=slide_localisation(saliency, mask),
        probability=slide_localisation(probability, mask),
        nuclear_stain=slide_localisation(nuclear_stain(slide_path, slide_map, mpp), mask),
    )

"""Regions of high saliency as polygons with an area and a mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.qupath.polygons import clean_polygons, component_outline
from pathology_scaat.export.raster.examined import resampled
from pathology_scaat.stitching.schema import EVIDENCE_PREFIX, PROBABILITY_PREFIX, SALIENCY_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap

MAX_REGION_PX = 4_000_000
"""Map pixels looked at for regions; larger maps are outlined one level coarser."""


@dataclass(frozen=True)
class Region:
    """One region in the coordinates of an export frame."""

    polygon: Polygon
    area_um2: float
    saliency_mean: float
    probability_mean: float


@dataclass(frozen=True)
class RegionSet:
    """Regions of a slide, largest first, and how they were found; ``drawn``: in which map."""

    regions: tuple[Region, ...]
    threshold: float
    level_mpp: float
    n_found: int
    drawn: str = "evidence"

    @property
    def n_left_out(self) -> int:
        return self.n_found - len(self.regions)


def region_level(slide_map: SlideMap, region_mpp: float) -> int:
    """Coarsest map level that is not coarser than asked for, within the memory limit."""
    steps = math.log2(max(region_mpp / slide_map.mpp, 1.0))
    level = min(int(steps + 1e-9), slide_map.n_levels - 1)
    while level < slide_map.n_levels - 1 and slide_map.size_px(level).area > MAX_REGION_PX:
        level += 1
    return level


def find_regions(
    slide_map: SlideMap,
    frame: ExportFrame,
    config: ExportConfig,
    model_threshold: float,
    shown: NDArray[np.bool_] | None = None,
    least_said: float = 0.0,
) -> RegionSet:
    """Connected pixels above the threshold of the drawn map where the target is probable enough.

    ``model_threshold`` is the model's own, below which pictures draw nothing. ``shown`` is where
    pictures may have colour, (H, W) of any size over the map's area: elsewhere is glass, or
    tissue that the model cannot judge, and no region. ``least_said``, 0 to 1, is the probability
    from which a patch counts at all (0 where a model speaks of patches).

    Pixels are joined along edges, not corners, so that no outline touches itself in a way
    that has to be repaired.
    """
    level = region_level(slide_map, config.region_mpp)
    saliency = slide_map.read(SALIENCY_CHANNEL, level)
    probability = slide_map.read(PROBABILITY_PREFIX + slide_map.meta.target_class, level)
    evidence = saliency
    from scipy import ndimage  # takes nearly half a second to import

    if config.drawn == "evidence":
        evidence = slide_map.read(EVIDENCE_PREFIX + slide_map.meta.target_class, level)
    level_mpp = slide_map.mpp * 2**level
    seen = ~np.isnan(evidence)
    threshold = model_threshold if config.region_threshold is None else config.region_threshold
    if config.region_threshold is None and config.region_quantile is not None and seen.any():
        threshold = float(np.quantile(evidence[seen], config.region_quantile))
    with np.errstate(invalid="ignore"):  # comparisons with NaN are False, as wanted
        mask = (evidence >= threshold) & (evidence > 0)
        mask &= probability >= max(config.region_min_probability, least_said)
    if shown is not None:
        mask &= resampled(shown, mask.shape)
    min_px = config.min_region_um2 / level_mpp**2
    labels, n_labels = ndimage.label(mask)  # joins along edges only
    size = np.bincount(labels.ravel(), minlength=n_labels + 1)
    size[0] = 0
    kept = np.flatnonzero(size >= max(min_px, 1))
    kept = kept[np.argsort(-size[kept], kind="stable")]
    # only the kept ones are stored: a noisy map has a million components
    rank = np.zeros(n_labels + 1, np.int32)
    rank[kept[: config.max_regions]] = np.arange(1, len(kept[: config.max_regions]) + 1)
    labels = rank[labels]
    regions: list[Region] = []
    for number, part in enumerate(ndimage.find_objects(labels), start=1):
        cut = (labels[part] == number, saliency[part], probability[part])
        origin = (part[1].start, part[0].start)
        regions.extend(_outline(*cut, origin, slide_map, level, frame))
    regions = regions[: config.max_regions]
    n_found = max(len(kept), len(regions))
    return RegionSet(tuple(regions), threshold, level_mpp, n_found, config.drawn)


def _outline(
    mask: NDArray[np.bool_],
    saliency: NDArray[np.float32],
    probability: NDArray[np.float32],
    corner: tuple[int, int],
    slide_map: SlideMap,
    level: int,
    frame: ExportFrame,
) -> list[Region]:
    """One component as regions: one, or several where the frame cuts it."""
    left, top = corner
    scale = slide_map.level_scale_px(level)
    box = slide_map.frame_px
    origin = (
        box.x - frame.offset_x_px + left * scale,
        box.y - frame.offset_y_px + top * scale,
    )
    outline = component_outline(mask, origin, scale)
    bounds = shapely.box(0, 0, frame.width_px, frame.height_px)
    slide_mpp = slide_map.meta.slide.mpp
    means = [float(np.mean(channel[mask], dtype=np.float64)) for channel in (saliency, probability)]
    return [
        Region(polygon, polygon.area * slide_mpp**2, means[0], means[1])
        for polygon in clean_polygons(outline, bounds)
    ]

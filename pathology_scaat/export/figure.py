"""One figure a slide: tissue, probability, saliency, both on the slide, and the top patches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pathology_scaat.errors import SlideReadError
from pathology_scaat.export.picture import (
    ColourScale,
    add_scale_bar,
    colourize,
    new_figure,
    over,
    save_figure,
)
from pathology_scaat.export.tiles import TileTable
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides.base import RgbImage, Slide
from pathology_scaat.stitching.schema import PROBABILITY_PREFIX, SALIENCY_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.source import SaliencySource

N_TOP = 6
PATCH_PICTURE_PX = 192


@dataclass(frozen=True)
class TopPatch:
    """A patch as seen on the slide, and its saliency at the same size."""

    picture: RgbImage
    saliency: NDArray[np.float32]
    probability: float
    mean: float


def read_patch(slide: Slide, box_px: BoxPx, side_px: int) -> RgbImage | None:
    """A level-0 box of the slide as a picture of ``side_px``; None where it cannot be decoded."""
    info = slide.info
    wanted = box_px.width / side_px
    finer = [i for i, d in enumerate(info.level_downsamples) if d <= wanted * 1.001]
    level = max(finer, key=lambda i: info.level_downsamples[i]) if finer else 0
    ds = info.level_downsamples[level]
    box = BoxPx(
        round(box_px.x / ds), round(box_px.y / ds),
        max(round(box_px.width / ds), 1), max(round(box_px.height / ds), 1),
    )  # fmt: skip
    try:
        pixels = slide.read_level(level, box)
    except SlideReadError:
        return None
    picture = Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.uint8)


def top_patches(
    source: SaliencySource, table: TileTable, factor: NDArray[np.float64], slide: Slide
) -> list[TopPatch]:
    """The patches of highest mean saliency, most salient first; overlapping ones only once."""
    chosen: list[TopPatch] = []
    taken: list[NDArray[np.int32]] = []
    side = source.meta.grid.patch_size_level0_px
    for i in np.argsort(-table.saliency_mean, kind="stable")[: 50 * N_TOP].tolist():
        corner = table.patch_px[i, :2]
        if any(np.abs(corner - other).max() < side for other in taken):
            continue
        left, top, right, bottom = table.patch_px[i].tolist()
        picture = read_patch(slide, BoxPx(left, top, right - left, bottom - top), PATCH_PICTURE_PX)
        if picture is None:
            continue
        saliency = source.read(i, i + 1)[0] * np.float32(factor[i])
        taken.append(corner)
        probability = float(table.probability[i, table.target_index])
        chosen.append(TopPatch(picture, saliency, probability, float(table.saliency_mean[i])))
        if len(chosen) == N_TOP:
            break
    return chosen


def _panel(
    figure: Figure, axes: Any, picture: NDArray[Any], title: str,
    bar: tuple[float, str, str] | None = None,
) -> None:  # fmt: skip
    axes.imshow(picture, interpolation="antialiased", interpolation_stage="rgba")
    axes.set_axis_off()
    axes.set_title(title, fontsize=11)
    if bar:
        vmax, colormap, label = bar
        mappable = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, vmax), colormap)
        colour_bar = figure.colorbar(mappable, ax=axes, fraction=0.04, pad=0.02)
        colour_bar.set_label(label, fontsize=8)
        colour_bar.ax.tick_params(labelsize=8)


def _solid(values: NDArray[np.float32], vmax: float, colormap: str) -> NDArray[np.uint8]:
    """Opaque colours; no data is white."""
    rgba = colourize(values, vmax, colormap)
    rgba[..., 3] = 255
    rgba[np.isnan(values)] = 255
    return rgba


def write_figure(
    path: Path,
    slide_map: SlideMap,
    level: int,
    base: RgbImage,
    scale: ColourScale,
    patches: list[TopPatch],
    tissue: RgbImage | None,
) -> None:
    """Write the figure as a PNG; colours mean the same in all its parts."""
    meta = slide_map.meta
    saliency = slide_map.read(SALIENCY_CHANNEL, level)
    probability = slide_map.read(PROBABILITY_PREFIX + meta.target_class, level)
    height, width = saliency.shape
    panel = 4.2 * min(max(height / width, 0.4), 1.6)
    rows = 2 if patches else 1
    figure = new_figure(19, 0.7 + panel + (4.6 if patches else 0))
    figure.set_layout_engine("constrained")
    grid = figure.add_gridspec(rows, 1, height_ratios=[panel, 4.4][:rows])
    above = grid[0].subgridspec(1, 4)
    axes = [figure.add_subplot(above[0, k]) for k in range(4)]
    first = (tissue, "tissue as it was found") if tissue is not None else (base, "slide")
    _panel(figure, axes[0], *first)
    name = meta.target_class
    colours = _solid(probability, 1.0, scale.colormap)
    _panel(figure, axes[1], colours, f"probability of {name}", (1.0, scale.colormap, "probability"))
    colours = _solid(saliency, scale.vmax, scale.colormap)
    bar = (scale.vmax, scale.colormap, f"saliency (top: {scale.source})")
    _panel(figure, axes[2], colours, f"saliency for {name}", bar)
    both = over(base, colourize(saliency, scale.vmax, scale.colormap))
    _panel(figure, axes[3], both, "saliency on the slide")
    add_scale_bar(axes[3], width, height, slide_map.mpp * 2**level)
    if patches:
        below = grid[1].subgridspec(2, N_TOP)
        vmax = max(float(np.quantile(np.stack([p.saliency for p in patches]), 0.995)), 1e-12)
        for k, patch in enumerate(patches):
            title = f"p = {patch.probability:.3g}, mean saliency {patch.mean:.3g}"
            _panel(figure, figure.add_subplot(below[0, k]), patch.picture, title)
            colours = _solid(patch.saliency, vmax, scale.colormap)
            _panel(figure, figure.add_subplot(below[1, k]), colours, "")
    figure.suptitle(f"{meta.slide_id}   ({meta.method}; {meta.formula})", fontsize=11)
    save_figure(figure, path)

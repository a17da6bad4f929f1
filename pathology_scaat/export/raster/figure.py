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
from pathology_scaat.export.raster.overlay_png import (
    ColourScale,
    add_scale_bar,
    colourize,
    enlarged,
    length_text,
    new_figure,
    over,
    save_figure,
    wrapped,
    zoom_of,
)
from pathology_scaat.export.tiles import TileTable
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides.base import RgbImage, Slide
from pathology_scaat.stitching.schema import PROBABILITY_PREFIX, SALIENCY_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.source import SaliencySource

N_TOP = 6
PATCH_PICTURE_PX = 256
WIDTH_IN = 17.0
TITLE_POINTS, SMALL_POINTS = 13, 10


@dataclass(frozen=True)
class TopPatch:
    """A patch as seen on the slide, and its saliency at the same size; its level-0 centre."""

    picture: RgbImage
    saliency: NDArray[np.float32]
    probability: float
    mean: float
    centre_px: tuple[float, float]


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
        mean = float(table.saliency_mean[i])
        centre = ((left + right) / 2, (top + bottom) / 2)
        chosen.append(TopPatch(picture, saliency, probability, mean, centre))
        if len(chosen) == N_TOP:
            break
    return chosen


def _panel(axes: Any, picture: NDArray[Any], title: str) -> None:
    axes.imshow(picture, interpolation="antialiased", interpolation_stage="rgba")
    axes.set_axis_off()
    axes.set_title(title, fontsize=TITLE_POINTS)


def _bar(figure: Figure, mappable: Any, label: str, **place: Any) -> None:
    colour_bar = figure.colorbar(mappable, **place)
    colour_bar.set_label(label, fontsize=SMALL_POINTS)
    colour_bar.ax.tick_params(labelsize=SMALL_POINTS)


def _solid(values: NDArray[np.float32], vmax: float, colormap: str) -> NDArray[np.uint8]:
    """Opaque colours; no data is white."""
    rgba = colourize(values, vmax, colormap)
    rgba[..., 3] = 255
    rgba[np.isnan(values)] = 255
    return rgba


def _solid_legend(vmax: float, colormap: str) -> mpl.cm.ScalarMappable:
    return mpl.cm.ScalarMappable(mpl.colors.Normalize(0, vmax), colormap)


def _mark(axes: Any, patches: list[TopPatch], frame: BoxPx, scale: float) -> None:
    """Numbers on the slide where the patches below come from."""
    for number, patch in enumerate(patches, start=1):
        x, y = (patch.centre_px[0] - frame.x) / scale, (patch.centre_px[1] - frame.y) / scale
        axes.text(
            x, y, str(number), ha="center", va="center", fontsize=SMALL_POINTS, clip_on=True,
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "lw": 0.8, "alpha": 0.85},
        )  # fmt: skip


def _patch_rows(
    figure: Figure, place: Any, patches: list[TopPatch], target: str, colormap: str, side_um: float
) -> None:
    """The patches above their saliency, all in one colour scale."""
    grid = place.subgridspec(2, N_TOP + 1, width_ratios=[*[1.0] * N_TOP, 0.05])
    vmax = max(float(np.quantile(np.stack([p.saliency for p in patches]), 0.995)), 1e-12)
    for k, patch in enumerate(patches):
        above, below = figure.add_subplot(grid[0, k]), figure.add_subplot(grid[1, k])
        title = f"{k + 1}:  p({target}) {patch.probability:.2f}, saliency {patch.mean:.2g}"
        _panel(above, patch.picture, title)
        above.title.set_fontsize(SMALL_POINTS)
        _panel(below, _solid(patch.saliency, vmax, colormap), "")
        if k == 0:
            for axes, text in ((above, f"patch, {length_text(side_um)} wide"), (below, "saliency")):
                axes.text(
                    -0.05, 0.5, text, rotation=90, ha="right", va="center",
                    transform=axes.transAxes, fontsize=SMALL_POINTS,
                )  # fmt: skip
    bar = figure.add_subplot(grid[1, N_TOP])
    _bar(figure, _solid_legend(vmax, colormap), "saliency in patches", cax=bar)


def write_figure(
    path: Path,
    slide_map: SlideMap,
    level: int,
    base: RgbImage,
    scale: ColourScale,
    patches: list[TopPatch],
    tissue: RgbImage | None,
    patch_um: float,
) -> None:
    """Write the figure as a PNG; colours mean the same in all its maps."""
    meta = slide_map.meta
    saliency = slide_map.read(SALIENCY_CHANNEL, level)
    probability = slide_map.read(PROBABILITY_PREFIX + meta.target_class, level)
    height, width = saliency.shape
    panel = 3.7 * min(max(height / width, 0.4), 1.6)
    heights = [panel, 5.2] if patches else [panel]
    figure = new_figure(WIDTH_IN, 1.5 + sum(heights))
    figure.set_layout_engine("constrained", rect=(0.01, 0.03, 0.98, 0.95))
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    above = grid[0].subgridspec(1, 4)
    axes = [figure.add_subplot(above[0, k]) for k in range(4)]
    if tissue is not None:
        _panel(axes[0], tissue, "tissue (green), left out (orange)")
    else:
        _panel(axes[0], base, "slide")
    name = meta.target_class
    beside = {"fraction": 0.04, "pad": 0.02, "shrink": 0.8}
    _panel(axes[1], _solid(probability, 1.0, scale.colormap), f"probability of {name}")
    _bar(figure, _solid_legend(1.0, scale.colormap), "probability", ax=axes[1], **beside)
    _panel(axes[2], _solid(saliency, scale.vmax, scale.colormap), f"saliency for {name}")
    legend = _solid_legend(scale.vmax, scale.colormap)
    _bar(figure, legend, f"saliency (top: {scale.source})", ax=axes[2], **beside)
    both = over(base, colourize(enlarged(saliency, base), scale.vmax, scale.colormap))
    _panel(axes[3], both, "saliency on the slide")
    zoom = zoom_of(slide_map, level)
    add_scale_bar(axes[3], width * zoom, height * zoom, slide_map.mpp * 2**level / zoom)
    if patches:
        _mark(axes[3], patches, slide_map.frame_px, slide_map.level_scale_px(level) / zoom)
        _patch_rows(figure, grid[1], patches, name, scale.colormap, patch_um)
    figure.suptitle(meta.slide_id, fontsize=TITLE_POINTS + 3, fontweight="bold")
    said = f"White: no tissue found, nothing computed.  {meta.method}; {meta.formula}"
    said = wrapped((said,), WIDTH_IN)
    figure.text(0.01, 0.005, said, fontsize=SMALL_POINTS - 1, color="0.35")
    save_figure(figure, path)

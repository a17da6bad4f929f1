"""The map over the slide as a picture with a colour bar and a scale bar."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.stitching.schema import SALIENCY_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap

DPI = 100
MAX_DPI = 220
DETAILED_PX = 1536
"""Small maps are drawn larger, by a whole number, as far as this: the slide shows its detail."""
LONG_SIDE_IN = 9.6
"""Long side of the map in a picture, in inches."""
HAIR_PX = 0.05
MARGINS_IN = (0.2, 0.7, 0.5, 1.7)
"""Left, below, above, right of a map in a picture."""
MAX_ALPHA = 0.85
ALPHA_POWER = 0.7
FAINTEST = 0.04
"""Share of the scale below which nothing is drawn: else every patch casts a grey square."""
SCALE_BAR_STEPS = (1, 2, 5)
SMALL_PRINT_PER_IN = 17
"""Characters of 8 points to an inch."""


@dataclass(frozen=True)
class ColourScale:
    """The one scale of a slide's (or a cohort's) saliency."""

    vmax: float
    source: str
    colormap: str

    @classmethod
    def of(cls, slide_map: SlideMap, config: ExportConfig) -> ColourScale:
        if config.vmax is not None:
            return cls(config.vmax, "set for the cohort", config.colormap)
        found = slide_map.meta.statistics.get(SALIENCY_CHANNEL)
        top = (found.q995 or found.maximum) if found else 0.0
        return cls(top or 1.0, "99.5th percentile of the slide", config.colormap)


def colourize(values: NDArray[np.float32], vmax: float, colormap: str) -> NDArray[np.uint8]:
    """RGBA, (H, W, 4) uint8: colour and opacity grow with the value; no data is transparent."""
    share = np.clip(np.nan_to_num(values, nan=0.0) / vmax, 0, 1)
    rgba = mpl.colormaps[colormap](share, bytes=True)
    # opacity rises a little faster than the value: middling values are seen, low ones hide nothing
    seen = np.clip((share - FAINTEST) / (1 - FAINTEST), 0, 1) ** ALPHA_POWER
    rgba[..., 3] = np.round(255 * MAX_ALPHA * seen).astype(np.uint8)
    rgba[np.isnan(values), 3] = 0
    out: NDArray[np.uint8] = rgba
    return out


def over(base: RgbImage, rgba: NDArray[np.uint8]) -> RgbImage:
    """Alpha-composite of a picture and an overlay of the same size."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    mixed = base * (1 - alpha) + rgba[..., :3] * alpha
    return np.round(mixed).astype(np.uint8)


def zoom_of(slide_map: SlideMap, level: int) -> int:
    """Picture pixels along a map pixel: a whole number, so that both lie exactly."""
    size = slide_map.size_px(level)
    room = DETAILED_PX // max(size.width, size.height)
    return max(1, min(room, int(slide_map.level_scale_px(level))))


def enlarged(values: NDArray[np.float32], base: RgbImage) -> NDArray[np.float32]:
    """Map values in the pixels of the picture under them, a whole number of times larger."""
    zoom = base.shape[0] // values.shape[0]
    return np.repeat(np.repeat(values, zoom, axis=0), zoom, axis=1) if zoom > 1 else values


def legend_colours(colormap: str, count: int = 256) -> NDArray[np.uint8]:
    """Colours from none to the top as they look over white, (count, 3) uint8."""
    shares = np.linspace(0, 1, count, dtype=np.float32)[None]
    row: NDArray[np.uint8] = over(
        np.full((1, count, 3), 255, np.uint8), colourize(shares, 1.0, colormap)
    )[0]
    return row


def legend(vmax: float, colormap: str) -> mpl.cm.ScalarMappable:
    """What a colour bar beside an overlay shows: the same colours with the same opacity."""
    colours = ListedColormap(legend_colours(colormap) / 255)
    return mpl.cm.ScalarMappable(mpl.colors.Normalize(0, vmax), colours)


def scale_bar_um(width_um: float) -> float:
    """A round length of about a sixth of the picture's width."""
    goal = width_um / 6
    decade = 10.0 ** np.floor(np.log10(goal))
    return float(max(step * decade for step in SCALE_BAR_STEPS if step * decade <= goal))


def length_text(length_um: float) -> str:
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def add_scale_bar(axes: Any, width_px: int, height_px: int, pixel_um: float) -> None:
    """Draw a scale bar with its length into the lower left corner of an image axes."""
    length_um = scale_bar_um(width_px * pixel_um)
    length = length_um / pixel_um
    pad, thick = 0.03 * width_px, max(0.008 * height_px, 2.0)
    y = height_px - pad - thick
    box = {"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 3}
    axes.add_patch(
        Rectangle((pad, y), length, thick, facecolor="black", edgecolor="white", linewidth=0.8,
                  zorder=3)
    )  # fmt: skip
    axes.text(
        pad, y - thick, length_text(length_um), ha="left", va="bottom",
        color="black", fontsize=11, bbox=box, zorder=2,
    )  # fmt: skip


def wrapped(sentences: Sequence[str], width_in: float) -> str:
    """Sentences as lines of small print that fit a figure's width."""
    characters = int(width_in * SMALL_PRINT_PER_IN)
    return "\n".join(line for one in sentences for line in textwrap.wrap(one, characters))


def save_figure(figure: Figure, path: Path, dpi: float = DPI) -> None:
    """Write a PNG without software or time in it, whole or not at all."""
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": None})


def new_figure(width_in: float, height_in: float) -> Figure:
    """A figure on the Agg canvas, without pyplot's global state."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_overlay_png(
    path: Path, slide_map: SlideMap, level: int, base: RgbImage, scale: ColourScale
) -> tuple[int, int, int, int]:
    """Slide, map over it, colour bar, scale bar; the title says what is shown.

    Returns
    -------
    (int, int, int, int)
        Where the map lies in the picture: x, y, width, height in its pixels.
    """
    values = enlarged(slide_map.read(SALIENCY_CHANNEL, level), base)
    picture = over(base, colourize(values, scale.vmax, scale.colormap))
    height, width = values.shape
    dpi = min(max(max(width, height) / LONG_SIDE_IN, DPI), MAX_DPI)
    fit = LONG_SIDE_IN * dpi / max(width, height)
    # all in whole pixels: else the slide would lie up to half a pixel beside where it is said to
    wide, high = round(width * fit), round(height * fit)
    left, below, above, right = (round(inches * dpi) for inches in MARGINS_IN)
    room = (max(wide, round(4.5 * dpi)), max(high, round(3.0 * dpi)))
    total = (left + room[0] + right, below + room[1] + above)
    figure = new_figure((total[0] + 0.01) / dpi, (total[1] + 0.01) / dpi)
    # a hair inside its pixels: rounding noise must not make it reach into the next one
    low = total[1] - above - high
    axes = figure.add_axes(
        (
            (left + HAIR_PX) / total[0],
            (low + HAIR_PX) / total[1],
            (wide - 2 * HAIR_PX) / total[0],
            (high - 2 * HAIR_PX) / total[1],
        )
    )
    axes.imshow(picture, interpolation="antialiased", interpolation_stage="rgba", aspect="auto")
    axes.set_axis_off()
    meta = slide_map.meta
    add_scale_bar(axes, width, height, slide_map.mpp * 2**level / zoom_of(slide_map, level))
    axes.set_title(f"{meta.slide_id}: saliency for {meta.target_class}", fontsize=14)
    bar = figure.add_axes(
        (
            (left + room[0] + 0.2 * dpi) / total[0],
            (below + 0.1 * room[1]) / total[1],
            0.22 * dpi / total[0],
            0.8 * room[1] / total[1],
        )
    )
    colour_bar = figure.colorbar(legend(scale.vmax, scale.colormap), cax=bar)
    colour_bar.set_label(f"saliency (top: {scale.source})", fontsize=10, labelpad=8)
    said = wrapped(
        (
            f"Colour: how strongly a pixel moved the model's score of {meta.target_class}. "
            "Bare slide: little or none, or no tissue found.",
            f"{meta.method}; {meta.formula}",
        ),
        total[0] / dpi,
    )
    figure.text(left / total[0], 0.58 * dpi / total[1], said, fontsize=8, color="0.35", va="top")
    save_figure(figure, path, dpi=dpi)
    return left, above, wide, high

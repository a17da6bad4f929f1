"""The map over the slide as a picture with a colour bar and a scale bar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pathology_scaat.export.config import ExportConfig
from pathology_scaat.provenance import atomic_path
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.stitching.schema import SALIENCY_CHANNEL
from pathology_scaat.stitching.slide_map import SlideMap

DPI = 100
MAX_DPI = 220
LONG_SIDE_IN = 9.6
"""Long side of the map in a picture, in inches."""
MAX_ALPHA = 0.8
ALPHA_POWER = 0.7
SCALE_BAR_STEPS = (1, 2, 5)


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
    rgba[..., 3] = np.round(255 * MAX_ALPHA * share**ALPHA_POWER).astype(np.uint8)
    rgba[np.isnan(values), 3] = 0
    out: NDArray[np.uint8] = rgba
    return out


def over(base: RgbImage, rgba: NDArray[np.uint8]) -> RgbImage:
    """Alpha-composite of a picture and an overlay of the same size."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    mixed = base * (1 - alpha) + rgba[..., :3] * alpha
    return np.round(mixed).astype(np.uint8)


def scale_bar_um(width_um: float) -> float:
    """A round length of about a sixth of the picture's width."""
    goal = width_um / 6
    decade = 10.0 ** np.floor(np.log10(goal))
    return float(max(step * decade for step in SCALE_BAR_STEPS if step * decade <= goal))


def length_text(length_um: float) -> str:
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def add_scale_bar(axes: Any, width_px: int, height_px: int, pixel_um: float) -> None:
    """Draw a scale bar into the lower left corner of an image axes."""
    length_um = scale_bar_um(width_px * pixel_um)
    length = length_um / pixel_um
    pad, thick = 0.03 * width_px, max(0.008 * height_px, 2.0)
    y = height_px - pad - thick
    axes.add_patch(
        Rectangle((pad, y), length, thick, facecolor="black", edgecolor="white", linewidth=0.8)
    )
    axes.text(
        pad, y - thick, length_text(length_um), ha="left", va="bottom",
        color="black", fontsize=11, bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1.5},
    )  # fmt: skip


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
) -> None:
    """Slide, map over it, colour bar, scale bar; the title says what is shown."""
    values = slide_map.read(SALIENCY_CHANNEL, level)
    picture = over(base, colourize(values, scale.vmax, scale.colormap))
    height, width = values.shape
    fit = LONG_SIDE_IN / max(width, height)
    wide, high = max(width * fit, 3.5), max(height * fit, 3.0)
    total = (wide + 1.9, high + 0.9)
    figure = new_figure(*total)
    axes = figure.add_axes((0.2 / total[0], 0.4 / total[1], wide / total[0], high / total[1]))
    axes.imshow(picture, interpolation="antialiased", interpolation_stage="rgba")
    axes.set_axis_off()
    meta = slide_map.meta
    add_scale_bar(axes, width, height, slide_map.mpp * 2**level)
    axes.set_title(f"{meta.slide_id}: saliency for {meta.target_class}", fontsize=13)
    bar = figure.add_axes(
        (
            (wide + 0.4) / total[0],
            (0.4 + high * 0.1) / total[1],
            0.2 / total[0],
            0.8 * high / total[1],
        )
    )
    mappable = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, scale.vmax), scale.colormap)
    colour_bar = figure.colorbar(mappable, cax=bar)
    colour_bar.set_label(f"saliency, one scale for the slide\n(top: {scale.source})", fontsize=9)
    note = f"{meta.method}; {meta.formula}"
    figure.text(0.2 / total[0], 0.12 / total[1], note, fontsize=7, color="0.35")
    save_figure(figure, path, dpi=min(max(max(width, height) / LONG_SIDE_IN, DPI), MAX_DPI))

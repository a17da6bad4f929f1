"""What a colour means: one scale for each model and map, the same on every slide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.stitching.schema import saliency_channel
from pathology_scaat.stitching.slide_map import SlideMap

FAINTEST = 0.25
"""Share of the scale below which nothing is drawn."""
FAINTEST_SALIENCY = 0.04
"""The same for saliency: else every patch casts a grey square."""
LEAST_TOP = 0.5
"""The scale of evidence never ends below: held-out patches without the class would make any
trace of it bright."""
MOST_FLOOR = 0.9
MAX_ALPHA = 0.85
ALPHA_POWER = 0.7
STEPS = 256


@dataclass(frozen=True)
class ColourScale:
    """From values to colours.

    Attributes
    ----------
    vmax : float
        Value of the last colour.
    source : str
        Where that comes from, in words.
    colormap : str
    floor : float
        Value below which nothing is drawn.
    """

    vmax: float
    source: str
    colormap: str
    floor: float = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether the scale is the same on every slide."""
        return "this slide" not in self.source

    def as_record(self) -> dict[str, float | str]:
        return {"vmax": self.vmax, "source": self.source, "floor": self.floor}


def evidence_scale(
    facts: ModelFacts, class_name: str, config: ExportConfig, method: str = ""
) -> ColourScale:
    """Scale of a class's evidence, from the patches that the model's maps were measured on.

    Where those were by another ``method`` than the map, its source says so: it has the same
    probabilities, laid out otherwise within a patch.

    Nothing is drawn below a quarter of the scale, nor below what 99 % of the pixels of those
    patches of *other* classes stay under.
    """
    found = facts.evidence.get(class_name)
    top, source = 1.0, "certain of the whole patch"
    if found is not None:
        top = max(found.p995, LEAST_TOP)
        source = f"99.5th percentile of {facts.scale_source}{_by_another(facts, method)}"
        if found.p995 < LEAST_TOP:
            source = f"fixed: the {source} is lower"
    if config.evidence_top is not None:
        top, source = config.evidence_top, "set by the user"
    floor = FAINTEST * top
    if found is not None and found.others_p99 is not None:
        floor = max(floor, found.others_p99)
    return ColourScale(top, source, config.colormap, min(floor, MOST_FLOOR * top))


def _by_another(facts: ModelFacts, method: str) -> str:
    measured = facts.settings.method if facts.settings is not None else ""
    if not (method and measured) or method == measured:
        return ""
    return f", measured on maps by '{measured}' and not '{method}'"


def saliency_scale(
    slide_map: SlideMap, facts: ModelFacts, class_name: str, config: ExportConfig
) -> ColourScale:
    """Scale of a class's saliency: the model's where the map was made as its reference was."""
    meta, settings = slide_map.meta, facts.settings
    found = facts.saliency.get(class_name)
    explained = meta.explained
    alike = (
        settings is not None
        and explained.get("method") == settings.method
        and explained.get("output") == settings.output
        and explained.get("stride_px") == settings.stride_px
        and meta.parameters.get("weighting") == "probability"
    )
    if config.vmax is not None:
        top, source = config.vmax, "set for the cohort"
    elif found is not None and alike and found.p995 > 0:
        top, source = found.p995, f"99.5th percentile of {facts.scale_source}"
    else:
        spread = meta.statistics.get(saliency_channel(class_name, meta.target_class))
        top = ((spread.q995 or spread.maximum) if spread else 0.0) or 1.0
        source = "99.5th percentile of this slide alone"
        if not (spread and (spread.q995 or spread.maximum)):
            source = "this slide has no saliency"
    return ColourScale(top, source, config.colormap, FAINTEST_SALIENCY * top)


def probability_scale(config: ExportConfig, least_said: float = 0.0) -> ColourScale:
    """Probability from 0 to 1, the same for every model.

    Nothing is drawn below a quarter, nor below ``least_said`` (0 to 1): of a model of whole
    slides, where a patch that contributes nothing has as much of each class.
    """
    return ColourScale(1.0, "certain", config.colormap, max(FAINTEST, least_said))


@cache
def _table(colormap: str, floor_share: float) -> NDArray[np.uint8]:
    """RGBA of each step of a scale: colour and opacity grow with the value."""
    import matplotlib as mpl  # only its tables of colours: pictures are drawn without it

    share = np.linspace(0, 1, STEPS)
    rgba = mpl.colormaps[colormap](share, bytes=True)
    # opacity rises a little faster than the value: middling values are seen, low ones hide nothing
    above = np.clip((share - floor_share) / max(1 - floor_share, 1e-9), 0, 1)
    seen = np.where(share >= floor_share, 0.35 + 0.65 * above**ALPHA_POWER, 0.0)
    if floor_share <= FAINTEST_SALIENCY:  # no step at the floor where the floor is next to nothing
        seen = above**ALPHA_POWER
    rgba[:, 3] = np.round(255 * MAX_ALPHA * seen)
    rgba.flags.writeable = False
    table: NDArray[np.uint8] = rgba
    return table


def colourize(values: NDArray[np.float32], scale: ColourScale) -> NDArray[np.uint8]:
    """RGBA of values (H, W), (H, W, 4) uint8.

    Below the floor, and where there is no data (NaN), it is transparent.
    """
    table = _table(scale.colormap, round(scale.floor / scale.vmax, 6))
    with np.errstate(invalid="ignore", over="ignore"):
        seen = values >= scale.floor
        steps = _steps(values * np.float32(1 / scale.vmax))
    # Pixels as wholes of four bytes: many times as fast as rows of four.
    pixels = np.take(table.view(np.uint32)[:, 0], steps)
    clear = np.array([255, 255, 255, 0], np.uint8).view(np.uint32)
    np.bitwise_and(pixels, clear, out=pixels, where=~seen)
    return pixels[..., None].view(np.uint8)


def _steps(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Which colour of a table values from 0 to 1 have; the first where there is no data (NaN).

    The values are used up.
    """
    np.fmax(share, np.float32(0), out=share)
    np.minimum(share, np.float32(1), out=share)
    share *= np.float32(STEPS - 1)
    share += np.float32(0.5)
    return share.astype(np.uint8)


def solid(values: NDArray[np.float32], vmax: float, colormap: str) -> RgbImage:
    """Opaque colours of values (H, W), 0 to ``vmax``: (H, W, 3) uint8; no data is white."""
    picture: RgbImage = _table(colormap, 0.0)[_steps(values / np.float32(vmax))][..., :3].copy()
    picture[np.isnan(values)] = 255
    return picture


def over(
    base: RgbImage, rgba: NDArray[np.uint8], where: NDArray[np.bool_] | None = None
) -> RgbImage:
    """Lay an overlay (H, W, 4) with straight alpha over a picture (H, W, 3); both uint8.

    Given ``where`` (H, W), the picture stays as it is elsewhere.
    """
    out = np.empty_like(base) if where is None else base.copy()
    box: tuple[slice, slice] = (slice(None), slice(None))
    if where is not None:
        x, y, width, height = cv2.boundingRect(where.view(np.uint8))
        box = (slice(y, y + height), slice(x, x + width))
        if not (width and height):
            return out
    opaque = np.asarray(cv2.extractChannel(rgba[box], 3))
    if where is not None:
        opaque *= where[box].view(np.uint8)
    alpha = opaque.astype(np.float32)
    alpha *= np.float32(1 / 255)
    colours = cv2.cvtColor(rgba[box], cv2.COLOR_RGBA2RGB)
    out[box] = cv2.blendLinear(base[box], colours, 1 - alpha, alpha)
    return out


@lru_cache(maxsize=64)
def legend_colours(scale: ColourScale, count: int = 256, opaque: bool = False) -> NDArray[np.uint8]:
    """Colours from none to the top, (count, 3) uint8, RGB: as they look over white, or as
    :func:`solid` has them.
    """
    shares = np.linspace(0, scale.vmax, count, dtype=np.float32)[None]
    if opaque:
        opaque_row: NDArray[np.uint8] = solid(shares, scale.vmax, scale.colormap)[0]
        opaque_row.flags.writeable = False
        return opaque_row
    row: NDArray[np.uint8] = over(np.full((1, count, 3), 255, np.uint8), colourize(shares, scale))[
        0
    ]
    row.flags.writeable = False  # kept for the next picture
    return row

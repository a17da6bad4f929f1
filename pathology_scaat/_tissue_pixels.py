"""Which thumbnail pixels are stain, ink, border or glass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, measure, morphology

from pathology_scaat.slides.base import RgbImage

DEFAULT_GLASS = 243.0
"""Brightness taken for glass where a picture shows none (tissue from edge to edge)."""

DARK_LEVEL = 60
"""Pixels whose brightest channel is below this are border, black ink or nothing."""

MIN_STAIN_OD, MAX_STAIN_OD = 0.015, 0.04
"""Bounds for the colour threshold (difference of optical densities between channels)."""

NOISE_FACTOR = 6.0
"""How many deviations of the glass above its middle stain begins."""


@dataclass(frozen=True)
class PixelClasses:
    """(h, w) bool arrays, and quality words for the slide."""

    stain: NDArray[np.bool_]
    ink: NDArray[np.bool_]
    dark: NDArray[np.bool_]
    flags: tuple[str, ...]


def _channel_max(pixels: NDArray[Any]) -> NDArray[Any]:
    """Largest channel, (h, w); ten times the speed of a reduction over an axis of three."""
    largest: NDArray[Any] = np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    return largest


def _channel_min(pixels: NDArray[Any]) -> NDArray[Any]:
    """Smallest channel, (h, w)."""
    smallest: NDArray[Any] = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    return smallest


def glass_colour(rgb: RgbImage) -> tuple[NDArray[np.float64], bool]:
    """Colour of the empty glass, (3,) float, and whether any was seen.

    It is the commonest brightness among bright, nearly grey pixels; the channels are then
    averaged around it, because glass of many scanners is a little yellow or blue.
    """
    low, high = _channel_min(rgb).astype(np.int16), _channel_max(rgb).astype(np.int16)
    bright = (low >= 190) & (high - low <= 24)
    if bright.sum() < max(rgb.shape[0] * rgb.shape[1] * 0.002, 16):
        return np.full(3, DEFAULT_GLASS), False
    counts = np.bincount(low[bright], minlength=256).astype(float)
    mode = int(np.argmax(ndimage.uniform_filter1d(counts, 5)))
    near = bright & (np.abs(low - mode) <= 4)
    return rgb[near].mean(axis=0, dtype=np.float64), True


def classify_pixels(
    rgb: RgbImage, readable: NDArray[np.bool_], sensitivity: float = 1.0
) -> PixelClasses:
    """Tell stain from ink, dark borders and glass.

    Stain is judged by the range of the optical densities of the three channels,
    ``max_c OD_c - min_c OD_c`` with ``OD_c = -log10(I_c / glass_c)``: zero for everything
    grey however dark, large for haematoxylin, eosin and DAB. Stain begins above what the
    glass itself shows: a threshold between tissue and glass, such as Otsu's, would lie
    higher the darker the tissue is, and lose the pale.
    """
    flags: list[str] = []
    glass, seen = glass_colour(rgb)
    if not seen:
        flags.append("no-glass")
    # A table of the 256 levels of each channel: the logarithm of every pixel costs seconds.
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = -np.log10((levels + 1.0) / (glass.astype(np.float32) + 1.0))
    np.clip(table, 0.0, None, out=table)
    density = np.stack([table[:, c][rgb[..., c]] for c in range(3)], axis=2)
    brightest = _channel_max(rgb)
    spread = brightest.astype(np.int16) - _channel_min(rgb)
    dark = (brightest < DARK_LEVEL) & (spread < 30)
    ink = _ink(density) & ~dark
    colour = _channel_max(density) - _channel_min(density)
    usable = readable & ~dark & ~ink
    if usable.any() and float(np.percentile(spread[usable], 99.5)) <= 3:
        return _grey(density, dark, usable, seen, flags)
    smooth = ndimage.gaussian_filter(colour, 0.7)
    threshold = _above_glass(smooth, rgb, glass, usable) / sensitivity
    near_ink = ndimage.binary_dilation(ink, iterations=2) if ink.any() else ink
    stain = usable & ~near_ink & (smooth > threshold)
    if ink.mean() > 0.0005:
        flags.append("ink")
    if _touches_edge(dark) and dark.mean() > 0.01:
        flags.append("black-border")
    if dark.mean() > 0.99:
        flags.append("blank-black")
    if stain.any() and float(np.median(density.mean(axis=2)[stain])) < 0.06:
        flags.append("pale")
    if not stain.any() and "blank-black" not in flags:
        flags.append("blank-white")
    return PixelClasses(stain, ink, dark, tuple(flags))


def _above_glass(
    colour: NDArray[np.float32],
    rgb: RgbImage,
    glass: NDArray[np.float64],
    usable: NDArray[np.bool_],
) -> float:
    """Where stain begins: the glass's own colour range plus its noise (median, MAD)."""
    away = np.abs(rgb.astype(np.float32) - glass.astype(np.float32))
    empty = colour[usable & (_channel_max(away) <= 5)]
    if empty.size < 100:
        return MAX_STAIN_OD / 2
    middle = float(np.median(empty))
    noise = 1.4826 * float(np.median(np.abs(empty - middle)))
    return min(max(middle + NOISE_FACTOR * noise, MIN_STAIN_OD), MAX_STAIN_OD)


def _otsu(values: NDArray[np.float32], low: float, high: float) -> float:
    if values.size == 0 or float(values.max()) - float(values.min()) < 1e-6:
        return high
    found = float(filters.threshold_otsu(values, nbins=256))
    return min(max(found * 0.5, low), high)


def _grey(
    density: NDArray[np.float32],
    dark: NDArray[np.bool_],
    usable: NDArray[np.bool_],
    glass_seen: bool,
    flags: list[str],
) -> PixelClasses:
    """A slide without colour: brightness alone decides, if there is anything to decide."""
    none = np.zeros_like(dark)
    mean = density.mean(axis=2)
    values = mean[usable]
    if float(np.percentile(values, 99.5)) - float(np.percentile(values, 0.5)) < 0.03:
        word = "blank-white" if glass_seen else "blank-grey"
        return PixelClasses(none, none, dark, (*flags, word))
    threshold = _otsu(values, 0.04, 0.12)
    return PixelClasses(usable & (mean > threshold), none, dark, (*flags, "greyscale"))


def _ink(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Colours of felt pens that no common stain has.

    Green and blue-green ink absorb green light least; blue ink absorbs red clearly more than
    green, where haematoxylin absorbs green at least as much; red ink absorbs blue as strongly
    as green and red hardly at all, where eosin spares blue.
    """
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    strong = _channel_max(density) > 0.15
    green_ink = strong & (green < 0.75 * np.minimum(red, blue)) & (red - green > 0.06)
    # In stained tissue the density of red is about 0.4 to 0.8 of that of green, below 1.05
    # even in dense nuclei; blue ink turns that round.
    blue_ink = strong & (red > 1.1 * green + 0.02) & (red > 1.3 * blue)
    blue_ink |= (red > 0.7) & (red > 1.03 * green) & (red > 1.3 * blue)
    cyan_ink = strong & (red > 1.5 * green + 0.03) & (red > blue)
    red_ink = (green > 0.45) & (blue > 0.82 * green) & (red < 0.3 * green)
    red_ink |= (green > 0.9) & (blue > 0.85 * green) & (red < 0.5 * green)
    seeds = green_ink | blue_ink | cyan_ink | red_ink
    seeds = ndimage.binary_opening(seeds, np.ones((2, 2)))
    if not seeds.any():
        return np.zeros(seeds.shape, dtype=bool)
    seeds = morphology.remove_small_objects(seeds, max_size=12)
    # The rim of a stroke is ink mixed with glass: paler, but of the same kind.
    weak = (_channel_max(density) > 0.03) & ((red > 0.95 * green) | (blue > 0.85 * green))
    rim = ndimage.binary_dilation(seeds, iterations=4) & weak
    found: NDArray[np.bool_] = seeds | rim
    return found


def _touches_edge(area: NDArray[np.bool_]) -> bool:
    return bool(area[0].any() or area[-1].any() or area[:, 0].any() or area[:, -1].any())


def clean_mask(
    stain: NDArray[np.bool_],
    dark: NDArray[np.bool_],
    ink: NDArray[np.bool_],
    min_area_px: float,
    max_hole_px: float,
    close_radius_px: float,
    grow: bool = False,
) -> NDArray[np.bool_]:
    """Bridge gaps, fill holes, drop specks and what hugs the slide's edge as a thin line."""
    mask = stain.copy()
    if grow:
        mask = ndimage.binary_dilation(mask) & ~dark
    if not mask.any():
        return mask
    if not grow:
        mask = morphology.remove_small_objects(mask, max_size=max(int(min_area_px / 16), 1))
    radius = round(close_radius_px)
    if radius >= 1:
        padded = np.pad(mask, radius + 1)
        closed = ndimage.distance_transform_edt(~padded) <= radius
        closed = ndimage.distance_transform_edt(closed) > radius
        mask |= closed[radius + 1 : -radius - 1, radius + 1 : -radius - 1]
    if max_hole_px >= 1:
        mask = morphology.remove_small_holes(mask, max_size=math.floor(max_hole_px))
    # Ink is never tissue; small dark spots inside tissue (pigment, folds) are.
    mask &= ~ink & ~morphology.remove_small_objects(dark, max_size=max(int(max_hole_px), 1))
    if min_area_px >= 1:
        mask = morphology.remove_small_objects(mask, max_size=math.ceil(min_area_px) - 1)
    return _without_edge_lines(mask)


def _without_edge_lines(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop long thin components at the border: the edge of the glass or of the cover slip."""
    height, width = mask.shape
    labels = measure.label(mask)
    out = mask.copy()
    for region in measure.regionprops(labels):
        top, left, bottom, right = region.bbox
        at_edge = top == 0 or left == 0 or bottom == height or right == width
        long_side, thick = max(bottom - top, right - left), region.area
        thickness = thick / long_side
        limit = 0.02 * max(height, width)
        if at_edge and long_side > 0.3 * max(height, width) and thickness < limit:
            out[labels == region.label] = False
    return out

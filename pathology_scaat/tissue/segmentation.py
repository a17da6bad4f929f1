"""Which thumbnail pixels are stain, ink, border or glass.

The picture is worked through in strips that fit a core's cache: with whole pictures most of
the time goes into fetching fresh memory for what is thrown away at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.slides.base import RgbImage
from pathology_scaat.tissue.density import densities, density_table, strips
from pathology_scaat.tissue.ink import find_ink
from pathology_scaat.tissue.kernels import count, measure_pixels
from pathology_scaat.tissue.morphology import (
    CROSS,
    OUTSIDE_IS_EMPTY,
    Mask,
    closed,
    dilated,
    without_small,
)

DEFAULT_GLASS = 243.0
"""Brightness taken for glass where a picture shows none (tissue from edge to edge)."""

PADDING_LEVEL = 254
"""From here on a grey pixel may be what a scanner fills unscanned areas with."""

MUCH_GLASS = 0.05
"""A picture of which this share is grey and bright shows its glass."""

DARK_BACKGROUND = "dark-background"
"""Flag of pictures that are mostly black and show next to no bright glass."""

MUCH_DARK = 0.3
"""Share of black from which the background may be meant to be dark."""

DARK_LEVEL = 60
"""Pixels whose brightest channel is below this are border, black ink or nothing."""

MIN_STAIN_OD, MAX_STAIN_OD = 0.015, 0.04
"""Bounds for the colour threshold (difference of optical densities between channels)."""

NOISE_FACTOR = 6.0
"""How many deviations of the glass above its middle stain begins."""

_OD_STEP = 1e-5
"""Width of the bins in which medians of densities are found."""
_MOST_OD = 2.5
"""No 8-bit level is denser."""


@dataclass(frozen=True)
class PixelClasses:
    """(h, w) bool arrays, and quality words for the slide."""

    stain: Mask
    ink: Mask
    dark: Mask
    flags: tuple[str, ...]


def _extremes(rgb: RgbImage) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Smallest and largest channel, (h, w) uint8 each."""
    low = np.empty(rgb.shape[:2], dtype=np.uint8)
    high = np.empty(rgb.shape[:2], dtype=np.uint8)
    for rows in strips(low.shape):
        red, green, blue = cv2.split(rgb[rows])
        cv2.min(cv2.min(red, green), blue, dst=low[rows])
        cv2.max(cv2.max(red, green), blue, dst=high[rows])
    return low, high


def _glass(
    rgb: RgbImage, low: NDArray[np.uint8], high: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], bool]:
    """Colour of the empty glass, (3,) float, and whether any was seen.

    It is the commonest brightness among bright, nearly grey pixels; the channels are then
    averaged around it, because glass of many scanners is a little yellow or blue. Old mounting
    medium is yellower than that: where next to nothing is grey, see :func:`_tinted_glass`.
    """
    counts = np.zeros(256, dtype=np.int64)
    bright = np.empty(low.shape, dtype=np.bool_)
    for rows in strips(low.shape):
        np.logical_and(low[rows] >= 190, high[rows] - low[rows] <= 24, out=bright[rows])
        counts += np.bincount(low[rows][bright[rows]], minlength=256)
    n_grey = int(counts[:PADDING_LEVEL].sum())  # scanners fill what they did not scan with white
    if n_grey < MUCH_GLASS * low.size:
        tinted = _tinted_glass(rgb, low, high, n_grey)
        if tinted is not None:
            return tinted, True
    if counts.sum() < max(low.size * 0.002, 16):
        return np.full(3, DEFAULT_GLASS), False
    return _around_mode(rgb, low, bright, counts), True


def _around_mode(
    rgb: RgbImage, low: NDArray[np.uint8], where: Mask, counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean colour of the pixels whose smallest channel is about the commonest."""
    smooth = np.convolve(np.pad(counts, 2, mode="symmetric"), np.ones(5), mode="valid")
    mode = int(np.argmax(smooth))
    near = where & (low >= max(mode - 4, 0)) & (low <= min(mode + 4, 255))
    return np.asarray(cv2.mean(rgb, near.view(np.uint8))[:3])


def _tinted_glass(
    rgb: RgbImage, low: NDArray[np.uint8], high: NDArray[np.uint8], n_grey: int
) -> NDArray[np.float64] | None:
    """Glass that is clearly yellow (or of another tint, where the picture's edge is of it).

    Pale stain has such colours too. Glass is flat where stain has texture, nothing but padding
    is brighter, and there is far more of it than of grey pixels. Pale yellow is no colour that
    a common stain leaves in a flat area; another tint must also be that of the picture's edge.
    """
    spread = high - low
    square = np.ones((3, 3), dtype=np.uint8)
    flat = cv2.dilate(low, square) - cv2.erode(low, square) <= 6
    empty: Mask = flat & (low >= 140) & (high >= 190) & (spread > 24) & (spread <= 80)
    counts = np.bincount(low[empty], minlength=256)
    if counts.sum() < max(0.02 * low.size, 4 * n_grey, 64):
        return None
    glass = _around_mode(rgb, low, empty, counts)
    brighter = np.count_nonzero((low > glass.min() + 10) & (low < PADDING_LEVEL))
    if brighter > max(0.02 * low.size, n_grey):
        return None
    red, green, blue = glass
    yellow = blue < green - 12 and green > red - 24
    return glass if yellow or _edge_share(empty, low < PADDING_LEVEL) > 0.75 else None


def _edge_share(area: Mask, of: Mask) -> float:
    """Share of the picture's edge, as far as it is in ``of``, that is in ``area``."""
    sides = (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1])
    there = np.concatenate([of[side] for side in sides])
    return float(np.concatenate([area[side] for side in sides])[there].mean()) if any(there) else 0


def classify_pixels(rgb: RgbImage, readable: Mask, sensitivity: float = 1.0) -> PixelClasses:
    """Tell stain from ink, dark borders and glass.

    Stain is judged by the range of the optical densities of the three channels,
    ``max_c OD_c - min_c OD_c`` with ``OD_c = -log10(I_c / glass_c)``: zero for everything
    grey however dark, large for haematoxylin, eosin and DAB. Stain begins above what the
    glass itself shows: a threshold between tissue and glass, such as Otsu's, would lie
    higher the darker the tissue is, and lose the pale.

    Parameters
    ----------
    rgb : (h, w, 3) uint8
        Thumbnail.
    readable : (h, w) bool
        What could be decoded.
    sensitivity : float
        Divides the threshold: above 1 paler stain is found.
    """
    flags: list[str] = []
    low, high = _extremes(rgb)
    glass, seen = _glass(rgb, low, high)
    if not seen:
        flags.append("no-glass")
    table = density_table(glass)
    spread = high - low
    dark: Mask = (high < DARK_LEVEL) & (spread < 30)
    colour = np.empty(low.shape, dtype=np.float32)
    pale, seeds = np.empty((2, *low.shape), dtype=np.bool_)
    measure_pixels(rgb, table, colour, pale, seeds)
    if MUCH_DARK < dark.mean() <= 0.99:
        n_bright = np.count_nonzero((low >= 190) & (spread <= 24))
        if n_bright < MUCH_GLASS * np.count_nonzero(~dark):
            flags.append(DARK_BACKGROUND)
    ink = find_ink(seeds, rgb, table) & ~dark if seeds.any() else seeds
    usable = readable & ~dark & ~ink
    coloured = np.count_nonzero(usable & (spread > 3))
    if usable.any() and coloured <= 0.005 * np.count_nonzero(usable):
        return _grey(_mean_density(rgb, table), dark, usable, seen, flags)
    blurred = cv2.GaussianBlur(colour, (7, 7), 0.7, borderType=cv2.BORDER_REFLECT)
    smooth = np.asarray(blurred, dtype=np.float32)
    threshold = _above_glass(smooth, rgb, glass, usable) / sensitivity
    stain = usable & (smooth > threshold)
    if ink.any():
        stain &= ~dilated(ink, 2)
    if ink.mean() > 0.0005:
        flags.append("ink")
        if np.count_nonzero(ink) > np.count_nonzero(stain):
            flags.append("mostly-ink")
    if _touches_edge(dark) and dark.mean() > 0.01:
        flags.append("black-border")
    if dark.mean() > 0.99:
        flags.append("blank-black")
    n_stain = np.count_nonzero(stain)
    if n_stain and 2 * np.count_nonzero(stain & pale) > n_stain:
        flags.append("pale")
    if not n_stain and "blank-black" not in flags:
        flags.append("blank-white")
    return PixelClasses(stain, ink, dark, tuple(flags))


def _above_glass(
    colour: NDArray[np.float32], rgb: RgbImage, glass: NDArray[np.float64], usable: Mask
) -> float:
    """Where stain begins: the glass's own colour range plus its noise (median, MAD)."""
    low, high = np.ceil(glass - 5).clip(0, 255), np.floor(glass + 5).clip(0, 255)
    counts = np.zeros(round(_MOST_OD / _OD_STEP), dtype=np.int64)
    empty = usable & (cv2.inRange(rgb, low, high) > 0)
    count(colour, empty, np.float32(_OD_STEP), counts)
    if counts.sum() < 100:
        return MAX_STAIN_OD / 2
    middle = _median_bin(counts)
    away = np.bincount(np.abs(np.arange(len(counts)) - middle), weights=counts)
    noise = 1.4826 * _median_bin(away) * _OD_STEP
    return min(max(middle * _OD_STEP + NOISE_FACTOR * noise, MIN_STAIN_OD), MAX_STAIN_OD)


def _median_bin(counts: NDArray[Any]) -> int:
    """The bin that holds the middle of what was counted."""
    total = np.cumsum(counts)
    return int(np.searchsorted(total, total[-1] / 2))


def _mean_density(rgb: RgbImage, table: NDArray[np.float32]) -> NDArray[np.float32]:
    mean = np.empty(rgb.shape[:2], dtype=np.float32)
    for rows in strips(mean.shape):
        red, green, blue = densities(rgb[rows], table)
        mean[rows] = (red + green + blue) / 3
    return mean


def _otsu(values: NDArray[np.float32], low: float, high: float) -> float:
    """Half of Otsu's threshold, within bounds: maximal variance between two classes."""
    if values.size == 0 or float(values.max()) - float(values.min()) < 1e-6:
        return high
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    mean_below = np.cumsum(counts * centres)[:-1] / np.maximum(below, 1)
    mean_above = np.cumsum((counts * centres)[::-1])[::-1][1:] / np.maximum(above, 1)
    variance = below.astype(float) * above * (mean_below - mean_above) ** 2
    return min(max(float(centres[int(np.argmax(variance))]) * 0.5, low), high)


def _grey(
    mean: NDArray[np.float32], dark: Mask, usable: Mask, glass_seen: bool, flags: list[str]
) -> PixelClasses:
    """A slide without colour: brightness alone decides, if there is anything to decide."""
    none = np.zeros_like(dark)
    values = mean[usable]
    if float(np.percentile(values, 99.5)) - float(np.percentile(values, 0.5)) < 0.03:
        word = "blank-white" if glass_seen else "blank-grey"
        return PixelClasses(none, none, dark, (*flags, word))
    threshold = _otsu(values, 0.04, 0.12)
    return PixelClasses(usable & (mean > threshold), none, dark, (*flags, "greyscale"))


def _touches_edge(area: Mask) -> bool:
    return bool(area[0].any() or area[-1].any() or area[:, 0].any() or area[:, -1].any())


def clean_mask(
    stain: Mask,
    dark: Mask,
    ink: Mask,
    min_area_px: float,
    max_hole_px: float,
    close_radius_px: float,
    grow: bool = False,
) -> Mask:
    """Bridge gaps, fill holes, drop specks and what hugs the slide's edge as a thin line.

    Masks are (h, w) bool; areas are in square thumbnail pixels, the radius in thumbnail pixels.
    With ``grow`` the stain is first grown by one pixel, and specks are dropped at the end alone.
    """
    if grow:
        stain = cv2.dilate(stain.view(np.uint8), CROSS, **OUTSIDE_IS_EMPTY).view(np.bool_) & ~dark
    if not stain.any():
        return stain
    mask = stain if grow else without_small(stain, max(int(min_area_px / 16), 1))
    radius = round(close_radius_px)
    if radius >= 1:
        mask = mask | closed(mask, radius)
    if max_hole_px >= 1:
        mask = ~without_small(~mask, math.floor(max_hole_px))
    # Ink is never tissue; small dark spots inside tissue (pigment, folds) are.
    mask = mask & ~(ink | without_small(dark, max(int(max_hole_px), 1)))
    if min_area_px >= 1:
        mask = without_small(mask, math.ceil(min_area_px) - 1)
    return _without_edge_lines(mask)


def _without_edge_lines(mask: Mask) -> Mask:
    """Drop long thin components at the border: the edge of the glass or of the cover slip."""
    height, width = mask.shape
    longest = max(height, width)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    out = mask.copy()
    for number, (left, top, wide, high, area) in enumerate(stats.tolist()):
        at_edge = left == 0 or top == 0 or left + wide == width or top + high == height
        long_side = max(wide, high)
        thin = area / max(long_side, 1) < 0.02 * longest
        if number and at_edge and long_side > 0.3 * longest and thin:
            out[labels == number] = False
    return out

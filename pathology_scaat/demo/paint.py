"""From a plan to pixels: two stain maps, then light through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from pathology_scaat.demo.layout import LAYOUT_UM, Layout, smooth_noise
from pathology_scaat.demo.nuclei import (
    BENIGN_SPACING_UM,
    TUMOR_SPACING_UM,
    jittered_points,
    make_sprites,
    stamp,
)
from pathology_scaat.slides.base import RgbImage

HEMATOXYLIN = (0.60, 0.73, 0.33)
EOSIN = (0.13, 0.88, 0.46)
BAND_ROWS = 512
NARROW_PX = 3.0
"""Standard deviation below which a filter is faster than a transform."""


@dataclass(frozen=True)
class StainAppearance:
    """How one laboratory and scanner show colour.

    Attributes
    ----------
    hematoxylin, eosin : ndarray, (3,) float64
        Optical density of the stain in red, green and blue, for one unit of stain.
    hematoxylin_gain, eosin_gain : float
        How strongly the laboratory stains, about 1.
    glass : ndarray, (3,) float64
        RGB of bare glass, 0 to 255.
    gamma : float
        Factor on the optical density: the scanner's contrast, about 1.
    ink_rgb : tuple of int
        RGB of a pen mark, 0 to 255.
    """

    hematoxylin: NDArray[np.float64]
    eosin: NDArray[np.float64]
    hematoxylin_gain: float
    eosin_gain: float
    glass: NDArray[np.float64]
    gamma: float
    ink_rgb: tuple[int, int, int] = (38, 62, 150)


def make_appearance(rng: np.random.Generator) -> StainAppearance:
    """A laboratory and scanner by chance, within what is seen in practice."""
    return StainAppearance(
        hematoxylin=np.array(HEMATOXYLIN) + rng.normal(0, 0.025, 3),
        eosin=np.array(EOSIN) + rng.normal(0, 0.035, 3),
        hematoxylin_gain=rng.uniform(0.9, 1.15),
        eosin_gain=rng.uniform(0.82, 1.2),
        glass=np.array([243.0, 242.0, 243.0]) + rng.uniform(-4, 4, 3),
        gamma=rng.uniform(0.94, 1.06),
    )


class _Upsampler:
    """Linear interpolation of layout fields to rows of slide pixels."""

    def __init__(self, size_px: int, mpp: float) -> None:
        self.position = (np.arange(size_px, dtype=np.float32) + 0.5) * (mpp / LAYOUT_UM) - 0.5
        self.position = np.clip(self.position, 0, None)

    def rows(self, values: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        last = values.shape[0] - 2
        r = np.minimum(self.position[start:stop].astype(int), last)
        fr = (self.position[start:stop] - r)[:, None].astype(np.float32)
        lines: NDArray[np.float32] = values[r] * (1 - fr) + values[r + 1] * fr
        c = np.minimum(self.position.astype(int), last)
        fc = (self.position - c).astype(np.float32)
        out: NDArray[np.float32] = np.take(lines, c, axis=1)
        out *= 1 - fc
        right = np.take(lines, c + 1, axis=1)
        right *= fc
        out += right
        return out


def _soft(values: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    out: NDArray[np.float32] = np.clip(values / width + 0.5, 0, 1)
    return out


def _smoothed_around(
    values: NDArray[np.float32], sigma_px: float, axis: int
) -> NDArray[np.float32]:
    """``ndimage.gaussian_filter1d`` of mode "wrap"; where it is wide many times as fast.

    In double precision, and so the same but for the rounding of the last bit.
    """
    if sigma_px < NARROW_PX:
        narrow: NDArray[np.float32] = ndimage.gaussian_filter1d(values, sigma_px, axis, mode="wrap")
        return narrow
    length = values.shape[axis]
    reach = int(4 * sigma_px + 0.5)  # as far as ndimage goes
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 / sigma_px**2 * offsets**2)
    kernel = np.bincount(offsets % length, weights / weights.sum(), length)
    shape = (-1, 1) if axis == 0 else (1, -1)
    # of a symmetric kernel, and so real
    response = fft.rfft(kernel).real.reshape(shape)
    lines = fft.rfft(values.astype(np.float64), axis=axis)
    lines *= response
    out: NDArray[np.float32] = fft.irfft(lines, length, axis=axis).astype(np.float32)
    return out


def _shifted_rows(values: NDArray[np.float32], at: NDArray[np.float32]) -> NDArray[np.float32]:
    """Between the rows of a square (N, N) without a seam: at row ``at`` (n, m) of each column.

    As ``ndimage.map_coordinates`` of order 1 and mode "grid-wrap", to the last bit.
    """
    side = values.shape[0]
    position = at.astype(np.float64)
    above = np.floor(position)
    below_share = position - above
    index = above.astype(np.int32)
    index %= side
    columns = np.arange(at.shape[1], dtype=np.int32)
    flat = values.ravel()
    found = flat[index * side + columns].astype(np.float64)
    found *= 1 - below_share
    index += 1
    index[index == side] = 0
    below_share *= flat[index * side + columns]
    found += below_share
    out: NDArray[np.float32] = found.astype(np.float32)
    return out


def _fibre_tile(
    rng: np.random.Generator, side: int, px_per_um: float, size_px: int
) -> NDArray[np.float32]:
    """Wavy collagen bundles that repeat without a seam, values about -1 to 1.

    Of a tile larger than the slide, ``size_px``, only the part that is seen.
    """

    def strands(across_um: float, along_um: float) -> NDArray[np.float32]:
        noise = rng.standard_normal((side, side)).astype(np.float32)
        sigma = (across_um * px_per_um, along_um * px_per_um)
        for axis, sigma_px in enumerate(sigma):
            noise = _smoothed_around(noise, sigma_px, axis)
        out: NDArray[np.float32] = noise / noise.std()
        return out

    mix = 0.55 * strands(0.55, 5) + 0.7 * strands(1.2, 12) + 0.75 * strands(4.5, 16)
    seen = min(side, size_px)
    rows, cols = np.mgrid[0:seen, 0:seen].astype(np.float32)
    turn = 2 * np.pi / side
    wave = (
        5.0 * px_per_um * np.sin(turn * (5 * cols + 2 * rows))
        + 3.0 * px_per_um * np.sin(turn * (9 * cols - 6 * rows) + 1.0)
        + 14 * px_per_um * np.sin(turn * (cols - 2 * rows) + 2.0)
    )
    warped = _shifted_rows(mix, rows + wave)
    grain = ndimage.gaussian_filter(
        rng.standard_normal((side, side)).astype(np.float32), 0.4 * px_per_um, mode="wrap"
    )
    grain = 0.25 * grain[:seen, :seen] / grain.std()
    out: NDArray[np.float32] = np.clip(warped / 1.9 + grain, -1.2, 1.2)
    return out


def _tiled(tile: NDArray[np.float32], start: int, stop: int, width: int) -> NDArray[np.float32]:
    if stop <= tile.shape[0] and width <= tile.shape[1]:
        return tile[start:stop, :width]
    rows = np.arange(start, stop) % tile.shape[0]
    cols = np.arange(width) % tile.shape[1]
    out: NDArray[np.float32] = tile[rows][:, cols]
    return out


def paint_stains(
    rng: np.random.Generator, layout: Layout, size_px: int, mpp: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Haematoxylin and eosin of a slide, (size, size) uint8 in optical density x 100."""
    px_per_um = 1 / mpp
    up = _Upsampler(size_px, mpp)
    hema = np.empty((size_px, size_px), dtype=np.uint8)
    eosin = np.empty_like(hema)
    tiles = [_fibre_tile(rng, round(s * px_per_um), px_per_um, size_px) for s in (620, 451)]
    tiles[1] = np.ascontiguousarray(tiles[1].T)
    grain = smooth_noise(rng, (round(350 * px_per_um),) * 2, 1.3 * px_per_um)
    # Which of the two directions the collagen runs in, changing slowly over the slide.
    turn = _soft(smooth_noise(rng, layout.nest.shape, 40.0), 1.2)
    for start in range(0, size_px, BAND_ROWS):
        stop = min(start + BAND_ROWS, size_px)
        tissue = up.rows(layout.tissue, start, stop)
        tissue = _soft(tissue, 0.05)
        nest_field = up.rows(layout.nest, start, stop)
        nest = _soft(nest_field, 0.05)
        cleft = np.exp(-(((nest_field + 0.10) / 0.055) ** 2))
        lumen = _soft(up.rows(layout.lumen, start, stop), 0.5)
        shade = up.rows(layout.shade, start, stop)
        side = up.rows(turn, start, stop)
        fibre = side * _tiled(tiles[0], start, stop, size_px)
        fibre += (1 - side) * _tiled(tiles[1], start, stop, size_px)
        cytoplasm = _tiled(grain, start, stop, size_px)
        pink = (1 - nest) * (0.20 + 0.10 * fibre) + nest * (0.20 + 0.020 * cytoplasm)
        pink *= (1 - 0.55 * cleft) * (1 - 0.93 * lumen) * tissue * shade
        blue = (1 - nest) * (0.035 + 0.015 * fibre) + nest * (0.115 + 0.016 * cytoplasm)
        blue *= (1 - 0.5 * cleft) * (1 - 0.93 * lumen) * tissue * shade
        eosin[start:stop] = np.clip(pink * 100 + 0.5, 0, 255)
        hema[start:stop] = np.clip(blue * 100 + 0.5, 0, 255)
    _stamp_nuclei(rng, layout, hema, eosin, mpp)
    return hema, eosin


def _stamp_nuclei(
    rng: np.random.Generator,
    layout: Layout,
    hema: NDArray[np.uint8],
    eosin: NDArray[np.uint8],
    mpp: float,
) -> None:
    size_px, px_per_um = hema.shape[0], 1 / mpp
    sprites = make_sprites(rng, px_per_um)

    def at(values: NDArray[Any], points: NDArray[np.float64]) -> NDArray[Any]:
        index = np.minimum((points * (mpp / LAYOUT_UM)).astype(int), values.shape[0] - 1)
        found: NDArray[Any] = values[index[:, 1], index[:, 0]]
        return found

    def choose(points: NDArray[np.float64], kind_sprites: list[object]) -> NDArray[np.int64]:
        return rng.integers(0, len(kind_sprites), len(points))

    plans = (
        (sprites.benign, BENIGN_SPACING_UM, 0.23, False),
        (sprites.tumor, TUMOR_SPACING_UM, 0.34, True),
    )
    for kind_sprites, spacing_um, jitter, is_tumor in plans:
        points = jittered_points(rng, size_px, spacing_um * px_per_um, jitter)
        keep = (at(layout.nest, points) > 0.06) & (at(layout.tissue, points) > 0.04)
        keep &= (at(layout.lumen, points) < -0.6) & (at(layout.tumor, points) == is_tumor)
        points = points[keep]
        stamp(hema, eosin, points, choose(points, list(kind_sprites)), kind_sprites, 1.0)
    points = jittered_points(rng, size_px, 26 * px_per_um, 0.5)
    keep = (at(layout.nest, points) < -0.18) & (at(layout.tissue, points) > 0.08)
    points = points[keep]
    stamp(hema, eosin, points, choose(points, list(sprites.spindle)), sprites.spindle, 1.0)
    points = jittered_points(rng, size_px, 60 * px_per_um, 0.5)
    keep = (at(layout.nest, points) < -0.12) & (at(layout.tissue, points) > 0.08)
    points = points[keep]
    stamp(hema, eosin, points, choose(points, list(sprites.lymphocyte)), sprites.lymphocyte, 1.0)


def develop(
    rng: np.random.Generator,
    layout: Layout,
    hema: NDArray[np.uint8],
    eosin: NDArray[np.uint8],
    appearance: StainAppearance,
    mpp: float,
) -> RgbImage:
    """Light through the stains (Beer-Lambert), ink on the glass, and the camera's noise.

    Parameters
    ----------
    rng : Generator
        Source of the noise.
    layout : Layout
        Only its ink is read.
    hema, eosin : ndarray, (size, size) uint8
        Optical density x 100, as of :func:`paint_stains`.
    appearance : StainAppearance
    mpp : float
        µm per slide pixel.

    Returns
    -------
    ndarray, (size, size, 3) uint8
    """
    size_px = hema.shape[0]
    level = np.arange(256) / 100.0
    absorbed = (level * appearance.hematoxylin_gain)[:, None, None] * appearance.hematoxylin + (
        level * appearance.eosin_gain
    )[None, :, None] * appearance.eosin
    light = appearance.glass * 10.0 ** (-absorbed * appearance.gamma)
    # Through float32, so that the last bit of the power function does not decide a pixel.
    shades = np.clip(light, 0, 255).astype(np.float32).astype(np.uint8).reshape(-1, 3)
    # One number for the three, so that each pixel is looked up once.
    table = np.zeros((len(shades), 4), np.uint8)
    table[:, :3] = shades
    packed = table.view(np.uint32).ravel()
    noise = np.round(rng.normal(0, 1.6, (509, 521, 3))).astype(np.int16)
    noise = noise[:, np.arange(size_px) % 521]
    rgb = np.empty((size_px, size_px, 3), dtype=np.uint8)
    up = _Upsampler(size_px, mpp)
    ink_field = ndimage.gaussian_filter(layout.ink.astype(np.float32), 1.0)
    inked = bool(layout.ink.any())
    for start in range(0, size_px, BAND_ROWS):
        stop = min(start + BAND_ROWS, size_px)
        index = hema[start:stop].astype(np.uint16) << 8
        index |= eosin[start:stop]
        found = packed[index].view(np.uint8).reshape(*index.shape, 4)
        band = found[..., :3].astype(np.int16)
        if inked:
            cover = _soft(up.rows(ink_field, start, stop) - 0.5, 0.3)[..., None] * 0.86
            band = (band * (1 - cover + cover * np.array(appearance.ink_rgb) / 255.0)).astype(
                np.int16
            )
        band += noise[np.arange(start, stop) % 509]
        rgb[start:stop] = np.clip(band, 0, 255, out=band)
    return rgb

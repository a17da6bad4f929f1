"""Nuclei, drawn once as small sprites and stamped by the ten thousand.

A sprite is a pair (alpha, stain), float32 arrays of one shape: how opaque the nucleus is and
how much haematoxylin (optical density) it holds. Benign nuclei are small, round, evenly dark
and alike. Tumour nuclei are larger and unlike each other, irregular, with clumped chromatin,
a dark membrane and nucleoli; some divide. Both hold the same stain per area of tissue, so
that colour alone carries no information.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Sprite = tuple[NDArray[np.float32], NDArray[np.float32]]

BENIGN_SPACING_UM = 10.0
TUMOR_SPACING_UM = 14.6
OVERLAP_LOSS = 1.08
"""Crowded tumour nuclei hide part of each other, and the stain in it."""


@dataclass(frozen=True)
class NucleusSprites:
    """Sprites by kind, at the µm/px of one slide: pairs of (h, w) float32 as the module says."""

    benign: list[Sprite]
    tumor: list[Sprite]
    spindle: list[Sprite]
    lymphocyte: list[Sprite]


@cache
def _canvas(half: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    both = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    both.flags.writeable = False  # kept for the next sprite of that size
    return both[0], both[1]


def _nucleus(
    rng: np.random.Generator,
    px_per_um: float,
    radius_um: float,
    aspect: float,
    irregularity: float,
    angle: float | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Soft disc with a wavy outline: alpha, relative depth (1 centre, 0 rim), radius in px."""
    radius = radius_um * px_per_um
    half = int(np.ceil(radius / min(aspect, 1.0) ** 0.5 * (1.15 + irregularity))) + 2
    rows, cols = _canvas(half)
    turn = rng.uniform(0, np.pi) if angle is None else angle
    u = np.cos(turn) * cols + np.sin(turn) * rows
    v = -np.sin(turn) * cols + np.cos(turn) * rows
    stretch = aspect**0.5
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for order in (2, 3, 4, 5):
        outline += (
            irregularity
            * rng.normal(0, 1.0 / order)
            * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
        )
    distance = np.hypot(u * stretch, v / stretch) / (radius * np.maximum(outline, 0.5))
    edge_px = 0.9
    alpha = np.clip((1 - distance) * radius / edge_px + 0.5, 0, 1)
    return alpha.astype(np.float32), np.clip(1 - distance, 0, 1).astype(np.float32), radius


def _benign(rng: np.random.Generator, px_per_um: float) -> Sprite:
    alpha, _, _ = _nucleus(
        rng, px_per_um, rng.normal(3.15, 0.18), rng.uniform(0.8, 1.0), irregularity=0.02
    )
    grain = ndimage.gaussian_filter(rng.standard_normal(alpha.shape), 0.9 * px_per_um / 2)
    stain = 0.52 * (1 + 0.10 * grain / max(grain.std(), 1e-6))
    return alpha, (stain * rng.normal(1, 0.06)).astype(np.float32)


def _tumor(rng: np.random.Generator, px_per_um: float) -> Sprite:
    if rng.random() < 0.025:
        return _mitosis(rng, px_per_um)
    radius_um = float(np.clip(rng.lognormal(np.log(4.9), 0.20), 3.6, 7.6))
    alpha, depth, radius = _nucleus(
        rng, px_per_um, radius_um, rng.uniform(0.6, 1.0), irregularity=0.13
    )
    clumps = ndimage.gaussian_filter(rng.standard_normal(alpha.shape), 1.1 * px_per_um / 2)
    clumps /= max(clumps.std(), 1e-6)
    membrane = np.exp(-((depth * radius / (0.8 * px_per_um)) ** 2))
    base = rng.uniform(0.30, 0.58)
    stain = base * (1 + 0.20 * clumps) + 0.24 * membrane
    rows, cols = _canvas(alpha.shape[0] // 2)
    for _ in range(rng.choice([1, 1, 2, 3])):
        off = rng.normal(0, 0.3 * radius, 2)
        reach = rng.uniform(0.75, 1.15) * px_per_um
        spot = np.exp(-((((rows - off[0]) ** 2 + (cols - off[1]) ** 2) / reach**2) ** 2))
        stain = np.maximum(stain, spot * 0.95)
    return alpha, stain.astype(np.float32)


def _mitosis(rng: np.random.Generator, px_per_um: float) -> Sprite:
    """A dividing cell: dark clumped plates, no membrane."""
    half = int(8 * px_per_um) + 2
    rows, cols = _canvas(half)
    turn = rng.uniform(0, np.pi)
    u = np.cos(turn) * cols + np.sin(turn) * rows
    v = -np.sin(turn) * cols + np.cos(turn) * rows
    ragged = ndimage.gaussian_filter(rng.standard_normal(rows.shape), 0.8 * px_per_um / 2)
    ragged /= max(ragged.std(), 1e-6)
    gap = rng.choice([0.0, 0.0, 2.8]) * px_per_um
    across = np.abs(np.abs(v) - gap) / (2.1 * px_per_um) + np.abs(u) / (5.0 * px_per_um)
    alpha = np.clip((1.0 - across + 0.18 * ragged) * 3, 0, 1)
    return alpha.astype(np.float32), np.full(alpha.shape, 0.92, dtype=np.float32)


def _spindle(rng: np.random.Generator, px_per_um: float, angle: float) -> Sprite:
    alpha, _, _ = _nucleus(
        rng, px_per_um, rng.uniform(2.4, 3.0), rng.uniform(0.16, 0.3), 0.03, angle
    )
    return alpha, np.full(alpha.shape, rng.uniform(0.45, 0.6), dtype=np.float32)


def _lymphocyte(rng: np.random.Generator, px_per_um: float) -> Sprite:
    alpha, _, _ = _nucleus(rng, px_per_um, rng.normal(2.5, 0.12), 0.95, 0.02)
    grain = ndimage.gaussian_filter(rng.standard_normal(alpha.shape), 0.6)
    stain = 0.78 * (1 + 0.12 * grain / max(grain.std(), 1e-6))
    return alpha, stain.astype(np.float32)


def _stain_per_area(sprites: list[Sprite], spacing_um: float, px_per_um: float) -> float:
    held = np.mean([float((alpha * stain).sum()) for alpha, stain in sprites])
    return float(held) / (spacing_um * px_per_um) ** 2


def make_sprites(rng: np.random.Generator, px_per_um: float) -> NucleusSprites:
    """Sprites for a slide of a given resolution; the same nuclei whatever the resolution."""
    benign = [_benign(rng, px_per_um) for _ in range(96)]
    tumor = [_tumor(rng, px_per_um) for _ in range(192)]
    spindle = [_spindle(rng, px_per_um, np.pi * k / 48) for k in range(48)]
    lymphocyte = [_lymphocyte(rng, px_per_um) for _ in range(16)]
    balance = _stain_per_area(benign, BENIGN_SPACING_UM, px_per_um) / _stain_per_area(
        tumor, TUMOR_SPACING_UM, px_per_um
    )
    balance *= OVERLAP_LOSS
    tumor = [(alpha, stain * np.float32(balance)) for alpha, stain in tumor]
    return NucleusSprites(benign, tumor, spindle, lymphocyte)


def jittered_points(
    rng: np.random.Generator, size_px: int, spacing_px: float, jitter: float
) -> NDArray[np.float64]:
    """(N, 2) x, y of a hexagonal grid over a square, each point moved by chance."""
    n_cols = int(size_px / spacing_px) + 2
    row_step = spacing_px * 0.866
    n_rows = int(size_px / row_step) + 2
    rows, cols = np.mgrid[0:n_rows, 0:n_cols].astype(np.float64)
    # The rows of a hexagonal grid are closer; the columns make up for it.
    x = (cols + 0.5 * (rows % 2)) * (spacing_px / 0.866)
    y = rows * row_step
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.uniform(-jitter, jitter, points.shape) * spacing_px
    return points[((points >= 0) & (points < size_px)).all(axis=1)]


def stamp(
    hema: NDArray[np.uint8],
    eosin: NDArray[np.uint8],
    points: NDArray[np.float64],
    choice: NDArray[np.int64],
    sprites: list[Sprite],
    strength: float,
) -> None:
    """Blend sprites into the stain maps in place; those that would cross the edge are left out.

    Parameters
    ----------
    hema, eosin : ndarray, (H, W) uint8
        Optical density x 100.
    points : ndarray, (N, 2) float64
        x, y of the sprites' middles, in pixels of the maps.
    choice : ndarray, (N,) int64
        Which sprite stands at each point.
    sprites : list of Sprite
    strength : float
        Factor on the stain of the sprites.
    """
    height, width = hema.shape
    ready = [
        (
            (alpha * 256).astype(np.uint16),
            (alpha * stain * (strength * 100 * 256)).astype(np.uint32),
        )
        for alpha, stain in sprites
    ]
    for (px, py), kind in zip(points, choice, strict=True):
        alpha, held = ready[kind]
        half = alpha.shape[0] // 2
        top, left = int(py) - half, int(px) - half
        bottom, right = top + alpha.shape[0], left + alpha.shape[1]
        if top < 0 or left < 0 or bottom > height or right > width:
            continue
        keep = 256 - alpha
        part = hema[top:bottom, left:right]
        mixed = (part * keep.astype(np.uint32) + held) >> 8
        part[...] = np.minimum(mixed, 255)
        pink = eosin[top:bottom, left:right]
        pink[...] = (pink * (256 - (alpha >> 1)).astype(np.uint32)) >> 8

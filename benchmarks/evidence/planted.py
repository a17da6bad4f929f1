"""Synthetic H&E-like patches whose answer is known, and shortcuts that can be planted.

Both classes hold stroma, scattered nuclei, a nest of cells and clusters of small dark
lymphocytes; only the nuclei *of the nest* differ: in tumour they are large, irregular and
vesicular with a nucleolus. Neither colour, nor density, nor the presence of a nest tells the
class. Each patient has a stain of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
SHORTCUTS = ("ink", "tag", "tint")


@dataclass(frozen=True)
class PlantedPatches:
    """``images`` (N, P, P, 3) uint8, ``labels`` and ``patients`` (N,), ``masks`` of the nest in
    tumour patches and ``shortcut_masks`` (N, P, P) bool."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    masks: NDArray[np.bool_]
    shortcut_masks: NDArray[np.bool_]


def _ellipse(
    shape: int, y: float, x: float, ry: float, rx: float, turn: float
) -> NDArray[np.float64]:
    """Squared relative distance from an ellipse's centre."""
    grid_y, grid_x = np.mgrid[0:shape, 0:shape]
    dy, dx = grid_y - y, grid_x - x
    along = dx * np.cos(turn) + dy * np.sin(turn)
    across = -dx * np.sin(turn) + dy * np.cos(turn)
    return (along / rx) ** 2 + (across / ry) ** 2


def _nucleus(
    stain: NDArray[np.float64], rng: np.random.Generator, y: float, x: float, radius: float,
    amount: float, stretch: float, vesicular: bool,
) -> NDArray[np.bool_]:  # fmt: skip
    turn, size = rng.uniform(0, np.pi), stain.shape[0]
    distance = _ellipse(size, y, x, radius / stretch, radius * stretch, turn)
    body = np.clip(1.4 - distance, 0, 1) * amount
    if vesicular:
        # Pale inside, dark rim, one nucleolus.
        body *= np.where(distance < 0.5, 0.55, 1.15)
        body += amount * np.clip(
            1.2 - _ellipse(size, y + rng.uniform(-1, 1), x + rng.uniform(-1, 1), 1.1, 1.1, 0), 0, 1
        )
    np.maximum(stain, body, out=stain)
    return distance <= 1.3


def _patch(
    rng: np.random.Generator, tumour: bool, size: int, strength: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    h = np.zeros((size, size))
    fibres = gaussian_filter(rng.normal(size=(size, size)), (1.0, 4.0))
    cloud = gaussian_filter(rng.normal(size=(size, size)), 6.0)
    e = 0.35 + 0.10 * fibres / fibres.std() + 0.06 * cloud / cloud.std()
    for _ in range(rng.integers(5, 10)):
        _nucleus(
            h,
            rng,
            *rng.uniform(2, size - 2, 2),
            rng.uniform(2.0, 3.0),
            rng.uniform(0.6, 0.9),
            rng.uniform(1.0, 1.5),
            False,
        )
    if rng.random() < 0.6:
        cy, cx = rng.uniform(6, size - 6, 2)
        for _ in range(rng.integers(5, 12)):
            _nucleus(
                h,
                rng,
                cy + rng.normal(0, 4),
                cx + rng.normal(0, 4),
                rng.uniform(1.6, 2.2),
                rng.uniform(0.9, 1.1),
                1.0,
                False,
            )
    centre = rng.uniform(size * 0.2, size * 0.8, 2)
    spread = rng.uniform(6, 11) * size / 64
    nest = np.zeros((size, size), dtype=bool)
    e += 0.12 * np.exp(-0.5 * _ellipse(size, *centre, 1.6 * spread, 1.6 * spread, 0))
    # The same haematoxylin in both nests: fewer, larger, paler nuclei in tumour.
    count = rng.integers(6, 10) if tumour else rng.integers(13, 20)
    for _ in range(count):
        y, x = centre + rng.normal(0, spread * 0.6, 2)
        if tumour:
            nest |= _nucleus(
                h,
                rng,
                y,
                x,
                rng.uniform(3.3, 4.8),
                rng.uniform(0.6, 0.8),
                rng.uniform(1.0, 1.35),
                True,
            )
        else:
            nest |= _nucleus(
                h,
                rng,
                y,
                x,
                rng.uniform(2.2, 2.9),
                rng.uniform(0.65, 0.85),
                rng.uniform(1.0, 1.25),
                False,
            )
    density = strength[0] * h[..., None] * HAEMATOXYLIN + strength[1] * e.clip(0)[..., None] * EOSIN
    noise = rng.normal(0, 0.015, (size, size, 3))
    image = gaussian_filter(np.exp(-density), (0.6, 0.6, 0)) + noise
    return (image.clip(0, 1) * 255).round().astype(np.uint8), nest & tumour


def add_shortcut(
    image: NDArray[np.uint8], kind: str, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The image with a shortcut on it, and where it is (everywhere for a tint)."""
    size = image.shape[0]
    mask = np.zeros((size, size), dtype=bool)
    marked = image.astype(np.float64)
    if kind == "ink":
        side, depth = rng.integers(4), rng.integers(4, 8)
        wave = depth + np.round(2 * np.sin(np.arange(size) / 6 + rng.uniform(0, 6))).astype(int)
        mask = np.arange(size)[:, None] < wave[None]
        mask = np.rot90(mask, side).copy()
        marked[mask] = 0.25 * marked[mask] + 0.75 * np.array([30, 120, 60])
    elif kind == "tag":
        y, x = rng.integers(0, 2, 2) * (size - 8) + 1
        mask[y : y + 6, x : x + 6] = True
        marked[mask] = 30
    elif kind == "tint":
        mask[:] = True
        marked *= np.array([1.0, 0.93, 0.88])
    else:
        raise ValueError(kind)
    return marked.clip(0, 255).round().astype(np.uint8), mask


def make_patches(
    n_patients: int, per_patient: int, seed: int, *, size: int = 56,
    shortcut: str | None = None, agreement: float | None = None,
) -> PlantedPatches:  # fmt: skip
    """Patches of synthetic patients, half of them tumour.

    ``agreement`` is the probability that a shortcut is on a tumour patch and off a benign one
    (0.9: nearly tells the class; 0.5: tells nothing); None plants nothing, 1.0 with
    ``shortcut`` on every patch is :func:`add_shortcut` itself.
    """
    rng = np.random.default_rng(seed)
    images, labels, patients, masks, marks = [], [], [], [], []
    for patient in range(n_patients):
        strength = tuple(np.exp(rng.normal(0, 0.12, 2)))
        for k in range(per_patient):
            tumour = bool(k % 2)
            image, mask = _patch(rng, tumour, size, strength)
            mark = np.zeros_like(mask)
            if shortcut and agreement is not None and (rng.random() < agreement) == tumour:
                image, mark = add_shortcut(image, shortcut, rng)
            images.append(image)
            labels.append(int(tumour))
            patients.append(f"{seed}-{patient:03d}")
            masks.append(mask)
            marks.append(mark)
    return PlantedPatches(
        np.stack(images), np.array(labels), np.array(patients), np.stack(masks), np.stack(marks)
    )

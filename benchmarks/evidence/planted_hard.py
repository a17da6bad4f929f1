"""Planted tumour that is harder to find: several tissues, small nests, reactive and inflamed.

As in :mod:`planted` only the nuclei of the nest tell the class, and the masks are theirs. What
is harder: the nest is small and lies in stroma, muscle, fat or a lymphoid infiltrate, whichever
the class; tumour is graded, down to nuclei hardly larger than a benign nest's; half of the
benign nests are reactive, with nuclei as large as those of low-grade tumour but without its
vesicles; and lymphocytes lie on and about the nest in most patches of both classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from planted import EOSIN, HAEMATOXYLIN, PlantedPatches, _ellipse, _nucleus
from scipy.ndimage import gaussian_filter

TISSUES = ("stroma", "muscle", "fat", "lymphoid")


def _ground(
    rng: np.random.Generator, tissue: str, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Haematoxylin and eosin of the tissue that the nest lies in."""
    h = np.zeros((size, size))
    along = (1.0, 4.0) if tissue != "muscle" else (0.8, 9.0)
    fibres = gaussian_filter(rng.normal(size=(size, size)), along)
    cloud = gaussian_filter(rng.normal(size=(size, size)), 6.0)
    if rng.random() < 0.5:
        fibres = fibres.T
    amount = {"stroma": 0.35, "muscle": 0.5, "fat": 0.3, "lymphoid": 0.22}[tissue]
    e = amount + 0.10 * fibres / fibres.std() + 0.06 * cloud / cloud.std()
    if tissue == "fat":
        for _ in range(rng.integers(2, 4)):
            y, x = rng.uniform(0, size, 2)
            radius = rng.uniform(6, 9)
            e *= np.clip(_ellipse(size, y, x, radius, radius, 0) - 0.6, 0.05, 1)
    n_nuclei = {"stroma": 6, "muscle": 5, "fat": 3, "lymphoid": 18}[tissue]
    for _ in range(rng.poisson(n_nuclei)):
        small = tissue == "lymphoid"
        _nucleus(
            h, rng, *rng.uniform(2, size - 2, 2), rng.uniform(1.5, 2.1) if small
            else rng.uniform(1.8, 2.8), rng.uniform(0.6, 1.0), 1.0 if small
            else rng.uniform(1.0, 1.8), False,
        )  # fmt: skip
    return h, e


def _patch(
    rng: np.random.Generator, tumour: bool, size: int, strength: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    h, e = _ground(rng, str(rng.choice(TISSUES)), size)
    centre = rng.uniform(size * 0.25, size * 0.75, 2)
    spread = rng.uniform(3.5, 6.0)
    e += 0.12 * np.exp(-0.5 * _ellipse(size, *centre, 1.6 * spread, 1.6 * spread, 0))
    nest = np.zeros((size, size), dtype=bool)
    reactive = bool(rng.random() < 0.5)
    grade = rng.uniform(0, 1)
    if tumour:
        count, low = rng.integers(3, 7), 2.9 + 0.9 * grade
        radii, amounts = (low, low + 0.9), (0.6, 0.8)
    elif reactive:
        count, radii, amounts = rng.integers(3, 7), (2.9, 3.8), (0.55, 0.75)
    else:
        count, radii, amounts = rng.integers(7, 12), (2.1, 2.8), (0.65, 0.85)
    for _ in range(count):
        y, x = centre + rng.normal(0, spread * 0.7, 2)
        nest |= _nucleus(
            h, rng, y, x, rng.uniform(*radii), rng.uniform(*amounts), rng.uniform(1.0, 1.3), tumour
        )
    if rng.random() < 0.7:  # inflammation about the nest, whichever the class
        for _ in range(rng.integers(3, 9)):
            _nucleus(
                h, rng, *(centre + rng.normal(0, 1.6 * spread, 2)), rng.uniform(1.5, 2.1),
                rng.uniform(0.9, 1.1), 1.0, False,
            )  # fmt: skip
    density = strength[0] * h[..., None] * HAEMATOXYLIN + strength[1] * e.clip(0)[..., None] * EOSIN
    image = gaussian_filter(np.exp(-density), (0.6, 0.6, 0))
    image = image + rng.normal(0, 0.015, (size, size, 3))
    return (image.clip(0, 1) * 255).round().astype(np.uint8), nest & tumour


def make_hard_patches(
    n_patients: int, per_patient: int, seed: int, *, size: int = 40
) -> PlantedPatches:
    """Patches of synthetic patients, half of them tumour; no shortcuts."""
    rng = np.random.default_rng(seed)
    images, labels, patients, masks = [], [], [], []
    for patient in range(n_patients):
        strength = tuple(np.exp(rng.normal(0, 0.12, 2)))
        for k in range(per_patient):
            image, mask = _patch(rng, bool(k % 2), size, strength)
            images.append(image)
            labels.append(k % 2)
            patients.append(f"{seed}-{patient:03d}")
            masks.append(mask)
    stacked = np.stack(masks)
    return PlantedPatches(
        np.stack(images), np.array(labels), np.array(patients), stacked, np.zeros_like(stacked)
    )

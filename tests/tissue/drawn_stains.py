"""Sections in thirty stains, drawn or recoloured from real H&E, and felt-pen marks on them.

A stain is up to three dyes, each with its optical densities for red, green and blue (Ruifrok
and Johnston; Landini's collection for ImageJ; where neither has the dye, what it absorbs as
textbooks show it), and how much of each a nucleus, cytoplasm and a fibre take up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Dye = tuple[float, float, float]
Maps = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

HEMATOXYLIN: Dye = (0.65, 0.70, 0.29)
EOSIN: Dye = (0.09, 0.95, 0.28)
DAB: Dye = (0.27, 0.57, 0.78)
ANILINE_BLUE: Dye = (0.80, 0.59, 0.11)
PONCEAU: Dye = (0.10, 0.74, 0.67)
METHYLENE_BLUE: Dye = (0.83, 0.51, 0.20)
AZURE: Dye = (0.70, 0.68, 0.22)
ALCIAN_BLUE: Dye = (0.87, 0.46, 0.16)
LUXOL_BLUE: Dye = (0.90, 0.41, 0.15)
LIGHT_GREEN: Dye = (0.95, 0.25, 0.20)
FAST_GREEN: Dye = (0.93, 0.33, 0.14)
METHYL_GREEN: Dye = (0.98, 0.14, 0.13)
SCHIFF: Dye = (0.18, 0.97, 0.15)
SIRIUS_RED: Dye = (0.10, 0.83, 0.55)
CONGO_RED: Dye = (0.22, 0.81, 0.54)
OIL_RED: Dye = (0.12, 0.78, 0.62)
NUCLEAR_FAST_RED: Dye = (0.21, 0.85, 0.48)
PICRIC: Dye = (0.02, 0.10, 0.99)
ORANGE_G: Dye = (0.04, 0.35, 0.94)
ACID_FUCHSIN: Dye = (0.12, 0.93, 0.35)
SILVER: Dye = (0.58, 0.57, 0.58)
CRYSTAL_VIOLET: Dye = (0.55, 0.82, 0.16)
CRESYL_VIOLET: Dye = (0.52, 0.80, 0.30)
TOLUIDINE_BLUE: Dye = (0.80, 0.57, 0.20)
PRUSSIAN_BLUE: Dye = (0.86, 0.49, 0.14)
ORCEIN: Dye = (0.35, 0.68, 0.64)
AEC: Dye = (0.27, 0.68, 0.68)
SAFRANIN: Dye = (0.13, 0.87, 0.48)

NUCLEI, CYTOPLASM, FIBRES = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Stain:
    """Dyes with the density that nuclei, cytoplasm and fibres take up of each."""

    name: str
    dyes: tuple[tuple[Dye, tuple[float, float, float]], ...]

    def densities(self, maps: Maps, strength: float = 1.0) -> NDArray[np.float32]:
        """Optical densities, (h, w, 3) float32."""
        total = np.zeros((*maps[0].shape, 3), dtype=np.float32)
        for dye, amounts in self.dyes:
            held = sum(amount * part for amount, part in zip(amounts, maps, strict=True))
            total += np.asarray(held, dtype=np.float32)[..., None] * np.array(dye, np.float32)
        return total * np.float32(strength)


def _three(name: str, nuclei: Dye, cytoplasm: Dye, fibres: Dye) -> Stain:
    return Stain(name, ((nuclei, (0.7, 0, 0)), (cytoplasm, (0, 0.5, 0)), (fibres, (0, 0, 0.6))))


def _one(name: str, dye: Dye) -> Stain:
    return Stain(name, ((dye, (0.8, 0.35, 0.45)),))


STAINS = (
    _three("haematoxylin and eosin", HEMATOXYLIN, EOSIN, EOSIN),
    Stain("DAB, strong", ((HEMATOXYLIN, (0.5, 0.05, 0.05)), (DAB, (0.1, 0.9, 0.2)))),
    Stain("DAB, negative", ((HEMATOXYLIN, (0.5, 0.08, 0.08)),)),
    Stain("AEC", ((HEMATOXYLIN, (0.5, 0.05, 0.05)), (AEC, (0.0, 0.6, 0.1)))),
    _three("Masson, aniline blue", HEMATOXYLIN, PONCEAU, ANILINE_BLUE),
    _three("Masson-Goldner, light green", HEMATOXYLIN, PONCEAU, LIGHT_GREEN),
    _three("Azan", PONCEAU, ORANGE_G, ANILINE_BLUE),
    Stain("Masson, nearly all collagen", ((ANILINE_BLUE, (0.5, 0.4, 0.8)),)),
    _one("Giemsa, blue", METHYLENE_BLUE),
    _three("May-Gruenwald-Giemsa", AZURE, EOSIN, METHYLENE_BLUE),
    _three("Luxol fast blue, cresyl violet", CRESYL_VIOLET, LUXOL_BLUE, LUXOL_BLUE),
    _one("Luxol fast blue alone", LUXOL_BLUE),
    _three("Alcian blue, nuclear fast red", NUCLEAR_FAST_RED, ALCIAN_BLUE, NUCLEAR_FAST_RED),
    _one("Alcian blue alone", ALCIAN_BLUE),
    _one("light green counterstain", LIGHT_GREEN),
    _three("safranin O, fast green", SAFRANIN, FAST_GREEN, SAFRANIN),
    Stain("methyl green, DAB", ((METHYL_GREEN, (0.6, 0.1, 0.1)), (DAB, (0.0, 0.4, 0.0)))),
    _one("methyl green alone", METHYL_GREEN),
    _three("PAS", HEMATOXYLIN, SCHIFF, SCHIFF),
    _three("PAS, light green", SCHIFF, LIGHT_GREEN, LIGHT_GREEN),
    _three("Sirius red, picric acid", HEMATOXYLIN, PICRIC, SIRIUS_RED),
    _three("Congo red", HEMATOXYLIN, EOSIN, CONGO_RED),
    _three("oil red O", HEMATOXYLIN, OIL_RED, HEMATOXYLIN),
    _one("toluidine blue", TOLUIDINE_BLUE),
    _one("crystal violet", CRYSTAL_VIOLET),
    _one("cresyl violet (Nissl)", CRESYL_VIOLET),
    _three("Prussian blue (Perls)", NUCLEAR_FAST_RED, NUCLEAR_FAST_RED, PRUSSIAN_BLUE),
    _three("Ziehl-Neelsen, methylene blue", METHYLENE_BLUE, METHYLENE_BLUE, ACID_FUCHSIN),
    _three("Papanicolaou", HEMATOXYLIN, LIGHT_GREEN, ORANGE_G),
    _three("elastica van Gieson", SILVER, PICRIC, ACID_FUCHSIN),
    _three("orcein", HEMATOXYLIN, PICRIC, ORCEIN),
    Stain("reticulin (silver), fast red",
          ((SILVER, (0.1, 0.1, 0.9)), (NUCLEAR_FAST_RED, (0.4, 0.1, 0.0)))),
    Stain("Grocott (silver), light green",
          ((SILVER, (0.2, 0.0, 0.5)), (LIGHT_GREEN, (0.2, 0.5, 0.3)))),
    _three("MSB (Martius, scarlet, blue)", PONCEAU, PICRIC, ANILINE_BLUE),
)  # fmt: skip

BLUE_OR_GREEN = tuple(
    stain.name
    for stain in STAINS
    if any(dye[0] > 1.3 * dye[1] for dye, _ in stain.dyes)
)  # fmt: skip

PENS: dict[str, Dye] = {
    "blue": (0.77, 0.60, 0.18),
    "dark blue": (0.97, 0.90, 0.34),
    "green": (0.90, 0.27, 0.54),
    "turquoise": (1.07, 0.24, 0.18),
    "red": (0.07, 0.83, 0.72),
    "black": (1.20, 1.20, 1.15),
}
"""Densities of felt pens, as thick as they come from the pen."""


def _noise(rng: np.random.Generator, shape: tuple[int, int], across: float, along: float) -> (
    NDArray[np.float32]
):  # fmt: skip
    made = cv2.GaussianBlur(
        rng.standard_normal(shape).astype(np.float32), (0, 0), sigmaX=along, sigmaY=across
    )
    return np.asarray(made / made.std(), dtype=np.float32)


@cache
def section(side_px: int = 1200, seed: int = 0) -> tuple[Maps, NDArray[np.bool_]]:
    """Nuclei, cytoplasm and fibres of a drawn section at 4 µm/px, and where it is."""
    rng = np.random.default_rng(seed)
    shape = (side_px, side_px)
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32) / side_px - 0.5
    ragged = 0.03 * _noise(rng, shape, 30, 30) + 0.008 * _noise(rng, shape, 4, 4)
    inside = (x + 0.08) ** 2 / 0.30**2 + y**2 / 0.36**2 < (1 + ragged) ** 2
    lumens = _noise(rng, shape, 9, 9) > 2.0
    clefts = _noise(rng, shape, 1.0, 4) > 2.2
    held = (inside & ~lumens & ~clefts).astype(np.float32)
    fibrous = np.clip(0.5 + _noise(rng, shape, 40, 40), 0, 1)
    strands = np.clip(0.7 + 0.35 * _noise(rng, shape, 1.0, 8), 0.1, 1.6)
    seeds = (rng.random(shape) < 0.06).astype(np.float32)
    nuclei = np.clip(cv2.GaussianBlur(seeds, (0, 0), 0.8) * 3.2, 0, 1.2)
    grain = np.clip(0.8 + 0.18 * _noise(rng, shape, 1.5, 1.5), 0.2, 1.5)
    maps = (
        nuclei * held * (1 - 0.5 * fibrous),
        grain * held * (1 - fibrous),
        strands * held * fibrous,
    )
    return maps, inside & ~lumens


def unmixed(rgb: NDArray[np.uint8]) -> Maps:
    """Nuclei, cytoplasm and fibres of a real H&E picture: its haematoxylin, and its eosin.

    Eosin is cytoplasm in one half of the places and fibres in the other, in patches.
    """
    od = -np.log10((rgb.astype(np.float32) + 1) / 244).clip(None, 0)
    dyes = np.array([HEMATOXYLIN, EOSIN], dtype=np.float32)
    amounts = np.maximum(od.reshape(-1, 3) @ np.linalg.pinv(dyes), 0).reshape(*rgb.shape[:2], 2)
    rng = np.random.default_rng(1)
    fibrous = np.clip(0.5 + _noise(rng, rgb.shape[:2], 12, 12), 0, 1)
    nuclei, eosin = amounts[..., 0], amounts[..., 1]
    return nuclei / 0.7, eosin * (1 - fibrous) / 0.5, eosin * fibrous / 0.6


@cache  # of every stain of one section the same
def strokes(shape: tuple[int, int], px_um: float) -> tuple[NDArray[np.float32], ...]:
    """How much ink each of two pen strokes leaves, (h, w) float32, about 1 where there is ink.

    One runs from edge to edge beside the tissue, the other bows into it; 0.9 mm wide (a sixth
    of a small picture), out of focus by 40 µm, and streaked.
    """
    at = np.linspace(0, 1, 400)
    high, wide = shape
    beside = np.stack([wide * (0.90 + 0.01 * np.sin(9 * at)), high * at], axis=1)
    bow = np.stack([wide * (0.60 + 0.14 * at), high * (0.5 - 0.45 * np.cos(3.1 * at))], axis=1)
    half_um = min(450.0, min(shape) * px_um / 12)
    streaks = 1 + 0.12 * _noise(np.random.default_rng(2), shape, 300 / px_um, 60 / px_um)
    made = []
    for points in (beside, bow):
        line = np.ones(shape, dtype=np.uint8)
        cv2.polylines(line, [np.round(points).astype(np.int32)], False, 0)
        far_um = cv2.distanceTransform(line, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * px_um
        ink = (far_um < half_um).astype(np.float32) * streaks
        blurred = cv2.GaussianBlur(ink, (0, 0), 40 / px_um)
        made.append(np.asarray(np.clip(blurred, 0, None), dtype=np.float32))
    return tuple(made)


def photograph(
    density: NDArray[np.float32], glass: tuple[int, int, int] = (243, 242, 244), seed: int = 3
) -> NDArray[np.uint8]:
    """What the camera sees of densities on glass, with its noise."""
    light = np.array(glass, dtype=np.float32) * 10.0 ** (-density)
    return np.clip(np.round(light + _camera_noise(density.shape, seed)), 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _camera_noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """The same in every photograph of a size, (h, w, 3)."""
    return np.random.default_rng(seed).normal(0, 1.2, shape).astype(np.float32)

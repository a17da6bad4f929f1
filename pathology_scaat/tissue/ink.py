"""Which of the pixels that have a felt pen's colour are ink, and which are a stain.

Masson's and Giemsa's blue, Luxol, Alcian blue, light green have the hues of pens; hue alone
cannot tell them apart. What can is where they lie. Tissue is in the plane of focus, so that
nuclei, fibres and gaps make neighbouring thumbnail pixels differ. A pen draws on the cover
slip or under the glass, a tenth of a millimetre and more from that plane: whatever grain its
ink has is blurred away, and the ink is a smooth veil, dense enough to drown the tissue under it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.slides.base import RgbImage
from pathology_scaat.tissue.density import Densities, densities
from pathology_scaat.tissue.morphology import CROSS, OUTSIDE_IS_EMPTY, Mask, closed, dilated

SMOOTH = 0.03
"""Below this roughness ink is certain; 999 of 1,000 pixels in H&E at 1 to 16 µm/px are above."""

FAIRLY_SMOOTH = 0.055
"""Ink over tissue lets a little of it through: up to this roughness, beside what is certain."""

MOST_OD = 1.2
"""Denser pixels hold a few grey levels only, whose noise is no texture."""

INTERIOR_PX = 2
"""So far from its edge an area is looked at: the edge itself is a step, not texture."""

WINDOW_PX = 9
"""Side of the square over which roughness is averaged."""

MIN_CERTAIN_PX = 12
"""As many smooth pixels are no chance."""

STAIN_OD = 0.04
"""Range of densities from which a neighbour counts as stained tissue."""

DENSER_THAN_BESIDE = 1.5
"""A small area in tissue that is so many times as dense as what it touches is ink over it."""

VEIL_SHARE = 0.75
"""Strokes are of uneven thickness: what they veil has at least this share of their density."""

MIN_VEIL_OD = 0.5
"""Paler ink cannot be told from the tissue under it by density."""

VEIL_PX = 9
"""Tissue without ink has a gap in each square of this side."""

MOST_STROKES = 8
"""So many strokes, the largest, are followed over tissue."""

MOST_SPECKS = 50
"""Small areas in greater number are a stain's; pens do not splash."""

_SPECK_PX = 12


def pen_coloured(seeds: Mask) -> Mask:
    """The seeds (h, w) in areas of more than 12 px and nowhere thinner than two, (h, w) bool.

    One pixel is noise.
    """
    square = np.ones((2, 2), dtype=np.uint8)
    # Opened: eroded by a square and dilated by the same, turned round.
    core = cv2.erode(seeds.view(np.uint8), square, anchor=(1, 1), **OUTSIDE_IS_EMPTY)
    core = cv2.dilate(core, square, anchor=(0, 0), **OUTSIDE_IS_EMPTY)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] > _SPECK_PX
    keep[0] = False
    kept: Mask = np.take(keep, np.asarray(labels, dtype=np.int32))
    return kept


def find_ink(seeds: Mask, rgb: RgbImage, table: NDArray[np.float32]) -> Mask:
    """Ink among the pixels that have a pen's colour, with the paler rim of its strokes.

    Parameters
    ----------
    seeds : (h, w) bool array
        Pixels whose densities are those of a felt pen.
    rgb : (h, w, 3) uint8 array
        The thumbnail.
    table : (3, 256) float32 array
        Optical density of each level of each channel.

    Returns
    -------
    (h, w) bool array
    """
    coloured = pen_coloured(seeds)
    if not coloured.any():
        return coloured
    ink = np.zeros_like(coloured)
    box = _box_around(coloured, margin_px=8)
    red, green, blue = densities(np.ascontiguousarray(rgb[box]), table)
    found = _ink_areas(np.ascontiguousarray(coloured[box]), (red, green, blue))
    if found.any():
        # The rim of a stroke is ink mixed with glass: paler, but of the same kind.
        most = np.maximum(np.maximum(red, green), blue)
        weak = (most > 0.03) & ((red > 0.95 * green) | (blue > 0.85 * green))
        found |= dilated(found, 4) & weak
    ink[box] = found
    return ink


def _box_around(mask: Mask, margin_px: int) -> tuple[slice, slice]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(int(rows[0]) - margin_px, 0), int(rows[-1]) + margin_px + 1),
        slice(max(int(cols[0]) - margin_px, 0), int(cols[-1]) + margin_px + 1),
    )


def _interior(coloured: Mask) -> Mask:
    square = np.ones((2 * INTERIOR_PX + 1, 2 * INTERIOR_PX + 1), dtype=np.uint8)
    return cv2.erode(coloured.view(np.uint8), square, **OUTSIDE_IS_EMPTY).view(np.bool_)


def roughness(most: NDArray[np.float32], where: Mask) -> NDArray[np.float32]:
    """How much neighbouring pixels differ, as a share of the density itself.

    Mean of ``|d - mean of d over 3 x 3|`` over mean of ``d``, both over the pixels of ``where``
    in a square of 9 px, with ``d`` the densest channel's density: 0.1 to 0.2 in H&E at 8 µm/px.
    Infinite where there is no such pixel.

    Parameters
    ----------
    most : (h, w) float32 array
        Density of the densest channel.
    where : (h, w) bool array
        Pixels that are compared.

    Returns
    -------
    (h, w) float32 array
    """
    density = np.minimum(most, np.float32(MOST_OD))
    differs = np.abs(density - cv2.blur(density, (3, 3)))
    inside = where.astype(np.float32)
    size = (WINDOW_PX, WINDOW_PX)
    above = cv2.boxFilter(differs * inside, -1, size, normalize=False)
    below = cv2.boxFilter(density * inside, -1, size, normalize=False)
    rough = np.full(most.shape, np.inf, dtype=np.float32)
    np.divide(above, below, out=rough, where=below > 1e-3)
    return rough


def _ink_areas(coloured: Mask, od: Densities) -> Mask:
    """The coloured areas that are ink: smooth ones, what they veil, and a few specks on glass."""
    most = np.maximum(np.maximum(od[0], od[1]), od[2])
    interior = _interior(coloured)
    rough = roughness(most, interior)
    smooth = _beside(interior & (rough < FAIRLY_SMOOTH), interior & (rough < SMOOTH))
    # The edge of a stroke is no interior; of tissue in its own hue that it touches, no more.
    strokes = smooth
    if smooth.any():
        strokes = dilated(closed(smooth, 4), INTERIOR_PX + 1) & coloured
    n_areas, numbered = cv2.connectedComponents(coloured.view(np.uint8), connectivity=8)
    labels: NDArray[np.int32] = np.asarray(numbered, dtype=np.int32)
    n_strokes = np.bincount(labels[strokes], minlength=n_areas)
    n_interior = np.bincount(labels[interior], minlength=n_areas)
    small = (n_interior < MIN_CERTAIN_PX) & (n_strokes == 0)
    small[0] = False
    n_tissue = np.count_nonzero(interior & ~strokes)
    if n_tissue <= np.count_nonzero(strokes) and np.count_nonzero(small) <= MOST_SPECKS:
        # The stain itself has no such colour, so that small areas on glass are spots of ink.
        stained = most - np.minimum(np.minimum(od[0], od[1]), od[2]) > STAIN_OD
        is_ink = small & ~_among_stain(labels, small, coloured, stained, most)
        specks: Mask = np.take(is_ink, np.asarray(labels, dtype=np.int32))
    else:
        specks = np.zeros_like(strokes)
    return specks | strokes | _veiled(strokes, smooth, od) if smooth.any() else specks


def _veiled(strokes: Mask, smooth: Mask, od: Densities) -> Mask:
    """What lies under the strokes' ends: as dense as their ink, in gaps and lumens too.

    Ink adds its density to that of the tissue under it, whatever hue comes of it; tissue that
    is stained in the pen's hue has gaps of its own.
    """
    n_strokes, labels, stats, _ = cv2.connectedComponentsWithStats(strokes.view(np.uint8))
    under_ink = np.zeros_like(strokes)
    largest = sorted(range(1, n_strokes), key=lambda n: -int(stats[n, cv2.CC_STAT_AREA]))
    square = np.ones((VEIL_PX, VEIL_PX), dtype=np.uint8)
    for number in largest[:MOST_STROKES]:
        own = labels == number
        inked = own & smooth
        means = [float(channel[inked].mean()) for channel in od] if inked.any() else [0.0]
        if max(means) < MIN_VEIL_OD:
            continue
        dense = np.logical_and.reduce(
            [channel >= VEIL_SHARE * mean - 0.03 for channel, mean in zip(od, means, strict=True)]
        )
        whole = cv2.morphologyEx(dense.view(np.uint8), cv2.MORPH_OPEN, square).view(np.bool_)
        under_ink |= _beside(whole | own, own)
    return under_ink


def _beside(candidates: Mask, certain: Mask) -> Mask:
    """The connected candidates that hold enough certain pixels."""
    if not certain.any():
        return certain
    n_areas, labels = cv2.connectedComponents(candidates.view(np.uint8), connectivity=8)
    keep = np.bincount(labels[certain], minlength=n_areas) >= MIN_CERTAIN_PX
    keep[0] = False
    kept: Mask = np.take(keep, np.asarray(labels, dtype=np.int32))
    return kept


def _among_stain(
    labels: NDArray[np.int32],
    small: NDArray[np.bool_],
    coloured: Mask,
    stained: Mask,
    most: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Of each small area, whether it lies in stained tissue and is about as dense.

    A line of ink over tissue adds its own density to that of the tissue.
    """
    of_small = np.where(small[labels] & coloured, labels, 0)
    grown = cv2.dilate(of_small.astype(np.float32), CROSS, **OUTSIDE_IS_EMPTY).astype(np.int32)
    ring = (grown > 0) & ~coloured
    of_ring, in_stain = grown[ring], stained[ring]
    n = len(small)
    touched = np.bincount(of_ring, weights=in_stain, minlength=n)
    mostly = 2 * touched > np.bincount(of_ring, minlength=n)
    total_beside = np.bincount(of_ring, weights=most[ring] * in_stain, minlength=n)
    beside = total_beside / np.maximum(touched, 1)
    total_own = np.bincount(of_small.ravel(), weights=most.ravel(), minlength=n)
    own = total_own / np.maximum(np.bincount(of_small.ravel(), minlength=n), 1)
    among: NDArray[np.bool_] = mostly & (own < DENSER_THAN_BESIDE * beside)
    return among

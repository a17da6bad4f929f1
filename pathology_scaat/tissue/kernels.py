"""What is asked of each thumbnail pixel, all at once: pictures between the steps cost most."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.system.compiled import compiled

PALE_OD = 0.06
"""A slide whose stain is in the middle below this mean density is called pale."""

_F = np.float32  # all in single precision, as the densities are


@numba.njit(nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _is_ink_seed(red: np.float32, green: np.float32, blue: np.float32, most: np.float32) -> bool:
    """Densities of felt pens that no common stain has.

    Green and blue-green ink absorb green light least; blue ink absorbs red clearly more than
    green, where haematoxylin absorbs green at least as much; red ink absorbs blue as strongly
    as green and red hardly at all, where eosin spares blue.
    """
    strong = most > _F(0.15)
    green_ink = green < _F(0.75) * min(red, blue) and red - green > _F(0.06)
    # In stained tissue the density of red is about 0.4 to 0.8 of that of green, below 1.05
    # even in dense nuclei; blue ink turns that round.
    blue_ink = red > _F(1.1) * green + _F(0.02) and red > _F(1.3) * blue
    full_blue_ink = red > _F(0.7) and red > _F(1.03) * green and red > _F(1.3) * blue
    cyan_ink = red > _F(1.5) * green + _F(0.03) and red > blue
    red_ink = green > _F(0.45) and blue > _F(0.82) * green and red < _F(0.3) * green
    full_red_ink = green > _F(0.9) and blue > _F(0.85) * green and red < _F(0.5) * green
    pale_kinds = strong and (green_ink or blue_ink or cyan_ink)
    return bool(pale_kinds or full_blue_ink or red_ink or full_red_ink)


@compiled(nogil=True)
def measure_pixels(
    rgb: NDArray[np.uint8],
    table: NDArray[np.float32],
    colour: NDArray[np.float32],
    pale: NDArray[np.bool_],
    seeds: NDArray[np.bool_],
) -> None:
    """Measure the optical densities of an image's pixels, into three arrays of the caller.

    Parameters
    ----------
    rgb : (H, W, 3) uint8
    table : (3, 256) float32
        Optical density of each grey level, by channel.
    colour : (H, W) float32
        Filled with the largest less the smallest density of the three channels.
    pale : (H, W) bool
        Filled with whether the mean density is below ``PALE_OD``.
    seeds : (H, W) bool
        Filled with whether the colour alone is that of pen ink.
    """
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            red, green, blue = (
                table[0, rgb[y, x, 0]],
                table[1, rgb[y, x, 1]],
                table[2, rgb[y, x, 2]],
            )
            most = max(max(red, green), blue)
            colour[y, x] = most - min(min(red, green), blue)
            pale[y, x] = red + green + blue < _F(3 * PALE_OD)
            seeds[y, x] = _is_ink_seed(red, green, blue, most)


@compiled(nogil=True)
def count(
    values: NDArray[np.float32],
    where: NDArray[np.bool_],
    step: np.float32,
    counts: NDArray[np.int64],
) -> None:
    """Add a histogram of the values (H, W) at ``where`` (H, W) to ``counts``.

    Bin i holds ``i * step <= value < (i + 1) * step``. The caller makes enough bins for the
    largest value; no value may be negative.
    """
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if where[y, x]:
                counts[int(values[y, x] / step)] += 1

"""Which levels of a file are the slide itself, made smaller alike along both axes."""

from __future__ import annotations

from collections.abc import Sequence

from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.base import LevelInfo

MAX_SQUEEZE = 0.002
"""Relative difference of a level's two downsamples above which it is no longer the same picture."""
SLACK_PX = 2.0
"""Level pixels by which writers' rounding, level by level, changes a side: some round each level
up and others down."""

NOT_ALIKE = "is not the slide made smaller alike along x and y"


def is_alike(full: SizePx, level: SizePx) -> bool:
    """Whether a level's sides are those of the slide by one factor, as far as rounding tells.

    Examples
    --------
    >>> is_alike(SizePx(2048, 2048), SizePx(1024, 1023))
    True
    >>> is_alike(SizePx(2048, 2048), SizePx(1024, 1036))
    False
    """
    if min(level.width, level.height) < 1:
        return False
    x, y = full.width / level.width, full.height / level.height
    if max(x, y) / min(x, y) - 1 <= MAX_SQUEEZE:
        return True
    # The factor of the longer side: the other is to be what it makes of it.
    if full.width >= full.height:
        return abs(full.height / x - level.height) < SLACK_PX
    return abs(full.width / y - level.width) < SLACK_PX


def alike_levels(levels: Sequence[LevelInfo]) -> tuple[tuple[LevelInfo, ...], tuple[str, ...]]:
    """The levels down to the first that is squeezed along one axis, and a note where one is.

    Patches and tissue read from a squeezed level would be distorted, and lie elsewhere than said.

    Parameters
    ----------
    levels : sequence of LevelInfo
        Finest first.

    Returns
    -------
    tuple of LevelInfo, tuple of str
    """
    full = levels[0].size_px
    for number, level in enumerate(levels):
        if not is_alike(full, level.size_px):
            size = level.size_px
            return tuple(levels[:number]), (
                f"level {number} ({size.width:,} x {size.height:,} px) {NOT_ALIKE}: neither it "
                "nor a coarser one is read",
            )
    return tuple(levels), ()

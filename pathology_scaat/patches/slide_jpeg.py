"""Keeping a slide's own JPEG tiles as the pixels of its patches, instead of decoding them.

It is possible where the patches lie on the file's tiles: the level is taken as it is, a patch is
one tile or a square of whole ones, and so is the step from patch to patch. What cannot be kept, at
the slide's edge or where a tile is blank or damaged, is decoded and stored losslessly, and counted
by its reason. The pixels of a store are the same either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.geometry import PatchGrid, ReadPlan
from pathology_scaat.patches.blocks import MAX_BLOCKS_PER_SIDE
from pathology_scaat.patches.config import SLIDE_JPEG, TileConfig
from pathology_scaat.patches.schema import SlideJpeg
from pathology_scaat.patches.writer import PatchStoreWriter
from pathology_scaat.patches.zarr_layout import most_chunk_bytes
from pathology_scaat.slides import Slide
from pathology_scaat.slides.jpeg_streams import JpegStreamError
from pathology_scaat.slides.jpeg_tiles import JpegTiles

_RUN = 1024
"""Items that are decoded at once where they cannot be kept."""

DecodeItems = Callable[[NDArray[np.integer]], NDArray[np.bool_]]
"""Decodes some items into the store, (n, 2) column and row; which were readable, (n,)."""


@dataclass(frozen=True)
class TileSource:
    """The tiles that patches consist of.

    Attributes
    ----------
    tiles : JpegTiles
    side_px : int
        Side of a tile, and so of a patch or a block.
    first_col, first_row : int
        The tile under the grid's first patch.
    """

    tiles: JpegTiles
    side_px: int
    first_col: int
    first_row: int

    def stream(self, col: int, row: int) -> bytes:
        """The tile at a column and row of the grid of tiles. Raises JpegStreamError."""
        stream = self.tiles.stream(self.first_col + col, self.first_row + row)
        if len(stream) + 4 > most_chunk_bytes(self.side_px):
            raise JpegStreamError("are larger than their pixels")
        return stream


def tile_source(
    config: TileConfig, slide: Slide, plan: ReadPlan, grid: PatchGrid
) -> tuple[TileSource | None, str]:
    """Where a slide's own tiles come from, or None and a sentence that says why there are none.

    None and an empty sentence where they are not asked for.
    """
    if config.pixels != SLIDE_JPEG:
        return None, ""
    try:
        if plan.shrink != 1.0:
            raise JpegStreamError(_of_another_spacing(slide, plan))
        tiles = JpegTiles(slide, plan.level)
        return _aligned(tiles, plan, grid), ""
    except JpegStreamError as problem:
        return (
            None,
            f"pixels are stored losslessly, not as the slide's own JPEG: its tiles {problem}",
        )


def _of_another_spacing(slide: Slide, plan: ReadPlan) -> str:
    mpp = plan.effective_mpp / plan.scale
    own = ", ".join(f"{mpp * level.downsample:.4g}" for level in slide.info.levels)
    return f"would be resampled to {plan.requested_mpp:g} µm/px (its levels have {own} µm/px)"


def _aligned(tiles: JpegTiles, plan: ReadPlan, grid: PatchGrid) -> TileSource:
    """Raises JpegStreamError where patches are not whole tiles."""
    size = tiles.lattice.tile_size_px
    side = size.width
    if size.height != side:
        raise JpegStreamError(f"are not square ({side} x {size.height} px)")
    most = MAX_BLOCKS_PER_SIDE * side
    if grid.patch_size_px % side or grid.step_px % side or grid.patch_size_px > most:
        raise JpegStreamError(
            f"are of {side} px, while patches are of {grid.patch_size_px} px, one every "
            f"{grid.step_px} px (a patch size of {side}, {2 * side}, {3 * side} or {most} px, with "
            "no overlap or one of whole tiles, would keep them)"
        )
    x, y = (round(a / plan.level_downsample) for a in (grid.anchor_x_px, grid.anchor_y_px))
    if x % side or y % side:
        raise JpegStreamError(
            f"begin elsewhere than its scanned area, in which patches are cut ({x % side} and "
            f"{y % side} px off)"
        )
    return TileSource(tiles, side, x // side, y // side)


def copy_tiles(
    source: TileSource,
    index: NDArray[np.integer],
    writer: PatchStoreWriter,
    decode: DecodeItems,
) -> tuple[NDArray[np.bool_], SlideJpeg]:
    """Write items in order: the slide's own tiles as they are, what must be decoded by ``decode``.

    Parameters
    ----------
    source : TileSource
    index : (N, 2) int
        Column and row of each item in the grid of tiles.
    writer : PatchStoreWriter
        With ``slide_jpeg``.
    decode : callable
        Appends the pixels of items to the same writer.

    Returns
    -------
    (N,) bool
        True where the item is readable. The others were left out.
    SlideJpeg
        How many were kept, and why the others were not.
    """
    readable = np.ones(len(index), dtype=np.bool_)
    reasons: Counter[str] = Counter()
    n_kept = 0
    for decoded, group in groupby(_streams(source, index), key=lambda found: bool(found[2])):
        if not decoded:
            for _, stream, _ in group:
                writer.append_stream(stream)
                n_kept += 1
            continue
        items = list(group)
        numbers = np.array([number for number, _, _ in items])
        for part in np.split(numbers, range(_RUN, len(numbers), _RUN)):
            readable[part] = decode(index[part])
        reasons.update(why for number, _, why in items if readable[number])
    return readable, SlideJpeg(n_kept, dict(sorted(reasons.items())))


def _streams(source: TileSource, index: NDArray[np.integer]) -> Iterator[tuple[int, bytes, str]]:
    """Number of each item, and its stream, or else why there is none."""
    for number, (col, row) in enumerate(index.tolist()):
        try:
            yield number, source.stream(col, row), ""
        except JpegStreamError as problem:
            yield number, b"", str(problem)


def kept_note(kept: SlideJpeg, item: str) -> str:
    """What a store's log and metadata say of it; ``item`` is "patches" or "blocks"."""
    n_decoded = sum(kept.n_decoded.values())
    said = f"{kept.n_kept:,} of {kept.n_kept + n_decoded:,} {item} are the slide's own JPEG tiles"
    if not n_decoded:
        return said
    why = "; ".join(f"{n:,} {reason}" for reason, n in kept.n_decoded.items())
    return f"{said}, the others are stored losslessly, since their tiles cannot be kept: {why}"

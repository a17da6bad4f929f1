"""Tiled TIFF families, each native tile decoded once: about nine times OpenSlide's speed."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, snapped_downsample
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideInfo
from pathology_scaat.slides.spacing import with_override
from pathology_scaat.slides.tiff_levels import (
    MAX_TILE_BYTES,
    TiffLevel,
    UnsuitableError,
    describe_tiff,
    read_levels,
)
from pathology_scaat.slides.tiles import TileCache, TileLattice, assemble, check_box
from pathology_scaat.system.closing import Closing

_ICC_TAG = 34675
TIFF_ERRORS = (
    tifffile.TiffFileError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    struct.error, ArithmeticError, RuntimeError, NotImplementedError, MemoryError,
)  # fmt: skip
"""What a parser of damaged headers may raise; all of it means the same to the user."""


class _Bytes:
    """Bytes of a file at an offset, from several threads at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        if hasattr(os, "pread"):
            with contextlib.suppress(OSError, AttributeError):
                self._descriptor = stream.fileno()

    def read(self, offset: int, length: int) -> bytes:
        if self._descriptor is not None:
            return os.pread(self._descriptor, length, offset)
        with self._lock:
            self._stream.seek(offset)
            return self._stream.read(length)


class TiffSlide(Closing):
    """A tiled TIFF read by tifffile and imagecodecs.

    Parameters
    ----------
    stream : binary file
        Owned by the slide, closed with it.
    name : str
        File name for messages.
    like : SlideInfo, optional
        What OpenSlide says about the same file. It is the reference: where the pyramids
        differ, this reader declines.
    mpp : float, optional
        µm/px that wins over the file's.

    Raises
    ------
    UnsuitableError
        If this is no file for this reader.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        *,
        like: SlideInfo | None = None,
        mpp: float | None = None,
    ) -> None:
        self._name = name
        self._stream = stream
        self._bytes = _Bytes(stream)
        self._cache = TileCache()
        try:
            stream.seek(0)  # tifffile takes the present position for the beginning
            # Tiles are read from this stream alone: pages of other files of a set would be
            # looked up in the wrong file.
            self._tiff = tifffile.TiffFile(stream, name=name, _multifile=False)
            sizes = None if like is None else [level.size_px for level in like.levels]
            self._levels = read_levels(self._tiff, sizes)
            info = _info(self._tiff, self._levels, like)
            lost = _share_beyond_end(self._tiff, self._levels)
        except UnsuitableError:
            raise
        except TIFF_ERRORS as error:
            raise UnsuitableError("its TIFF structure cannot be read") from error
        if lost:
            if like is None:
                raise UnsuitableError("it is cut off")
            lost_note = f"the file is cut off: {lost:.1%} of its tiles are missing"
            info = replace(info, notes=(*info.notes, lost_note))
        self._info = with_override(info, mpp, name)

    @property
    def info(self) -> SlideInfo:
        return self._info

    def lattice(self, level: int) -> TileLattice:
        return self._levels[level].lattice

    def read_tile(
        self, level: int, col: int, row: int, scratch: RgbImage | None = None
    ) -> RgbImage | None:
        """Decode one native tile; None where it is blank. Safe from several threads."""
        of = self._levels[level]
        index = row * of.lattice.n_cols + col
        length = int(of.lengths[index])
        if length == 0:
            return None
        if length < 0 or length > MAX_TILE_BYTES:
            raise self._unreadable()
        try:
            data = self._bytes.read(int(of.offsets[index]), length)
            pixels = of.decode(data, index, scratch)
        except TIFF_ERRORS:
            raise self._unreadable() from None
        box = of.lattice.box(col, row)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise self._unreadable()
        if pixels.shape[0] < box.height or pixels.shape[1] < box.width:
            raise self._unreadable()
        return pixels[: box.height, : box.width]

    def _unreadable(self) -> SlideReadError:
        return SlideReadError(self._name, "a tile cannot be decoded", "copy the slide again")

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        check_box(box_px, self._name)
        return assemble(
            box_px,
            self._levels[level].lattice,
            lambda col, row: self._cache.get((level, col, row), self.read_tile),
        )

    def icc_profile(self) -> bytes | None:
        page: Any = self._tiff.pages[0]
        profile = page.tags.valueof(_ICC_TAG)
        return bytes(profile) if profile else None

    def close(self) -> None:
        self._cache.clear()
        self._tiff.close()
        self._stream.close()


def _share_beyond_end(tiff: tifffile.TiffFile, levels: tuple[TiffLevel, ...]) -> float:
    """Share of the tiles that lie beyond the end of the file."""
    size = tiff.filehandle.size
    beyond = sum(int((level.offsets + level.lengths > size).sum()) for level in levels)
    return beyond / max(1, sum(len(level.offsets) for level in levels))


def _info(
    tiff: tifffile.TiffFile, levels: tuple[TiffLevel, ...], like: SlideInfo | None
) -> SlideInfo:
    sizes = [level.lattice.level_size_px for level in levels]
    described = tuple(
        LevelInfo(size, snapped_downsample(sizes[0], size), level.lattice.tile_size_px)
        for size, level in zip(sizes, levels, strict=True)
    )
    page: Any = tiff.pages[0]
    icc = page.tags.get(_ICC_TAG)
    if like is not None and not tiff.is_ome:
        if [level.size_px for level in like.levels] != sizes:
            raise UnsuitableError("OpenSlide sees another pyramid in it")
        if like.vendor == "aperio" and any((level.lengths == 0).any() for level in levels):
            raise UnsuitableError("it lacks tiles, which OpenSlide takes from other levels")
        return SlideInfo(
            reader="tiff",
            vendor=like.vendor,
            levels=described,
            mpp=like.mpp,
            mpp_source=like.mpp_source,
            objective_power=like.objective_power,
            bounds_px=like.bounds_px,
            icc_profile_bytes=icc.count if icc is not None else 0,
            notes=like.notes,
        )
    about = describe_tiff(tiff)
    return SlideInfo(
        reader="tiff",
        vendor=about.vendor,
        levels=described,
        mpp=about.spacing.mpp,
        mpp_source=about.spacing.source,
        objective_power=about.objective_power,
        icc_profile_bytes=icc.count if icc is not None else 0,
        notes=about.spacing.notes,
    )


def open_tiff(path: Path, *, like: SlideInfo | None = None, mpp: float | None = None) -> TiffSlide:
    """Open a local TIFF.

    Raises
    ------
    UnsuitableError
        If this is no file for this reader.
    SlideOpenError
        If the file cannot be opened at all.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise SlideOpenError(
            path.name, f"cannot be opened ({error.strerror})", "check the file"
        ) from None
    try:
        return TiffSlide(stream, path.name, like=like, mpp=mpp)
    except BaseException:
        stream.close()
        raise

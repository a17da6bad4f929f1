"""TIFF families, each native tile decoded once: about nine times OpenSlide's speed."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx, snapped_downsample
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideBase, SlideInfo
from pathology_scaat.slides.images import RefusedError, choose_slide, remedy_of
from pathology_scaat.slides.painted import OWN_MAP, as_painted, is_own_map
from pathology_scaat.slides.spacing import Spacing, spacing_from_file, with_override
from pathology_scaat.slides.tiff_colours import OPENSLIDE_COMPRESSIONS, sample_problem
from pathology_scaat.slides.tiff_images import TiffImage, list_images, page_size, special_family
from pathology_scaat.slides.tiff_levels import TiffLevel, UnsuitableError, make_level
from pathology_scaat.slides.tiles import TileCache, TileLattice, assemble, check_box
from pathology_scaat.system.rounding import percent

_ICC_TAG = 34675
_ORIENTATION_TAG = 274
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


class TiffSlide(SlideBase):
    """A tiled TIFF read by tifffile and imagecodecs.

    Parameters
    ----------
    stream : binary file
        Owned by the slide, closed with it.
    name : str
        File name for messages.
    like : SlideInfo, optional
        What OpenSlide says about the same file of a family where it is the reference: where
        the pyramids differ, this reader declines.
    mpp : float, optional
        µm/px that wins over the file's.
    known : bool
        Whether OpenSlide knows the format: then a file that is cut off is read as far as it
        goes, with a note.

    Raises
    ------
    UnsuitableError
        If this is no file for this reader.
    SlideOpenError
        If no reader should serve it, since none of its images is a brightfield RGB slide.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        *,
        like: SlideInfo | None = None,
        mpp: float | None = None,
        known: bool = False,
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
            opened = _open(self._tiff, name, like)
        except UnsuitableError:
            raise
        except RefusedError as error:
            raise SlideOpenError(name, str(error), remedy_of(str(error))) from None
        except TIFF_ERRORS as error:
            raise UnsuitableError("its TIFF structure cannot be read") from error
        self._levels, self._page, info = opened
        lost = _share_beyond_end(self._tiff, self._levels)
        if lost:
            if not known:
                raise UnsuitableError("it is cut off")
            lost_note = f"the file is cut off: {percent(lost, 1)} of its tiles are missing"
            info = replace(info, notes=(*info.notes, lost_note))
        info = as_painted(info, self._page.tags.valueof("Software"))
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
        try:
            pixels = of.tile(col, row, self._bytes.read, scratch)
        except TIFF_ERRORS:
            raise self._unreadable() from None
        if pixels is None:
            return None
        box = of.lattice.box(col, row)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise self._unreadable()
        if pixels.shape[0] < box.height or pixels.shape[1] < box.width:
            raise self._unreadable()
        return pixels[: box.height, : box.width]

    def tiff_level(self, level: int) -> TiffLevel:
        """Where the tiles of a level are in the file, and how they are decoded."""
        return self._levels[level]

    def read_bytes(self, offset: int, length: int) -> bytes:
        """Bytes of the file, fewer where it ends. Safe from several threads.

        Raises
        ------
        SlideReadError
            If the file cannot be read.
        """
        try:
            return self._bytes.read(offset, length)
        except TIFF_ERRORS:  # whatever a file system of a network raises
            raise self._unreadable() from None

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
        profile = self._page.tags.valueof(_ICC_TAG)
        return bytes(profile) if profile else None

    def close(self) -> None:
        self._cache.clear()
        self._tiff.close()
        self._stream.close()


def _share_beyond_end(tiff: tifffile.TiffFile, levels: tuple[TiffLevel, ...]) -> float:
    """Share of the tiles that lie beyond the end of the file."""
    counts = [level.beyond(tiff.filehandle.size) for level in levels]
    return sum(lost for lost, _ in counts) / max(1, sum(total for _, total in counts))


def _open(
    tiff: tifffile.TiffFile, name: str, like: SlideInfo | None
) -> tuple[tuple[TiffLevel, ...], Any, SlideInfo]:
    """Levels of the image that is the slide, its first page, and what is known of it.

    ``like`` is given for families that OpenSlide knows better than the pages say (Aperio,
    Philips). Of other TIFFs it takes the first page, whatever that shows; their image is
    chosen here.
    """
    if like is None:
        family = special_family(tiff)
        if family is not None:
            raise UnsuitableError(f"it is {family}, which only OpenSlide reads")
    else:
        return _as_openslide(tiff, like)
    if is_own_map(tiff.pages.first.tags.valueof("Software")):
        raise RefusedError(OWN_MAP)
    images = list_images(tiff, name)
    index, notes = choose_slide([image.entry for image in images])
    image = images[index]
    page = image.levels[0][0]
    notes = (*notes, *_orientation_notes(page), *_transparency_notes(page))
    made = tuple(make_level(planes) for planes in image.levels)
    vendor, spacing, power = _description(tiff, image)
    icc = page.tags.get(_ICC_TAG)
    info = SlideInfo(
        reader="tiff",
        vendor=vendor,
        levels=_described(made),
        mpp=spacing.mpp,
        mpp_source=spacing.source,
        objective_power=power,
        icc_profile_bytes=icc.count if icc is not None else 0,
        notes=(*spacing.notes, *notes),
        images=tuple(str(i.entry) for i in images) if len(images) > 1 else (),
    )
    return made, page, info


def _described(levels: tuple[TiffLevel, ...]) -> tuple[LevelInfo, ...]:
    sizes = [level.lattice.level_size_px for level in levels]
    return tuple(
        LevelInfo(size, snapped_downsample(sizes[0], size), level.lattice.tile_size_px)
        for size, level in zip(sizes, levels, strict=True)
    )


def _as_openslide(
    tiff: tifffile.TiffFile, like: SlideInfo
) -> tuple[tuple[TiffLevel, ...], Any, SlideInfo]:
    """The tiled pages whose sizes are those of OpenSlide's levels."""
    problem = sample_problem(tiff.pages.first)
    if problem:  # OpenSlide would make 8-bit RGB of it without a word
        raise RefusedError(problem)
    every: Any = tiff.pages
    tiled = [p.aspage() if isinstance(p, tifffile.TiffFrame) else p for p in every]
    tiled = [page for page in tiled if page.is_tiled]
    wanted: list[SizePx] = [level.size_px for level in like.levels]
    found: list[Any] = []
    for size in wanted:
        page = next((p for p in tiled if page_size(p) == size and p not in found), None)
        if page is None:
            raise UnsuitableError("OpenSlide sees another pyramid in it")
        found.append(page)
    made = tuple(make_level((page,)) for page in found)
    if like.vendor == "aperio" and any(level.lacks_tiles for level in made):
        raise UnsuitableError("it lacks tiles, which OpenSlide takes from other levels")
    icc = found[0].tags.get(_ICC_TAG)
    info = replace(
        like,
        reader="tiff",
        levels=_described(made),
        icc_profile_bytes=icc.count if icc is not None else 0,
        notes=(*like.notes, *_orientation_notes(found[0]), *_transparency_notes(found[0])),
    )
    return made, found[0], info


def _description(tiff: tifffile.TiffFile, image: TiffImage) -> tuple[str, Spacing, float | None]:
    """Family, µm/px and objective by the headers."""
    if tiff.is_ome:
        return "ome-tiff", image.spacing, None
    if tiff.is_svs:
        text = image.levels[0][0].description or ""
        stated = _aperio(text, "MPP")
        return "aperio", spacing_from_file(stated, stated), _number(_aperio(text, "AppMag"))
    return "generic-tiff", image.spacing, None


def _aperio(text: str, name: str) -> str | None:
    found = re.search(rf"\|\s*{name}\s*=\s*([^|\r\n]*)", text)
    return found.group(1).strip() if found else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _transparency_notes(page: Any) -> tuple[str, ...]:
    """That a page has transparency: what is blank by its pixels may only be transparent."""
    if page.samplesperpixel != 4:
        return ()
    return ("the file has transparency (RGBA): what is transparent in it is read as white",)


def _orientation_notes(page: Any) -> tuple[str, ...]:
    """What the tag Orientation asks of a viewer is not done here, but reported."""
    value = int(page.tags.valueof(_ORIENTATION_TAG, 1) or 1)
    if value == 1:
        return ()
    return (
        f"the file asks viewers to turn or mirror it (orientation {value}): it is read as "
        "stored, so that a viewer that does turn it shows other coordinates",
    )


def open_tiff(
    path: Path, *, like: SlideInfo | None = None, mpp: float | None = None, known: bool = False
) -> TiffSlide:
    """Open a local TIFF; for the arguments see :class:`TiffSlide`.

    Raises
    ------
    UnsuitableError
        If this is no file for this reader.
    SlideOpenError
        If the file cannot be opened at all, or is no brightfield RGB slide.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise SlideOpenError(
            path.name, f"cannot be opened ({error.strerror})", "check the file"
        ) from None
    try:
        return TiffSlide(stream, path.name, like=like, mpp=mpp, known=known)
    except BaseException:
        stream.close()
        raise


def openslide_decodes(path: Path) -> bool:
    """Whether OpenSlide's TIFF library decodes every page; it prints about those it cannot."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return all(int(p.compression) in OPENSLIDE_COMPRESSIONS for p in tiff.pages[:64])
    except TIFF_ERRORS:
        return True

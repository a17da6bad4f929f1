"""Which reader serves which file: chosen by what the file is, not by its name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from pathology_scaat.artifacts.urls import SlideUrl, slide_place
from pathology_scaat.errors import AddressError, SlideOpenError, UsageError
from pathology_scaat.slides.base import Slide
from pathology_scaat.slides.siblings import (
    DICOM_MAGIC,
    DICOM_MAGIC_OFFSET,
    TIFF_MAGIC,
    check_siblings,
)

LOGGER = logging.getLogger(__name__)

READERS = ("auto", "tiff", "openslide", "ngff", "tiatoolbox")
"""Names accepted for ``reader``; "auto" chooses by what the file is."""

_FAST_VENDORS = ("aperio", "generic-tiff", "philips")
"""Families whose tiles lie side by side at whole pixels, as OpenSlide names them."""

_JP2_MAGIC = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
_SUGGESTION = "convert it to a tiled TIFF, or copy it again if it should be a slide"


def reach_slide(path: Path) -> os.stat_result:
    """What the system says of a slide's file or folder.

    Raises
    ------
    SlideOpenError
        If there is none, or it cannot be reached.
    """
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise SlideOpenError(
            path.name, f"cannot be reached ({reason})", "check the path and permissions"
        ) from None


def open_slide(
    path: str | Path | SlideUrl, *, reader: str = "auto", mpp: float | None = None
) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path : str, Path or SlideUrl
        A slide file, a DICOM folder or one of its files, an OME-Zarr folder, or an fsspec
        URL of a tiled TIFF.
    reader : {"auto", "tiff", "openslide", "ngff", "tiatoolbox"}
        Which library reads it; "auto" takes the fastest that is right for the file.
    mpp : float, optional
        µm per level-0 pixel that wins over what the file says.

    Returns
    -------
    Slide
        To be closed, or used in a ``with`` block. Not picklable.

    Raises
    ------
    SlideOpenError
        If no reader can open the file.
    SpacingError
        If ``mpp`` is not a plausible µm/px.
    UsageError
        If there is no such reader.
    """
    if reader not in READERS:
        raise UsageError("--reader", f"there is no reader '{reader}'", f"use {', '.join(READERS)}")
    try:
        path = slide_place(path)
    except AddressError as error:
        raise SlideOpenError(error.subject, error.problem, error.remedy) from None
    if isinstance(path, SlideUrl):
        from pathology_scaat.slides.remote import open_remote

        return open_remote(path, reader=reader, mpp=mpp)
    mode = reach_slide(path)
    if not path.is_dir() and not path.is_file():
        raise SlideOpenError(path.name, "is neither a file nor a folder", _SUGGESTION)
    if path.is_file() and mode.st_size == 0:
        raise SlideOpenError(path.name, "is empty", "copy it again")
    check_siblings(path)
    if reader == "auto":
        return _open_folder(path, mpp) if path.is_dir() else _open_file(path, mpp)
    return _FORCED[reader](path, mpp)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(16)
    except OSError as error:
        raise SlideOpenError(
            path.name, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None


def _open_file(path: Path, mpp: float | None) -> Slide:
    import openslide

    head = _head(path)
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        vendor = None
    if head.startswith(TIFF_MAGIC) and (vendor is None or vendor in _FAST_VENDORS):
        _check_tiff(path)
        from pathology_scaat.slides.tiff_levels import UnsuitableError

        try:
            return _tiff(path, mpp, known=vendor is not None)
        except UnsuitableError as reason:
            LOGGER.info("%s is read by OpenSlide: %s", path.name, reason)
    if vendor is None and head.startswith(_JP2_MAGIC):
        return _tiatoolbox(path, mpp)
    if vendor is None:
        _explain(path, head)
    return _openslide(path, mpp)


def _explain(path: Path, head: bytes) -> None:
    """Say what a file that is no slide is, where that can be seen."""
    if head.startswith(b"version https://"):
        raise SlideOpenError(path.name, "is a git-lfs pointer, not the slide", "run 'git lfs pull'")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise SlideOpenError(
            path.name, "is a web page saved under a slide's name", "download the slide again"
        )
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        raise SlideOpenError(
            path.name,
            f"lacks its folder '{path.stem}' of image data",
            "copy the folder beside the file",
        )


def _check_tiff(path: Path) -> None:
    """Refuse pixels that OpenSlide would turn into something else without a word."""
    import tifffile

    from pathology_scaat.slides.tiff_levels import check_samples
    from pathology_scaat.slides.tiff_reader import TIFF_ERRORS

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            problem = check_samples(tiff)
    except TIFF_ERRORS:
        return  # OpenSlide may still know it
    if problem is not None:
        raise SlideOpenError(path.name, problem, "convert it to 8-bit RGB")


def _open_folder(path: Path, mpp: float | None) -> Slide:
    if any((path / name).is_file() for name in (".zattrs", ".zgroup", "zarr.json")):
        return _ngff(path, mpp)
    instance = _dicom_instance(path)
    if instance is None:
        raise SlideOpenError(
            path.name, "is a folder without a slide in it", "give the slide's file"
        )
    try:
        return _openslide(instance, mpp, subject=path.name)
    except SlideOpenError:
        return _tiatoolbox(path, mpp)


def _dicom_instance(folder: Path) -> Path | None:
    """The first DICOM file of a folder: OpenSlide finds the rest of the series from any."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise SlideOpenError(
            folder.name, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None
    for name in names:
        file = folder / name
        if file.is_file():
            with file.open("rb") as stream:
                if stream.read(132)[DICOM_MAGIC_OFFSET:] == DICOM_MAGIC:
                    return file
    return None


def _openslide(path: Path, mpp: float | None, subject: str | None = None) -> Slide:
    from pathology_scaat.slides.openslide_reader import OpenSlideSlide

    if path.is_dir():
        instance = _dicom_instance(path)
        if instance is not None:
            return OpenSlideSlide(instance, mpp=mpp, subject=path.name)
    return OpenSlideSlide(path, mpp=mpp, subject=subject)


def _tiff(path: Path, mpp: float | None, known: bool = True) -> Slide:
    from pathology_scaat.slides.openslide_reader import describe, open_handle
    from pathology_scaat.slides.tiff_reader import open_tiff

    like = None
    if known:
        with open_handle(path) as handle:
            like = describe(handle, "openslide")
    return open_tiff(path, like=like, mpp=mpp)


def _forced_tiff(path: Path, mpp: float | None) -> Slide:
    import openslide

    from pathology_scaat.slides.tiff_levels import UnsuitableError

    if path.is_dir() or not _head(path).startswith(TIFF_MAGIC):
        raise SlideOpenError(path.name, "is no TIFF", "use --reader auto")
    _check_tiff(path)
    known = openslide.OpenSlide.detect_format(path) is not None
    try:
        return _tiff(path, mpp, known=known)
    except UnsuitableError as reason:
        raise SlideOpenError(
            path.name, f"is not for the tiff reader ({reason})", "use --reader auto"
        ) from None


def _ngff(path: Path, mpp: float | None) -> Slide:
    from pathology_scaat.slides.ngff_reader import NgffSlide

    return NgffSlide(path, mpp=mpp)


def _forced_tiatoolbox(path: Path, mpp: float | None) -> Slide:
    """Only files of formats that are slides: it also opens tables of references by fsspec."""
    import openslide

    known = (
        _dicom_instance(path) is not None
        if path.is_dir()
        else _head(path).startswith((*TIFF_MAGIC, *_JP2_MAGIC))
    )
    if not known:
        try:
            known = openslide.OpenSlide.detect_format(path) is not None
        except openslide.OpenSlideError:
            known = False
    if not known:
        raise SlideOpenError(
            path.name, "is no slide file that is given to tiatoolbox", "use --reader auto"
        )
    return _tiatoolbox(path, mpp)


def _tiatoolbox(path: Path, mpp: float | None) -> Slide:
    from pathology_scaat.slides.tiatoolbox_reader import TiatoolboxSlide

    return TiatoolboxSlide(path, mpp=mpp)


_FORCED: dict[str, Callable[[Path, float | None], Slide]] = {
    "tiff": _forced_tiff,
    "openslide": _openslide,
    "ngff": _ngff,
    "tiatoolbox": _forced_tiatoolbox,
}

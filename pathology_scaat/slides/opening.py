"""Which reader serves which file: chosen by what the file is, not by its name."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pathology_scaat.artifacts.dicom_files import dicom_files, dicom_folder
from pathology_scaat.artifacts.urls import SlideUrl, slide_location
from pathology_scaat.errors import AddressError, SlideOpenError
from pathology_scaat.slides.base import Slide
from pathology_scaat.slides.foreign import refuse_named
from pathology_scaat.slides.images import remedy_of
from pathology_scaat.slides.readers import AUTO, READERS
from pathology_scaat.slides.siblings import TIFF_MAGIC, check_siblings

LOGGER = logging.getLogger(__name__)

_FAST_VENDORS = ("aperio", "generic-tiff", "philips")
"""Families whose tiles lie side by side at whole pixels, as OpenSlide names them."""

_JP2_MAGIC = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
CZI_MAGIC = b"ZISRAWFILE"
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
    reader : str
        Which library reads it (:data:`~pathology_scaat.slides.readers.READERS`); ``auto`` takes
        the fastest that is right for the file.
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

    Examples
    --------
    >>> import tempfile, numpy as np, pathology_scaat as ps
    >>> from pathology_scaat.geometry import BoxPx
    >>> from tifffile import imwrite
    >>> path = tempfile.mkdtemp() + "/slide.tiff"
    >>> imwrite(path, np.full((512, 768, 3), 200, np.uint8), tile=(128, 128), photometric="rgb",
    ...         resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    >>> with ps.open_slide(path) as slide:
    ...     print(slide)
    ...     print(slide.read_level(0, BoxPx(0, 0, 256, 128)).shape)
    <TiffSlide: size 768 x 512 px at 0.5 µm/px; levels 1; format generic-tiff>
    (128, 256, 3)
    """
    read = None if reader == AUTO else READERS.load(reader, "--reader")
    try:
        path = slide_location(path)
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
    if read is None:
        return _open_folder(path, mpp) if path.is_dir() else _open_file(path, mpp)
    slide: Slide = read(path, mpp)
    return slide


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(132)
    except OSError as error:
        raise SlideOpenError(
            path.name, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None


def _open_file(path: Path, mpp: float | None) -> Slide:
    head = _head(path)
    vendor = _vendor(path)
    if head.startswith(TIFF_MAGIC) and (vendor is None or vendor in _FAST_VENDORS):
        from pathology_scaat.slides.tiff_levels import UnsuitableError

        refuse_named(path, head)
        try:
            return _tiff(path, mpp, vendor)
        except UnsuitableError as reason:
            if vendor is None or not _openslide_decodes(path):
                damaged = "cut off" in str(reason) or "structure" in str(reason)
                raise SlideOpenError(
                    path.name, f"is a TIFF, but not a slide that can be opened ({reason})",
                    "copy it again, or convert it" if damaged else _SUGGESTION,
                ) from None  # fmt: skip
            LOGGER.info("%s is read by OpenSlide: %s", path.name, reason)
    if vendor is None and head.startswith(_JP2_MAGIC):
        return _tiatoolbox(path, mpp)
    if vendor is None and head.startswith(CZI_MAGIC):
        return read_czi(path, mpp)
    if vendor is None:
        refuse_named(path, head)
    return read_openslide(path, mpp)


def _vendor(path: Path) -> str | None:
    """The format as OpenSlide names it."""
    import openslide

    try:
        found: str | None = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    return found


def _openslide_decodes(path: Path) -> bool:
    from pathology_scaat.slides.tiff_reader import openslide_decodes

    return openslide_decodes(path)


def _open_folder(path: Path, mpp: float | None) -> Slide:
    if any((path / name).is_file() for name in (".zattrs", ".zgroup", "zarr.json")):
        return read_ngff(path, mpp)
    slide, notes = _dicom_slide(path)
    try:
        return _openslide_file(slide, mpp, path.name, notes)
    except SlideOpenError:
        return _tiatoolbox(path, mpp)


def _dicom_slide(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The file by which a DICOM folder's only slide is opened, and notes of what else is there.

    Raises
    ------
    SlideOpenError
        If the folder holds no slide, or several.
    """
    try:
        files = dicom_files(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise SlideOpenError(
            folder.name, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None
    found = dicom_folder(files)
    if not files:
        raise SlideOpenError(
            folder.name,
            "is a folder that is no slide itself (it holds no DICOM and is no Zarr)",
            "give the slide's file",
        )
    if not found.slides and found.n_unreadable:
        raise SlideOpenError(
            folder.name,
            f"holds DICOM files that cannot be read ({found.n_unreadable} of {len(files)})",
            "copy the slide again",
        )
    if not found.slides:
        raise SlideOpenError(
            folder.name,
            f"is a folder of DICOM files ({len(files)}) without a whole-slide image",
            "give the folder of the slide",
        )
    if len(found.slides) > 1:
        raise SlideOpenError(
            folder.name,
            f"holds {len(found.slides)} slides (DICOM series)",
            f"give one file of the slide that you mean, for example {found.slides[0].main.name}",
        )
    slide = found.slides[0]
    if slide.problem:
        raise SlideOpenError(folder.name, slide.problem, remedy_of(slide.problem))
    return slide.main, found.notes


def _openslide_file(
    path: Path, mpp: float | None, subject: str | None = None, notes: tuple[str, ...] = ()
) -> Slide:
    from pathology_scaat.slides.openslide_reader import OpenSlideSlide

    return OpenSlideSlide(path, mpp=mpp, subject=subject, notes=notes)


def read_openslide(path: Path, mpp: float | None) -> Slide:
    """Open a file, or a folder of DICOM files, with OpenSlide.

    Raises
    ------
    SlideOpenError
        If it cannot be opened, or the folder does not hold one slide.
    """
    if path.is_dir():
        slide, notes = _dicom_slide(path)
        return _openslide_file(slide, mpp, path.name, notes)
    return _openslide_file(path, mpp)


def _tiff(path: Path, mpp: float | None, vendor: str | None) -> Slide:
    from pathology_scaat.slides.openslide_reader import describe, open_handle
    from pathology_scaat.slides.tiff_reader import open_tiff

    like = None
    if vendor == "philips" or (vendor == "aperio" and _openslide_decodes(path)):
        with open_handle(path) as handle:
            like = describe(handle, "openslide")
    return open_tiff(path, like=like, mpp=mpp, known=vendor is not None)


def read_tiff(path: Path, mpp: float | None) -> Slide:
    """Open a file with the own TIFF reader.

    Raises
    ------
    SlideOpenError
        If it is no TIFF, or one that this reader does not serve.
    """
    from pathology_scaat.slides.tiff_levels import UnsuitableError

    if path.is_dir() or not _head(path).startswith(TIFF_MAGIC):
        raise SlideOpenError(path.name, "is no TIFF", "use --reader auto")
    refuse_named(path, b"")
    try:
        return _tiff(path, mpp, _vendor(path))
    except UnsuitableError as reason:
        raise SlideOpenError(
            path.name, f"is not for the tiff reader ({reason})", "use --reader auto"
        ) from None


def read_ngff(path: Path, mpp: float | None) -> Slide:
    from pathology_scaat.slides.ngff_reader import NgffSlide

    return NgffSlide(path, mpp=mpp)


def read_czi(path: Path, mpp: float | None) -> Slide:
    """Open a Zeiss CZI file.

    Raises
    ------
    SlideOpenError
        If it is none, cannot be read, or pylibCZIrw is not installed.
    """
    from pathology_scaat.slides.czi_reader import CziSlide, has_czi_library

    if path.is_dir() or not _head(path).startswith(CZI_MAGIC):
        raise SlideOpenError(path.name, "is no Zeiss CZI file", "use --reader auto")
    if not has_czi_library():
        raise SlideOpenError(
            path.name,
            "is a Zeiss CZI file, which is read by pylibCZIrw only",
            "install the extra 'czi', or convert it to OME-TIFF",
        )
    return CziSlide(path, mpp=mpp)


def read_tiatoolbox(path: Path, mpp: float | None) -> Slide:
    """Only files of formats that are slides: it also opens tables of references by fsspec.

    Raises
    ------
    SlideOpenError
        If it is of another format, or cannot be opened.
    """
    if path.is_dir():
        known = bool(dicom_files(entry for entry in path.iterdir() if entry.is_file()))
    else:
        known = _head(path).startswith((*TIFF_MAGIC, *_JP2_MAGIC)) or _vendor(path) is not None
    if not known:
        raise SlideOpenError(
            path.name, "is no slide file that is given to tiatoolbox", "use --reader auto"
        )
    return _tiatoolbox(path, mpp)


def _tiatoolbox(path: Path, mpp: float | None) -> Slide:
    from pathology_scaat.slides.tiatoolbox_reader import TiatoolboxSlide

    return TiatoolboxSlide(path, mpp=mpp)

"""Which reader serves which file."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.errors import SlideOpenError, UsageError
from pathology_scaat.slides.base import Slide

READERS = ("auto", "tiff", "openslide", "tiatoolbox")
"""Names accepted for ``reader``; "auto" chooses by what the file is."""


def open_slide(path: str | Path, *, reader: str = "auto", mpp: float | None = None) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path : str or Path
        A slide file, a DICOM folder or one of its files, or an OME-Zarr folder.
    reader : {"auto", "tiff", "openslide", "tiatoolbox"}
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
    path = Path(path)
    try:
        exists = path.exists()
    except OSError:  # a loop of links
        exists = False
    if not exists:
        raise SlideOpenError(path.name, "does not exist or cannot be reached", "check the path")
    from pathology_scaat.slides.openslide_reader import OpenSlideSlide

    return OpenSlideSlide(path, mpp=mpp)

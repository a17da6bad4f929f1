"""The registry of slide readers.

A reader is a callable of a path and µm/px (or None) that returns an open
:class:`pathology_scaat.slides.base.Slide`; it raises SlideOpenError for what is not its own.
``auto`` chooses among the built-in ones by what a file is; one that another package adds is used
where it is asked for by name.
"""

from __future__ import annotations

from pathology_scaat.system.registry import Registry

AUTO = "auto"
READERS = Registry("reader", "pathology_scaat.readers")

_OPENING = "pathology_scaat.slides.opening:"
for _name, _function, _summary in (
    ("tiff", "read_tiff", "native tiles of TIFF families, fastest"),
    ("openslide", "read_openslide", "every format of OpenSlide"),
    ("ngff", "read_ngff", "OME-Zarr"),
    ("czi", "read_czi", "Zeiss CZI, with the extra 'czi'"),
    ("tiatoolbox", "read_tiatoolbox", "JPEG 2000 files and what TIAToolbox reads"),
):
    READERS.register(_name, _OPENING + _function, _summary)


def reader_choices() -> tuple[str, ...]:
    """All names that a setting takes."""
    return (AUTO, *READERS.names)


def check_reader(name: str) -> str:
    """The name itself, where it is ``auto`` or a reader.

    Raises
    ------
    ValueError
        If it is neither; the message proposes the nearest name.
    """
    return name if name == AUTO else READERS.check(name)

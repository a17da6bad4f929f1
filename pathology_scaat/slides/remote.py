"""Slides by fsspec URL (s3://, gs://, az://, https://): tiled TIFFs, read tile by tile."""

from __future__ import annotations

import hashlib
from typing import Any, cast

from pathology_scaat.artifacts.urls import SlideUrl, open_filesystem, reason_of
from pathology_scaat.errors import ScaatError, SlideOpenError
from pathology_scaat.slides.base import Slide
from pathology_scaat.slides.fingerprint import SAMPLE_BYTES, SAMPLE_COUNT
from pathology_scaat.slides.foreign import refuse_remote
from pathology_scaat.slides.tiff_levels import UnsuitableError
from pathology_scaat.slides.tiff_reader import TIFF_ERRORS, TiffSlide

BLOCK_BYTES = 1 << 20


def open_remote(url: SlideUrl, *, reader: str = "auto", mpp: float | None = None) -> Slide:
    """Open a slide by URL; only tiled TIFFs can be read in part over the network.

    Raises
    ------
    SlideOpenError
        If it cannot be reached, or only a reader of local files can open it.
    """
    name = url.name
    if reader not in ("auto", "tiff"):
        raise SlideOpenError(name, f"the reader '{reader}' needs a local file", "download it")
    refuse_remote(name)
    try:
        filesystem, path = open_filesystem(url)
        stream: Any = filesystem.open(path, "rb", block_size=BLOCK_BYTES)
    except Exception as error:
        raise SlideOpenError(name, *reason_of(error, "cannot be reached")) from None
    try:
        return cast(Slide, TiffSlide(stream, name, mpp=mpp))
    except ScaatError:
        stream.close()
        raise
    except UnsuitableError as reason:
        stream.close()
        raise SlideOpenError(
            name, f"cannot be read over the network ({reason})", "download it"
        ) from None
    except TIFF_ERRORS:
        stream.close()
        raise SlideOpenError(name, "cannot be read over the network", "download it") from None


def remote_fingerprint(url: SlideUrl) -> str:
    """Content fingerprint of a remote file, equal to that of a local copy of it.

    Raises
    ------
    SlideOpenError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        filesystem, path = open_filesystem(url)
        size = int(filesystem.size(path))
        digest.update(size.to_bytes(8, "little"))
        last = max(size - SAMPLE_BYTES, 0)
        for offset in sorted({last * i // (SAMPLE_COUNT - 1) for i in range(SAMPLE_COUNT)}):
            end = min(offset + SAMPLE_BYTES, size)
            digest.update(filesystem.cat_file(path, start=offset, end=end))
    except Exception as error:
        raise SlideOpenError(url.name, *reason_of(error, "cannot be read")) from None
    return digest.hexdigest()

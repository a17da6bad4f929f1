"""Slides by fsspec URL (s3://, gs://, az://, https://): tiled TIFFs, read tile by tile."""

from __future__ import annotations

import threading
from typing import Any, cast

from blake3 import blake3

from pathology_scaat.artifacts.urls import SlideUrl, open_filesystem, reason_of
from pathology_scaat.errors import ScaatError, SlideOpenError
from pathology_scaat.slides.base import Slide
from pathology_scaat.slides.fingerprint import StoppedError
from pathology_scaat.slides.foreign import refuse_remote
from pathology_scaat.slides.tiff_levels import UnsuitableError
from pathology_scaat.slides.tiff_reader import TIFF_ERRORS, TiffSlide

BLOCK_BYTES = 1 << 20
PIECE_BYTES = 16 << 20


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


def remote_fingerprint(url: SlideUrl, *, stopped: threading.Event | None = None) -> str:
    """Content fingerprint of a remote file, equal to that of a local copy of it.

    All of it is read, once in each run.

    Raises
    ------
    SlideOpenError
        If it cannot be read.
    """
    digest = blake3()
    try:
        filesystem, path = open_filesystem(url)
        size = int(filesystem.size(path))
        digest.update(size.to_bytes(8, "little"))
        for start in range(0, size, PIECE_BYTES):
            if stopped is not None and stopped.is_set():
                raise StoppedError
            piece = filesystem.cat_file(path, start=start, end=min(start + PIECE_BYTES, size))
            digest.update(piece)
    except StoppedError:
        raise
    except Exception as error:
        raise SlideOpenError(url.name, *reason_of(error, "cannot be read")) from None
    return str(digest.hexdigest())

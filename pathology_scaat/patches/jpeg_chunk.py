"""One chunk of a store that keeps the slide's own JPEG tiles, as bytes and as pixels.

A chunk is either a whole JPEG stream (baseline or extended sequential, 8 bits, three components,
one scan, its tables in it, its colours by an Adobe marker) or, where the slide's tile could not be
kept, a Zstandard frame of the pixels, row by row. Its first bytes tell: FF D8, or 28 B5 2F FD.
"""

from __future__ import annotations

from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.patches.byte_store import Data
from pathology_scaat.patches.zarr_layout import Codec
from pathology_scaat.slides.jpeg_streams import START, check_stored

DECODED_CODEC: Final[Codec] = "zstd"
_ZSTD = b"\x28\xb5\x2f\xfd"


def is_jpeg(chunk: Data) -> bool:
    """Whether a chunk is the slide's own JPEG tile, else its pixels compressed losslessly."""
    return bytes(memoryview(chunk)[:2]) == START


def decode_chunk(chunk: Data, out: NDArray[np.uint8]) -> None:
    """Decode a chunk into pixels, (S, S, 3) uint8, C-contiguous.

    Raises
    ------
    ValueError, RuntimeError
        If it is neither of the two, of another size, or damaged.
    """
    if is_jpeg(chunk):
        check_stored(chunk, *out.shape[:2])
        imagecodecs.jpeg8_decode(chunk, out=out)  # type: ignore[arg-type]
        return
    if bytes(memoryview(chunk)[:4]) != _ZSTD:
        raise ValueError("neither JPEG nor Zstandard")
    flat = out.reshape(-1)
    if len(imagecodecs.zstd_decode(chunk, out=flat)) != len(flat):  # type: ignore[arg-type]
        raise ValueError("length")


def encode_chunk(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels, (S, S, 3) uint8, as a chunk that holds them losslessly."""
    whole = np.ascontiguousarray(pixels)
    return bytes(imagecodecs.zstd_encode(whole, level=1))  # type: ignore[arg-type]

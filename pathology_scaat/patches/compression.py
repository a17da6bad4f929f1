"""Patches compressed by whatever thread made them, while they are in its core's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np

from pathology_scaat.patches.zarr_layout import Codec
from pathology_scaat.slides.base import RgbImage

EncodedPatch = tuple[bytearray, int]
"""A compressed patch with its checksum: the buffer that holds it, and how long it is."""

# Their stubs know no arrays.
_blosc: Any = imagecodecs.blosc_encode
_zstandard: Any = imagecodecs.zstd_encode


Memory = bytearray | memoryview


def _lz4(patch: RgbImage, out: Memory) -> Any:
    return _blosc(patch, level=1, compressor="lz4", shuffle=0, typesize=1, numthreads=1, out=out)


def _zstd(patch: RgbImage, out: Memory) -> Any:
    return _zstandard(patch, level=1, out=out)


_ENCODERS: dict[str, Callable[[RgbImage, Memory], Any]] = {"lz4": _lz4, "zstd": _zstd}


class PatchEncoder:
    """Compresses patches into memory that is used again. Safe from several threads."""

    def __init__(self, patch_size_px: int, codec: Codec) -> None:
        size = patch_size_px**2 * 3
        self.most_bytes = size + size // 128 + 1024  # what the codecs need in the worst case
        self._encode = _ENCODERS[codec]
        self._free: list[bytearray] = []

    def encode(self, patch: RgbImage) -> EncodedPatch:
        """Compress a patch, (P, P, 3) uint8, C-contiguous."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = bytearray(self.most_bytes)
        return buffer, self.encode_into(patch, buffer)

    def encode_into(self, patch: RgbImage, memory: Memory) -> int:
        """Compress a patch, (P, P, 3) uint8, C-contiguous, and append its CRC32C (4 bytes).

        Parameters
        ----------
        patch : (P, P, 3) uint8
        memory : writable buffer
            Of at least ``most_bytes``, which is enough for any patch.

        Returns
        -------
        int
            Bytes used at the beginning of ``memory``, the checksum included.
        """
        length = len(self._encode(patch, memory))
        check = google_crc32c.value(np.frombuffer(memory, np.uint8, length))
        memory[length : length + 4] = check.to_bytes(4, "little")
        return length + 4

    def release(self, encoded: EncodedPatch) -> None:
        """Reuse the memory of a patch from :meth:`encode`, which must not be read afterwards."""
        self._free.append(encoded[0])

"""The codec by which zarr-python, and so Dask, opens stores of the slide's own JPEG tiles.

It is announced by the entry point ``zarr.codecs``: with this package installed nothing needs to be
imported for ``zarr.open_array``. The reader of this package does without it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import parse_named_configuration

from pathology_scaat.patches.jpeg_chunk import decode_chunk, encode_chunk
from pathology_scaat.patches.zarr_layout import SLIDE_JPEG_CODEC


@dataclass(frozen=True)
class SlideJpegCodec(ArrayBytesCodec):
    """Chunks of one square picture, (1, S, S, 3) uint8, as JPEG streams or Zstandard frames.

    Decoding gives the pixels that the slide's own reader gives. Encoding never makes JPEG: what is
    written by zarr-python is kept losslessly.
    """

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        parse_named_configuration(data, SLIDE_JPEG_CODEC, require_configuration=False)
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return {"name": SLIDE_JPEG_CODEC, "configuration": {}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        native = dtype.to_native_dtype() if hasattr(dtype, "to_native_dtype") else dtype
        if len(shape) != 4 or shape[3] != 3 or native != np.uint8:
            raise ValueError(
                f"{SLIDE_JPEG_CODEC} is for arrays of RGB pictures, (n, y, x, 3) uint8"
            )

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        out = np.empty(chunk_spec.shape, np.uint8)
        if out.shape[0] != 1:
            raise ValueError("a chunk holds one picture")
        await asyncio.to_thread(decode_chunk, chunk_bytes.to_bytes(), out[0])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(out)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        data = await asyncio.to_thread(encode_chunk, chunk_array.as_numpy_array()[0])
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError

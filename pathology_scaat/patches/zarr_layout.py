"""How a patch store lies on disk: zarr v3 by specification, read by any zarr library.

No times or names are in the files, so that one content has one spelling in bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.patches.byte_store import ByteStore
from pathology_scaat.patches.schema import ATTRIBUTES_KEY

GROUP_FILE = "zarr.json"
LARGE_SHARDS = ("patches/c/", "blocks/c/")
"""What is too large to be read again for a checksum: each chunk in it has its own."""
COLUMN_ROWS = 1 << 16
"""Rows of one chunk of the small arrays."""


Codec = Literal["lz4", "zstd"]
SLIDE_JPEG_CODEC = "pathology_scaat.slide_jpeg"
"""Name of the zarr codec of chunks that are the slide's own JPEG tiles.

It makes bytes of an array and back, so that it takes the place of zarr's codec "bytes".
"""

_CODECS: dict[str, dict[str, Any]] = {
    # Pixels that were JPEG once hardly compress: zstd takes an eighth more off than lz4, at four
    # times the cost to write and five times to read; bit shuffling would double the cost of
    # lz4 to write, make it four times to read, and save one per cent (benchmarks/README.md).
    # A checksum follows either: damage is met when a patch is read, not believed.
    "lz4": {
        "name": "blosc",
        "configuration": {
            "cname": "lz4",
            "clevel": 1,
            "shuffle": "noshuffle",
            "typesize": 1,
            "blocksize": 0,
        },
    },
    "zstd": {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
}


def most_chunk_bytes(side: int) -> int:
    """Bytes that a chunk of pixels may take, ``side`` in pixels: a longer one is damaged."""
    size = 3 * side**2
    return size + size // 16 + 4096


def pixels_metadata(
    item: str, n_items: int, side: int, items_per_shard: int, codec: Codec | None
) -> dict[str, Any]:
    """Zarr v3 metadata of ``patches`` or ``blocks``: one chunk per item, sharded.

    ``item`` names the first dimension, ``"patch"`` or ``"block"``; ``side`` is in pixels. Without
    ``codec`` chunks are the slide's own JPEG tiles (:data:`SLIDE_JPEG_CODEC`).
    """
    inner: list[dict[str, Any]] = [{"name": SLIDE_JPEG_CODEC, "configuration": {}}]
    if codec is not None:
        inner = [{"name": "bytes"}, _CODECS[codec]]
    # A shard never needs to be larger than the array.
    per_shard = max(1, min(items_per_shard, n_items))
    return {
        "shape": [n_items, side, side, 3],
        "data_type": "uint8",
        "fill_value": 0,
        "dimension_names": [item, "y", "x", "channel"],
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [per_shard, side, side, 3]},
        },
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [1, side, side, 3],
                    "codecs": [*inner, {"name": "crc32c"}],
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                    "index_location": "end",
                },
            }
        ],
    }


def column_metadata(
    shape: tuple[int, ...], data_type: str, dimension_names: list[str]
) -> dict[str, Any]:
    """Zarr v3 metadata of a small array beside the patches."""
    rows = max(1, min(shape[0], COLUMN_ROWS))
    return {
        "shape": list(shape),
        "data_type": data_type,
        "fill_value": 0,
        "dimension_names": dimension_names,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [rows, *(max(1, n) for n in shape[1:])]},
        },
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
            {"name": "crc32c"},
        ],
    }


def write_array_metadata(path: Path, name: str, metadata: dict[str, Any]) -> None:
    """Write the metadata of an array whose chunks are written by other hands."""
    value = {
        "zarr_format": 3,
        "node_type": "array",
        "attributes": {},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        **metadata,
    }
    (path / name).mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, sort_keys=True)
    (path / name / GROUP_FILE).write_text(text + "\n", encoding="utf-8")


def write_column(
    path: Path, name: str, values: NDArray[Any], data_type: str, dimension_names: list[str]
) -> None:
    """Write a small array beside the patches, of any shape (N, ...): chunks of whole rows.

    Parameters
    ----------
    path : Path
        Folder of the store.
    name : str
    values : ndarray
    data_type : str
        Its dtype in the file, by zarr's name (``"int32"``).
    dimension_names : list of str
        One an axis.
    """
    metadata = column_metadata(values.shape, data_type, dimension_names)
    write_array_metadata(path, name, metadata)
    rows, *rest = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    for number in range(-(-len(values) // rows) if values.size else 0):
        part = values[number * rows : (number + 1) * rows]
        chunk = np.zeros((rows, *rest), dtype=np.dtype(data_type).newbyteorder("<"))
        chunk[: len(part)] = part
        encoded = bytes(imagecodecs.zstd_encode(chunk.tobytes(), level=3))
        file = path.joinpath(name, "c", str(number), *["0" for _ in rest])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded + google_crc32c.value(encoded).to_bytes(4, "little"))


def write_group(path: Path, attributes: dict[str, Any]) -> None:
    """Write the group's metadata; this makes a folder of arrays a store."""
    value = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {ATTRIBUTES_KEY: attributes},
    }
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (path / GROUP_FILE).write_text(text + "\n", encoding="utf-8")


def read_group(store: ByteStore) -> dict[str, Any]:
    """Attributes of a store's group.

    Raises
    ------
    StoreError
        If there is no such group, or it is damaged.
    """
    try:
        value = json.loads(store.read(GROUP_FILE))
        attributes = value["attributes"][ATTRIBUTES_KEY]
    except FileNotFoundError:
        raise StoreError(store.name, "does not exist or is not whole", "run 'scaat tile'") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise StoreError(
            store.name, "is damaged or no store of this package", "make it again with 'scaat tile'"
        ) from None
    if not isinstance(attributes, dict):
        raise StoreError(store.name, "has damaged attributes", "make it again with 'scaat tile'")
    return attributes

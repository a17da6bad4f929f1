"""Shards: the same bytes whatever the system allows, and an error where the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import zarr

from pathology_scaat.errors import StoreError
from pathology_scaat.patches import shard_writer as shards
from pathology_scaat.patches.compression import PatchEncoder
from pathology_scaat.patches.writer import PatchStoreWriter
from pathology_scaat.patches.zarr_layout import pixels_metadata, write_array_metadata

SIDE = 40


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def write(path: Path, data: np.ndarray, per_shard: int, codec: str = "lz4") -> dict[str, bytes]:
    encoder = PatchEncoder(SIDE, codec)  # type: ignore[arg-type]
    writer = shards.ShardWriter(path / "a", per_shard)
    for patch in data:
        encoded = encoder.encode(patch)
        writer.append(encoded)
        encoder.release(encoded)
    writer.finish()
    writer.close()
    metadata = pixels_metadata("patch", len(data), SIDE, per_shard, codec)  # type: ignore[arg-type]
    write_array_metadata(path, "a", metadata)
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("block_bytes", [4096, 12288, shards.BLOCK_BYTES])
def test_both_libraries_read_them(
    tmp_path: Path, codec: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", block_bytes)
    data = pixels(23)
    write(tmp_path, data, 10, codec)
    assert np.array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], data)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a")}}
    assert np.array_equal(ts.open(spec, read=True).result().read().result(), data)


def through(path: Path, data: np.ndarray, codec: str, way: str) -> dict[str, bytes]:
    """What lies in the shards when patches are encoded and taken, appended, or both in turn."""
    with PatchStoreWriter(path, 99, SIDE, shard_bytes=10 * SIDE**2 * 3, codec=codec) as writer:  # type: ignore[arg-type]
        for number, patch in enumerate(data):
            if way == "appended" or (way == "in turn" and number % 3):
                before = writer.n_written
                assert 0 < writer.append(patch) <= writer._encoder.most_bytes
                assert writer.n_written == before + 1
            else:
                writer.append_encoded(writer.encode(patch))
        writer._shards.finish()
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("block_bytes", [4096, 12288, shards.BLOCK_BYTES])
@pytest.mark.parametrize("way", ["appended", "in turn"])
def test_patches_compressed_where_they_will_lie_are_those_that_are_copied_there(
    tmp_path: Path, codec: str, block_bytes: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that hold no patch, that hold two, and that hold all."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", block_bytes)
    data = pixels(23)
    data[5:9] = 200  # a few that take little room
    expected = through(tmp_path / "a", data, codec, "taken")
    assert through(tmp_path / "b", data, codec, way) == expected
    assert len(expected) == 3


def test_a_patch_that_fits_into_a_block_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []
    put = shards.ShardWriter._put

    def watched(self: shards.ShardWriter, data: memoryview) -> None:
        copied.append(len(data))
        put(self, data)

    monkeypatch.setattr(shards.ShardWriter, "_put", watched)
    through(tmp_path / "a", pixels(23), "lz4", "appended")
    assert copied == [164, 164, 164]  # the index of each shard


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="the page cache is not avoided here")
@pytest.mark.parametrize("refuses", ["open", "write", "nothing"])
def test_the_page_cache_leaves_no_trace(
    tmp_path: Path, refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pixels(23)
    expected = write(tmp_path / "expected", data, 10)
    monkeypatch.setattr(shards, "BLOCK_BYTES", 8192)
    descriptors: set[int] = set()
    real_open, real_write = os.open, os.write

    def opened(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT and refuses == "open":
            raise OSError(errno.EINVAL, "Invalid argument")
        descriptor = real_open(path, flags, mode)
        if flags & os.O_DIRECT:
            descriptors.add(descriptor)
        return descriptor

    def written(descriptor: int, part: memoryview) -> int:
        if refuses == "write" and descriptor in descriptors:
            descriptors.discard(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        if refuses == "nothing":
            part = part[: max(4096, len(part) // 2)]  # a part of it is taken
        return real_write(descriptor, part)

    monkeypatch.setattr(shards.os, "open", opened)
    monkeypatch.setattr(shards.os, "write", written)
    assert write(tmp_path / "got", data, 10) == expected


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, part: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.os, "write", full)
    with PatchStoreWriter(tmp_path / "s.zarr", 99, SIDE, shard_bytes=1 << 13) as writer:
        encoded = [writer.encode(patch) for patch in pixels(99)]

        def write_all() -> None:
            for patch in encoded:
                writer.append_encoded(patch)

        with pytest.raises(StoreError, match="disk space"):
            write_all()


def test_a_full_disk_is_one_sentence_also_where_patches_are_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, part: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.os, "write", full)
    monkeypatch.setattr(shards, "BLOCK_BYTES", 16384)
    with PatchStoreWriter(tmp_path / "s.zarr", 99, SIDE) as writer:

        def write_all() -> None:
            for patch in pixels(99):
                writer.append(patch)

        with pytest.raises(StoreError, match="disk space"):
            write_all()


def test_no_more_patches_are_appended_than_were_announced(tmp_path: Path) -> None:
    with PatchStoreWriter(tmp_path / "s.zarr", 2, SIDE) as writer:
        for patch in pixels(2):
            writer.append(patch)
        with pytest.raises(StoreError, match="announced"):
            writer.append(pixels(1)[0])

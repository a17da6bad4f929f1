"""Checksums: any flipped bit, added or removed file of an artifact is found."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import zarr
from map_stores import make_saliency_store
from PIL import Image

from pathology_scaat.artifacts.checksums import (
    CHECKSUM_KEY,
    EARLIER_CHECKSUM_KEY,
    EMPTY_CHECKSUM,
    checksum_folder,
    folder_problem,
    png_problem,
    text_problem,
    without_checksum,
    write_checked_json,
)
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide
from pathology_scaat.stitching.ome_zarr import attributes_file


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]


def test_every_bit_of_a_record_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_checked_json(path, {"zeros": "0" * 64, "größe": 0.1, "list": [1, 2]})
    assert text_problem(path) is None
    assert json.loads(path.read_text(encoding="utf-8"))["zeros"] == "0" * 64
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        assert text_problem(path) is not None, bit


def test_the_earlier_name_of_the_checksum_is_read_and_replaced(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.json", tmp_path / "g"
    write_checked_json(path, {"a": 1})
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"a": 1}))
    checksum_folder(folder, "config.json")
    for file, problem_of in (
        (path, lambda: text_problem(path)),
        (folder / "config.json", lambda: folder_problem(folder, "config.json")),
    ):
        # The hash is over all bytes, so that an artifact of an earlier version has another one.
        text = file.read_text(encoding="utf-8").replace(CHECKSUM_KEY, EARLIER_CHECKSUM_KEY)
        file.write_text(text, encoding="utf-8")
        assert problem_of() is not None
        value = json.loads(text)
        assert without_checksum(value) == {"a": 1}
        blank = text.replace(value[EARLIER_CHECKSUM_KEY], EMPTY_CHECKSUM)
        held = blank if file == path else f"config.json\0{sha256(blank)}\n"
        file.write_text(blank.replace(EMPTY_CHECKSUM, sha256(held)), encoding="utf-8")
        assert problem_of() is None
    write_checked_json(path, json.loads(path.read_text(encoding="utf-8")))
    checksum_folder(folder, "config.json")
    for file in (path, folder / "config.json"):
        assert set(json.loads(file.read_text(encoding="utf-8"))) == {"a", CHECKSUM_KEY}
    assert text_problem(path) is folder_problem(folder, "config.json") is None


def test_every_bit_of_a_picture_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert png_problem(path) is None
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        assert png_problem(path) is not None, bit
    for broken in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(broken)
        assert png_problem(path) is not None


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_map_of_either_kind_has_a_checksum(tmp_path: Path, ngff: str) -> None:
    store = make_saliency_store(tmp_path / "s.zarr", PatchGrid(0.0, 0.0, 1.0, 64, 32, 12, 9))
    path, name = tmp_path / "m.ome.zarr", attributes_file(ngff)
    stitch_slide(store, path, StitchConfig(ngff=ngff))
    assert folder_problem(path, name) is None
    rng = random.Random(1)
    files = [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        whole = file.read_bytes()
        for _ in range(4):
            file.write_bytes(flipped(whole, rng.randrange(8 * len(whole))))
            assert folder_problem(path, name) is not None, file
        file.unlink()
        assert folder_problem(path, name) is not None, file
        file.write_bytes(whole)
    (path / "more").write_bytes(b"")
    assert folder_problem(path, name) is not None
    (path / "more").unlink()
    assert folder_problem(path, name) is None
    assert SlideMap(path).n_levels >= 1  # and it is a map as before


def test_large_shards_count_by_size(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g", zarr_format=3)
    shard = tmp_path / "g" / "patches" / "c" / "0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"abc")
    checksum_folder(tmp_path / "g", "zarr.json", ("patches/c/",))
    assert CHECKSUM_KEY in zarr.open_group(tmp_path / "g", mode="r").attrs
    shard.write_bytes(b"abd")
    assert folder_problem(tmp_path / "g", "zarr.json", ("patches/c/",)) is None
    shard.write_bytes(b"ab")
    assert folder_problem(tmp_path / "g", "zarr.json", ("patches/c/",)) is not None

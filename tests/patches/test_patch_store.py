"""Patch stores: written whole, read by anybody, safe in other processes."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.patches import PatchStore, PatchStoreMeta, SlideGeometry, write_patch_store
from pathology_scaat.training.data import BatchLoader, PatchDataset

SIDE = 16


def make_meta(n_cols: int, n_rows: int, classes: tuple[str, ...] = ()) -> PatchStoreMeta:
    return PatchStoreMeta(
        slide_id="s1",
        slide_fingerprint="a" * 64,
        fingerprint="b" * 64,
        slide=SlideGeometry(SizePx(n_cols * SIDE, n_rows * SIDE), 0.5, "slide"),
        grid=PatchGrid(0.0, 0.0, 1.0, SIDE, SIDE, n_cols, n_rows),
        requested_mpp=0.5,
        effective_mpp=0.5,
        level_read=0,
        class_names=classes,
    )


def pixels(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    meta = make_meta(7, 5, ("normal", "tumour"))
    labels = np.arange(35) % 3 - 1
    path = tmp_path / "s1.zarr"
    write_patch_store(
        path,
        meta,
        pixels(35),
        grid_index=meta.grid.all_indices(),
        label=labels,
        shard_bytes=1 << 13,
    )
    return path


@settings(max_examples=25)
@given(n=st.integers(0, 40), per_shard=st.integers(1, 50), codec=st.sampled_from(["lz4", "zstd"]))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, n: int, per_shard: int, codec: str
) -> None:
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    meta = make_meta(8, 5)
    data = pixels(n, n)
    data[:2] = 0  # a black patch is written like any other
    index = meta.grid.all_indices()[:n]
    write_patch_store(
        path, meta, data, grid_index=index, shard_bytes=per_shard * SIDE * SIDE * 3, codec=codec
    )  # type: ignore[arg-type]
    store = PatchStore(path)
    assert len(store) == n
    assert np.array_equal(store.read(slice(None)), data)
    assert np.array_equal(store.origins_px, index * SIDE)
    assert np.array_equal(store.grid_index, index)
    assert (store.labels == -1).all()
    assert store.label_coverage.shape == (n, 0)
    if n:
        order = np.random.default_rng(1).integers(0, n, 30)
        assert np.array_equal(store.read(order), data[order])
        assert np.array_equal(store.read([-1, 0]), data[[-1, 0]])
    batches = list(store.iter_batches(7))
    assert sum(map(len, batches)) == n
    assert all(len(batch) == 7 for batch in batches[:-1])
    by_zarr = zarr.open_group(path, mode="r")
    assert np.array_equal(by_zarr["patches"][:], data)
    assert by_zarr.attrs["pathology_scaat"]["slide_id"] == "s1"


def test_same_content_has_the_same_bytes(store_path: Path, tmp_path: Path) -> None:
    meta = make_meta(7, 5, ("normal", "tumour"))
    again = tmp_path / "again.zarr"
    write_patch_store(
        again, meta, iter(pixels(35)), grid_index=meta.grid.all_indices(),
        label=np.arange(35) % 3 - 1, shard_bytes=1 << 13,
    )  # fmt: skip
    assert content(again) == content(store_path)


def test_metadata_survives(store_path: Path) -> None:
    meta = PatchStore(store_path).meta
    assert meta.grid == make_meta(7, 5).grid
    assert meta.class_names == ("normal", "tumour")
    assert "numpy" in meta.versions


def test_wrong_numbers_of_patches_leave_nothing(tmp_path: Path) -> None:
    meta = make_meta(2, 2)
    for n in (3, 5):
        with pytest.raises(StoreError):
            write_patch_store(
                tmp_path / "x.zarr", meta, pixels(n), grid_index=meta.grid.all_indices()
            )
    assert list(tmp_path.iterdir()) == []


def test_out_of_range(store_path: Path) -> None:
    with pytest.raises(IndexError):
        PatchStore(store_path).read([35])


def drop_group(path: Path) -> None:
    (path / "zarr.json").unlink()


def cut_group(path: Path) -> None:
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text[: len(text) // 2])


def other_schema(path: Path) -> None:
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"schema_version": 1', '"schema_version": 99'))


def drop_shard(path: Path) -> None:
    (path / "patches/c/1/0/0/0").unlink()


def cut_shard(path: Path) -> None:
    file = path / "patches/c/1/0/0/0"
    file.write_bytes(file.read_bytes()[:-100])


def flip_byte(path: Path) -> None:
    file = path / "patches/c/1/0/0/0"
    data = bytearray(file.read_bytes())
    data[500] ^= 0x55
    file.write_bytes(bytes(data))


def drop_column(path: Path) -> None:
    shutil.rmtree(path / "label")


def huge(path: Path) -> None:
    """Metadata that ask for more memory than there is."""
    file = path / "patches/zarr.json"
    file.write_text(file.read_text().replace(str(SIDE), str(10**9)))


def huge_column(path: Path) -> None:
    file = path / "label/zarr.json"
    file.write_text(file.read_text().replace("35", str(10**12)))


def wild_index(path: Path) -> None:
    """A shard whose index points anywhere, with the right checksum."""
    file = path / "patches/c/1/0/0/0"
    data = file.read_bytes()
    n_bytes = int(json.loads((path / "patches/zarr.json").read_text())["chunk_grid"][
        "configuration"]["chunk_shape"][0]) * 16  # fmt: skip
    index = np.frombuffer(data[-n_bytes - 4 : -4], dtype="<u8").copy()
    index[::2] = 2**62
    check = google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    file.write_bytes(data[: -n_bytes - 4] + index.tobytes() + check)


def _read_all(path: Path) -> None:
    store = PatchStore(path)
    store.read(slice(None))
    assert store.labels is not None


@pytest.mark.parametrize(
    "damage",
    [
        drop_group,
        cut_group,
        other_schema,
        drop_shard,
        cut_shard,
        flip_byte,
        drop_column,
        huge,
        huge_column,
        wild_index,
    ],
)
def test_damage_is_met_in_one_sentence(store_path: Path, damage: Callable[[Path], None]) -> None:
    damage(store_path)
    with pytest.raises(StoreError) as caught:
        _read_all(store_path)
    assert "s1.zarr" in str(caught.value)
    assert str(store_path.parent) not in str(caught.value)


SCRIPT = """
import sys
from torch.utils.data import DataLoader
from pathology_scaat.patches import PatchStore
from pathology_scaat.training.data import PatchDataset

if __name__ == "__main__":
    method, path = sys.argv[1:]
    dataset = PatchDataset([path, path])
    assert len(dataset) == 70 and (dataset.labels == 1).any()
    loader = DataLoader(dataset, batch_size=8, num_workers=1, multiprocessing_context=method)
    total = sum(int(images.sum()) for images, labels in loader)
    print(total, int(PatchStore(path).read(slice(None)).sum()) * 2)
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_torch_workers(store_path: Path, tmp_path: Path, method: str) -> None:
    script = tmp_path / "load.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, method, store_path],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    loaded, expected = done.stdout.split()
    assert loaded == expected


def test_loader_gives_the_patches_asked_for(store_path: Path) -> None:
    """The one loader: torch's data set and the training's batches read the same table."""
    dataset = PatchDataset([store_path, store_path])
    order = np.random.default_rng(3).permutation(70)
    loader = BatchLoader(dataset.table, 0, torch.device("cpu"))
    data = torch.from_numpy(pixels(35))
    seen = 0
    for index, images in loader(np.array_split(order, 9)):
        assert torch.equal(images, data[torch.from_numpy(index) % 35])
        items = dataset.__getitems__(index.tolist())
        assert torch.equal(torch.stack([image for image, _ in items]), images.permute(0, 3, 1, 2))
        assert [label for _, label in items] == [int(dataset.labels[i]) for i in index]
        seen += len(index)
    assert seen == 70
    with pytest.raises(IndexError, match="there are 70 patches"):
        dataset[70]


def test_a_pickled_store_is_a_path(store_path: Path) -> None:
    store = PatchStore(store_path)
    store.read([0])
    blob = pickle.dumps(store)
    assert len(blob) < 1000
    assert np.array_equal(pickle.loads(blob).read([3]), store.read([3]))

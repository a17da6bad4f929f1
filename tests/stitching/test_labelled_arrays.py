"""Maps and stores as labelled lazy arrays: the same values, each in its place."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from map_stores import make_saliency_store

import pathology_scaat as ps
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.patches import PatchStoreMeta, write_patch_store
from pathology_scaat.patches.schema import SlideGeometry
from pathology_scaat.stitching import stitch_slide

pytest.importorskip("xarray")
GRID = PatchGrid(100.0, 60.0, 2.0, 64, 32, 81, 60)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    make_saliency_store(
        folder / "s.zarr",
        GRID,
        mpp=0.25,
        bounds=BoxPx(90, 50, 5300, 3900),
        size=SizePx(5500, 4100),
        kept=np.random.default_rng(0).random((60, 81)) < 0.8,
    )
    stitch_slide(folder / "s.zarr", folder / "m.ome.zarr")
    return folder


@pytest.mark.parametrize("level", [0, 1])
def test_a_map_is_the_same_by_name_and_coordinate(stores: Path, level: int) -> None:
    opened = ps.open_map(stores / "m.ome.zarr")
    found = opened.to_xarray(level)
    assert found.chunks is not None
    for channel in opened.channel_names:
        assert np.array_equal(
            found.sel(c=channel).values, opened.read(channel, level), equal_nan=True
        )
    step = opened.level_scale_px(level)
    assert found.x_px[0].item() == pytest.approx(90 + step / 2)
    assert found.y[1].item() == pytest.approx((50 + step * 1.5) * 0.25)
    assert found.x.attrs["units"] == "micrometer"
    assert found.attrs["um_per_px"] == pytest.approx(opened.mpp * 2**level)
    assert found.attrs["model_fingerprint"] == "d" * 64
    assert "not known" in found.attrs["model_quality"]
    # a place in µm finds the value that the map has there
    x_um, y_um = 200 * 0.25, 150 * 0.25
    value = found.sel(c="saliency").sel(x=x_um, y=y_um, method="nearest").values
    row, column = int((150 - 50) // step), int((200 - 90) // step)
    assert value == pytest.approx(opened.read("saliency", level)[row, column], nan_ok=True)


def test_lazy_arrays_travel_to_other_processes(stores: Path) -> None:
    opened = ps.open_map(stores / "m.ome.zarr")
    lazy = pickle.loads(pickle.dumps(opened.to_dask()))
    assert np.array_equal(np.asarray(lazy[0]), opened.read(0), equal_nan=True)
    store = ps.SaliencyStore(stores / "s.zarr")
    lazy = pickle.loads(pickle.dumps(store.to_dask()))
    assert np.array_equal(np.asarray(lazy[3:5]), store.read_saliency(slice(3, 5)))


def test_no_such_level_and_damaged_pixels_are_reported(stores: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(UsageError, match="level 99"):
        ps.open_map(stores / "m.ome.zarr").to_xarray(99)
    copied = tmp_path / "m.ome.zarr"
    shutil.copytree(stores / "m.ome.zarr", copied)
    found = ps.open_map(copied).to_xarray()
    for shard in (copied / "0" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"\x00" * shard.stat().st_size)
    with pytest.raises(StoreError, match="cannot be decoded"):
        found.compute()


def test_a_saliency_store_is_a_data_set(stores: Path) -> None:
    store = ps.SaliencyStore(stores / "s.zarr")
    found = store.to_xarray()
    assert np.array_equal(found.saliency.values, store.read_saliency(slice(None)))
    assert np.array_equal(found.probability.sel({"class": "tumour"}), store.target_probability)
    assert np.array_equal(found.x_px, store.origins_px[:, 0])
    assert np.allclose(found.x, store.origins_px[:, 0] * 0.25)
    whole = store.read_saliency(slice(None))
    for key in (5, -1, slice(2, 9, 3), [7, 1], (4, 2, slice(1, 3))):
        assert np.array_equal(np.asarray(store.to_dask()[key]), whole[key])


def test_a_patch_store_is_a_data_set(tmp_path: Path) -> None:
    grid = PatchGrid(10.0, 20.0, 1.0, 32, 32, 3, 2)
    meta = PatchStoreMeta(
        slide_id="a", slide_fingerprint="0" * 64, fingerprint="1" * 64,
        slide=SlideGeometry(SizePx(200, 100), 0.5, "slide"), grid=grid, requested_mpp=0.5,
        effective_mpp=0.5, level_read=0, class_names=("Normal", "Tumor"),
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    write_patch_store(
        tmp_path / "a.zarr", meta, pixels, grid_index=grid.all_indices(), label=np.arange(6) % 2
    )
    found = ps.PatchStore(tmp_path / "a.zarr").to_xarray()
    assert np.array_equal(found.patches.values, pixels)
    assert found.label.values.tolist() == [0, 1] * 3
    lazy = ps.PatchStore(tmp_path / "a.zarr").patches
    for key in (5, -1, slice(1, 6, 2), [4, 1], (4, 2, slice(1, 3))):
        assert np.array_equal(np.asarray(lazy[key]), pixels[key])
    assert found.y.values.tolist() == [10.0] * 3 + [26.0] * 3
    assert found.patches.sel(rgb="G").isel(patch=2).values.tolist() == pixels[2, ..., 1].tolist()

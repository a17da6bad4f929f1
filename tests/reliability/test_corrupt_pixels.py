"""Corrupt tiles inside a good slide: left out, counted, no data in the map; the reader recovers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from map_stores import make_saliency_store

from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.stitching import stitch_slide
from pathology_scaat.stitching.slide_map import SlideMap

TILE_PX = 256


def corrupt_boxes(broken: Path) -> list[BoxPx]:
    """The level-0 boxes of the tiles that were overwritten with noise."""
    value = json.loads((broken / "corrupt_tiles.json").read_text(encoding="utf-8"))
    pairs = value if isinstance(value, list) else next(iter(value.values()))
    return [BoxPx(c * TILE_PX, r * TILE_PX, TILE_PX, TILE_PX) for c, r in pairs]


def test_only_patches_that_touch_corrupt_tiles_are_left_out(data_dir: Path, tmp_path: Path) -> None:
    broken = data_dir / "broken"
    config = TileConfig(mpp=0.499, patch_size_px=128, min_tissue=0.0)
    path = tmp_path / "s.zarr"
    job = TileJob(
        slide_path=broken / "corrupt_tiles.svs", slide_id="s", store_path=path, config=config
    )
    result = tile_slide(job)
    store = PatchStore(path)
    assert 0 < result.n_unreadable == store.meta.n_unreadable
    side = round(store.meta.grid.patch_size_level0_px)
    boxes = corrupt_boxes(broken)
    for x, y in store.origins_px.tolist():
        assert all(BoxPx(x, y, side, side).intersection(box) is None for box in boxes)


def test_the_map_has_no_data_where_pixels_are_corrupt(data_dir: Path, tmp_path: Path) -> None:
    broken = data_dir / "broken"
    job = TileJob(
        slide_path=broken / "corrupt_tiles.svs", slide_id="s", store_path=tmp_path / "p.zarr",
        config=TileConfig(mpp=0.499, patch_size_px=128, min_tissue=0.0),
    )  # fmt: skip
    tile_slide(job)
    store = PatchStore(job.store_path)
    grid = store.meta.grid
    kept = np.zeros((grid.n_rows, grid.n_cols), dtype=bool)
    kept[store.grid_index[:, 1], store.grid_index[:, 0]] = True
    saliency = make_saliency_store(
        tmp_path / "s.zarr", grid, kept=kept, saliency=1.0, mpp=store.meta.slide.mpp,
        size=store.meta.slide.size_px,
    )  # fmt: skip
    stitch_slide(saliency, tmp_path / "m.ome.zarr")
    slide_map = SlideMap(tmp_path / "m.ome.zarr")
    values = slide_map.read("saliency")
    for box in corrupt_boxes(broken):
        x, y = (int((v + TILE_PX / 2) / slide_map.scale_px) for v in (box.x, box.y))
        assert np.isnan(values[y, x])
    for x, y in store.origins_px.tolist():
        half = grid.patch_size_level0_px / 2
        column, row = int((x + half) / slide_map.scale_px), int((y + half) / slide_map.scale_px)
        if row < values.shape[0] and column < values.shape[1]:
            assert np.isfinite(values[row, column])

"""Stitching whole slides: constants, gaps, order, cutting, bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from map_stores import make_saliency_store

from pathology_scaat.errors import ConfigError, StoreError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide
from pathology_scaat.stitching.blend import Band, Placement, blend_block
from pathology_scaat.stitching.source import SaliencySource


def folder_digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def grid(scale: float = 1.0, step: int = 32, anchor: float = 0.0, n: int = 7) -> PatchGrid:
    return PatchGrid(anchor, anchor, scale, 64, step, n, n - 1)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize(
    ("scale", "step", "mpp"),
    [
        (1.0, 64, None),
        (1.0, 32, None),
        (0.5 / 0.2423, 32, None),
        (0.5 / 0.265, 24, 3.1),
        (2.0, 33, 7),
    ],
)
def test_a_constant_comes_out_as_it_went_in(
    tmp_path: Path, ngff: str, scale: float, step: int, mpp: float | None
) -> None:
    rng = np.random.default_rng(0)
    kept = rng.random((6, 7)) < 0.6  # tissue with holes and ragged edges
    store = make_saliency_store(
        tmp_path / "s.zarr", grid(scale, step), kept=kept, saliency=np.float16(0.3),
        probability=(0.3, 0.7),
    )  # fmt: skip
    stitch_slide(store, tmp_path / "m.ome.zarr", StitchConfig(mpp=mpp, ngff=ngff, weighting="none"))
    found = SlideMap(tmp_path / "m.ome.zarr")
    for level in range(found.n_levels):
        seen = ~np.isnan(found.read("saliency", level))
        assert seen.any()
        assert set(np.unique(found.read("saliency", level)[seen])) == {np.float32(np.float16(0.3))}
        for name, value in (("normal", 0.3), ("tumour", 0.7)):
            got = found.read(f"probability: {name}", level)
            assert np.array_equal(np.isnan(got), ~seen)
            assert set(np.unique(got[seen])) == {np.float32(value)}
    count = found.read("patches")
    assert np.array_equal(count > 0, ~np.isnan(found.read("saliency")))


def test_no_data_outside_the_patches_is_nan_not_zero(tmp_path: Path) -> None:
    kept = np.zeros((6, 7), bool)
    kept[2, 3] = True
    store = make_saliency_store(tmp_path / "s.zarr", grid(step=64), kept=kept, stride_px=4)
    stitch_slide(store, tmp_path / "m.ome.zarr")
    saliency = SlideMap(tmp_path / "m.ome.zarr").read("saliency")
    inside = saliency[32:48, 48:64]
    assert not np.isnan(inside).any()
    assert np.isnan(saliency).sum() == saliency.size - inside.size


def test_without_overlap_the_map_is_the_saliency(tmp_path: Path) -> None:
    store = make_saliency_store(tmp_path / "s.zarr", grid(step=64), stride_px=4, seed=3)
    stitch_slide(store, tmp_path / "m.ome.zarr", StitchConfig(weighting="none"))
    source = SaliencySource(store)
    got = SlideMap(tmp_path / "m.ome.zarr").read("saliency")
    values = source.read(0, len(source))
    for (column, row), patch in zip(source.grid_index, values, strict=True):
        assert np.array_equal(got[16 * row : 16 * row + 16, 16 * column : 16 * column + 16], patch)


def test_the_order_of_the_store_changes_no_bit(tmp_path: Path) -> None:
    one = make_saliency_store(tmp_path / "a.zarr", grid(1.13, 24), seed=1)
    two = make_saliency_store(tmp_path / "b.zarr", grid(1.13, 24), seed=1, shuffle=True)
    config = StitchConfig(mpp=2.9)
    stitch_slide(one, tmp_path / "a.ome.zarr", config)
    stitch_slide(two, tmp_path / "b.ome.zarr", config)
    assert folder_digest(tmp_path / "a.ome.zarr") == folder_digest(tmp_path / "b.ome.zarr")


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_cutting_changes_no_bit(tmp_path: Path, budget: int) -> None:
    store = make_saliency_store(tmp_path / "s.zarr", grid(1.37, 20, anchor=3), seed=2)
    source = SaliencySource(store)
    placement = Placement.of(source, 3.3)
    config = StitchConfig()
    whole = blend_block(
        Band(source, placement, (0, 80), 1 << 30), placement, BoxPx(0, 0, 90, 80), config
    )
    for side in (7, 32):
        for y in range(0, 80, side):
            band = Band(source, placement, (y, min(y + side, 80)), budget)
            for x in range(0, 90, side):
                box = BoxPx(x, y, min(side, 90 - x), min(side, 80 - y))
                part = blend_block(band, placement, box, config)
                expected = whole[:, y : box.bottom, x : box.right]
                assert np.array_equal(part, expected, equal_nan=True)


def test_saliency_of_normal_patches_does_not_shine(tmp_path: Path) -> None:
    store = make_saliency_store(
        tmp_path / "s.zarr", grid(step=64), saliency=np.float16(1), probability=(0.98, 0.02)
    )
    maxima = {}
    for weighting in ("probability", "none", "threshold"):
        config = StitchConfig(weighting=weighting)
        stitch_slide(store, tmp_path / "m.ome.zarr", config)
        maxima[weighting] = np.nanmax(SlideMap(tmp_path / "m.ome.zarr").read("saliency"))
    assert maxima["none"] == 1
    assert maxima["probability"] == pytest.approx(0.02)
    assert maxima["threshold"] == 0


def test_stitching_again_touches_nothing_and_another_option_makes_it_anew(tmp_path: Path) -> None:
    store = make_saliency_store(tmp_path / "s.zarr", grid())
    first = stitch_slide(store, tmp_path / "m.ome.zarr")
    before = folder_digest(tmp_path / "m.ome.zarr")
    again = stitch_slide(store, tmp_path / "m.ome.zarr")
    assert not first.skipped
    assert again.skipped
    forced = stitch_slide(store, tmp_path / "m.ome.zarr", overwrite=True)
    assert not forced.skipped
    assert folder_digest(tmp_path / "m.ome.zarr") == before
    assert not stitch_slide(store, tmp_path / "m.ome.zarr", StitchConfig(window="flat")).skipped


def test_a_slide_without_patches_gives_an_empty_map(tmp_path: Path) -> None:
    store = make_saliency_store(tmp_path / "s.zarr", grid(), kept=np.zeros((6, 7), bool))
    result = stitch_slide(store, tmp_path / "m.ome.zarr")
    assert result.notes
    found = SlideMap(tmp_path / "m.ome.zarr")
    assert np.isnan(found.read("saliency")).all()
    assert not found.read("patches").any()


def test_damage_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a saliency store"):
        stitch_slide(tmp_path / "none.zarr", tmp_path / "m.ome.zarr")
    store = make_saliency_store(tmp_path / "s.zarr", grid(), saliency=np.float16(np.inf))
    with pytest.raises(StoreError, match="not finite"):
        stitch_slide(store, tmp_path / "m.ome.zarr")
    assert not (tmp_path / "m.ome.zarr").exists()
    good = make_saliency_store(tmp_path / "t.zarr", grid())
    with pytest.raises(ConfigError, match="larger than half a patch"):
        stitch_slide(good, tmp_path / "m.ome.zarr", StitchConfig(mpp=50))


def test_the_map_covers_the_scanned_frame_exactly(tmp_path: Path) -> None:
    store = make_saliency_store(
        tmp_path / "s.zarr", PatchGrid(1001, 2003, 1.0, 64, 32, 5, 5),
        bounds=BoxPx(1001, 2003, 193, 187), stride_px=4,
    )  # fmt: skip
    stitch_slide(store, tmp_path / "m.ome.zarr")
    found = SlideMap(tmp_path / "m.ome.zarr")
    assert found.frame_px == BoxPx(1001, 2003, 193, 187)
    assert (found.size_px().width, found.size_px().height) == (49, 47)
    assert found.scale_px == 4
    assert found.mpp == pytest.approx(2.0)


def test_workers_change_no_bit(tmp_path: Path) -> None:
    tall = PatchGrid(0, 0, 1.0, 64, 40, 4, 80)  # several rows of shards
    store = make_saliency_store(tmp_path / "s.zarr", tall, stride_px=1)
    stitch_slide(store, tmp_path / "a.ome.zarr")
    stitch_slide(store, tmp_path / "b.ome.zarr", engine=EngineConfig(workers=2))
    assert folder_digest(tmp_path / "a.ome.zarr") == folder_digest(tmp_path / "b.ome.zarr")


@pytest.mark.parametrize("finer", [2, 4])
def test_a_map_finer_than_saliency_by_a_whole_factor_repeats_its_pixels(
    tmp_path: Path, finer: int
) -> None:
    """Weights are 1 there, too: the values were once added as they are, to twice as many pixels."""
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 64, 3, 2)
    store = make_saliency_store(tmp_path / "s.zarr", grid, size=SizePx(192, 128), seed=3)
    maps = []
    for name, mpp in (("coarse", 2.0), ("fine", 2.0 / finer)):
        path = tmp_path / f"{name}.ome.zarr"
        stitch_slide(store, path, StitchConfig(mpp=mpp, weighting="none"))
        maps.append(SlideMap(path).read("saliency"))
    coarse, fine = maps
    assert fine.shape == (coarse.shape[0] * finer, coarse.shape[1] * finer)
    np.testing.assert_allclose(fine, np.kron(coarse, np.ones((finer, finer))), rtol=1e-5)

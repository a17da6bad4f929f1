"""Stores of overlapping patches hold each pixel once, and give the same patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from drawn_slides import draw_slide
from hypothesis import given
from hypothesis import strategies as st
from test_extractor import ArraySlide

from pathology_scaat.errors import StoreError
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx, plan_grid, plan_read
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.patches.blocks import MAX_BLOCKS_PER_SIDE, block_side_px, plan_blocks
from pathology_scaat.patches.extractor import PatchExtractor
from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
from pathology_scaat.patches.writer import PatchStoreWriter


@given(st.integers(1, 400), st.integers(1, 500))
def test_a_block_divides_patch_and_step(patch: int, step: int) -> None:
    side = block_side_px(patch, step)
    if side is None:
        assert step >= patch or patch // np.gcd(patch, step) > MAX_BLOCKS_PER_SIDE
    else:
        assert patch % side == step % side == 0
        assert patch // side <= MAX_BLOCKS_PER_SIDE


@given(
    st.sampled_from([(64, 32), (96, 64), (64, 48), (60, 45), (64, 16)]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 1 << 20),
)
def test_blocks_of_a_patch_cover_it_and_nothing_else(
    sizes: tuple[int, int], n_cols: int, n_rows: int, seed: int
) -> None:
    patch, step = sizes
    side = block_side_px(patch, step)
    assert side is not None
    grid = PatchGrid(3.5, 7.25, 2.0, patch, step, n_cols, n_rows)
    index = grid.all_indices()
    index = index[np.random.default_rng(seed).random(len(index)) < 0.6]
    plan = plan_blocks(grid, index, side)
    per_side = patch // side
    assert len(np.unique(plan.index, axis=0)) == len(plan.index)
    assert set(plan.patch_blocks.reshape(-1).tolist()) == set(range(len(plan.index)))
    for (col, row), blocks in zip(index.tolist(), plan.patch_blocks, strict=True):
        expected = [
            (col * step // side + x, row * step // side + y)
            for y in range(per_side)
            for x in range(per_side)
        ]
        assert [tuple(pair) for pair in plan.index[blocks].tolist()] == expected
    corner = plan.grid.exact_origins_px(plan.index)
    if len(index):
        assert np.array_equal(corner[plan.patch_blocks[:, 0]], grid.exact_origins_px(index))


@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.1])
@pytest.mark.parametrize("sizes", [(32, 16), (48, 32), (32, 24)])
def test_patches_from_blocks_are_the_patches_extracted_one_by_one(
    tmp_path: Path, mpp: float, sizes: tuple[int, int]
) -> None:
    """Also where tiles cannot be decoded: the same patches are left out."""
    patch, step = sizes
    slide = ArraySlide((230, 170), 40, frozenset({(2, 1)}), frozenset({(4, 3)}))
    plan = plan_read(0.5, (1.0,), mpp)
    grid = plan_grid(BoxPx(5, 3, 220, 160), plan, patch, step)
    index = grid.all_indices()
    whole: list[np.ndarray] = []
    with PatchExtractor(slide, plan, grid) as extractor:
        readable = extractor.extract(index, np.copy, whole.append)
    side = block_side_px(patch, step)
    assert side is not None
    blocks = plan_blocks(grid, index, side)
    path = tmp_path / "a.zarr"
    with (
        PatchStoreWriter(path, len(blocks.index), side, as_blocks=True, shard_bytes=9000) as writer,
        PatchExtractor(slide, plan, blocks.grid) as extractor,
    ):
        moved = blocks.where(extractor.extract(blocks.index, writer.append, lambda _: None))
        kept = (moved >= 0).all(axis=1)
        n = int(kept.sum())
        writer.finish(
            meta_of(grid, side), grid_index=index[kept], tissue_fraction=np.ones(n),
            label=np.full(n, -1), label_coverage=np.zeros((n, 0)), patch_blocks=moved[kept],
        )  # fmt: skip
    assert np.array_equal(kept, readable)
    store = PatchStore(path)
    assert len(store) == len(whole)
    assert np.array_equal(store.read(slice(None)), np.stack(whole))
    order = np.random.default_rng(0).permutation(n)
    assert np.array_equal(store.read(order), np.stack(whole)[order])
    assert np.array_equal(store.patches[3:9, :, 2:5].compute(), np.stack(whole)[3:9, :, 2:5])


def meta_of(grid: PatchGrid, side: int | None) -> PatchStoreMeta:
    return PatchStoreMeta(
        slide_id="a", slide_fingerprint="0" * 64, fingerprint="1" * 64,
        slide=SlideGeometry(SizePx(230, 170), 0.5, "slide"), grid=grid, requested_mpp=0.5,
        effective_mpp=0.5, level_read=0, block_size_px=side,
    )  # fmt: skip


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "s.tiff"
    draw_slide(path, 1)
    return path


def tiled(slide: Path, out: Path, overlap: str) -> PatchStore:
    config = TileConfig(mpp=0.5, patch_size_px=64, overlap=overlap)
    tile_slide(TileJob(slide, "s", out / "s.zarr", config))
    return PatchStore(out / "s.zarr")


def size_bytes(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def test_half_overlap_costs_no_more_than_a_tenth(tmp_path: Path) -> None:
    """On a slide where the rim, which more overlapping patches reach, weighs little."""
    slide = tmp_path / "large.tiff"
    draw_slide(slide, 1, side_px=3072)
    plain, overlapping = tiled(slide, tmp_path / "0", "0"), tiled(slide, tmp_path / "5", "0.5")
    assert len(overlapping) > 3.5 * len(plain)
    assert size_bytes(tmp_path / "5") <= 1.1 * size_bytes(tmp_path / "0")
    assert plain.meta.schema_version == 1
    assert overlapping.meta.schema_version == 2
    # A patch that both grids hold has the same pixels.
    here = {tuple(o): i for i, o in enumerate(overlapping.origins_px.tolist())}
    shared = [(i, here[tuple(o)]) for i, o in enumerate(plain.origins_px.tolist())]
    assert np.array_equal(
        plain.read([i for i, _ in shared]), overlapping.read([j for _, j in shared])
    )


def test_any_zarr_library_reads_the_blocks(slide: Path, tmp_path: Path) -> None:
    """The two lines that the documentation gives."""
    store = tiled(slide, tmp_path, "0.5")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    blocks, patch_blocks = group["blocks"], group["patch_blocks"][:]
    k = int(np.sqrt(patch_blocks.shape[1]))
    side = blocks.shape[1]
    rows = np.asarray(blocks[:])[patch_blocks[5]].reshape(k, k, side, side, 3)
    patch = rows.swapaxes(1, 2).reshape(k * side, k * side, 3)
    assert np.array_equal(patch, store.read([5])[0])
    assert isinstance(store.patches, da.Array)


def test_blocks_that_do_not_belong_to_the_patches_are_refused(slide: Path, tmp_path: Path) -> None:
    from pathology_scaat.patches.writer import write_columns

    tiled(slide, tmp_path, "0.5")
    path = tmp_path / "s.zarr"
    wrong = PatchStore(path)._column("patch_blocks") + 10_000
    write_columns(path, {"patch_blocks": (wrong, "int32")})
    with pytest.raises(StoreError, match="blocks"):
        PatchStore(path).read([0])


def test_attributes_without_a_possible_block_size_are_damaged() -> None:
    grid = PatchGrid(0, 0, 1, 64, 32, 2, 2)
    good = meta_of(grid, 32).to_attributes()
    assert PatchStoreMeta.from_attributes(good, "a").block_size_px == 32
    for value in (0, 31, None, "x"):
        with pytest.raises(StoreError, match="damaged"):
            PatchStoreMeta.from_attributes({**good, "block_size_px": value}, "a")
    plain = replace(meta_of(grid, None)).to_attributes()
    assert "block_size_px" not in plain

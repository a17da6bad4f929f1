"""Applied without a store of pixels: the same maps, bit for bit, and nothing lost on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from drawn_slides import draw_slide, halves, write_annotations
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.errors import SlideReadError, StoreError
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.patches.extractor import PatchExtractor
from pathology_scaat.saliency import ExplainConfig, explain_slide
from pathology_scaat.saliency.sources import (
    SlidePatches,
    StoredPatches,
    patch_source,
)
from pathology_scaat.verify.stores import check_patches, check_saliency


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    draw_slide(folder / "a.tiff", 1, 500, tile_px=64)
    write_annotations(folder / "a.geojson", halves(500))
    return folder / "a.tiff"


def jobs(slide: Path, folder: Path, **options: object) -> tuple[TileJob, TileJob]:
    """One slide into a store with pixels, and into one without."""
    config = TileConfig.model_validate(
        {"patch_size_px": 32, "mpp": 1.0, "class_names": ("Normal", "Tumor"), **options}
    )
    job = TileJob(
        slide, "a", folder / "kept/a.zarr", config, annotation_path=slide.with_suffix(".geojson")
    )
    store_path = folder / "positions/a.zarr"
    return job, dataclasses.replace(job, store_path=store_path, keep_pixels=False)


def content(store: Path) -> dict[str, bytes]:
    return {
        f.relative_to(store).as_posix(): f.read_bytes() for f in store.rglob("*") if f.is_file()
    }


@settings(max_examples=8)
@given(
    mpp=st.sampled_from([0.5, 1.0, 1.37]),
    side=st.sampled_from([32, 40, 64]),
    overlap=st.sampled_from(["0", "0.25", "0.5", "7px"]),
    size=st.integers(1, 50),
)
def test_the_slide_gives_what_the_store_gives(
    slide: Path, tmp_path_factory: pytest.TempPathFactory, mpp: float, side: int, overlap: str,
    size: int,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("both")
    kept, without_pixels = jobs(slide, folder, mpp=mpp, patch_size_px=side, overlap=overlap)
    first, second = tile_slide(kept), tile_slide(without_pixels)
    assert first.fingerprint == second.fingerprint
    with_pixels, without = PatchStore(kept.store_path), PatchStore(without_pixels.store_path)
    assert len(without) == len(with_pixels) > 0
    for name in ("grid_index", "origins_px", "tissue_fraction", "labels", "label_coverage"):
        assert np.array_equal(getattr(without, name), getattr(with_pixels, name))
    read = list(StoredPatches(with_pixels).batches(size))
    cut = list(SlidePatches(without, without_pixels).batches(size))
    assert [len(b) for b in read] == [len(b) for b in cut]
    assert all(np.array_equal(a, b) for a, b in zip(read, cut, strict=True))


def test_maps_are_the_same_bytes(slide: Path, tmp_path: Path, run_folder) -> None:
    kept, without_pixels = jobs(slide, tmp_path, overlap="0.5")
    tile_slide(kept)
    tile_slide(without_pixels)
    run_folder.save_model(run_folder.model, 0, mpp=1.0)
    made = []
    for job in (kept, without_pixels):
        out = tmp_path / f"{Path(job.store_path).parent.name}-saliency.zarr"
        result = explain_slide(
            Path(job.store_path), run_folder.model, out, ExplainConfig(batch_size=7), "cpu",
            slide=job,
        )  # fmt: skip
        assert not result.skipped
        made.append(content(out))
        patches, problems, _ = check_patches(Path(job.store_path), "a", deep=True)
        assert problems == []
        assert check_saliency(out, "a", patches, deep=True)[1] == []
    assert made[0] == made[1]
    stored = sum(
        f.stat().st_size for f in Path(without_pixels.store_path).rglob("*") if f.is_file()
    )
    assert stored < 0.05 * sum(len(c) for c in content(Path(kept.store_path)).values())


def test_without_the_slide_it_says_what_to_do(slide: Path, tmp_path: Path, run_folder) -> None:
    _, without_pixels = jobs(slide, tmp_path)
    tile_slide(without_pixels)
    store = PatchStore(without_pixels.store_path)
    with pytest.raises(StoreError, match="keep-patches"):
        store.read([0])
    with pytest.raises(StoreError, match="holds no pixels"):
        patch_source(store, None)
    # Asked for its pixels, tiling adds them; without being asked it leaves them.
    with_pixels = dataclasses.replace(without_pixels, keep_pixels=True)
    assert not tile_slide(with_pixels).skipped
    assert len(PatchStore(without_pixels.store_path).read([0])) == 1
    assert tile_slide(without_pixels).skipped
    assert PatchStore(without_pixels.store_path).meta.has_pixels


def test_a_slide_that_changed_in_between_is_refused(
    slide: Path, tmp_path: Path, run_folder
) -> None:
    _, without_pixels = jobs(slide, tmp_path)
    tile_slide(without_pixels)
    draw_slide(tmp_path / "b.tiff", 2, 500, tile_px=64)
    other = dataclasses.replace(without_pixels, slide_path=tmp_path / "b.tiff")
    with pytest.raises(SlideReadError, match="changed since"):
        list(SlidePatches(PatchStore(without_pixels.store_path), other).batches(8))


def test_who_asks_for_no_more_ends_the_reading(slide: Path, tmp_path: Path) -> None:
    _, without_pixels = jobs(slide, tmp_path)
    tile_slide(without_pixels)
    batches = SlidePatches(PatchStore(without_pixels.store_path), without_pixels).batches(2)
    next(batches)
    batches.close()  # joins the thread


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_unreadable_patches_are_left_out_as_from_a_store(
    slide: Path, tmp_path: Path, run_folder, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, without_pixels = jobs(slide, tmp_path, max_unreadable_share=share, mpp=0.5)
    tile_slide(without_pixels)
    fill = PatchExtractor._fill

    def damaged(self: PatchExtractor, patch: object, col: int, row: int) -> bool:
        return (col, row) != (4, 3) and fill(self, patch, col, row)

    monkeypatch.setattr(PatchExtractor, "_fill", damaged)
    run_folder.save_model(run_folder.model, 0, mpp=0.5)

    def explained(job: TileJob, name: str):
        return explain_slide(
            Path(job.store_path), run_folder.model, tmp_path / name, device="cpu", slide=job
        )

    if share == 0:
        with pytest.raises(SlideReadError, match=r"1 of .* cannot be decoded"):
            explained(without_pixels, "b.zarr")
        assert not (tmp_path / "b.zarr").exists()
        return
    tile_slide(kept)
    explained(kept, "a.zarr")
    result = explained(without_pixels, "b.zarr")
    assert result.n_unreadable == 1
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")
    store = PatchStore(without_pixels.store_path)
    assert store.meta.n_unreadable == 1
    assert np.array_equal(store.grid_index, PatchStore(kept.store_path).grid_index)
    assert tile_slide(without_pixels).skipped

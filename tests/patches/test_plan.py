"""A job is planned before it is begun, told in one line, and refused where it cannot fit."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from drawn_slides import draw_slide
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import StoreError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.patches.plan import (
    TilePlan,
    check_disk_space,
    grid_of,
    plan_tiling,
)
from pathology_scaat.pipeline.reporting import Silent
from pathology_scaat.pipeline.tile import tile
from pathology_scaat.system.amounts import in_bytes, in_time

Usage = namedtuple("Usage", "total used free")


class Listener(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def jobs(folder: Path, config: TileConfig, n_slides: int = 2) -> list[TileJob]:
    made = []
    for number in range(n_slides):
        path = folder / f"s{number}.tiff"
        draw_slide(path, seed=number, side_px=352)
        made.append(TileJob(path, path.stem, folder / f"{path.stem}.zarr", config))
    return made


def test_the_grid_is_the_one_that_is_tiled(tmp_path: Path) -> None:
    config = TileConfig(mpp=1.0, patch_size_px=32, overlap="0.5", min_tissue=0.0)
    job = jobs(tmp_path, config, 1)[0]
    tile_slide(job)
    grid = PatchStore(tmp_path / "s0.zarr").meta.grid
    assert grid_of(job) == (grid.n_patches, 2.0)


def test_slides_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    config = TileConfig(mpp=0.5, patch_size_px=64)
    made = jobs(tmp_path, config)
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    made.append(TileJob(tmp_path / "bad.svs", "bad", tmp_path / "bad.zarr", config))
    plan = plan_tiling(made, config)
    assert plan.n_slides == 3
    assert plan.n_unusable == 1
    assert plan.n_grid == sum(grid_of(job)[0] for job in made[:2])
    assert "1 of which cannot be used" in check_disk_space(plan, tmp_path)


@given(st.integers(0, 10**15))
def test_numbers_for_people(n: int) -> None:
    text = in_bytes(n)
    assert text.split()[1] in ("bytes", "kB", "MB", "GB", "TB", "PB")
    number, unit = in_time(n / 1e6).split()
    assert unit.removesuffix("s") in ("second", "minute", "hour", "day")
    assert unit.endswith("s") == (number != "1")


def test_the_run_shows_its_plan_once(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    config = TileConfig(mpp=0.5, patch_size_px=64)
    jobs(tmp_path / "slides", config)
    listener = Listener()
    engine = EngineConfig(workers=0)
    manifest = Manifest.from_folder(tmp_path / "slides")
    tile(manifest, tmp_path / "out", config=config, engine=engine, reporter=listener)
    shown = [note for note in listener.notes if note.startswith("plan: 2 slides, about")]
    assert len(shown) == 1
    # the time is that of the pixels alone: a run with a model takes many times that
    assert shown[0].endswith("of one core, what a model computes comes on top")
    listener.notes.clear()  # all is there already: nothing is planned
    tile(manifest, tmp_path / "out", config=config, engine=engine, reporter=listener)
    assert not any(note.startswith("plan:") for note in listener.notes)


def test_a_full_disk_stops_the_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slides").mkdir()
    config = TileConfig(mpp=0.5, patch_size_px=64, overlap="0.98")
    jobs(tmp_path / "slides", config)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(StoreError, match="the disk does not hold this job"):
        tile(Manifest.from_folder(tmp_path / "slides"), tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_a_slide_that_does_not_fit_is_refused_before_its_first_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs(tmp_path, TileConfig(mpp=0.5, patch_size_px=64, overlap="0.9"), 1)[0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 10**5, 10**5))
    with pytest.raises(StoreError, match=r"its [\d,]+ patches take at least"):
        tile_slide(job)
    assert not Path(job.store_path).exists()


def test_a_plan_of_many_slides_says_so() -> None:
    plan = TilePlan(1_000, 1_000_000, 256, 1.0, 63)
    assert "1,000 slides (by 63 of them)" in plan.sentence(10**12)
    assert plan.least_bytes < plan.expected_bytes

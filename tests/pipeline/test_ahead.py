"""Slides are stitched and exported while others are explained: same bytes, same counts, nothing
left behind.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from saliency_fixtures import RunFolder

from pathology_scaat.artifacts.run_log import stage_times
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.execution import local_pool
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.execution.local_pool import StartedWorkers
from pathology_scaat.export import ExportConfig
from pathology_scaat.pipeline import ahead as module
from pathology_scaat.pipeline.ahead import Ahead, ahead_job_of, helpers_for
from pathology_scaat.pipeline.config import RunConfig
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.reporting import Silent
from pathology_scaat.pipeline.run import run
from pathology_scaat.pipeline.stitch import stitch
from pathology_scaat.stitching import StitchConfig

HERE = EngineConfig(workers=0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_stitched_beside_explaining(run_folder: RunFolder) -> None:
    out = run_folder.out
    for seed, name in enumerate(("whole", "damaged")):
        run_folder.add_slide(name, n=8, seed=seed)
    with Ahead(ahead_job_of(out, StitchConfig(), False), 1) as ahead:

        def ready(slide_id: str) -> None:
            if slide_id == "damaged":  # between the stages, as a failing disk may
                (out / "saliency/damaged.zarr/zarr.json").write_text("{}", encoding="utf-8")
            ahead.ready(slide_id)

        explained = explain(out, device="cpu", engine=HERE, on_done=ready)
        made, exported = ahead.finish()
    assert (made, exported) == ({"whole"}, frozenset())
    beside = files_of(out / "maps")
    report = stitch(out, engine=HERE, slide_ids=explained.usable, overwrite=True, made_ahead=made)
    assert (report.done, report.skipped, set(report.failed)) == (["whole"], [], {"damaged"})
    assert files_of(out / "maps") == beside
    states = {row["slide_id"]: row["stitch"] for row in StatusTable(out).rows()}
    assert states == {"whole": "done", "damaged": "failed"}
    again = stitch(out, engine=HERE, slide_ids=["whole"], overwrite=True)
    assert (again.done, files_of(out / "maps")) == (["whole"], beside)
    assert stitch(out, engine=HERE, slide_ids=["whole"]).skipped == ["whole"]


def test_an_interruption_ends_the_processes(run_folder: RunFolder) -> None:
    run_folder.add_slide("s", n=8)
    explain(run_folder.out, device="cpu", engine=HERE)
    with (  # noqa: PT012  (the interruption comes in the middle of the block)
        pytest.raises(KeyboardInterrupt),
        Ahead(ahead_job_of(run_folder.out, StitchConfig(), False), 1) as ahead,
    ):
        ahead.ready("s")
        raise KeyboardInterrupt
    assert not list((run_folder.out / "maps").glob("*.partial-*"))
    assert stitch(run_folder.out, engine=HERE).usable == ("s",)


def test_only_beside_gpus_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 16)
    assert helpers_for(None, "cpu") == 0
    monkeypatch.setattr(module, "gpu_count", lambda device: 2)
    monkeypatch.setattr(module, "processes_on_gpu", lambda device: 2)
    assert helpers_for(None, "auto") == 8
    assert helpers_for(EngineConfig(workers=2), "auto") == 0
    assert helpers_for(EngineConfig(scheduler="tcp://host:1"), "auto") == 0
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    assert helpers_for(None, "cuda") == 0
    with Ahead(lambda slide_id: pytest.fail("nothing is to be made"), 0) as ahead:
        assert ahead.finish() == (frozenset(), frozenset())


class Looking(Silent):
    """Notes which slides are exported whenever one is explained; may end the run there."""

    def __init__(self, out: Path, on_explained: Callable[[int], None] | None = None) -> None:
        self._out, self._on_explained = out, on_explained
        self.seen: list[list[str]] = []

    def advance(self, stage: str, text: str = "") -> None:
        if stage == "explain":
            self.seen.append(sorted(p.stem for p in (self._out / "overlays").glob("s?.json")))
            if self._on_explained is not None:
                self._on_explained(len(self.seen))


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A model, and three small slides that it is to be applied to."""
    folder = tmp_path_factory.mktemp("applied")
    RunFolder(folder, patch_px=64)
    for number in range(3):
        rng = np.random.default_rng(number)
        image = np.full((224, 224, 3), 244, np.uint8)
        image[32:192, 32:192] = np.array([190, 110, 160]) + rng.integers(0, 30, (160, 160, 1))
        write_tiff(folder / "slides" / f"s{number}.tiff", image)
    return RunConfig(
        manifest=folder / "slides", out=folder / "out", model=folder / "model", device="cpu",
        engine=HERE, export={"formats": ["geojson", "csv"]},
    )  # fmt: skip


def write_tiff(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(
        path, image, tile=(128, 128), photometric="rgb", resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip


RESULTS = ("maps", "overlays")


@pytest.fixture(scope="module")
def after_each_other(applied: RunConfig) -> dict[str, dict[str, bytes]]:
    """The results where every stage waits for the one before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ahead, "ready", lambda self, slide_id: None)
        looking = Looking(applied.out)
        assert run(applied, reporter=looking).completed == ("s0", "s1", "s2")
    assert looking.seen == [[], [], []]
    return {name: files_of(applied.out / name) for name in RESULTS}


def test_exported_while_the_last_slide_is_not_explained_yet(
    applied: RunConfig, after_each_other: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    looking = Looking(out)
    report = run(applied.model_copy(update={"out": out}), reporter=looking)
    assert looking.seen == [[], ["s0"], ["s0", "s1"]]
    assert {name: files_of(out / name) for name in RESULTS} == after_each_other
    assert [(s.stage, s.done, s.skipped) for s in report.stages[-2:]] == [
        (stage, ["s0", "s1", "s2"], []) for stage in ("stitch", "export")
    ]
    made = {stage: found.n_slides for stage, found in stage_times(out).items()}
    assert made == {"tile": 3, "explain": 3, "stitch": 3, "export": 3}
    again = run(applied.model_copy(update={"out": out}), overwrite=True)
    assert again.stages[-1].done == ["s0", "s1", "s2"]
    assert {name: files_of(out / name) for name in RESULTS} == after_each_other


def test_processes_that_explain_are_started_before_slides_are_tiled(
    applied: RunConfig,
    after_each_other: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a GPU explains; here by the processor."""
    begun = []

    class Noted(StartedWorkers):
        def __init__(self, processes: int, function: Callable[[object], None], job: object) -> None:
            begun.append((processes, any((tmp_path / "out/patches").glob("*.zarr"))))
            super().__init__(processes, function, job)

    monkeypatch.setattr(local_pool, "StartedWorkers", Noted)
    monkeypatch.setattr(sys.modules[explain.__module__], "gpu_count", lambda device: 1)
    engine = EngineConfig(workers=1)
    run(applied.model_copy(update={"out": tmp_path / "out", "engine": engine}))
    assert begun == [(1, False)]
    assert {name: files_of(tmp_path / "out" / name) for name in RESULTS} == after_each_other


def test_ended_in_between_and_run_again(
    applied: RunConfig, after_each_other: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = applied.model_copy(update={"out": out})

    def end(n_explained: int) -> None:
        if n_explained == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, reporter=Looking(out, end))
    assert [p.name for p in out.rglob("*") if ".partial-" in p.name or p.suffix == ".lease"] == []
    assert not (out / "overlays/index.html").exists()
    states = {row["slide_id"]: (row["explain"], row["export"]) for row in StatusTable(out).rows()}
    assert (states["s0"], states["s2"]) == (("done", "pending"), ("pending", "pending"))
    report = run(config)
    assert (report.stages[-1].skipped, report.stages[-1].done) == (["s0"], ["s1", "s2"])
    assert {name: files_of(out / name) for name in RESULTS} == after_each_other


def test_a_failure_is_told_by_its_stage(applied: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(applied.manifest, tmp_path / "slides")
    config = applied.model_copy(update={"out": tmp_path / "out", "manifest": tmp_path / "slides"})

    def lose(n_explained: int) -> None:
        (tmp_path / "slides/s0.tiff").unlink(missing_ok=True)

    report = run(config, reporter=Looking(config.out, lose))
    assert [list(stage.failed) for stage in report.stages] == [[], [], [], ["s0"]]
    row = StatusTable(config.out).rows()[0]
    assert (row["stitch"], row["export"]) == ("done", "failed")
    assert report.completed == ("s1", "s2")


def test_what_hangs_on_other_slides_waits_for_them(applied: RunConfig, tmp_path: Path) -> None:
    rows = [ManifestRow(tmp_path / f"{s}.tiff", s, p) for s, p in ("aA", "bB", "cB")]
    some = {"cohort": Manifest(tuple(rows)), "model": applied.model}

    def exported(formats: tuple[str, ...], **changes: object) -> list[str]:
        job_of = ahead_job_of(
            tmp_path, StitchConfig(), False, export=ExportConfig(formats=formats),
            **{**some, **changes},
        )  # fmt: skip
        return [s for s in "abc" if job_of(s).export is not None]

    assert exported(("geojson",)) == ["a"]  # a patient's slides are judged together
    assert exported(("geojson", "dicom-sr")) == []  # tells the score from the table
    assert exported(("geojson",), model=None) == []  # validation slides calibrate

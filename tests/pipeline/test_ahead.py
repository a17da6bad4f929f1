"""Slides are stitched while others are explained: same bytes, same counts, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from saliency_fixtures import RunFolder

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline import ahead as module
from pathology_scaat.pipeline.ahead import Ahead, helpers_for
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.stitch import stitch, stitch_job_of
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
    with Ahead(stitch_job_of(out, StitchConfig(), False), 1) as ahead:

        def ready(slide_id: str) -> None:
            if slide_id == "damaged":  # between the stages, as a failing disk may
                (out / "saliency/damaged.zarr/zarr.json").write_text("{}", encoding="utf-8")
            ahead.ready(slide_id)

        explained = explain(out, device="cpu", engine=HERE, on_done=ready)
        made = ahead.finish()
    assert made == {"whole"}
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
        Ahead(stitch_job_of(run_folder.out, StitchConfig(), False), 1) as ahead,
    ):
        ahead.ready("s")
        raise KeyboardInterrupt
    assert not list((run_folder.out / "maps").glob("*.partial-*"))
    assert stitch(run_folder.out, engine=HERE).usable == ("s",)


def test_only_beside_gpus_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 16)
    assert helpers_for(None, "cpu") == 0
    monkeypatch.setattr(module, "gpu_count", lambda device: 2)
    assert helpers_for(None, "auto") == 8
    assert helpers_for(EngineConfig(workers=2), "auto") == 0
    assert helpers_for(EngineConfig(scheduler="tcp://host:1"), "auto") == 0
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    assert helpers_for(None, "cuda") == 0
    with Ahead(lambda slide_id: pytest.fail("nothing is to be made"), 0) as ahead:
        ahead.ready("s")
        assert ahead.finish() == frozenset()

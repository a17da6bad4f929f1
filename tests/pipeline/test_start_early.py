"""Processes for GPUs load the model while slides are tiled, and explain then: the same bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from saliency_fixtures import RunFolder

from pathology_scaat.execution import local_pool
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.pipeline.explain import explain, start_early
from pathology_scaat.saliency.arithmetic import kept_for_explaining
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.saliency.explain_job import GetReadyJob, get_ready

module = sys.modules[explain.__module__]


@pytest.fixture
def two_slides(run_folder: RunFolder) -> RunFolder:
    for seed in range(2):
        run_folder.add_slide(f"s{seed}", n=8, seed=seed)
    return run_folder


@pytest.fixture
def as_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """Two processes explain, as on a large GPU; what was started, and for which job."""
    monkeypatch.setattr(module, "gpu_count", lambda device: 1)
    monkeypatch.setattr(module, "processes_on_gpu", lambda device: 2)
    started: list[tuple[int, Any]] = []

    class Noted(local_pool.StartedWorkers):
        def __init__(self, processes: int, function: Any, job: Any) -> None:
            started.append((processes, job))
            super().__init__(processes, function, job)

    monkeypatch.setattr(local_pool, "StartedWorkers", Noted)
    return started


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_bytes(two_slides: RunFolder, as_with_a_gpu: list[tuple[int, Any]]) -> None:
    out = two_slides.out
    explain(out, device="cpu", engine=EngineConfig(workers=0))
    alone = bytes_of(out / "saliency")
    ids = ["s0", "s1"]
    with start_early(out, out / "model", ids, device="cpu") as started:
        assert started is None  # both are there
    with start_early(out, out / "model", ids, device="cpu", overwrite=True) as started:
        assert started is not None
        report = explain(out, device="cpu", overwrite=True, started=started)
        assert started.take() is None
    assert sorted(report.done) == ids
    assert bytes_of(out / "saliency") == alone
    assert as_with_a_gpu == [(2, GetReadyJob(out / "model", ExplainConfig(), "cpu"))]


@pytest.mark.usefixtures("as_with_a_gpu")
@pytest.mark.parametrize("engine", [{"scheduler": "tcp://host:1"}, {"workers": 0}])
def test_not_where_others_explain(two_slides: RunFolder, engine: dict[str, Any]) -> None:
    config = EngineConfig.model_validate(engine)
    out = two_slides.out
    with start_early(out, out / "model", ["s0"], device="cpu", engine=config) as started:
        assert started is None


def test_not_without_a_gpu(two_slides: RunFolder) -> None:
    out = two_slides.out
    with start_early(out, out / "model", ["s0"], device="cpu") as started:
        assert started is None


def test_a_slide_finds_the_model_loaded(two_slides: RunFolder) -> None:
    """The model is asked for in the same words before slides are known, and after."""
    out = two_slides.out
    kept_for_explaining.cache_clear()
    get_ready(GetReadyJob(out / "model", ExplainConfig(), "cpu"))
    assert kept_for_explaining.cache_info().misses == 1
    explain(out, device="cpu", engine=EngineConfig(workers=0))
    assert kept_for_explaining.cache_info().misses == 1
    assert kept_for_explaining.cache_info().hits == 2

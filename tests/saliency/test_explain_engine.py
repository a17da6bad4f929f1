"""Explaining runs on any engine, one bundle load per process, and gives the same bytes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import distributed
import pytest
import torch
from saliency_fixtures import RunFolder

from pathology_scaat.execution import devices, jobs
from pathology_scaat.execution.devices import gpu_count, job_device
from pathology_scaat.execution.engine import EngineConfig, map_jobs
from pathology_scaat.pipeline.explain import _engine_for, explain
from pathology_scaat.pipeline.reporting import StageReport
from pathology_scaat.saliency import ExplainConfig, arithmetic, batch_explainer
from pathology_scaat.saliency.batch_explainer import BatchExplainer
from pathology_scaat.saliency.explain_job import ExplainJob, explain_job

module = sys.modules[explain.__module__]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def three_slides(run_folder: RunFolder) -> Path:
    for seed in range(3):
        run_folder.add_slide(f"s{seed}", n=20, seed=seed)
    return run_folder.out


def test_the_same_bytes_on_every_engine(three_slides: Path) -> None:
    stores = {}
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", memory_limit=0, silence_logs=50,
    ) as cluster:  # fmt: skip
        for name, engine in {
            "here": EngineConfig(workers=0),
            "processes": EngineConfig(workers=2),
            "cluster": EngineConfig(scheduler=cluster.scheduler_address),
        }.items():
            shutil.rmtree(three_slides / "saliency", ignore_errors=True)
            report = explain(three_slides, device="cpu", engine=engine)
            assert report.done == sorted(report.done) or len(report.done) == 3
            assert not report.failed
            stores[name] = content(three_slides / "saliency")
    assert stores["here"] == stores["processes"] == stores["cluster"]


def test_the_number_of_threads_does_not_change_a_map(three_slides: Path) -> None:
    kept = torch.get_num_threads()
    maps = []
    try:
        for threads in (1, 2):
            job = ExplainJob(
                "s0", three_slides / "patches" / "s0.zarr", three_slides / "model",
                three_slides / "saliency" / f"{threads}.zarr", ExplainConfig(), "cpu",
            )  # fmt: skip
            result, error = jobs.guarded(explain_job, job, threads)
            assert error is None
            assert torch.get_num_threads() == threads
            maps.append(content(result.path))
    finally:
        torch.set_num_threads(kept)
    assert maps[0] == maps[1]


def test_a_process_loads_a_bundle_once(three_slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = arithmetic.load_bundle
    arithmetic.kept_for_explaining.cache_clear()
    monkeypatch.setattr(
        arithmetic, "load_bundle", lambda *a, **k: loaded.append(a) or real(*a, **k)
    )
    explain(three_slides, device="cpu", engine=EngineConfig(workers=0))
    assert len(loaded) == 1


def test_progress_of_a_job_reaches_the_one_who_asked(
    three_slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PROGRESS_EVERY_S", 0.0)
    heard: list[tuple[int, float]] = []
    job = ExplainJob(
        "s0", three_slides / "patches" / "s0.zarr", three_slides / "model",
        three_slides / "saliency" / "s0.zarr", ExplainConfig(batch_size=5), "cpu",
    )  # fmt: skip
    list(
        map_jobs(
            explain_job,
            [job],
            EngineConfig(workers=0),
            on_progress=lambda i, s: heard.append((i, s)),
        )
    )
    assert heard == [(0, 0.25), (0, 0.5), (0, 0.75), (0, 1.0)]


def test_gpus_are_shared_out_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(devices, "worker_number", lambda: 6)
    monkeypatch.setattr(devices, "_no_gpu_driver", lambda: False)
    assert job_device("cuda") == job_device("auto") == torch.device("cuda", 2)
    assert job_device("cuda:1") == torch.device("cuda", 1)
    assert (gpu_count("auto"), gpu_count("cuda:3"), gpu_count("cpu")) == (4, 1, 0)
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    memory = dict.fromkeys(range(4), 80 << 30)
    monkeypatch.setattr(devices, "_memory_to_share", memory.__getitem__)
    assert _engine_for(EngineConfig(), "auto").workers == 4
    # several processes take turns on a GPU, where there are the cores and the memory for them
    monkeypatch.setattr(devices, "usable_cores", lambda: 64)
    assert _engine_for(EngineConfig(), "auto").workers == 12
    assert _engine_for(EngineConfig(), "cuda:3").workers == 3
    memory[3] = 24 << 30
    assert _engine_for(EngineConfig(), "auto").workers == 8
    assert _engine_for(EngineConfig(), "cuda:3").workers == 2
    memory[3] = 0  # only one process may use it
    assert _engine_for(EngineConfig(), "auto").workers == 4
    assert _engine_for(EngineConfig(workers=7), "auto").workers == 7
    assert _engine_for(EngineConfig(), "cpu").workers is None


class Driver:
    """Stands for NVIDIA's library: a GPU of 80 GiB in a compute mode, or one that answers not."""

    def __init__(self, mode: int, code: int = 0) -> None:
        self.mode, self.code = mode, code
        self.asked: list[int] = []

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGet(self, device: object, number: int) -> int:
        self.asked.append(number)
        device._obj.value = 7  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: object) -> int:
        assert (attribute, device.value) == (20, 7)  # type: ignore[attr-defined]
        value._obj.value = self.mode  # type: ignore[attr-defined]
        return 0

    def cuDeviceTotalMem_v2(self, value: object, device: object) -> int:
        value._obj.value = 80 << 30  # type: ignore[attr-defined]
        return 0


def test_a_gpu_for_one_process_at_a_time_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(driver: Driver) -> int:
        monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: driver)
        found = devices._memory_to_share(3)
        assert driver.asked in ([3], [])
        return found

    assert memory(Driver(mode=0)) == 80 << 30
    assert memory(Driver(mode=3)) == 0
    assert memory(Driver(mode=0, code=100)) == 0

    def missing(name: str) -> object:
        raise OSError

    monkeypatch.setattr(devices.ctypes, "CDLL", missing)
    assert devices._memory_to_share(0) == 0


def test_a_process_alone_on_a_gpu_has_its_memory_alone(
    three_slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many processes this machine would start by itself."""
    monkeypatch.setattr(module, "gpu_count", lambda device: 2)
    monkeypatch.setattr(module, "processes_on_gpu", lambda device: 3)
    started: list[ExplainJob] = []

    def run_stage(stage: str, todo: object, function: object, jobs: list[ExplainJob],
                  *more: object, **named: object) -> StageReport:  # fmt: skip
        started.extend(jobs)
        return StageReport("explain")

    monkeypatch.setattr(module, "run_stage", run_stage)
    monkeypatch.setattr(module, "check_device", lambda *asked: None)

    def processes(device: str = "cuda", **engine: object) -> set[int | None]:
        started.clear()
        explain(three_slides, device=device, engine=EngineConfig.model_validate(engine))
        assert len(started) == 3
        return {job.processes for job in started}

    assert processes(workers=1) == processes(workers=2) == {1}
    assert processes(workers=9) == processes() == {2}  # three slides on two GPUs
    assert processes(scheduler="tcp://host:1") == {None}  # its machines decide that
    monkeypatch.setattr(module, "gpu_count", lambda device: 0)
    assert processes(device="cpu") == {1}


def test_the_batch_is_sized_by_who_shares_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_explainer, "processes_on_gpu", lambda name: 3)
    monkeypatch.setattr(batch_explainer, "PROBE", 1)
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1 << 20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (200 << 20, 200 << 20))
    explainer = BatchExplainer(torch.nn.Identity(), 0, ExplainConfig(), torch.device("cpu"))
    monkeypatch.setattr(explainer, "start", lambda patches: [])
    sizes = []
    for explainer.processes in (1, 3, None):
        sizes.append(explainer._fitting(64))
    assert sizes == [64, 32, 32]

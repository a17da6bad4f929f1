"""Jobs run here, in local processes and on a scheduler; one failure stops no other."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import distributed
import engine_jobs
import pytest

from pathology_scaat.errors import ConfigError, SlideOpenError, UsageError
from pathology_scaat.execution.engine import Beside, EngineConfig, map_jobs
from pathology_scaat.execution.job_queue import read_profile
from pathology_scaat.patches import TileConfig, TileJob, tile_slide

pytestmark = [
    # Worker processes that are killed leave sockets behind, which is what is tested.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import this folder's functions."""
    here = str(Path(__file__).parent)
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{known}" if known else here)


@pytest.mark.parametrize("workers", [0, 1])
def test_inline(workers: int) -> None:
    outcomes = list(map_jobs(engine_jobs.square, range(5), EngineConfig(workers=workers)))
    assert [o.result for o in outcomes] == [0, 1, 4, 9, 16]
    (only,) = map_jobs(engine_jobs.process, [0], EngineConfig(workers=workers))
    assert only.result == os.getpid()


def test_no_jobs() -> None:
    assert list(map_jobs(engine_jobs.square, [], EngineConfig(workers=4))) == []


def test_one_job_has_all_the_threads() -> None:
    (outcome,) = map_jobs(engine_jobs.threads, [0], EngineConfig(workers=3))
    assert outcome.result == 3


def test_errors_are_values() -> None:
    outcomes = {
        o.index: o for o in map_jobs(engine_jobs.troubled, [0, 1, 2], EngineConfig(workers=1))
    }
    assert outcomes[0].result == 0
    assert isinstance(outcomes[1].error, SlideOpenError)
    assert "ValueError" in str(outcomes[2].error)
    assert "secret" not in str(outcomes[2].error)


@pytest.mark.slow
def test_local_processes_and_one_that_dies() -> None:
    jobs = [0, 1, 2, 3, 4, 5, 6, 7]
    outcomes = {o.index: o for o in map_jobs(engine_jobs.troubled, jobs, EngineConfig(workers=2))}
    assert sorted(outcomes) == jobs
    assert [outcomes[i].result for i in (0, 4, 5, 6, 7)] == [0, 4, 5, 6, 7]
    assert isinstance(outcomes[1].error, SlideOpenError)
    assert "died" in str(outcomes[3].error)


def test_a_job_whose_worker_dies_is_tried_twice_and_no_other_is() -> None:
    outcomes = {o.index: o for o in map_jobs(engine_jobs.troubled, [3, 0], EngineConfig(workers=2))}
    assert outcomes[1].result == 0
    assert "died" in str(outcomes[0].error)


def test_nobody_can_connect_to_local_workers() -> None:
    outcomes = map_jobs(engine_jobs.listening, [0, 1], EngineConfig(workers=2))
    assert [o.result for o in outcomes] == [[], []]


def test_a_result_that_cannot_be_sent_is_an_error() -> None:
    outcomes = list(map_jobs(engine_jobs.unsendable, [0, 1], EngineConfig(workers=2)))
    assert all("unforeseen" in str(o.error) for o in outcomes)


def test_workers_that_are_ended_clean_up(tmp_path: Path) -> None:
    """Each of two jobs is ended by its worker's SIGTERM, and again when it is tried alone."""
    ended: set[int] = set()
    done = threading.Event()

    def end_workers() -> None:
        while not done.wait(0.05):
            for path in tmp_path.glob("began-*"):
                pid = int(path.name.split("-")[1])
                if pid not in ended:
                    ended.add(pid)
                    os.kill(pid, signal.SIGTERM)

    queue = threading.Thread(target=end_workers)
    queue.start()
    try:
        settings = EngineConfig(workers=2)
        outcomes = list(map_jobs(engine_jobs.waits_and_cleans_up, [tmp_path] * 2, settings))
    finally:
        done.set()
        queue.join()
    assert [str(o.error).count("its worker process died") for o in outcomes] == [1, 1], outcomes
    assert len(list(tmp_path.glob("cleaned-*"))) == 4


def test_a_job_that_is_tried_again_is_really_alone(tmp_path: Path) -> None:
    """Idle workers of the first pass would keep the memory that it died for."""
    jobs = [(tmp_path, number) for number in range(3)]
    outcomes = {
        o.index: o.result for o in map_jobs(engine_jobs.dies_once, jobs, EngineConfig(workers=3))
    }
    assert outcomes == {0: 0, 1: -1, 2: -1}


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_runs_out_is_one_sentence(workers: int) -> None:
    outcomes = list(map_jobs(engine_jobs.allocates, [1, 1 << 60], EngineConfig(workers=workers)))
    said = {o.index: o.error for o in outcomes}
    assert said[0] is None
    assert "ran out of memory" in str(said[1])


def test_workers_that_cannot_start_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/nowhere/at/all.py", raising=False)
    with pytest.raises(UsageError, match="no worker process can be started"):
        list(map_jobs(engine_jobs.square, [1, 2], EngineConfig(workers=2)))


@pytest.fixture
def cluster():  # type: ignore[no-untyped-def]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", memory_limit=0, silence_logs=50,
    ) as running:  # fmt: skip
        yield running


@pytest.mark.real
def test_a_cluster_that_loses_a_worker_ends_with_the_same_bytes(
    data_dir: Path,
    tmp_path: Path,
    cluster: distributed.LocalCluster,
) -> None:
    names = ("CMU-1-Small-Region.svs", "atlas_gastric_metaplasia_HE_20x.tiff")
    config = TileConfig(mpp=0.7, patch_size_px=128, overlap="0.5")

    def jobs(folder: str) -> list[TileJob]:
        return [
            TileJob(data_dir / "slides" / name, f"s{i}", tmp_path / folder / f"s{i}.zarr", config)
            for i, name in enumerate(names)
        ]

    fragile = [
        engine_jobs.FragileJob(job, tmp_path / "killed" if i == 1 else None)
        for i, job in enumerate(jobs("cluster"))
    ]
    settings = EngineConfig(scheduler=cluster.scheduler_address)
    outcomes = list(map_jobs(engine_jobs.tile_once_killed, fragile, settings))
    assert (tmp_path / "killed").exists()
    assert [o.error for o in outcomes] == [None, None]
    for job in jobs("here"):
        tile_slide(job)

    def content(folder: str) -> dict[str, bytes]:
        root = tmp_path / folder
        files = [p for p in root.rglob("*") if p.is_file() and ".partial-" not in str(p)]
        return {str(p.relative_to(root)): p.read_bytes() for p in files}

    assert content("cluster") == content("here")


def followed(settings: EngineConfig) -> tuple[list[object], list[object]]:
    """Results of jobs, and of the job that follows each of them beside the others."""
    beside = Beside()
    results = []
    for outcome in map_jobs(engine_jobs.square, range(10, 16), settings, beside=beside):
        results.append(outcome.result)
        beside.add(engine_jobs.troubled, outcome.result)
    assert all(error is None for _, error in beside.outcomes)
    return results, [result for result, _ in beside.outcomes]


SQUARES = [100, 121, 144, 169, 196, 225]


def test_jobs_beside_a_batch_are_done_between_its_own() -> None:
    done, beside = followed(EngineConfig(workers=0))
    assert (done, beside) == (SQUARES, SQUARES[:-1])  # none is begun when the batch is over
    done, beside = followed(EngineConfig(workers=2))
    assert sorted(done) == SQUARES
    assert set(beside) <= set(SQUARES)
    assert beside


def test_jobs_beside_a_batch_on_a_cluster(cluster: distributed.LocalCluster) -> None:
    done, beside = followed(EngineConfig(scheduler=cluster.scheduler_address))
    assert sorted(done) == sorted(beside) == SQUARES


def test_a_job_beside_a_batch_that_fails_or_kills_its_worker_costs_nothing_else() -> None:
    beside = Beside()
    done = []
    for outcome in map_jobs(
        engine_jobs.square, [7, 8, 9, 10, 11, 12], EngineConfig(workers=2), beside=beside
    ):
        done.append(outcome.result)
        if len(done) <= 3:
            beside.add(engine_jobs.troubled, len(done))  # 3 kills its worker
    assert sorted(done) == [49, 64, 81, 100, 121, 144]
    assert all(isinstance(error, Exception) for _, error in beside.outcomes)
    assert len(beside.outcomes) <= 2


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathology_scaat.execution.dask_cluster.CONNECT_TIMEOUT_S", 1)
    with pytest.raises(UsageError, match="no dask scheduler answers"):
        list(map_jobs(engine_jobs.square, [1], EngineConfig(scheduler="tcp://127.0.0.1:9")))


def test_scheduler_and_cluster_exclude_each_other(tmp_path: Path) -> None:
    both = EngineConfig(scheduler="tcp://127.0.0.1:9", cluster=tmp_path / "x.yaml")
    with pytest.raises(UsageError):
        list(map_jobs(engine_jobs.square, [1], both))


PROFILES = sorted((Path(__file__).parents[2] / "pipelines").glob("cluster-*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_make_job_scripts(path: Path) -> None:
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    from pathology_scaat.execution.job_queue import CLASSES

    profile = read_profile(path)
    queue = getattr(dask_jobqueue, CLASSES[profile.queue_system])
    with queue(**profile.options) as asked:
        script = asked.job_script()
    assert "distributed.cli.dask_worker" in script
    if path.stem.endswith("-gpu"):
        assert "--resources GPU=1" in script
        assert "#SBATCH --gres=gpu:1" in script
        assert "#SBATCH --cpus-per-task=8" in script
        assert "--nthreads 1" in script


@pytest.mark.parametrize(
    "text",
    [
        "",
        "queue_system: abacus",
        "queue_system: slurm\njobs: 0",
        "[1, 2",
        "queue_system: slurm\nx: 1",
    ],
)
def test_bad_profiles(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"profile\.yaml"):
        read_profile(path)


def test_a_local_cluster_is_protected_and_shows_its_dashboard() -> None:
    said: list[str] = []
    settings = EngineConfig(scheduler="local")
    outcomes = list(map_jobs(engine_jobs.square, [2, 3], settings, announce=said.append))
    assert sorted(o.result for o in outcomes) == [4, 9]
    assert len(said) == 1
    assert "dashboard" in said[0]
    assert "127.0.0.1" in said[0]


def test_an_unprotected_scheduler_is_reported(cluster: distributed.LocalCluster) -> None:
    said: list[str] = []
    settings = EngineConfig(scheduler=cluster.scheduler_address)
    assert [o.result for o in map_jobs(engine_jobs.square, [2], settings, announce=said.append)]
    assert ["not encrypted" in sentence for sentence in said] == [True]


def test_resources_are_heeded_where_a_worker_offers_them() -> None:
    """A cluster without GPUs is used as it is; one with some gives the jobs to those workers."""
    for offered, expected in (({}, None), ({"GPU": 1}, {"GPU": 1})):
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1",
            memory_limit=0, silence_logs=50, resources=offered,
        ) as running:  # fmt: skip
            settings = EngineConfig(scheduler=running.scheduler_address)
            outcomes = map_jobs(engine_jobs.restrictions, [0], settings, resources={"GPU": 1})
            assert [o.result for o in outcomes] == [expected]


def test_a_local_cluster_turns_strangers_away() -> None:
    """Its port can be reached by every user of the machine; its certificates only by us."""
    outcomes = map_jobs(engine_jobs.scheduler_address, [0, 1], EngineConfig(scheduler="local"))
    with contextlib.closing(outcomes):
        address = str(next(outcomes).result)  # the cluster runs until the last outcome
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises((OSError, TypeError)):
            distributed.Client(address.replace("tls://", "tcp://"), timeout=2)
        stranger = distributed.Security.temporary()
        with pytest.raises((OSError, TypeError, ValueError, RuntimeError)):
            distributed.Client(address, security=stranger, timeout=2)

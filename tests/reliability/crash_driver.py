"""Kill a run at random moments, look at what it left, run it again, compare bytes.

``python tests/reliability/crash_driver.py [KILL:20 TERM:3 ...] [--seed 0]`` prints one JSON line
a kill and a last one with the sums of each signal. The libraries are imported once and each run is
a fork of this process, so that a kill costs the work and not the imports; two kills are looked
into side by side, each in a folder of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also run as a script
from reliability_tools import digest, make_cohort

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES

LANES = 2

AFTER_TILE = ("model", "model.training", "saliency", "maps", "overlays")

MADE_BY: dict[str, tuple[str, ...]] = {
    "tile": (
        "patches",
        "tissue",
        "model",
        "model.training",
        "saliency",
        "maps",
        "overlays",
        "slides.csv",
    ),
    "train": AFTER_TILE,
    "explain": ("saliency", "maps", "overlays"),
    "stitch": ("maps", "overlays"),
    "export": ("overlays",),
}
"""What is taken away so that a run begins its work with a stage; first what the stage makes."""


def settings(manifest: Path, out: Path) -> Any:
    from pathology_scaat.pipeline.config import RunConfig

    return RunConfig.model_validate(
        {
            "manifest": manifest,
            "out": out,
            "device": "cpu",
            "tile": {"mpp": 1.0, "patch_size_px": 32, "overlap": "0.5"},
            # A narrow network: what is looked into is the files, not what they say.
            "train": {
                "epochs": 2, "batch_size": 16, "learning_rate": 1e-2,
                "backbone_options": {"widths": (8, 16)},
            },
            # Without the figures: they are put in their place like the rest, and drawing them
            # takes longer than everything else.
            "export": {"formats": ("geojson", "ome-tiff", "png", "csv")},
            "engine": {"workers": 0},
        }
    )  # fmt: skip


def start(manifest: Path, out: Path) -> int:
    """Fork a process that does the whole job; its pid. Exit codes are the command's."""
    polite = {signal.SIGTERM, signal.SIGINT}
    # What is sent before the command listens is kept for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, polite)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, polite)
        return pid
    code = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        from pathology_scaat.cli import listen, run_command
        from pathology_scaat.cli.common import print_run
        from pathology_scaat.pipeline.run import run

        def command() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, polite)
            print_run(run(settings(manifest, out)))

        signal.signal(signal.SIGINT, signal.default_int_handler)
        listen()
        code = run_command(command)
    finally:
        os._exit(code)


def finish(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def ended_within(pid: int, seconds: float) -> int | None:
    """The exit code of a process that ends by itself in time, else None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def prepare(good: Path, out: Path, stage: str) -> None:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(good, out)
    for name in MADE_BY[stage]:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if (out / "slides.csv").exists():
        gone = STAGES[STAGES.index(stage if stage != "train" else "explain") :]
        table = StatusTable(out)
        table.update_many(
            [(row["slide_id"], name, "pending", "", {}) for row in table.rows() for name in gone]
        )


def answer_of_a_fork(question: Callable[[], list[str]]) -> list[str] | None:
    """What a function says in a fork, None if it ends without a word.

    The libraries' threads must never exist in this process.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, json.dumps(question()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    finish(pid)
    answer: list[str] | None = json.loads(text) if text else None
    return answer


def faults_after_kill(out: Path) -> list[str]:
    """What is wrong in a folder whose run was killed, but for honest leftovers."""

    def look() -> list[str]:
        from pathology_scaat.errors import StoreError
        from pathology_scaat.verify import verify_run

        try:
            faults = [f"{f.artifact}: {f.message}" for f in verify_run(out) if not f.ok]
        except StoreError as error:
            faults = [error.problem]
        honest = ("left unfinished", "holds no results")
        return [f for f in faults if not any(h in f for h in honest)]

    found = answer_of_a_fork(look)
    return ["verify ended without a word"] if found is None else found


def one_kill(
    manifest: Path, good: Path, expected: dict[str, str], out: Path, stage: str,
    after_s: float, number: int,
) -> dict[str, Any]:  # fmt: skip
    prepare(good, out, stage)
    pid = start(manifest, out)
    code = ended_within(pid, after_s)
    if code is None:
        os.kill(pid, number)
        code = finish(pid)
    faults = faults_after_kill(out)
    left = [p.name for p in out.rglob("*.partial-*")]
    again = finish(start(manifest, out))
    found = digest(out)
    different = sorted(n for n in expected.keys() | found if expected.get(n) != found.get(n))
    return {
        "stage": stage, "after_s": round(after_s, 3), "exit": code, "faults": faults,
        "partials": len(left), "again": again, "different": different[:5],
        "left": sorted(p.name for p in [*out.rglob("*.partial-*"), *out.rglob("*.lease")]),
    }  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: its folder, its bytes, and seconds until each stage is done."""

    manifest: Path
    folder: Path
    digest: dict[str, str]
    stage_s: dict[str, float]


def latest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])


def undisturbed_run(folder: Path) -> Undisturbed:
    """Run the job twice: once to learn what it imports, once to learn how long it takes."""
    manifest, good = make_cohort(folder, side_px=256), folder / "good"
    import_all(modules_of_a_run(manifest, folder / "first"))
    end = time.time()
    if finish(start(manifest, good)) != 0:
        raise SystemExit("an undisturbed run failed")
    stage_s = {}
    for stage in MADE_BY:
        begin, end = end, latest(good / MADE_BY[stage][0])
        stage_s[stage] = end - begin
    # A run that finds work in a late stage has looked at the early ones first.
    begin = time.time()
    if finish(start(manifest, good)) != 0:
        raise SystemExit("a run with nothing to do failed")
    looking_s = time.time() - begin
    stage_s = {stage: looking_s + seconds for stage, seconds in stage_s.items()}
    return Undisturbed(manifest, good, digest(good), stage_s)


def modules_of_a_run(manifest: Path, out: Path) -> list[str]:
    """Names of the modules that a run imports on its way."""

    def work() -> list[str]:
        from pathology_scaat.pipeline.run import run

        known = set(sys.modules)
        run(settings(manifest, out))
        return sorted(set(sys.modules) - known)

    names = answer_of_a_fork(work)
    if names is None:
        raise SystemExit("an undisturbed run failed")
    return names


def import_all(names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):  # made at run time, by torch
            importlib.import_module(name)
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and len(list(tasks.iterdir())) > 1:
        raise SystemExit("a library started a thread on import: a fork of it may hang")


def lane(number: int, plan: list[tuple[str, str, float]], good: Undisturbed, out: Path) -> int:
    """A process that makes every second kill of the plan and prints what it found; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for name, stage, share in plan[number::LANES]:
            result = one_kill(
                good.manifest, good.folder, good.digest, out / f"out-{number}", stage,
                share * good.stage_s[stage], signal.Signals[f"SIG{name}"],
            )  # fmt: skip
            line = json.dumps({"signal": name, **result}) + "\n"
            os.write(1, line.encode())
            with (out / f"found-{number}.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line)
        code = 0
    finally:
        os._exit(code)


def sums(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kills": len(results),
        "killed_in_work": sum(r["exit"] != 0 for r in results),
        "faults": sum(bool(r["faults"]) for r in results),
        "with_partials": sum(r["partials"] > 0 for r in results),
        "reruns_failed": sum(r["again"] != 0 for r in results),
        "reruns_different": sum(bool(r["different"]) for r in results),
        "left_behind": sum(bool(r["left"]) for r in results),
        "exits": sorted({r["exit"] for r in results}),
    }


def run_kills(signals: list[tuple[str, int]], seed: int) -> dict[str, Any]:
    import pathology_scaat.cli
    import pathology_scaat.pipeline.run
    import pathology_scaat.verify  # noqa: F401

    rng = random.Random(seed)
    stages = itertools.cycle(MADE_BY)
    plan = [
        (name, next(stages), rng.uniform(0.02, 1)) for name, kills in signals for _ in range(kills)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        good = undisturbed_run(Path(scratch))
        gc.freeze()  # what the forks never free is not copied by their collectors
        lanes = [lane(number, plan, good, Path(scratch)) for number in range(LANES)]
        ends = [finish(pid) for pid in lanes]
        if any(ends):
            raise SystemExit("the driver itself failed")
        results = [
            json.loads(line)
            for path in Path(scratch).glob("found-*.jsonl")
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
    return {name: sums([r for r in results if r["signal"] == name]) for name, _ in signals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("signals", nargs="*", default=["KILL:20"], metavar="SIGNAL:KILLS")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signals = [(name, int(kills)) for name, kills in (word.split(":") for word in given.signals)]
    sys.stdout.write(json.dumps(run_kills(signals, given.seed)) + "\n")


if __name__ == "__main__":
    main()

"""Kill a run at random moments, look at what it left, run it again, compare bytes.

``python tests/reliability/crash_driver.py --kills 20 [--seed 0] [--signal KILL]`` prints one JSON
line a kill and a last one with the sums. The libraries are imported once and each run is a fork
of this process, so that a kill costs the work and not the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reliability_tools import digest, make_cohort

from pathology_scaat.status import STAGES, StatusTable

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
"""What is taken away so that a run begins its work with a stage."""


def settings(manifest: Path, out: Path) -> Any:
    from pathology_scaat.config import RunConfig

    return RunConfig.model_validate(
        {
            "manifest": manifest,
            "out": out,
            "device": "cpu",
            "tile": {"mpp": 1.0, "patch_size_px": 32, "overlap": "0.5"},
            "train": {"epochs": 2, "batch_size": 32},
            "engine": {"workers": 1},
        }
    )


def start(manifest: Path, out: Path) -> int:
    """Fork a process that does the whole job; its pid. Exit codes are the command's."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        from pathology_scaat.cli import _on_terminate, run_command
        from pathology_scaat.cli.common import print_run
        from pathology_scaat.verbs.run import run

        signal.signal(signal.SIGTERM, _on_terminate)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run_command(lambda: print_run(run(settings(manifest, out))))
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


def faults_after_kill(out: Path) -> list[str]:
    """What is wrong in a folder whose run was killed, but for honest leftovers.

    Looked at in a fork: the libraries' threads must never exist in this process.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as stream:
            text = stream.read()
        finish(pid)
        found: list[str] = json.loads(text or '["verify ended without a word"]')
        return found
    try:
        from pathology_scaat.errors import StoreError
        from pathology_scaat.verify import verify_run

        try:
            findings = verify_run(out)
            faults = [f"{f.artifact}: {f.message}" for f in findings if not f.ok]
        except StoreError as error:
            faults = [error.problem]
        honest = ("left unfinished", "holds no results")
        os.write(
            writing, json.dumps([f for f in faults if not any(h in f for h in honest)]).encode()
        )
    finally:
        os._exit(0)


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


def durations(manifest: Path, good: Path, out: Path) -> dict[str, float]:
    """Seconds that a run takes when it begins its work with each stage."""
    found = {}
    for stage in MADE_BY:
        prepare(good, out, stage)
        began = time.monotonic()
        if finish(start(manifest, out)) != 0:
            raise SystemExit(f"an undisturbed run from {stage} failed")
        found[stage] = time.monotonic() - began
    return found


def run_kills(kills: int, seed: int, number: int, stages: tuple[str, ...]) -> dict[str, Any]:
    import pathology_scaat.verbs.run
    import pathology_scaat.verify  # noqa: F401

    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        manifest = make_cohort(folder)
        good, out = folder / "good", folder / "out"
        if finish(start(manifest, good)) != 0:
            raise SystemExit("an undisturbed run failed")
        expected = digest(good)
        lasting = durations(manifest, good, out)
        following = dict(zip(stages, [*stages[1:], ""], strict=True))
        results = []
        for i in range(kills):
            stage = stages[i % len(stages)]
            # The work of this stage comes first; what a run from the next one takes is not its.
            rest = lasting.get(following[stage], 0.0) if following[stage] else 0.0
            span = max(lasting[stage] - 0.7 * rest, 0.3 * lasting[stage])
            result = one_kill(
                manifest, good, expected, out, stage, rng.uniform(0.02, 1) * span, number
            )
            results.append(result)
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", default="KILL", choices=("KILL", "TERM", "INT"))
    parser.add_argument("--stages", default=",".join(MADE_BY))
    given = parser.parse_args()
    number = signal.Signals[f"SIG{given.signal}"]
    found = run_kills(given.kills, given.seed, number, tuple(given.stages.split(",")))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

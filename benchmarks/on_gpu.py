"""Everything that only a GPU can show, part by part, each within its own time.

    python benchmarks/on_gpu.py --out /tmp/gpu                    # all of it, 18 minutes at most
    python benchmarks/on_gpu.py --out /tmp/gpu --parts tests training
    python benchmarks/on_gpu.py --out /tmp/gpu --parts evidence --budget-s 400
    python benchmarks/on_gpu.py --out /tmp/gpu --parts method --earlier method.tar.xz
    python benchmarks/on_gpu.py --out /tmp/gpu --parts method --packed DIR --processes 16

The part ``method`` runs only where it is named. It takes 8 minutes at most, writes each arm as it
comes, and goes on from the ``method.tar.xz`` of an earlier session. A part that fails or runs out
of time leaves what it has and does not stop the others. In the folder afterwards: ``facts.json``,
``training-*.json``, ``log.txt``, ``evidence.tar.xz`` and ``method.tar.xz`` (``method-2.tar.xz``
and so on; for ``evidence/report.py``, unpacked into its ``--work``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EVIDENCE = HERE / "evidence"

EVIDENCE_S, METHOD_S = 420.0, 480.0
LAST_ARM_S = 40.0
"""No arm is begun so shortly before the end: it would be cut off."""
TAR_BYTES = 12 << 20
METHOD = ("gpu-networks", "gpu-pretrained", "gpu-large", "gpu-guidance")
"""Configurations of the part ``method``, in their order of priority."""
FULL_SIZE = "--side 224 --batch 256 --precision bf16"


def facts() -> dict[str, object]:
    """What the figures were measured on."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "torch": torch.__version__, "cores": os.cpu_count()}
    card = torch.cuda.get_device_properties(0)
    return {
        "gpu": torch.cuda.get_device_name(0),
        "gpu_memory_gib": round(card.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def environment(**more: str) -> dict[str, str]:
    """This process's, with the package of this tree to be found though nobody installed it."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **more}


class Runner:
    """Runs commands with a limit each, their output in one log."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.log = out / "log.txt"

    def __call__(self, name: str, command: list[str], limit_s: float) -> None:
        begin = time.perf_counter()
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n=== {name}: {' '.join(command)}\n")
            log.flush()
            try:
                code: int | str = subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, timeout=limit_s, cwd=ROOT,
                    env=environment(), check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                code = "out of time"
            message = f"{name}: {code}, {time.perf_counter() - begin:.0f} s"
            log.write(f"=== {message}\n")
        print(message, flush=True)


def training(run: Runner, name: str, arguments: str, limit_s: float) -> None:
    script = [sys.executable, str(HERE / "training.py"), "--device", "cuda"]
    run(name, [*script, *arguments.split(), "--out", str(run.out / f"{name}.json")], limit_s)


def full_size(run: Runner, scratch: Path, args: argparse.Namespace) -> None:
    """Cost of each method's step, and the training loop, at full size."""
    loop = "--loop-patches 8192 --profile"
    training(run, "training-gpu", f"--backbone resnet50 {FULL_SIZE} {loop}", 200)


def others(run: Runner, scratch: Path, args: argparse.Namespace) -> None:
    """A transformer, and a compiled network."""
    chosen = f"{FULL_SIZE} --no-loop --methods plain scaat"
    more = "scaat-amortised sgt"
    training(run, "training-gpu-vit", f"--backbone vit_small_patch16_224 {chosen} {more}", 60)
    training(run, "training-gpu-compiled", f"--backbone resnet50 --compile {chosen}", 120)


def tests(run: Runner, scratch: Path, args: argparse.Namespace) -> None:
    """Tests that need a GPU; options of the project's own are left out, plug-ins may be missing."""
    options = "-q -o addopts= -o filterwarnings= -p no:cacheprovider tests/training/test_cuda.py"
    run("tests", [sys.executable, "-m", "pytest", *options.split()], 150)


def demo(run: Runner, scratch: Path, args: argparse.Namespace) -> None:
    """The whole job."""
    words = ["-m", "pathology_scaat", "demo", str(scratch / "demo"), "--device", "cuda"]
    run("demo", [sys.executable, *words], 150)


def evidence(run: Runner, scratch: Path, args: argparse.Namespace) -> None:
    """Data sets, referees and arms side by side on one GPU."""
    side_by_side(run, scratch, args, "evidence", args.evidence, args.budget_s or EVIDENCE_S)


def method(run: Runner, scratch: Path, args: argparse.Namespace) -> None:
    """Where in training, by what grid and at what cost: the order of priority, in 8 minutes."""
    side_by_side(run, scratch, args, "method", args.method, args.budget_s or METHOD_S)


def side_by_side(
    run: Runner,
    scratch: Path,
    args: argparse.Namespace,
    name: str,
    configs: list[Path],
    budget_s: float,
) -> None:
    """The arms of configurations in many processes, until all are done or time is up."""
    import yaml

    work: Path = args.work or scratch / name
    begin = time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    for earlier in args.earlier:
        with tarfile.open(earlier, "r:xz") as tar:
            tar.extractall(work, filter="data")
    tiers = [tier for each in configs for tier in yaml.safe_load(each.read_text())["tiers"]]
    sets = list(dict.fromkeys(entry["data"] for tier in tiers for entry in tier))
    script = [sys.executable, str(EVIDENCE / "run.py"), *map(str, configs), "--work", str(work)]

    def start(words: list[str]) -> subprocess.Popen[bytes]:
        with run.log.open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [*script, "--device", args.device, *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment(OMP_NUM_THREADS="1"),
            )

    def left_s() -> float:
        return budget_s - (time.perf_counter() - begin)

    def wait(processes: list[subprocess.Popen[bytes]]) -> list[int | None]:
        for process in processes:
            try:
                process.wait(max(1.0, left_s()))
            except subprocess.TimeoutExpired:
                process.kill()
        return [process.poll() for process in processes]

    if args.packed:
        script_of_packed = [sys.executable, str(EVIDENCE / "packed.py"), "unpack"]
        run("unpack", [*script_of_packed, str(args.packed), "--work", str(work)], 60)
    first = [start(["--prepare", "--data", each]) for each in sets]
    arms = [start(["--together", "--budget-s", str(max(1.0, left_s() - LAST_ARM_S))])
            for _ in range(args.processes)]  # fmt: skip
    codes = wait([*first, *arms])
    done = [p for p in sorted(work.glob("*.npz")) if not p.name.startswith("data__")]
    tar_up([*done, *sorted(work.glob("referee__*.pt"))], run.out, name)
    took = time.perf_counter() - begin
    print(f"{name}: {codes}, {len(done)} arms, {took:.0f} s", flush=True)


def tar_up(paths: list[Path], out: Path, name: str) -> None:
    """``name.tar.xz``, and ``name-2.tar.xz`` and so on where one would be large."""
    parts: list[list[Path]] = [[]]
    size = 0
    for path in paths:
        if parts[-1] and size + path.stat().st_size > TAR_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(path)
        size += path.stat().st_size
    for number, part in enumerate(parts, 1):
        suffix = f"-{number}" if number > 1 else ""
        with tarfile.open(out / f"{name}{suffix}.tar.xz", "w:xz", preset=1) as tar:
            for path in part:
                tar.add(path, path.name)


def everyday(run: Runner, scratch: Path, args: argparse.Namespace) -> None:
    """A model applied to slides of 15,000 patches, and how well bfloat16 agrees with float32."""
    precision = f"--device cuda --side 224 --steps 60 --patches 256 --out {run.out}/precision.json"
    run("precision", [sys.executable, str(HERE / "precision.py"), *precision.split()], 60)
    words = "--networks resnet50 vit_small_patch16_224 --bound-patches 8192 --loop-patches 512"
    size = f"--device {args.device} --patches {args.patches} --slides {args.slides}"
    script = [sys.executable, str(HERE / "everyday.py"), *words.split(), *size.split()]
    run("everyday", [*script, *args.everyday.split(), "--out", str(run.out / "everyday.json")], 300)


PARTS: dict[str, Callable[[Runner, Path, argparse.Namespace], None]] = {
    "training": full_size, "tests": tests, "others": others, "demo": demo, "evidence": evidence,
    "everyday": everyday,
    "method": method,
}  # fmt: skip
BY_DEFAULT = [name for name in PARTS if name != "method"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=BY_DEFAULT, choices=[*PARTS])
    parser.add_argument("--evidence", type=Path, nargs="+", default=[EVIDENCE / "gpu-short.yaml"])
    parser.add_argument(
        "--method", type=Path, nargs="+", default=[EVIDENCE / f"{name}.yaml" for name in METHOD]
    )
    parser.add_argument("--work", type=Path, help="of the evidence or the method; kept")
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], help="tar of before")
    parser.add_argument("--packed", type=Path, help="data sets that evidence/packed.py made")
    parser.add_argument("--device", default="cuda", help="of the evidence or the method")
    parser.add_argument("--processes", type=int, default=12, help="of the evidence, side by side")
    parser.add_argument(
        "--budget-s", type=float, help="of the evidence (420 if none) or the method (480)"
    )
    parser.add_argument("--patches", type=int, default=15_000, help="of everyday, per slide")
    parser.add_argument("--slides", type=int, default=3, help="of everyday")
    parser.add_argument(
        "--everyday", default="--precision bfloat16 --compile", help="more options of everyday.py"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = facts()
    (args.out / "facts.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found, flush=True)
    run = Runner(args.out)
    with tempfile.TemporaryDirectory() as scratch:
        for part in args.parts:
            PARTS[part](run, Path(scratch), args)
    print("\n".join(run.log.read_text(encoding="utf-8").splitlines()[-60:]))


if __name__ == "__main__":
    main()

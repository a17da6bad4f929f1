"""Train and measure every arm of a configuration; stop and go on at will.

    python benchmarks/evidence/run.py benchmarks/evidence/cpu.yaml --work /tmp/evidence
    python benchmarks/evidence/report.py benchmarks/evidence/cpu.yaml --work /tmp/evidence

One file per arm and seed; what is there is not made again. ``--budget-s`` ends between two arms.
Side by side: start as many processes with ``--together`` as there are cores; each takes the first
arm that no other has taken and whose data are ready. Of several configurations, in one folder, the
first tiers are run one after the other, then the second ones. ``--prepare`` makes data sets and
their referees and nothing else.
"""

from __future__ import annotations

import argparse
import fcntl
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from arms import ARMS, FROM_THE_START, Arm
from data import Benchmark, load_once
from fit import epochs_for, fit, logits_of
from networks import make_network
from torch import nn

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.evaluation.measure import measure_model
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.metrics.functional.calibration import (
    expected_calibration_error,
    fit_temperature,
)
from pathology_scaat.metrics.functional.ranking import mass_accuracy
from pathology_scaat.saliency.attribution import attribution

CALLED = "called_positive_with_shortcut"
"""1 for each test image called positive with the shortcut on it, else 0."""

A_CORE = "one core of"
"""How the words for a machine begin where it was no GPU."""


def protocol_of(config: dict[str, Any]) -> ProtocolConfig:
    """What is measured: of gradient maps, which SCAAT trains, unless it is said."""
    return ProtocolConfig(**{"method": "gradient", **config["protocol"]})


def cells(
    config: dict[str, Any], only_tier: int | None = None
) -> Iterator[tuple[str, str, int, str]]:
    """(network, data, seed, arm): tier by tier, all data sets of a seed before the next seed.

    The networks are those of the configuration, or of an entry that names its own.
    """
    for number, tier in enumerate(config["tiers"]):
        if only_tier not in (None, number):
            continue
        for turn in range(max(len(run["seeds"]) for run in tier)):
            for run in tier:
                for network in run.get("networks", config["networks"]):
                    for seed in run["seeds"][turn : turn + 1]:
                        for arm in run["arms"]:
                            yield network, run["data"], seed, arm


def cell_path(work: Path, config: dict[str, Any], cell: tuple[str, str, int, str]) -> Path:
    """Where an arm's result is kept; the name changes with the settings that decide it."""
    network, data, seed, arm = cell
    settings = {
        k: config[k]
        for k in ("epochs", "steps", "batch", "learning_rate", "limits", "protocol", "referees")
        if k in config
    }
    # "From the start" was the default when the first results were named: it is left out.
    options = {k: v for k, v in ARMS[arm].options.items() if (k, v) not in FROM_THE_START.items()}
    arm_settings: list[Any] = [ARMS[arm].method, options, ARMS[arm].epochs_factor]
    arm_settings += ["shuffled labels"] if ARMS[arm].shuffled_labels else []
    arm_settings += ["fine-tuned", share] if (share := ARMS[arm].finetune_share) else []
    mark = fingerprint({"settings": settings, "arm": arm_settings})[:10]
    return work / f"{network}__{data}__s{seed}__{arm}__{mark}.npz"


def shortcut_scores(
    model: nn.Module, bench: Benchmark, device: torch.device
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """How much of the map sits on a shortcut that is on every test image."""
    marked = bench.marked_test
    assert marked is not None
    assert marked.masks is not None
    pixels = torch.from_numpy(marked.images).permute(0, 3, 1, 2)
    target = torch.from_numpy(marked.labels)
    shares = []
    for start in range(0, len(marked), 128):
        part = slice(start, start + 128)
        maps = attribution(model, pixels[part].to(device).float() / 255, target[part].to(device))
        masks = torch.from_numpy(marked.masks[part]).to(device)
        shares.append(mass_accuracy(maps, masks).cpu())
    share = torch.cat(shares).numpy()
    area = marked.masks.mean((1, 2))
    called = (logits_of(model, marked, device).argmax(1) == 1).astype(np.float64)
    return (
        {"shortcut_mass": float(share.mean()), "shortcut_area": float(area.mean()),
         "called_positive_with_shortcut": float(called.mean())},
        {"shortcut_mass_per_area": share / area, CALLED: called},
    )  # fmt: skip


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process alone works on a result; until the block ends, or the process does."""
    with open(path.with_suffix(".claim"), "w") as claim:  # the file stays: nothing to remove
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield not path.exists()


def is_ready(name: str, config: dict[str, Any], work: Path) -> bool:
    """Whether a data set and its referees are there."""
    kept = work / f"data__{name}__{'-'.join(map(str, config['limits']))}.npz"
    n_referees = 0 if "-" in name and name.startswith("planted") else config["referees"]
    return kept.exists() and all(
        referee_path(work, config, name, k).exists() for k in range(n_referees)
    )


def referee_path(work: Path, config: dict[str, Any], name: str, k: int) -> Path:
    """Where the weights of a referee are kept."""
    return cell_path(work, config, ("referee", name, 1000 + k, "plain")).with_suffix(".pt")


class Bench:
    """A data set in use, with the referees trained on it."""

    def __init__(self, name: str, config: dict[str, Any], work: Path, device: torch.device) -> None:
        with open(work / f"{name}.lock", "w") as lock:  # the file stays: nothing to remove
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._load(name, config, work, device)

    def _load(self, name: str, config: dict[str, Any], work: Path, device: torch.device) -> None:
        self.data = load_once(name, tuple(config["limits"]), work)
        self.referees = []
        for k in range(config["referees"] if not self.data.marked_test else 0):
            path = referee_path(work, config, name, k)
            if not path.exists():
                fitted = fit(self.data.train, "referee", Arm("plain"),
                             epochs=epochs_for(config, len(self.data.train)),
                             seed=1000 + k, device=device, batch=config["batch"],
                             learning_rate=config["learning_rate"])  # fmt: skip
                with atomic_path(path) as partial:
                    torch.save(fitted.model.state_dict(), partial)
            model = make_network("referee", self.data.train.images.shape[1])
            model.load_state_dict(torch.load(path, weights_only=True))
            self.referees.append(model.to(device).eval())


def run_cell(bench: Bench, cell: tuple[str, str, int, str], config: dict[str, Any],
             device: torch.device, path: Path) -> str:  # fmt: skip
    network, name, seed, arm = cell
    data = bench.data
    torch.set_float32_matmul_precision(config.get("matmul_precision", "highest"))
    # The batches of training are all of one size, those of measuring are not.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    fitted = fit(data.train, network, ARMS[arm], epochs=epochs_for(config, len(data.train)),
                 seed=seed, device=device, batch=config["batch"],
                 learning_rate=config["learning_rate"])  # fmt: skip
    torch.backends.cudnn.benchmark = False
    temperature = fit_temperature(logits_of(fitted.model, data.val, device), data.val.labels)
    started = time.perf_counter()
    result = measure_model(
        fitted.model, data.test, protocol_of(config), temperature=temperature,
        referees=bench.referees, device=device,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "network": network, "data": name, "seed": seed, "arm": arm, "temperature": temperature,
        "machine": machine(device),
        "train_wall_s": fitted.wall_s, "train_cpu_s": fitted.cpu_s, "steps": fitted.steps,
        "measure_wall_s": time.perf_counter() - started,
        "ece": expected_calibration_error(result.logits / temperature, data.test.labels),
    }  # fmt: skip
    values: dict[str, np.ndarray[Any, Any]] = {}
    if data.marked_test is not None:
        extra, values = shortcut_scores(fitted.model, data, device)
        facts |= extra
    result.values.update(values)
    result.facts.update(facts)
    result.save(path)
    accuracy = float((result.logits.argmax(1) == data.test.labels).mean())
    return (f"accuracy {accuracy:.3f}, pixel AP {result.mean('pixel_ap'):.3f}, "
            f"SRG {result.mean('srg/blur/probability'):.3f}, {fitted.wall_s:.0f} s")  # fmt: skip


def machine(device: torch.device) -> str:
    """The machine in words: processor or GPU, no names of hosts or users."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{A_CORE} {model}, shared with other work, torch {torch.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configs", type=Path, nargs="+", help="in this order, in one folder")
    parser.add_argument("--work", type=Path, default=Path("evidence-work"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    parser.add_argument("--data", nargs="+", help="only these")
    parser.add_argument("--together", action="store_true", help="other processes do the same")
    parser.add_argument("--prepare", action="store_true", help="only data sets and referees")
    arguments = parser.parse_args()
    configs = [yaml.safe_load(path.read_text()) for path in arguments.configs]
    device = choose_device(arguments.device)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    wanted = [
        (number, cell)
        for tier in range(max(len(config["tiers"]) for config in configs))
        for number, config in enumerate(configs)
        for cell in cells(config, tier)
        if not arguments.data or cell[1] in arguments.data
    ]
    todo = [(k, cell) for k, cell in wanted if not cell_path(work, configs[k], cell).exists()]
    if arguments.prepare:
        for number, name in dict.fromkeys((k, cell[1]) for k, cell in todo):
            Bench(name, configs[number], work, device)
        return 0
    print(f"{len(todo)} of {len(wanted)} arms to do on {device}", flush=True)
    benches: dict[tuple[int, str], Bench] = {}
    while todo:
        if time.perf_counter() - started > arguments.budget_s:
            print("time is up; the rest at the next call", flush=True)
            return 0
        ready = {(k, name): not arguments.together or is_ready(name, configs[k], work)
                 for k, name in dict.fromkeys((k, cell[1]) for k, cell in todo)}  # fmt: skip
        waiting = [one for one in todo if not ready[one[0], one[1][1]]]
        for one in [one for one in todo if ready[one[0], one[1][1]]]:
            number, cell = one
            config, key = configs[number], (number, cell[1])
            path = cell_path(work, config, cell)
            todo.remove(one)
            with claimed(path) as mine:
                if not mine:
                    continue
                if key not in benches:
                    benches[key] = Bench(cell[1], config, work, device)
                result = run_cell(benches[key], cell, config, device, path)
            print(f"{' '.join(map(str, cell))}: {result}, {len(todo)} left", flush=True)
            break
        else:
            if waiting:
                time.sleep(0.5)
    return 0


if __name__ == "__main__":
    sys.exit(main())

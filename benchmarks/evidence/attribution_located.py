"""Where each attribution method's map lies, also on a real slide.

An EfficientNet-Lite0 with ImageNet weights is fine-tuned as in ``cpu-pretrained.yaml``, and a
residual network of 8 to 32 channels trained from random weights as in ``cpu-ablation.yaml``, and a
vision transformer of three blocks with a class token as in ``cpu-located-vit.yaml`` (their
sizes, steps and seeds); every method that takes the network then explains the same test images that
hold tumour. Measured is the pixel AP on the tumour's pixels (``_stored``: of the map
averaged over squares of 4 px, as runs store it), beside chance and haematoxylin. Each method is
compared with the gradient, image by image; intervals are over seeds and patients (blocks of tissue
on the granular slide, source tiles of colon), p is corrected for the methods (Holm). The named
measure is the pixel AP. ``attribution_checks.py`` asks if the methods show the model at all. ::

    python benchmarks/evidence/attribution_located.py --work /tmp/evidence --out DIR
    python ... --networks cnn-narrow --arms plain staged-soft-16 --data colon-joined idc-joined
    python benchmarks/evidence/attribution_located.py --out DIR --report   # the tables anew

SCAAT_LITE0 names the weights (``pretrained.py``). One JSON file a network, arm, data and seed is
written as it ends; what is there is not run again, but for methods that it has no figures of. The
trained networks are kept in the work folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from arms import ARMS
from attribution_checks import OPTIONS, as_stored
from data import load_once
from fit import epochs_for, fit, logits_of
from networks import make_network
from run import machine
from sklearn.metrics import roc_auc_score
from torch import nn

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.metrics.functional.baselines import haematoxylin_density
from pathology_scaat.metrics.functional.ranking import chance_ap, pixel_ap
from pathology_scaat.metrics.functional.statistics import Interval, clustered_mean, holm
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.attributions import ATTRIBUTIONS

HERE = Path(__file__).resolve().parent
CONFIGS = {
    "lite0": "cpu-pretrained.yaml",
    "cnn-narrow": "cpu-ablation.yaml",
    "scaat-small": "cpu-ablation.yaml",
    "vit-token": "cpu-located-vit.yaml",
    "vit-mean": "cpu-located-vit.yaml",
}
BASE = "gradient"
AT_ONCE = 32
MOST_COVERED = 0.9
UNITS = {"granular": "blocks of tissue", "colon-joined": "source tiles"}
"""What the intervals are over, beside seeds, where it is not patients."""


def fitted(network: str, arm: str, name: str, seed: int, work: Path, device: torch.device,
           config: dict[str, Any], train: EvaluationSet) -> nn.Module:  # fmt: skip
    """The trained network: kept from before, or trained now and kept."""
    path = work / f"model__{network}__{arm}__{name.removesuffix('-joined')}__{seed}.pt"
    if path.exists():
        model = make_network(network, train.images.shape[1])
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.to(device).eval()
    model = fit(train, network, ARMS[arm], epochs=epochs_for(config, len(train)), seed=seed,
                device=device, batch=config["batch"],
                learning_rate=config["learning_rate"]).model  # fmt: skip
    with atomic_path(path) as partial:
        torch.save(model.state_dict(), partial)
    return model


def measure_seed(network: str, arm: str, name: str, seed: int, work: Path, device: torch.device,
                 most: int, asked: list[str], found: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    """Figures of methods on one data set; those that ``found`` holds are kept.

    Raises
    ------
    SystemExit
        If the network is not the one that the kept figures are of.
    """
    config = yaml.safe_load((HERE / CONFIGS[network]).read_text())
    data = load_once(name, tuple(config["limits"]), work)
    model = fitted(network, arm, name, seed, work, device, config, data.train)
    logits = logits_of(model, data.test, device)
    test = data.test
    assert test.masks is not None
    auc = float(roc_auc_score(test.is_positive, logits[:, 1] - logits[:, 0]))
    if found and abs(found["auc"] - auc) > 1e-9:
        raise SystemExit(f"{network} {arm} {name} {seed}: another network than before ({auc})")
    covered = test.masks.mean((1, 2))
    useful = np.flatnonzero(test.is_positive & (covered > 0) & (covered <= MOST_COVERED))
    useful = useful[np.linspace(0, len(useful) - 1, min(most, len(useful))).astype(int)]
    images = torch.from_numpy(test.images[useful]).permute(0, 3, 1, 2).to(device).float() / 255
    masks = torch.from_numpy(test.masks[useful]).to(device)
    kept = found.get("methods", {})
    methods: dict[str, Any] = {}
    for method in [each.name for each in ATTRIBUTIONS.built_in]:
        if method in kept:
            methods[method] = kept[method]
        if method in kept or method not in asked:
            continue
        begun = time.perf_counter()
        try:
            maps = torch.cat([
                attribution(model, images[k : k + AT_ONCE], 1, method, **OPTIONS).cpu()
                for k in range(0, len(images), AT_ONCE)
            ])  # fmt: skip
        except UsageError as error:
            methods[method] = {"refused": str(error)}
            continue
        methods[method] = {
            "s_a_patch": (time.perf_counter() - begun) / len(images),
            "pixel_ap": rounded(pixel_ap(maps, masks.cpu())),
            "pixel_ap_stored": rounded(pixel_ap(as_stored(maps), masks.cpu())),
        }
        mean = np.mean(methods[method]["pixel_ap"])
        print(network, arm, name, seed, method, f"{mean:.3f}", flush=True)
    density = haematoxylin_density(images)
    return {
        "network": network, "arm": arm, "data": name, "seed": seed, "machine": machine(device),
        "auc": auc, "groups": test.groups[useful].tolist(),
        "pixel_ap_chance": float(chance_ap(density, masks).mean()),
        "pixel_ap_haematoxylin": float(pixel_ap(density, masks).mean()),
        "methods": methods,
    }  # fmt: skip


def rounded(values: torch.Tensor) -> list[float]:
    """Five digits: more are noise, and these files are kept."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def measured(runs: list[dict[str, Any]]) -> list[str]:
    """Methods that every run has figures of."""

    def has(run: dict[str, Any], method: str) -> bool:
        return "pixel_ap" in run["methods"].get(method, {})

    return [m for m in runs[0]["methods"] if all(has(run, m) for run in runs)]


def gains_of(runs: list[dict[str, Any]], measure: str, base: str = BASE) -> dict[str, Interval]:
    """Each method's gain over the gradient, or over another one, over seeds and patients."""

    def values(method: str) -> list[list[float]]:
        return [run["methods"][method][measure] for run in runs]

    kept = [m for m in measured(runs) if m != base]
    return {
        m: clustered_mean(
            [np.subtract(a, b) for a, b in zip(values(m), values(base), strict=True)],
            runs[0]["groups"],
        )
        for m in kept
    }


def of_training(plain: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Interval]:
    """By each method's maps: another training minus the plain one, over seeds and patients."""
    kept = [m for m in measured(plain) if m in measured(other)]
    return {
        m: clustered_mean(
            [
                np.subtract(b["methods"][m]["pixel_ap"], a["methods"][m]["pixel_ap"])
                for a, b in zip(plain, other, strict=True)
            ],
            plain[0]["groups"],
        )
        for m in kept
    }


def training_table(gains: dict[str, Interval], title: str) -> str:
    corrected = dict(zip(gains, holm([g.p_value for g in gains.values()]), strict=True))
    lines = [f"## {title}", "", "| maps by | pixel AP − plain | p |", "|---|---|---|"]
    for method, gain in gains.items():
        text = f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        marked = f"**{text}**" if corrected[method] < 0.05 else text
        lines.append(f"| {method} | {marked} | {corrected[method]:.2g} |")
    return "\n".join([*lines, ""])


def table(runs: list[dict[str, Any]]) -> str:
    """Each method on one data set, against the gradient."""
    first, unit = runs[0], UNITS.get(runs[0]["data"], "patients")
    groups = first["groups"]
    kept = measured(runs)

    def values(method: str, measure: str) -> list[list[float]]:
        return [run["methods"][method][measure] for run in runs]

    auc = ", ".join(f"{run['auc']:.3f}" for run in runs)
    gains, as_kept = gains_of(runs, "pixel_ap"), gains_of(runs, "pixel_ap_stored")
    corrected = dict(zip(gains, holm([g.p_value for g in gains.values()]), strict=True))
    lines = [
        f"## {first['network']}, {first['arm']}, {first['data']}: {len(runs)} seeds, {len(groups)} "
        f"images of {len(set(groups))} {unit}",
        "",
        f"AUC by seed {auc}. Pixel AP by chance "
        f"{first['pixel_ap_chance']:.3f}, of the haematoxylin alone "
        f"{first['pixel_ap_haematoxylin']:.3f}.",
        "",
        "| method | pixel AP | − gradient | by seed | p | as stored, − gradient | ms a patch |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in kept:
        mean = np.mean(values(method, "pixel_ap"))
        ms = 1000 * np.mean([run["methods"][method]["s_a_patch"] for run in runs])
        if method == BASE:
            lines.append(f"| {method} | {mean:.3f} | | | | | {ms:.1f} |")
            continue
        g, s = gains[method], as_kept[method]
        by_seed = [
            np.mean(a) - np.mean(b)
            for a, b in zip(values(method, "pixel_ap"), values(BASE, "pixel_ap"), strict=True)
        ]
        text = f"{g.value:+.3f} ({g.low:+.3f} to {g.high:+.3f})"
        lines.append(
            f"| {method} | {mean:.3f} | {f'**{text}**' if corrected[method] < 0.05 else text} | "
            f"{' '.join(f'{v:+.3f}' for v in by_seed)} | {corrected[method]:.2g} | "
            f"{s.value:+.3f} ({s.low:+.3f} to {s.high:+.3f}) | {ms:.1f} |"
        )
    return "\n".join([*lines, ""])


def as_json(gains: dict[str, Interval]) -> dict[str, Any]:
    names = ("value", "low", "high", "p_value")
    return {m: {k: v for k, v in g.as_dict().items() if k in names} for m, g in gains.items()}


def report(out: Path) -> None:
    parts = ["# Where maps lie, by attribution method", "", str(__doc__).split("::")[0].rstrip()]
    parts += ["", "Bold: p below .05 after correction.", ""]
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*-seed*.json"))]
    keys = [(run["network"], run["arm"], run["data"]) for run in runs]
    gains = {}
    by = {
        key: [run for run, its in zip(runs, keys, strict=True) if its == key]
        for key in dict.fromkeys(keys)
    }
    for key, own in by.items():
        parts.append(table(own))
        gains["-".join(key)] = as_json(gains_of(own, "pixel_ap"))
        gains["-".join([*key, "stored"])] = as_json(gains_of(own, "pixel_ap_stored"))
        against = gains_of(own, "pixel_ap", base="grad-cam")
        fused = as_json({m: g for m, g in against.items() if m in ("fused-cam", "token-cam")})
        if fused:
            gains["-".join([*key, "minus-grad-cam"])] = fused
    for (network, arm, data), own in by.items():
        plain = by.get((network, "plain", data))
        if arm == "plain" or plain is None or len(plain) != len(own):
            continue
        found = of_training(plain, own)
        parts.append(training_table(found, f"{network}, {data}: {arm} minus plain"))
        gains[f"{network}-{arm}-minus-plain-{data}"] = as_json(found)
    (out / "gains.json").write_text(json.dumps(gains, indent=1) + "\n")
    (out / "README.md").write_text("\n".join(parts).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("evidence-work"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=["lite0"], choices=[*CONFIGS])
    parser.add_argument("--arms", nargs="+", default=["plain"], choices=[*ARMS])
    parser.add_argument("--data", nargs="+", default=["granular", "hard"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--device", default="cpu")
    every = [each.name for each in ATTRIBUTIONS.built_in]
    parser.add_argument("--methods", nargs="+", default=every, choices=every)
    parser.add_argument("--most", type=int, default=96, help="images that are explained")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    cells = itertools.product(args.seeds, args.networks, args.arms, args.data)
    for seed, network, arm, name in () if args.report else cells:
        path = args.out / f"{network}-{arm}-{name}-seed{seed}.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        if set(args.methods) <= set(found.get("methods", ())):
            continue
        device = torch.device(args.device)
        found = measure_seed(
            network, arm, name, seed, args.work, device, args.most, args.methods, found
        )
        path.write_text(json.dumps(found) + "\n")
    report(args.out)


if __name__ == "__main__":
    main()

"""Where each attribution method's map of a pretrained network lies, also on a real slide.

An EfficientNet-Lite0 with ImageNet weights is fine-tuned plainly as in ``cpu-pretrained.yaml``
(its sizes, steps and seeds); every method that takes the network then explains the same test images
that hold tumour. Measured is the pixel AP on the tumour's pixels (``_stored``: of the map
averaged over squares of 4 px, as runs store it), beside chance and haematoxylin. Each method is
compared with the gradient, image by image; intervals are over seeds and patients (blocks of tissue
on the granular slide), p is corrected for the methods (Holm). The named measure is the pixel AP.
``attribution_checks.py`` asks whether the methods show the model at all. ::

    python benchmarks/evidence/attribution_located.py --work /tmp/evidence --out DIR
    python benchmarks/evidence/attribution_located.py --out DIR --report   # the tables anew

SCAAT_LITE0 names the weights (``pretrained.py``). One JSON file a data set and seed is written as
it ends; what is there is not run again.
"""

from __future__ import annotations

import argparse
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
from run import machine
from sklearn.metrics import roc_auc_score

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional.baselines import haematoxylin_density
from pathology_scaat.metrics.functional.ranking import chance_ap, pixel_ap
from pathology_scaat.metrics.functional.statistics import clustered_mean, holm
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.attributions import ATTRIBUTIONS

CONFIG = Path(__file__).resolve().parent / "cpu-pretrained.yaml"
BASE = "gradient"
AT_ONCE = 32
MOST_COVERED = 0.9


def run_seed(config: dict[str, Any], name: str, seed: int, work: Path, device: torch.device,
             most: int) -> dict[str, Any]:  # fmt: skip
    data = load_once(name, tuple(config["limits"]), work)
    fitted = fit(data.train, "lite0", ARMS["plain"], epochs=epochs_for(config, len(data.train)),
                 seed=seed, device=device, batch=config["batch"],
                 learning_rate=config["learning_rate"])  # fmt: skip
    logits = logits_of(fitted.model, data.test, device)
    test = data.test
    assert test.masks is not None
    covered = test.masks.mean((1, 2))
    useful = np.flatnonzero(test.is_positive & (covered > 0) & (covered <= MOST_COVERED))
    useful = useful[np.linspace(0, len(useful) - 1, min(most, len(useful))).astype(int)]
    images = torch.from_numpy(test.images[useful]).permute(0, 3, 1, 2).to(device).float() / 255
    masks = torch.from_numpy(test.masks[useful]).to(device)
    found: dict[str, Any] = {}
    for method in [each.name for each in ATTRIBUTIONS.built_in]:
        begun = time.perf_counter()
        try:
            maps = torch.cat([
                attribution(fitted.model, images[k : k + AT_ONCE], 1, method, **OPTIONS).cpu()
                for k in range(0, len(images), AT_ONCE)
            ])  # fmt: skip
        except UsageError as error:
            found[method] = {"refused": str(error)}
            continue
        took = time.perf_counter() - begun
        found[method] = {
            "s_a_patch": took / len(images),
            "pixel_ap": pixel_ap(maps, masks.cpu()).tolist(),
            "pixel_ap_stored": pixel_ap(as_stored(maps), masks.cpu()).tolist(),
        }
        print(name, seed, method, f"{np.mean(found[method]['pixel_ap']):.3f}", flush=True)
    density = haematoxylin_density(images)
    return {
        "data": name, "seed": seed, "machine": machine(device),
        "auc": float(roc_auc_score(test.is_positive, logits[:, 1] - logits[:, 0])),
        "groups": test.groups[useful].tolist(),
        "pixel_ap_chance": float(chance_ap(density, masks).mean()),
        "pixel_ap_haematoxylin": float(pixel_ap(density, masks).mean()),
        "methods": found,
    }  # fmt: skip


def table(runs: list[dict[str, Any]]) -> str:
    """Each method on one data set, against the gradient."""
    first, unit = runs[0], "blocks of tissue" if runs[0]["data"] == "granular" else "patients"
    groups = first["groups"]
    kept = [m for m, entry in first["methods"].items() if "refused" not in entry]

    def values(method: str, measure: str) -> list[list[float]]:
        return [run["methods"][method][measure] for run in runs]

    def gain(method: str, measure: str) -> Any:
        pairs = zip(values(method, measure), values(BASE, measure), strict=True)
        return clustered_mean([np.subtract(a, b) for a, b in pairs], groups)

    auc = ", ".join(f"{run['auc']:.3f}" for run in runs)
    others = [m for m in kept if m != BASE]
    gains = {m: gain(m, "pixel_ap") for m in others}
    corrected = dict(zip(others, holm([g.p_value for g in gains.values()]), strict=True))
    lines = [
        f"## {first['data']}: {len(runs)} seeds, {len(groups)} images of {len(set(groups))} {unit}",
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
        g, s = gains[method], gain(method, "pixel_ap_stored")
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


def report(out: Path) -> None:
    parts = ["# Where maps of a pretrained network lie", "", str(__doc__).split("::")[0].rstrip()]
    parts += ["", "Bold: p below .05 after correction.", ""]
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*-seed*.json"))]
    for name in dict.fromkeys(run["data"] for run in runs):
        parts.append(table([run for run in runs if run["data"] == name]))
    (out / "README.md").write_text("\n".join(parts).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("evidence-work"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=["granular", "hard"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most", type=int, default=96, help="images that are explained")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    config = yaml.safe_load(CONFIG.read_text())
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.report:
        for seed in args.seeds:
            for name in args.data:
                path = args.out / f"{name}-seed{seed}.json"
                if not path.exists():
                    found = run_seed(
                        config, name, seed, args.work, torch.device(args.device), args.most
                    )
                    path.write_text(json.dumps(found, indent=1) + "\n")
    report(args.out)


if __name__ == "__main__":
    main()

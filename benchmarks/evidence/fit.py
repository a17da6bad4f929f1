"""The training loop of the comparison: the same for every arm but for the method's step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from arms import Arm
from networks import make_network
from torch import nn

from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.scaat.method import Method, Visit
from pathology_scaat.scaat.methods import make_method
from pathology_scaat.scaat.orientation import orient


@dataclass(frozen=True)
class Fitted:
    model: nn.Module
    wall_s: float
    cpu_s: float
    steps: int


def as_tensor(data: EvaluationSet, device: torch.device) -> torch.Tensor:
    pixels = torch.from_numpy(data.images).to(device).permute(0, 3, 1, 2)
    return pixels if device.type == "cuda" else pixels.contiguous()


def epochs_for(config: dict[str, Any], n_images: int) -> int:
    """Epochs of a configuration: as stated, or as many as make its ``steps`` of a plain arm."""
    if "steps" in config:
        return max(1, round(config["steps"] / (n_images // config["batch"])))
    return int(config["epochs"])


def fit(
    data: EvaluationSet, network: str, arm: Arm, *, epochs: int, seed: int,
    device: torch.device, batch: int = 64, learning_rate: float = 2e-3,
) -> Fitted:  # fmt: skip
    """Train an arm: AdamW, one cosine cycle, turns and flips, colour jitter; last weights kept.

    Initial weights, order of the data and augmentation depend on the seed alone: the arms of a
    seed differ in nothing but the method. No choice is made on validation or test data. An arm
    that fine-tunes has a plain training of its own first, then a second cycle, a tenth as high.
    """
    torch.manual_seed(seed)
    model = make_network(network, data.images.shape[1]).to(device)
    if device.type == "cuda" or network == "lite0":
        # as tensor cores want it, and twice as fast for convolutions by channel on processors
        model = model.to(memory_format=torch.channels_last)
    rng = torch.Generator().manual_seed(seed)
    pixels = as_tensor(data, device)
    labels = torch.from_numpy(data.labels).to(device)
    if arm.shuffled_labels:
        labels = labels[torch.randperm(len(labels), generator=rng).to(device)]
    wall, cpu, steps = time.perf_counter(), time.process_time(), 0
    full = make_method(arm.method, model, seed=seed, **arm.options)
    stages = [(full, max(1, round(epochs * arm.epochs_factor)), learning_rate)]
    if arm.finetune_share:
        plain = make_method("plain", model, seed=seed)
        more = max(1, round(epochs * arm.finetune_share))
        stages = [(plain, epochs, learning_rate), (full, more, learning_rate / 10)]
    model.train()
    for number, (method, n_epochs, rate) in enumerate(stages):
        steps += _cycle(model, method, pixels, labels, n_epochs, rate, batch,
                        seed * 1000 + 500 * number, rng)  # fmt: skip
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Fitted(model.eval(), time.perf_counter() - wall, time.process_time() - cpu, steps)


def _cycle(
    model: nn.Module, method: Method, pixels: torch.Tensor, labels: torch.Tensor, epochs: int,
    learning_rate: float, batch: int, first_seed: int, rng: torch.Generator,
) -> int:  # fmt: skip
    """One cycle of the learning rate; the number of its steps."""
    options = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    per_epoch, done, device = len(pixels) // batch, 0, pixels.device
    schedule = torch.optim.lr_scheduler.OneCycleLR(options, learning_rate, epochs * per_epoch)
    for epoch in range(epochs):
        method.start_epoch(first_seed + epoch)
        order = torch.randperm(len(pixels), generator=rng)
        for step in range(per_epoch):
            chosen = order[step * batch : (step + 1) * batch]
            turns = torch.randint(8, (batch,), generator=rng)
            gain = 1 + 0.1 * (2 * torch.rand((batch, 3, 1, 1), generator=rng) - 1)
            images = pixels[chosen.to(device)].float().div_(255)
            images = (orient(images, turns) * gain.to(device)).clamp_(0, 1)
            method.set_progress(done / (epochs * per_epoch))
            options.zero_grad(set_to_none=True)
            method.training_step(images, labels[chosen.to(device)], visit=Visit(chosen, turns))
            options.step()
            method.after_update()
            schedule.step()
            done += 1
    return done


@torch.no_grad()
def logits_of(model: nn.Module, data: EvaluationSet, device: torch.device) -> np.ndarray:
    pixels = as_tensor(data, device)
    parts = [model(part.float() / 255).float().cpu() for part in pixels.split(256)]
    return torch.cat(parts).numpy()

"""Which memory layout a network is fastest in, in training and where it explains.

    python benchmarks/layouts.py --device cuda --out benchmarks/results/layouts-GPU.json

Forward and back to the weights, and forward and back to the pixels, of images that lie as they
come from a patch store (channels last); in float32 (convolutions in TF32 on a GPU) and under
bfloat16. Median of the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from precision import machine
from torch import Tensor, nn

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
NETWORKS = ("resnet50", "tf_efficientnet_lite0", "convnext_tiny", "mobilenetv3_large_100")


def _contiguous(module: nn.Module, images: tuple[Tensor]) -> tuple[Tensor]:
    return (images[0].contiguous(),)


def rate(step: Callable[[], Any], n_images: int, repeats: int, device: torch.device) -> float:
    """Images a second."""
    took = []
    for _ in range(repeats + 3):
        begin = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - begin)
    return n_images / statistics.median(took[3:])


def measure(name: str, layout: str, given: argparse.Namespace) -> dict[str, float]:
    device = torch.device(given.device)
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2).to(device, memory_format=LAYOUTS[layout])
    if layout == "contiguous":  # one operand with channels last is enough for the other
        model.register_forward_pre_hook(_contiguous)
    pixels = torch.rand(given.batch, given.side, given.side, 3, device=device)
    images = pixels.permute(0, 3, 1, 2)
    found = {}
    for precision in ("float32", "bfloat16"):
        low = precision == "bfloat16"
        as_given = images.to(torch.bfloat16) if low else images
        as_given = as_given.to(memory_format=torch.channels_last)

        def train(low: bool = low) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                loss = nn.functional.cross_entropy(
                    model(images), torch.zeros(given.batch, dtype=torch.long, device=device)
                )
            loss.backward()
            model.zero_grad(set_to_none=True)

        model.float().train()
        found[f"train {precision}"] = rate(train, given.batch, given.repeats, device)
        model.eval().requires_grad_(False)
        model.to(torch.bfloat16 if low else torch.float32)

        def explain(as_given: Tensor = as_given) -> None:
            wanted = as_given.detach().requires_grad_(True)
            torch.autograd.grad(model(wanted)[:, 1].sum(), wanted)

        found[f"explain {precision}"] = rate(explain, given.batch, given.repeats, device)
        model.requires_grad_(True)
    return {key: round(value, 1) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {
        "machine": machine(), "side_px": given.side, "batch": given.batch, "images_per_s": {},
    }  # fmt: skip
    for name in given.networks:
        result["images_per_s"][name] = {layout: measure(name, layout, given) for layout in LAYOUTS}
        print(name, json.dumps(result["images_per_s"][name], indent=1), flush=True)
        if given.out:
            given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

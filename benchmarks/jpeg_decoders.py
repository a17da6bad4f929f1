"""Who decodes a slide's own JPEG tiles fastest: the processor's cores, or the GPU's decoder.

    python benchmarks/jpeg_decoders.py --out benchmarks/results/jpeg-decoders-GPU.json

Tiles of 256 px of a drawn slide (JPEG quality 80, 4:2:0), as a store of ``--pixels slide-jpeg``
holds them. Decoded by imagecodecs (libjpeg-turbo, what a store is read with) with one thread and
with one a core, and by torchvision on the GPU (nvJPEG), several batch sizes; there the pixels stay
on the device. Printed are tiles per second, best of three, and how far the GPU's pixels are from
libjpeg-turbo's: a training on the GPU's would not be the training on the processor's.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from precision import machine
from synthetic_slides import tissue_tiles

BATCHES = (64, 256, 1024)


def best_rate(work: Callable[[], None], n_tiles: int, repeats: int = 3) -> float:
    """Tiles per second of the fastest of some runs, after one that is not counted."""
    work()
    took = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return n_tiles / min(took)


def on_processor(tiles: list[bytes], threads: int) -> float:
    out = np.empty((len(tiles), 256, 256, 3), np.uint8)

    def some(numbers: NDArray[np.int64]) -> None:
        for number in numbers:
            imagecodecs.jpeg8_decode(tiles[number], out=out[number])

    with ThreadPoolExecutor(threads) as pool:
        parts = np.array_split(np.arange(len(tiles)), threads * 4)
        return best_rate(lambda: [*pool.map(some, parts)] and None, len(tiles))


def on_gpu(tiles: list[bytes], device: torch.device, batch: int) -> float:
    from torchvision.io import decode_jpeg

    raw = [torch.frombuffer(bytearray(tile), dtype=torch.uint8) for tile in tiles]

    def work() -> None:
        for first in range(0, len(raw), batch):
            torch.stack(decode_jpeg(raw[first : first + batch], device=device))
        torch.cuda.synchronize()

    return best_rate(work, len(tiles))


def difference(tiles: list[bytes], device: torch.device) -> dict[str, float]:
    """How far the GPU's pixels are from libjpeg-turbo's, in steps of 1/255."""
    from torchvision.io import decode_jpeg

    raw = [torch.frombuffer(bytearray(tile), dtype=torch.uint8) for tile in tiles]
    theirs = torch.stack(decode_jpeg(raw, device=device)).permute(0, 2, 3, 1).cpu().numpy()
    ours = np.stack([imagecodecs.jpeg8_decode(tile) for tile in tiles])
    far = np.abs(theirs.astype(int) - ours)
    equal = float((far == 0).mean())
    return {"mean": float(far.mean()), "most": int(far.max()), "equal_share": equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiles", type=int, default=8192)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    some = tissue_tiles(1)
    tiles = [some[k % len(some)] for k in range(args.tiles)]
    cores = len(os.sched_getaffinity(0))
    found: dict[str, Any] = {
        "machine": machine(),
        "tile_bytes": round(float(np.mean([len(tile) for tile in some]))),
        "tiles_per_s": {
            "imagecodecs, 1 thread": on_processor(tiles[:2048], 1),
            f"imagecodecs, {cores} threads": on_processor(tiles, cores),
        },
    }
    if torch.cuda.is_available():
        device = torch.device("cuda")
        for batch in BATCHES:
            name = f"torchvision on the GPU, {batch} at once"
            found["tiles_per_s"][name] = on_gpu(tiles, device, batch)
        found["gpu_against_imagecodecs_255"] = difference(some, device)
    found["tiles_per_s"] = {name: round(rate) for name, rate in found["tiles_per_s"].items()}
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

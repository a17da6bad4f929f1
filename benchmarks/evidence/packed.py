"""Data sets made small, without loss, to be carried to a machine that has not their sources.

    python benchmarks/evidence/packed.py pack CONFIG --work /tmp/evidence --out DIR --data colon
    python benchmarks/evidence/packed.py unpack DIR --work /tmp/evidence

Images are written as lossless WebP, a hundred of a set below each other in one picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import yaml
from data import load_once
from numpy.typing import NDArray

AT_ONCE = 100


def packed(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (N, P, P, 3) as bytes: the pictures' lengths (8 bytes each), then the pictures."""
    pictures = [
        imagecodecs.webp_encode(np.concatenate(list(images[k : k + AT_ONCE])), lossless=True)
        for k in range(0, len(images), AT_ONCE)
    ]
    lengths = np.array([len(pictures), *map(len, pictures)], np.int64)
    return np.frombuffer(lengths.tobytes() + b"".join(pictures), np.uint8)


def unpacked(data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The inverse of :func:`packed`."""
    raw = data.tobytes()
    count = int(np.frombuffer(raw[:8], np.int64)[0])
    lengths = np.frombuffer(raw[8 : 8 * (count + 1)], np.int64)
    at, parts = 8 * (count + 1), []
    for length in lengths.tolist():
        parts.append(np.asarray(imagecodecs.webp_decode(raw[at : at + length]))[..., :3])
        at += length
    return np.concatenate(parts).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path, help="the configuration to pack for; or the folder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", nargs="*", default=[])
    asked = parser.parse_args()
    if asked.what == "pack":
        limits = tuple(yaml.safe_load(asked.source.read_text())["limits"])
        asked.out.mkdir(parents=True, exist_ok=True)
        for name in asked.data:
            load_once(name, limits, asked.work)
            path = asked.work / f"data__{name}__{'-'.join(map(str, limits))}.npz"
            with np.load(path) as kept:
                arrays: dict[str, Any] = {}
                for key, value in kept.items():
                    if key.endswith("/images"):
                        arrays |= {key: packed(value), f"{key}/shape": np.array(value.shape)}
                    else:
                        arrays[key] = value
            np.savez_compressed(asked.out / path.name, **arrays)
        return
    asked.work.mkdir(parents=True, exist_ok=True)
    for path in sorted(asked.source.glob("data__*.npz")):
        with np.load(path) as kept:
            arrays = {
                key: unpacked(value, tuple(kept[f"{key}/shape"].tolist()))
                if key.endswith("/images")
                else value
                for key, value in kept.items()
                if not key.endswith("/shape")
            }
        np.savez(asked.work / path.name, **arrays)


if __name__ == "__main__":
    main()

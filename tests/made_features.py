"""Features of made-up slides in files of the shapes that TRIDENT, CLAM and STAMP write."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from forked_command import run_forked
from numpy.typing import NDArray

WIDTH = 12


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def document(*args: object) -> dict[str, Any]:
    """The JSON document that a command prints."""
    found = run_forked([*args, "--json", "--quiet"])
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def patch_features(n: int, n_showing: int, seed: int, strength: float = 4.0) -> NDArray[np.float32]:
    """Noise of a mean of its own a slide; patches that show the class differ in two features."""
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(0, 0.05, WIDTH), 1.0, (n, WIDTH))
    values[:n_showing, :2] += strength
    return rng.permutation(values).astype(np.float32)


def grid_coords(n: int, step: int = 512) -> NDArray[np.int64]:
    """Level-0 corners of patches in rows of eight."""
    return np.stack([np.arange(n) % 8, np.arange(n) // 8], 1) * step


def write_trident(path: Path, features: NDArray[np.float32], batched: bool = False) -> None:
    """``features`` and ``coords`` in one file, with what TRIDENT says of the coordinates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features[None] if batched else features
        file["coords"] = grid_coords(len(features))
        file["features"].attrs["encoder"] = "uni_v1"
        file["coords"].attrs.update(
            {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40,
             "target_magnification": 20, "overlap": 0, "name": path.stem}
        )  # fmt: skip


def write_clam(folder: Path, slide_id: str, features: NDArray[np.float32]) -> None:
    """Features without attributes, and a file of coordinates with them beside."""
    coords = grid_coords(len(features))
    for part in ("features/h5_files", "patches"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "features" / "h5_files" / f"{slide_id}.h5", "w") as file:
        file["features"] = features
        file["coords"] = coords
    with h5py.File(folder / "patches" / f"{slide_id}.h5", "w") as file:
        file["coords"] = coords
        file["coords"].attrs.update(
            {"patch_size": 256, "patch_level": 1, "downsample": np.array([2.0, 2.0]),
             "downsampled_level_dim": np.array([4096, 4096]), "name": slide_id}
        )  # fmt: skip

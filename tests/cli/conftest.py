"""A cohort small enough to run the real command on, again and again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

Scaat = Callable[..., subprocess.CompletedProcess[str]]


def run_scaat(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The ``scaat`` command as a user's shell would start it."""
    return subprocess.run(
        [sys.executable, "-m", "pathology_scaat", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "200"},
        check=False,
    )


@pytest.fixture(scope="session")
def scaat() -> Scaat:
    return run_scaat


def draw_slide(path: Path, seed: int, side_px: int = 1280) -> dict[str, list[list[float]]]:
    """A pyramidal TIFF at 0.5 µm/px: pink tissue, dark crowded dots in its right half.

    Returns the rings of the two classes, level-0 pixels.
    """
    rng = np.random.default_rng(seed)
    image = np.full((side_px, side_px, 3), 244, dtype=np.uint8)
    edge = side_px // 10
    image[edge:-edge, edge:-edge] = (222, 160, 196)
    middle = side_px // 2
    ys, xs = np.mgrid[0:12, 0:12]
    disc = (ys - 5.5) ** 2 + (xs - 5.5) ** 2 < 30
    for n_dots, low, high in ((500, edge, middle), (2600, middle, side_px - edge)):
        for x, y in zip(
            rng.integers(low, high - 12, n_dots),
            rng.integers(edge, side_px - edge - 12, n_dots),
            strict=True,
        ):
            image[y : y + 12, x : x + 12][disc] = (92, 60, 140)
    noise = rng.integers(-6, 7, image.shape, dtype=np.int16)
    image = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for level, step in enumerate((1, 4)):
            writer.write(
                image[::step, ::step],
                tile=(256, 256),
                photometric="rgb",
                compression="deflate",
                resolution=(20_000 / step, 20_000 / step),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )

    def box(left: int, right: int) -> list[list[float]]:
        top, bottom = edge, side_px - edge
        return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]

    return {"Normal": box(edge, middle), "Tumor": box(middle, side_px - edge)}


def write_annotations(path: Path, rings: dict[str, list[list[float]]]) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, ring in rings.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of four slides of four patients, one of which is no slide at all."""
    folder = tmp_path_factory.mktemp("cohort")
    lines = ["slide_path,slide_id,patient_id,split,annotation_path"]
    for number, split in enumerate(("train", "val", "test")):
        rings = draw_slide(folder / f"s{number}.tiff", seed=number)
        write_annotations(folder / f"s{number}.geojson", rings)
        lines.append(f"s{number}.tiff,slide-{number},patient-{number},{split},s{number}.geojson")
    (folder / "broken.svs").write_bytes(b"not a slide")
    lines.append("broken.svs,slide-broken,patient-9,,")
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest

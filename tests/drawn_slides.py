"""A slide and its annotations, drawn: what tests of the whole command have in common."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile

Ring = list[list[float]]


def draw_slide(
    path: Path, seed: int, side_px: int = 768, tile_px: int = 128, **tags: object
) -> None:
    """A pyramidal TIFF at 0.5 µm/px: pink tissue on glass, dark dots in its right half."""
    rng = np.random.default_rng(seed)
    image = np.full((side_px, side_px, 3), 244, dtype=np.uint8)
    edge, middle = side_px // 10, side_px // 2
    image[edge:-edge, edge:-edge] = (222, 160, 196)
    n_dots = side_px * side_px // 900
    for x, y in zip(
        rng.integers(middle, side_px - edge - 8, n_dots),
        rng.integers(edge, side_px - edge - 8, n_dots),
        strict=True,
    ):
        image[y : y + 8, x : x + 8] = (92, 60, 140)
    noise = rng.integers(-6, 7, image.shape, dtype=np.int16)
    image = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for level, step in enumerate((1, 4)):
            writer.write(
                image[::step, ::step],
                tile=(tile_px, tile_px),
                photometric="rgb",
                compression="deflate",
                resolution=(20_000 / step, 20_000 / step),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                **(tags if not level else {}),  # type: ignore[arg-type]
            )


def halves(side_px: int, edge_px: int = 0) -> dict[str, Ring]:
    """Rings of the two classes: Normal is the left half of the slide, Tumor the right."""

    def box(left: int, right: int) -> Ring:
        top, bottom = edge_px, side_px - edge_px
        return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]

    middle = side_px // 2
    return {"Normal": box(edge_px, middle), "Tumor": box(middle, side_px - edge_px)}


def write_annotations(path: Path, rings: dict[str, Ring]) -> None:
    """QuPath GeoJSON of one annotation a class."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, ring in rings.items()
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    path.write_text(text, encoding="utf-8")


def make_cohort(folder: Path, side_px: int = 352, *extra_rows: str) -> Path:
    """Three slides of three patients with annotations; the manifest."""
    lines = ["slide_path,slide_id,patient_id,split,annotation_path"]
    for number, split in enumerate(("train", "val", "test")):
        draw_slide(folder / f"s{number}.tiff", seed=number, side_px=side_px)
        write_annotations(folder / f"s{number}.geojson", halves(side_px))
        lines.append(f"s{number}.tiff,slide-{number},patient-{number},{split},s{number}.geojson")
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join([*lines, *extra_rows]) + "\n", encoding="utf-8")
    return manifest

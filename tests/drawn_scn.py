"""A Leica SCN file, drawn: a macro and scanned areas anywhere on the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

NM_PER_PX = 500
WIDTH, HEIGHT, LEVELS = 512, 384, 3
CANVAS_NM = (4_000_000, 6_000_000)


@dataclass(frozen=True)
class Area:
    """A scanned area: its corner in level-0 pixels, its objective and its light."""

    x_px: int
    y_px: int
    objective: float = 20
    light: str = "brightfield"


def picture(seed: int = 0) -> np.ndarray:
    """Noise in blocks: a shift by one pixel on any level is seen everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 220, (HEIGHT // 8, WIDTH // 8, 3))
    fine = rng.integers(-30, 31, (HEIGHT, WIDTH, 3))
    return (coarse.repeat(8, 0).repeat(8, 1) + fine).clip(0, 255).astype(np.uint8)


def _image(number: int, name: str, pages: Sequence[tuple[int, int, int]], view: str, area: Area
           ) -> str:  # fmt: skip
    dimensions = "".join(
        f'<dimension sizeX="{w}" sizeY="{h}" r="{r}" ifd="{ifd}"/>'
        for r, (ifd, w, h) in enumerate(pages)
    )
    return (
        f'<image name="{name}" uuid="urn:uuid:0b2b6c2e-0000-4000-8000-{number:012d}">'
        "<creationDate>2020-01-01T00:00:00.0Z</creationDate>"
        '<device model="Leica SCN400;Leica SCN" version="1.4"/>'
        f'<pixels sizeX="{pages[0][1]}" sizeY="{pages[0][2]}">{dimensions}</pixels>{view}'
        f"<scanSettings><objectiveSettings><objective>{area.objective}</objective>"
        "</objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>"
        f"<illuminationSource>{area.light}</illuminationSource></illuminationSettings>"
        "</scanSettings></image>"
    )


def write_scn(path: Path, *areas: Area) -> None:
    """Write a macro and one pyramid for each area."""
    wide, high = CANVAS_NM
    macro_view = f'<view sizeX="{wide}" sizeY="{high}" offsetX="0" offsetY="0" spacingZ="0"/>'
    images = [_image(1, "macro", [(0, 64, 96)], macro_view, Area(0, 0, 0.6))]
    for number, area in enumerate(areas):
        pages = [
            (1 + number * LEVELS + k, WIDTH >> k, HEIGHT >> k) for k in range(LEVELS)
        ]  # fmt: skip
        view = (
            f'<view sizeX="{WIDTH * NM_PER_PX}" sizeY="{HEIGHT * NM_PER_PX}" '
            f'offsetX="{area.x_px * NM_PER_PX}" offsetY="{area.y_px * NM_PER_PX}" spacingZ="0"/>'
        )
        images.append(_image(number + 2, f"area {number}", pages, view, area))
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" '
        'uuid="urn:uuid:0b2b6c2e-0000-4000-8000-000000000000"><collection name="c" '
        'uuid="urn:uuid:0b2b6c2e-0000-4000-8000-00000000000a" '
        f'sizeX="{wide}" sizeY="{high}"><barcode>none</barcode>'
        f"{''.join(images)}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:

        def page(data: np.ndarray, step: int, description: str | None = None) -> None:
            writer.write(
                np.ascontiguousarray(data), tile=(64, 64), photometric="rgb", compression="zlib",
                description=description, metadata=None, software=False,
                resolution=(1e7 / (NM_PER_PX * step),) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip

        page(np.full((96, 64, 3), 200, dtype=np.uint8), 125, text)
        for number in range(len(areas)):
            for level in range(LEVELS):
                page(picture(number)[:: 1 << level, :: 1 << level], 1 << level)

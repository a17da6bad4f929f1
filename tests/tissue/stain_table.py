"""The table of docs/tissue.md: how much tissue is found in each stain, how much ink left out.

SCAAT_DATA=DATA python tests/tissue/stain_table.py     writes the table into the page
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from drawn_stains import PENS, STAINS, Maps, Stain, photograph, section, strokes, unmixed
from numpy.typing import NDArray

from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideInfo
from pathology_scaat.tissue.mask import TissueMask, find_tissue
from pathology_scaat.tissue.thumbnail import make_thumbnail

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tissue.md"
DRAWN_MPP = 4.0
CROPS = (
    "CMU-1-Small-Region.svs",
    "CMU-1_crop_20x.svs",
    "atlas_gastric_metaplasia_HE_20x.tiff",
)
HEAD = (
    "| stain | pens | drawn: tissue found | beside ink | glass kept | ink on glass left out "
    "| ink over tissue left out | real: tissue found | beside ink | ink left out |"
)
RULE = "|---|---|---|---|---|---|---|---|---|---|"


class Picture:
    """A slide of one level in memory."""

    def __init__(self, pixels: RgbImage, mpp: float) -> None:
        self.pixels = pixels
        height, width = pixels.shape[:2]
        self.info = SlideInfo(
            "array", "none", (LevelInfo(SizePx(width, height), 1.0),), mpp, "slide"
        )

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        return self.pixels[box_px.y : box_px.bottom, box_px.x : box_px.right]

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None: ...

    def __enter__(self) -> Picture:
        return self

    def __exit__(self, *args: object) -> None: ...


@dataclass(frozen=True)
class Shares:
    """Shares from 0 to 1: tissue found without ink, and beside it; glass taken for tissue;
    ink on glass and over tissue that was left out."""

    found: float
    beside: float
    glass: float
    on_glass: float
    over_tissue: float


def pens_of(number: int) -> tuple[str, str]:
    names = list(PENS)
    step = 1 + number // len(names) % (len(names) - 1)
    return names[number % len(names)], names[(number + step) % len(names)]


def measure(
    density: NDArray[np.float32],
    truth: NDArray[np.bool_],
    pens: tuple[str, str],
    mpp: float = DRAWN_MPP,
) -> Shares:
    """What is found in a picture, and in the same with two pen strokes on it."""
    inks = strokes(truth.shape, mpp)
    total = density.copy()
    for ink, pen in zip(inks, pens, strict=True):
        total += ink[..., None] * np.array(PENS[pen], dtype=np.float32)
    plain = find_tissue(Picture(photograph(density), mpp))
    inked = find_tissue(Picture(photograph(total), mpp))
    there = _fitted(truth, plain)
    ink = _fitted(inks[0] + inks[1] > 0.5, plain)
    any_ink = _fitted(inks[0] + inks[1] > 0.02, plain)
    far = ~cv2.dilate(there.view(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    return Shares(
        found=_share(plain.mask, there),
        beside=_share(inked.mask, there & ~any_ink),
        glass=_share(inked.mask, far & ~any_ink),
        on_glass=_share(~inked.mask, ink & far),
        over_tissue=_share(~inked.mask, ink & there),
    )


def _fitted(area: NDArray[np.bool_], mask: TissueMask) -> NDArray[np.bool_]:
    high, wide = mask.mask.shape
    size = (wide, high)
    return cv2.resize(area.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)


def _share(part: NDArray[np.bool_], of: NDArray[np.bool_]) -> float:
    return float(part[of].mean()) if of.any() else 1.0


def drawn(stain: Stain, number: int) -> Shares:
    maps, truth = section()
    return measure(stain.densities(maps), truth, pens_of(number))


@cache
def _crop(path: Path) -> tuple[Maps, NDArray[np.bool_], float]:
    """Stain amounts of a real slide at 4 µm/px, and the tissue found on it as it is."""
    with open_slide(path) as slide:
        mpp = slide.info.mpp or 0.5
        made = make_thumbnail(slide, DRAWN_MPP / mpp, 4096, 10**10)
        pixels = made.rgb
        found = find_tissue(Picture(pixels, made.scale_px * mpp))
    size = pixels.shape[1::-1]
    mask = cv2.resize(found.mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return unmixed(pixels), mask.astype(bool), made.scale_px * mpp


def real(stain: Stain, number: int, data: Path) -> Shares:
    maps, truth, mpp = _crop(data / "slides" / CROPS[number % len(CROPS)])
    return measure(stain.densities(maps), truth, pens_of(number), mpp)


def row(stain: Stain, number: int, data: Path) -> str:
    first, second = drawn(stain, number), real(stain, number, data)
    ink = min(second.on_glass, second.over_tissue)
    shares = (
        first.found, first.beside, first.glass, first.on_glass, first.over_tissue,
        second.found, second.beside, ink,
    )  # fmt: skip
    cells = " | ".join(f"{100 * share:.0f} %" for share in shares)
    return f"| {stain.name} | {', '.join(pens_of(number))} | {cells} |"


def rows_of_page() -> Iterator[tuple[str, list[int]]]:
    """Stain and percentages of each row of the page."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        numbers = re.findall(r"\| (\d+) %", line)
        if numbers:
            yield line.split("|")[1].strip(), [int(number) for number in numbers]


def main(data: Path) -> None:
    lines = [HEAD, RULE, *(row(stain, number, data) for number, stain in enumerate(STAINS))]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(HEAD)
    after = rest[rest.index("\n\n") :] if "\n\n" in rest else "\n"
    PAGE.write_text(before + "\n".join(lines) + after, encoding="utf-8")


if __name__ == "__main__":
    import os

    main(Path(os.environ["SCAAT_DATA"]))

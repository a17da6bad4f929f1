"""Stains of every hue are tissue, pens are ink: the numbers of docs/tissue.md, measured again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_stains import BLUE_OR_GREEN, STAINS, Stain, photograph, section
from stain_table import DRAWN_MPP, Picture, Shares, drawn, real, rows_of_page

from pathology_scaat.slides import open_slide
from pathology_scaat.tissue.mask import TissueConfig, find_tissue

NUMBERED = list(enumerate(STAINS))
TOLERANCE = 2
"""Percentage points: other versions of numpy and OpenCV round otherwise."""


def percent(share: float) -> float:
    return 100 * share


def test_the_page_has_a_row_of_each_stain() -> None:
    assert [name for name, _ in rows_of_page()] == [stain.name for stain in STAINS]
    assert len(STAINS) >= 30
    assert len(BLUE_OR_GREEN) >= 15


@pytest.mark.slow
@pytest.mark.parametrize(("number", "stain"), NUMBERED, ids=[s.name for s in STAINS])
def test_drawn_sections(number: int, stain: Stain) -> None:
    shares = drawn(stain, number)
    assert shares.found > 0.98
    assert shares.beside > 0.97
    assert shares.glass < 0.01
    assert min(shares.on_glass, shares.over_tissue) > 0.98
    stated = dict(rows_of_page())[stain.name]
    measured = [shares.found, shares.beside, shares.glass, shares.on_glass, shares.over_tissue]
    assert stated[:5] == pytest.approx([percent(s) for s in measured], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("number", "stain"), NUMBERED, ids=[s.name for s in STAINS])
def test_recoloured_real_sections(data_dir: Path, number: int, stain: Stain) -> None:
    shares: Shares = real(stain, number, data_dir)
    assert shares.found > 0.92
    assert shares.beside > 0.92
    assert shares.on_glass > 0.98
    stated = dict(rows_of_page())[stain.name]
    ink = min(shares.on_glass, shares.over_tissue)
    measured = [percent(s) for s in (shares.found, shares.beside, ink)]
    assert stated[5:] == pytest.approx(measured, abs=TOLERANCE)


@pytest.mark.parametrize("strength", [0.4, 0.7, 1.4])
@pytest.mark.parametrize("name", ["Giemsa, blue", "light green counterstain", "Alcian blue alone"])
def test_weak_and_strong_stain(name: str, strength: float) -> None:
    maps, truth = section()
    stain = next(stain for stain in STAINS if stain.name == name)
    found = find_tissue(Picture(photograph(stain.densities(maps, strength)), DRAWN_MPP))
    assert found.mask[truth[::2, ::2]].mean() > 0.95
    assert "ink" not in found.flags


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize(
    "glass",
    [(235, 222, 190), (230, 210, 170), (240, 232, 205), (205, 190, 160), (250, 240, 200),
     (243, 215, 222), (205, 222, 240)],
)  # fmt: skip
def test_tinted_glass_is_glass(glass: tuple[int, int, int], padded: bool) -> None:
    maps, truth = section()
    pixels = photograph(STAINS[0].densities(maps), glass)
    if padded:
        pixels[:, 900:] = 255
    found = find_tissue(Picture(pixels, DRAWN_MPP))
    there = truth[::2, ::2].copy()
    if padded:
        there[:, 450:] = False
    assert found.mask[there].mean() > 0.95
    outside = ~there
    assert found.mask[outside].mean() < 0.03
    assert "no-glass" not in found.flags


def test_a_flat_pale_area_is_no_glass_where_there_is_none() -> None:
    """Colloid from edge to edge of a picture: pink and flat, but it is what is stained."""
    maps, _ = section()
    density = np.zeros((600, 600, 3), dtype=np.float32) + np.array([0.02, 0.12, 0.06], np.float32)
    density[:300] += STAINS[0].densities(maps)[300:600, 200:800]
    found = find_tissue(Picture(photograph(density), DRAWN_MPP))
    assert "no-glass" in found.flags
    assert found.tissue_share > 0.9


@pytest.mark.real
@pytest.mark.parametrize("name", ["trichrome.tif", "giemsa_blue.tif", "glass_y4.tif"])
def test_slides_of_the_field(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / "field" / "blue_and_green_stains_are_ink" / name) as slide:
        found = find_tissue(slide)
    assert 0.36 < found.tissue_share < 0.41
    assert found.flags == ()


def test_ink_is_kept_on_request() -> None:
    from stain_table import PENS, strokes

    maps, truth = section()
    density = STAINS[0].densities(maps)
    ink = strokes(truth.shape, DRAWN_MPP)[0]
    density += ink[..., None] * np.array(PENS["green"], dtype=np.float32)
    picture = Picture(photograph(density), DRAWN_MPP)
    there = ink[::2, ::2] > 0.5
    assert find_tissue(picture).mask[there].mean() < 0.02
    assert find_tissue(picture, TissueConfig(drop_ink=False)).mask[there].mean() > 0.98


def test_ink_is_reported_and_kept_by_the_command(tmp_path: Path) -> None:
    import csv

    import tifffile
    from reliability_tools import run_scaat
    from stain_table import PENS, strokes

    density = strokes((800, 800), 4.0)[0][..., None] * np.array(PENS["green"], dtype=np.float32)
    density[40:140, 60:160] += STAINS[0].densities(section()[0])[600:700, 400:500]
    tifffile.imwrite(
        tmp_path / "pen.tiff", photograph(density), tile=(256, 256), photometric="rgb",
        resolution=(2500, 2500), resolutionunit="CENTIMETER",
    )  # fmt: skip
    (tmp_path / "cohort.csv").write_text("slide_path\npen.tiff\n")
    found = []
    for name, *more in (("dropped",), ("kept", "--keep-ink")):
        done = run_scaat("tile", "--manifest", tmp_path / "cohort.csv", "--out", tmp_path / name,
                         "--mpp", "4", "--patch-size", "32", "--workers", "0", *more,
                         in_process=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        with (tmp_path / name / "slides.csv").open(encoding="utf-8") as stream:
            (row,) = csv.DictReader(stream)
        found.append(row)
    assert "mostly-ink" in found[0]["notes"]
    assert "--keep-ink" in found[0]["notes"]
    assert "--keep-ink" not in found[1]["notes"]
    assert int(found[1]["n_patches"]) > 5 * int(found[0]["n_patches"]) > 0

"""Given masks: indices of an indexed picture, transparency, and masks without a background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.base import LevelInfo, SlideInfo
from pathology_scaat.tissue.given_mask import mask_values, read_given_mask

LEFT = np.zeros((12, 16), np.uint8)
LEFT[:, :8] = 1


def indexed() -> Image.Image:
    """As QuPath exports a label image: entry 0 of the palette is white."""
    image = Image.new("P", (16, 12))
    image.putdata(LEFT.ravel().tolist())
    image.putpalette([255, 255, 255, 200, 0, 0] + [0] * 762)
    return image


def transparent() -> Image.Image:
    return Image.fromarray(np.dstack([np.full((12, 16, 3), 255, np.uint8), LEFT * 255]))


@pytest.mark.parametrize(
    "image",
    [
        indexed(),
        Image.fromarray(LEFT * 255),
        Image.fromarray(LEFT.astype(np.uint16) * 40_000),
        Image.fromarray(LEFT.astype(np.int32) * 70_000),
        Image.fromarray(LEFT.astype(bool)),
        Image.fromarray(np.repeat(LEFT[..., None] * 9, 3, axis=2)),
        transparent(),
    ],
    ids=["indexed", "grey", "16 bit", "32 bit", "1 bit", "colours", "transparent"],
)
def test_zero_is_background(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "mask.tif" if image.mode == "I" else tmp_path / "mask.png")
    with Image.open(next(tmp_path.iterdir())) as read:
        np.testing.assert_array_equal(mask_values(read) > 0, LEFT > 0)


@pytest.mark.parametrize(
    ("values", "words"), [([1, 7], "values 1, 7, and no 0"), ([255], "has no background: all")]
)
def test_a_mask_without_background_is_reported(
    values: list[int], words: str, tmp_path: Path, info_of_a_slide: SlideInfo
) -> None:
    mask = np.resize(np.array(values, np.uint8), (12, 16))
    Image.fromarray(mask).save(tmp_path / "m.png")
    found = read_given_mask(tmp_path / "m.png", info_of_a_slide)
    assert found.mask.all()
    assert words in found.notes[0]
    Image.fromarray(LEFT).save(tmp_path / "m.png")
    assert read_given_mask(tmp_path / "m.png", info_of_a_slide).notes == ()


@pytest.mark.real
def test_field_indexed_mask(data_dir: Path, info_of_a_slide: SlideInfo) -> None:
    folder = data_dir / "field" / "indexed_mask_ignored"
    if not folder.is_dir():
        pytest.skip("the field cases are not here")
    indexed_mask, plain = (
        read_given_mask(folder / name, info_of_a_slide)
        for name in ("qupath_label.png", "plain_mask.png")
    )
    np.testing.assert_array_equal(indexed_mask.mask, plain.mask)
    assert indexed_mask.tissue_share == pytest.approx(0.5, abs=0.01)
    assert "no background" in read_given_mask(folder / "grandqc_like.png", info_of_a_slide).notes[0]


@pytest.fixture
def info_of_a_slide() -> SlideInfo:
    level = LevelInfo(SizePx(2048, 1536), 1.0)
    return SlideInfo("tiff", "generic-tiff", (level,), 0.5, "slide")

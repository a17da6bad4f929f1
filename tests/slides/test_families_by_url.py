"""Files whose first page is a macro are never read by their first page, near or far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn_scn import Area, write_scn
from served import served

from pathology_scaat.errors import SlideOpenError, SpacingError
from pathology_scaat.slides import open_slide


def test_leica_by_url_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slide.scn"
    write_scn(path, Area(20, 30))
    for reader in ("auto", "tiff"):
        for name in ("slide.scn", "slide.tif"):  # by its name, and by what it holds
            renamed = path.rename(tmp_path / name)
            with (
                served(renamed) as url,
                pytest.raises(SlideOpenError, match="Leica SCN") as caught,
            ):
                open_slide(url, reader=reader)
            assert "download it" in str(caught.value)
            path = renamed
    with pytest.raises(SlideOpenError, match="Leica SCN"):
        open_slide(path, reader="tiff")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("leica_like.scn", "Leica SCN"), ("philips_like.tiff", "Philips"),
        ("hamamatsu_like.ndpi", "Hamamatsu NDPI"),
    ],
)  # fmt: skip
def test_families_by_url(data_dir: Path, name: str, words: str) -> None:
    with (
        served(data_dir / "formats" / name) as url,
        pytest.raises(SlideOpenError, match=words),
    ):
        open_slide(url)


def test_trestle_by_url(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, np.full((128, 128, 3), 200, dtype=np.uint8), tile=(64, 64), photometric="rgb",
        software="MedScan 1.0", metadata=None,
    )  # fmt: skip
    with served(path) as url, pytest.raises(SlideOpenError, match="Trestle"):
        open_slide(url)


def test_an_impossible_spacing_by_url_is_reported_as_that(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, np.full((128, 128, 3), 200, dtype=np.uint8), tile=(64, 64), photometric="rgb",
        metadata=None,
    )  # fmt: skip
    with served(path) as url, pytest.raises(SpacingError, match="plausible"):
        open_slide(url, mpp=1000)

"""The year of a scan, and nothing finer, from what scanners write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathology_scaat.slides.scan_year import scan_year, year_in


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("12/29/09", 2009), ("8/18/2014 10:08:16 AM", 2014), ("18/08/2014", 2014),
        ("2016:07:18 09:00:00", 2016), ("20160718103000.000000", 2016), ("20160718", 2016),
        ("2020-01-01T00:00:00.0Z", 2020), ("19700101000000+0000", None), ("3020-01-01", None),
        ("", None), ("yesterday", None), ("12345", None),
    ],
)  # fmt: skip
def test_dates_of_all_scanners(text: str, year: int | None) -> None:
    assert year_in(text) == year


def test_a_file_that_states_a_year_and_files_that_state_none(tmp_path: Path) -> None:
    pixels = np.full((300, 300, 3), 200, np.uint8)
    for name, date in (("dated.tiff", "2013:02:01 10:00:00"), ("bare.tiff", None)):
        tifffile.imwrite(tmp_path / name, pixels, tile=(256, 256), photometric="rgb", datetime=date)
    (tmp_path / "empty.tiff").touch()
    (tmp_path / "text.svs").write_text("2013:02:01")
    assert scan_year(tmp_path / "dated.tiff") == 2013
    # when the file was written on this disk is no date of a scan
    for name in ("bare.tiff", "empty.tiff", "text.svs", "missing.svs"):
        assert scan_year(tmp_path / name) is None

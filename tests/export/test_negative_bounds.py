"""A scanned area that begins left of and above the canvas keeps its stated origin in overlays."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from drawn_scn import HEIGHT, WIDTH, Area, write_scn
from test_registration import everything


def test_overlays_are_in_the_frame_that_viewers_show(tmp_path: Path) -> None:
    """QuPath subtracts the stated bounds, negative or not; so is the offset in the record."""
    write_scn(tmp_path / "slide.scn", Area(-50, -30))
    out = everything(tmp_path, tmp_path / "slide.scn", 0.5, "0", None)
    record = json.loads((out / "S1.json").read_text(encoding="utf-8"))
    assert record["coordinates"]["offset_px"] == [-50, -30]
    assert record["coordinates"]["frame_size_px"] == [WIDTH, HEIGHT]
    text = gzip.decompress((out / "S1.geojson.gz").read_bytes())
    corners = np.array(
        [
            point
            for feature in json.loads(text)["features"]
            if feature["geometry"]["type"] == "Polygon"
            for point in feature["geometry"]["coordinates"][0]
        ]
    )
    # From the first scanned pixel to the last, counted from the scanned area's corner.
    assert corners.min(axis=0).tolist() == [0, 0]
    assert corners.max(axis=0).tolist() == [WIDTH, HEIGHT]

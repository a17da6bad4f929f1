"""Regions out of an overlay: of its many tiles none is parsed, and nothing is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from map_stores import run_with_maps

from pathology_scaat.errors import StoreError
from pathology_scaat.review.regions import _own_annotations, overlay_path, read_regions


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = run_with_maps(tmp_path_factory.mktemp("regions") / "out", ("s1",))
    path = overlay_path(out / "overlays", "s1")
    assert path is not None
    return path


def test_line_by_line_and_whole_are_the_same(overlay: Path, tmp_path: Path) -> None:
    regions = read_regions(overlay)
    everything = json.loads(gzip.decompress(overlay.read_bytes()))
    kinds = [f["properties"]["objectType"] for f in everything["features"]]
    assert len(regions) == kinds.count("annotation") > 3
    assert kinds.count("tile") > 3
    with gzip.open(overlay) as stream:
        found = _own_annotations(stream)  # type: ignore[arg-type]
    assert found == [f for f in everything["features"] if f["id"] in {r.region_id for r in regions}]
    for name, text in (
        ("pretty", json.dumps(everything, indent=1)),
        ("one_line", json.dumps(everything, separators=(",", ":"))),
        ("spaced", json.dumps(everything)),
    ):
        other = tmp_path / f"{name}.geojson"
        other.write_text(text)
        assert read_regions(other) == regions, name


def test_an_overlay_that_was_made_anew_is_read_anew(overlay: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.geojson"
    path.write_bytes(gzip.decompress(overlay.read_bytes()))
    assert len(read_regions(path)) > 3
    path.write_text('{"type":"FeatureCollection","features":[]}\n')
    assert read_regions(path) == ()


@pytest.mark.parametrize("damage", ["torn", "torn.gz", "junk"])
def test_a_damaged_overlay_is_said(overlay: Path, tmp_path: Path, damage: str) -> None:
    plain = gzip.decompress(overlay.read_bytes())
    path = tmp_path / f"s.geojson{'.gz' if damage.endswith('gz') else ''}"
    path.write_bytes(
        {"torn": plain[:-20], "torn.gz": overlay.read_bytes()[:-40], "junk": b"{}"}[damage]
    )
    with pytest.raises(StoreError, match="damaged"):
        read_regions(path)

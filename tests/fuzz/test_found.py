"""Inputs that fuzzing found, each once a crash or a hang."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shapely import Polygon

from pathology_scaat.annotations import read_annotations
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.errors import AnnotationError, ConfigError
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.qupath.geojson import region_features, tile_features
from pathology_scaat.export.qupath.palette import QuPathClass
from pathology_scaat.export.qupath.regions import Region, RegionSet
from pathology_scaat.export.tiles import TileTable
from pathology_scaat.pipeline.config import load_run_config


@pytest.mark.parametrize(
    "text",
    ['{"type":"Feature","geometry":{"type":{"names":["Positive"]}}}'],
)
def test_geojson_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError):
        read_annotations(path)


def test_a_manifest_whose_path_is_too_long_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("slide_path\na\\" + "ÿ" * 200 + ".svs\n", encoding="utf-8")
    assert len(read_manifest(path)) == 1


def test_a_setting_with_a_line_break_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("manifest: m\nout: o\ntile: {overlap: '\n\na\x1b[31m'}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, {})
    assert str(caught.value).isprintable()
    named = tmp_path / "p\n\x1b[31m.yaml"
    with pytest.raises(ConfigError) as caught:
        load_run_config(named, {})
    assert str(caught.value).isprintable()


LARGEST_DOUBLE = 1.7976931348623157e308
"""Finite; rounded to five digits it is infinite, which is no JSON."""


def test_a_value_that_rounds_to_infinity_is_left_out(tmp_path: Path) -> None:
    region = Region(Polygon([(0, 0), (9, 0), (9, 9)]), LARGEST_DOUBLE, 0.5, float("nan"))
    (text,) = region_features(RegionSet((region,), 0.5, 1.0, 1), "k", "T", {})
    assert list(json.loads(text)["properties"]["measurements"].values()) == [0.5]
    edges = np.array([[0, 0, 9, 9]], np.int32)
    scores = np.array([-LARGEST_DOUBLE])
    table = TileTable(edges, edges, scores[:, None], scores, np.array([0.5]), 0)
    frame = ExportFrame("full", 0, 0, 99, 99)
    classes = (QuPathClass("T", (1, 2, 3)),)
    (text,) = tile_features(table, np.arange(1), classes, frame, "k")
    assert list(json.loads(text)["properties"]["measurements"].values()) == [0.5]

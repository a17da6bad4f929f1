"""The validator refuses everything that QuPath was seen to refuse, change or drop."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pathology_scaat.errors import ExportError
from pathology_scaat.export.qupath.validator import geojson_problems, validate_qupath_geojson

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
GOOD: dict[str, Any] = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": "6ba7b810-9dad-51d1-80b4-00c04fd430c8",
            "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
            "properties": {
                "objectType": "annotation",
                "name": "High saliency 1",
                "isLocked": True,
                "classification": {"names": ["Saliency", "High"], "color": [255, 200, 0]},
                "measurements": {"SCAAT: Saliency mean": 0.5},
                "metadata": {"model": "m"},
            },
        },
        {
            "type": "Feature",
            "id": "6ba7b811-9dad-51d1-80b4-00c04fd430c8",
            "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
            "properties": {
                "objectType": "tile",
                "classification": {"name": "Tumor", "color": [200, 0, 0]},
                "measurements": {"SCAAT: Saliency mean": 1e-05},
            },
        },
    ],
}


def changed(keys: list[Any], value: Any) -> dict[str, Any]:
    out = copy.deepcopy(GOOD)
    part: Any = out["features"][1]
    for key in keys[:-1]:
        part = part[key]
    if value is ...:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    return out


RING = ["geometry", "coordinates"]
CLASS = ["properties", "classification"]
HOLE = [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]
BAD = {
    "class without colour": (CLASS, {"name": "Tumor"}, "no color"),
    "class without name": (CLASS, {"color": [1, 2, 3]}, "no name"),
    "hex colour": ([*CLASS, "color"], "#ff0000", "whole numbers"),
    "colour of floats": ([*CLASS, "color"], [0.5, 0.5, 1.0], "whole numbers"),
    "colour of two": ([*CLASS, "color"], [1, 2], "whole numbers"),
    "colour beyond 255": ([*CLASS, "color"], [1, 2, 300], "whole numbers"),
    "empty class": ([*CLASS, "name"], "", "empty"),
    "class with line break": ([*CLASS, "name"], "a\nb", "line break"),
    "empty class text": (CLASS, "", "empty"),
    "names no list": (CLASS, {"names": "Tumor", "color": [1, 2, 3]}, "list of names"),
    "names empty": (CLASS, {"names": [], "color": [1, 2, 3]}, "list of names"),
    "name null": (["properties", "name"], None, "name is null"),
    "tile with name": (["properties", "name"], "x", "costs memory"),
    "tile with metadata": (["properties", "metadata"], {"a": "b"}, "costs memory"),
    "metadata with number": (["properties", "metadata"], {"a": 1}, "metadata"),
    "id null": (["id"], None, "UUID"),
    "id missing": (["id"], ..., "UUID"),
    "id whole number": (["id"], 7, "UUID"),
    "id free text": (["id"], "tile-1", "UUID"),
    "id twice": (["id"], GOOD["features"][0]["id"], "occurs twice"),
    "properties null": (["properties"], None, "no properties"),
    "properties missing": (["properties"], ..., "no properties"),
    "geometry null": (["geometry"], None, "no geometry"),
    "geometry missing": (["geometry"], ..., "no geometry"),
    "geometry collection": (["geometry"], {"type": "GeometryCollection", "geometries": []}, "not"),
    "line": (["geometry"], {"type": "LineString", "coordinates": SQUARE}, "LineString"),
    "empty multi": (["geometry"], {"type": "MultiPolygon", "coordinates": []}, "not Polygon"),
    "measurement text": (["properties", "measurements"], {"a": "high"}, "not a finite"),
    "measurement null": (["properties", "measurements"], {"a": None}, "not a finite"),
    "measurement bool": (["properties", "measurements"], {"a": True}, "not a finite"),
    "measurement nested": (["properties", "measurements"], {"a": {"b": 1}}, "not a finite"),
    "measurement unnamed": (["properties", "measurements"], {" ": 1}, "has no name"),
    "measurement list": (["properties", "measurements"], [1], "names with numbers"),
    "ring open": (RING, [SQUARE[:-1]], "not closed"),
    "ring of three": (RING, [SQUARE[:2]], "four points"),
    "no ring": (RING, [], "no ring"),
    "bow-tie": (RING, [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]], "invalid"),
    "hole outside": (RING, [SQUARE, [[200 + x, y] for x, y in HOLE]], "invalid"),
    "holes overlap": (RING, [SQUARE, HOLE, [[x + 5, y] for x, y in HOLE]], "invalid"),
    "hole on edge": (RING, [SQUARE, [[0, 10], [5, 10], [5, 20], [0, 20], [0, 10]]], "invalid"),
    "no area": (RING, [[[0, 0], [10, 0], [5, 0], [0, 0]]], "invalid"),
    "sliver": (RING, [[[0, 0], [9, 0], [9, 0.001], [0, 0.001], [0, 0]]], "rounding"),
    "point of three": (RING, [[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]]], "two finite"),
    "point of text": (RING, [[["0", 0], [1, 0], [1, 1], ["0", 0]]], "two finite"),
    "type upper case": (["properties", "objectType"], "Tile", "annotation"),
    "type missing": (["properties", "objectType"], ..., "annotation"),
    "locked text": (["properties", "isLocked"], "yes", "isLocked"),
    "own colour": (["properties", "color"], "red", "whole numbers"),
    "two colours": (CLASS, {"name": "Saliency: High", "color": [1, 2, 3]}, "two colours"),
    "no feature": (["type"], "Thing", "not a Feature"),
}  # fmt: skip


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_has_no_problem(tmp_path: Path) -> None:
    path = written(tmp_path / "good.geojson", json.dumps(GOOD))
    validate_qupath_geojson(path, (100, 100))
    packed = tmp_path / "good.geojson.gz"
    packed.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert geojson_problems(packed) == []


@pytest.mark.parametrize("name", BAD)
def test_what_qupath_refuses_is_refused(tmp_path: Path, name: str) -> None:
    keys, value, expected = BAD[name]
    path = written(tmp_path / "bad" / "x.geojson", json.dumps(changed(keys, value)))
    problems = geojson_problems(path)
    assert problems
    assert expected in problems[0]
    with pytest.raises(ExportError, match="QuPath would refuse"):
        validate_qupath_geojson(path)


@pytest.mark.parametrize(
    "value",
    [
        "Tumor",
        None,
        {"name": "a", "color": [1, 2, 3, 255]},
        {"names": ["a", "b"], "color": [0, 0, 0]},
    ],
)
def test_classes_that_qupath_takes(tmp_path: Path, value: Any) -> None:
    written(tmp_path / "x.geojson", json.dumps(changed(CLASS, value)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: text + "\n{}",
        lambda text: "\n".join(json.dumps(f) for f in GOOD["features"]),
        lambda text: "",
        lambda text: "7",
        lambda text: json.dumps(GOOD["features"]),
        lambda text: '{"type":"FeatureCollection"}',
        lambda text: text.replace("1e-05", "NaN"),
    ],
)
def test_files_that_are_no_collection(tmp_path: Path, change: Callable[[str], str]) -> None:
    path = written(tmp_path / "bad" / "x.geojson", change(json.dumps(GOOD)))
    assert geojson_problems(path)


def test_objects_outside_the_open_image(tmp_path: Path) -> None:
    path = written(tmp_path / "x.geojson", json.dumps(GOOD))
    assert "reaches out" in geojson_problems(path, (99, 100))[0]


def test_more_annotations_than_qupath_resolves(tmp_path: Path) -> None:
    many = copy.deepcopy(GOOD)
    one = many["features"][0]
    many["features"] = [{**one, "id": f"6ba7b810-9dad-51d1-80b4-{i:012x}"} for i in range(2001)]
    path = written(tmp_path / "bad" / "x.geojson", json.dumps(many))
    assert "2001 annotations" in geojson_problems(path)[0]


def test_a_broken_archive(tmp_path: Path) -> None:
    path = tmp_path / "bad" / "x.geojson.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-30])
    assert "not readable" in geojson_problems(path)[0]


def test_hostile_depth_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    path = written(tmp_path / "bad" / "x.geojson", "[" * 100_000)
    assert "not readable" in geojson_problems(path)[0]

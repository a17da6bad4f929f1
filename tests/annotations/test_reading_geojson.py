"""Every shape that QuPath GeoJSON comes in, and every way in which it can be broken."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.annotations.geojson import parse_geojson
from pathology_scaat.errors import AnnotationError

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]


def feature(classification: Any = None, geometry: Any = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": geometry or {"type": "Polygon", "coordinates": [SQUARE]},
        "properties": {
            "objectType": "annotation",
            "classification": classification or {"name": "Tumor", "color": [200, 0, 0]},
            **properties,
        },
    }


def read(tmp_path: Path, content: Any, name: str = "a.geojson") -> tuple[LabelledPolygon, ...]:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / name).write_bytes(raw)
    return read_annotations(tmp_path / name)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: {"type": "FeatureCollection", "features": [f]},
        lambda f: {"type": "FeatureCollection", "crs": {}, "features": [f], "extra": 1},
        lambda f: [f],
        lambda f: f,
        lambda f: [{"type": "FeatureCollection", "features": [f]}],
    ],
)
def test_all_containers(tmp_path: Path, wrap: Any) -> None:
    (found,) = read(tmp_path, wrap(feature(name="one")))
    assert (found.class_name, found.name, found.geometry.area) == ("Tumor", "one", 10_000)


def test_bare_geometry_has_no_class(tmp_path: Path) -> None:
    (found,) = read(tmp_path, {"type": "Polygon", "coordinates": [SQUARE]})
    assert found.class_name == ""


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, "Tumor"),
        ({"classification": "Tumor"}, "Tumor"),
        (
            {"classification": {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}},
            "Tumor: Positive",
        ),
        ({"classification": None}, ""),
        ({"classification": {}}, ""),
        ({}, ""),
        ({"class": "Tumor"}, "Tumor"),
        ({"label": "Tumor"}, "Tumor"),
        ({"classification": {"name": " Ignore* "}}, "Ignore*"),
        ({"classification": 7}, ""),
    ],
)
def test_classes(tmp_path: Path, properties: dict[str, Any], expected: str) -> None:
    item = {**feature(), "properties": properties}
    (found,) = read(tmp_path, item)
    assert found.class_name == expected


def test_properties_may_be_null(tmp_path: Path) -> None:
    assert read(tmp_path, {**feature(), "properties": None})[0].class_name == ""


def test_compressed_and_marked_files(tmp_path: Path) -> None:
    text = json.dumps(feature())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("a.geojson", text)
        z.writestr("b.geojson", text)
        z.writestr("readme.txt", "no")
    assert len(read(tmp_path, gzip.compress(text.encode()), "a.geojson.gz")) == 1
    assert len(read(tmp_path, archive.getvalue(), "a.zip")) == 2
    assert len(read(tmp_path, b"\xef\xbb\xbf" + text.encode())) == 1
    assert len(read(tmp_path, text.encode("utf-16"))) == 1
    # What a file is decides, not its name.
    assert len(read(tmp_path, gzip.compress(text.encode()), "misnamed.xml")) == 1


def test_holes_parts_and_collections(tmp_path: Path) -> None:
    hole = [[20, 20], [40, 20], [40, 40], [20, 40], [20, 20]]
    far = [[[200, 0], [210, 0], [210, 10], [200, 10], [200, 0]]]
    with_hole = {"type": "Polygon", "coordinates": [SQUARE, hole]}
    many = {"type": "MultiPolygon", "coordinates": [[SQUARE, hole], far]}
    mixed = {
        "type": "GeometryCollection",
        "geometries": [with_hole, {"type": "Point", "coordinates": [1, 2]}],
    }
    items = [feature(geometry=g) for g in (with_hole, many, mixed)]
    assert [p.geometry.area for p in read(tmp_path, items)] == [9600, 9700, 9600]


def test_what_has_no_area_is_left_out(tmp_path: Path) -> None:
    items = [
        feature(),
        {**feature(), "geometry": None},
        feature(geometry={"type": "LineString", "coordinates": [[0, 0], [5, 5]]}),
        feature(geometry={"type": "Point", "coordinates": [0, 0]}),
        feature(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}),
        feature(geometry={"type": "Polygon", "coordinates": []}),
        feature(objectType="detection"),
        {**feature(), "properties": {"objectType": "tile"}},
    ]
    assert len(read(tmp_path, items)) == 1


def test_children_of_a_hierarchy_are_found(tmp_path: Path) -> None:
    item = feature(childObjects=[feature({"name": "Normal"})])
    assert [p.class_name for p in read(tmp_path, item)] == ["Tumor", "Normal"]


def test_bow_ties_are_repaired_and_rings_closed(tmp_path: Path) -> None:
    bow = [[0, 0], [1000, 1000], [1000, 0], [0, 1000], [0, 0]]
    found = read(
        tmp_path,
        [
            feature(geometry={"type": "Polygon", "coordinates": [bow]}),
            feature(geometry={"type": "Polygon", "coordinates": [SQUARE[:-1]]}),
        ],
    )
    assert [p.geometry.area for p in found] == [500_000, 10_000]
    assert all(p.geometry.is_valid for p in found)


def test_the_offset_is_added(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps(feature()))
    (found,) = read_annotations(tmp_path / "a.geojson", offset_px=(1000, 50))
    assert found.geometry.bounds == (1000, 50, 1100, 150)


BROKEN = {
    "empty": (b"", "is empty"),
    "blank": (b" \n ", "is empty"),
    "truncated": (b'{"type":"FeatureCollection","features":[{"type"', "truncated"),
    "trailing": (b'{"type":"FeatureCollection","features":[]} {}', "not valid JSON"),
    "other json": (b'{"a": 1}', "not GeoJSON"),
    "numbers": (b"[1, 2]", "no GeoJSON object"),
    "text": (b"Dear Sir or Madam", "not an annotation file"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", "not UTF-8"),
    "html": (b"<html><body>log in</body></html>", "another kind"),
    "nested": (b"[" * 200_000, "nested too deeply"),
    "nested objects": (b'{"type":' * 100_000, "nested too deeply"),
    "many lists": (b"[" + b"[]," * 7_000_000 + b"[]]", "more than 6 million"),
    "long number": (b"[" + b"1" * 10_000 + b"]", "absurd length"),
    "no features": (b'{"type":"FeatureCollection"}', "no list of features"),
    "detections only": (
        json.dumps([feature(objectType="detection")] * 3).encode(),
        "3 detections",
    ),
    "unknown geometry": (json.dumps(feature(geometry={"type": "Circle"})).encode(), "no known"),
    "no coordinates": (json.dumps(feature(geometry={"type": "Polygon"})).encode(), "without"),
    "words": (
        json.dumps(
            feature(geometry={"type": "Polygon", "coordinates": [["a", "b", "c"]]})
        ).encode(),
        "not a pair of numbers",
    ),
    "huge": (
        json.dumps(
            feature(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1e300, 0], [0, 1]]]})
        ).encode(),
        "no slide can have",
    ),
    "NaN": (
        b'{"type":"Polygon","coordinates":[[[0,0],[NaN,1],[2,2],[0,0]]]}',
        "no slide can have",
    ),
    "long class": (json.dumps(feature("x" * 5000)).encode(), "class name of 5000"),
    "cut gzip": (gzip.compress(b"x" * 10_000)[:20], "truncated archive"),
    "cut zip": (b"PK\x03\x04garbage", "damaged or truncated archive"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_give_one_sentence(tmp_path: Path, case: str) -> None:
    content, words = BROKEN[case]
    with pytest.raises(AnnotationError, match=words) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith("a.geojson: ")
    assert "\n" not in message
    assert str(tmp_path) not in message
    assert len(message) < 250


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="does not exist"):
        read_annotations(tmp_path / "no.geojson")
    with pytest.raises(AnnotationError, match="is a folder"):
        read_annotations(tmp_path)
    loop = tmp_path / "loop.geojson"
    loop.symlink_to(loop)
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(loop)


def test_archives_that_swell_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "bomb.geojson.gz").write_bytes(gzip.compress(b" " * (8 << 20)))
    with pytest.raises(AnnotationError, match="more than 1 MiB"):
        read_annotations(tmp_path / "bomb.geojson.gz", max_bytes=1 << 20)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        for index in range(4):
            z.writestr(f"{index}.json", b"[" + b" " * (600 << 10) + b"]")
    (tmp_path / "bomb.zip").write_bytes(archive.getvalue())
    with pytest.raises(AnnotationError, match="more than"):
        read_annotations(tmp_path / "bomb.zip", max_bytes=1 << 20)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "features",
                    "geometry",
                    "properties",
                    "coordinates",
                    "classification",
                    "name",
                ]
            ),
            inner | st.sampled_from(["Feature", "FeatureCollection", "Polygon", "MultiPolygon"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        found = parse_geojson(json.dumps(value), "x.geojson")
    except AnnotationError:
        return
    assert all(p.geometry.is_valid and p.geometry.area > 0 for p in found)


coordinate = st.floats(-1e9, 1e9) | st.integers(-50, 50)


@given(st.lists(st.lists(st.tuples(coordinate, coordinate), max_size=8), max_size=4))
def test_any_rings_become_valid_areas_or_nothing(rings: Any) -> None:
    text = json.dumps({"type": "Polygon", "coordinates": rings})
    try:
        found = parse_geojson(text, "x.geojson")
    except AnnotationError:
        return
    assert all(p.geometry.is_valid and p.geometry.area > 0 for p in found)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    path.write_bytes(raw)
    message = ""
    try:
        read_annotations(path)
    except AnnotationError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.real
def test_real_files(data_dir: Path) -> None:
    found = read_annotations(data_dir / "slides" / "atlas_granular_cell_tumor_HE_20x.geojson")
    assert [p.class_name for p in found] == ["Tumor", "Normal", "Normal", "Normal"]
    (bow,) = read_annotations(data_dir / "broken" / "bad_self_intersecting.geojson")
    assert bow.geometry.area == 500_000
    with pytest.raises(AnnotationError, match="truncated"):
        read_annotations(data_dir / "broken" / "bad_truncated.geojson")


def test_a_file_that_would_take_too_long_is_refused_before_any_of_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended: list[Any] = []
    monkeypatch.setattr("pathology_scaat.annotations.model.made_valid", mended.append)
    rng = np.random.default_rng(0)
    scribbles = [rng.uniform(0, 1e5, (40, 2)).tolist() for _ in range(600)]
    features = [
        feature(geometry={"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
        for ring in scribbles
    ]
    with pytest.raises(AnnotationError, match="cross themselves too often"):
        read(tmp_path, {"type": "FeatureCollection", "features": features})
    assert not mended

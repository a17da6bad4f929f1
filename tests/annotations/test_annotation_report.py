"""What annotation files hold is counted, whatever of it labels nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.affinity import translate
from shapely.geometry import box, mapping

from pathology_scaat.annotations import (
    AnnotationReport,
    LabelledPolygon,
    off_tissue_notes,
    read_annotation_file,
    read_annotations,
    report_on,
)
from pathology_scaat.annotations.classes import match_class, merge_class_names
from pathology_scaat.annotations.xml import parse_xml
from pathology_scaat.geometry import BoxPx, PatchGrid

FRAME = BoxPx(0, 0, 2048, 1536)
CLASSES = ("Tumor", "Normal")


def feature(shape: Any, class_name: str | None = "Tumor", **properties: object) -> dict[str, Any]:
    own: dict[str, object] = {"objectType": "annotation", **properties}
    if class_name is not None:
        own["classification"] = {"name": class_name}
    return {"type": "Feature", "geometry": mapping(shape), "properties": own}


def report(
    tmp_path: Path, *features: dict[str, Any], classes: tuple[str, ...] = CLASSES
) -> AnnotationReport:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return report_on(read_annotation_file(path), classes, FRAME)


def test_every_kind_of_loss_is_counted_and_reported(tmp_path: Path) -> None:
    inside = box(10, 10, 90, 90)
    found = report(
        tmp_path,
        feature(inside),
        feature(inside, "tumor"),
        feature(inside, "Tumor: Positive"),
        feature(box(30_000, 0, 31_000, 50)),
        feature(box(2000, 0, 3000, 100), "Normal"),
        feature(inside, None),
        feature(inside, "Stroma"),
        feature(inside, "Ignore*"),
        feature(shapely.Point(3, 3)),
        feature(shapely.LineString([(0, 0), (9, 9)])),
        feature(inside, "Tumor", objectType="cell"),
        feature(inside, "Tumor", objectType="tma_core"),
    )
    assert found.n_areas == {"Tumor": 3, "Normal": 1}
    assert (found.n_outside, found.n_partly_outside, found.n_without_class) == (1, 1, 1)
    assert (found.n_other_classes, found.n_ignored, found.n_without_area) == ({"Stroma": 1}, 1, 2)
    assert found.n_not_annotations == {"cells": 1, "TMA cores": 1}
    said = "; ".join(found.notes())
    for words in (
        "1 annotated area outside the slide",
        "1 annotated area partly outside",
        "1 annotated area without a class",
        "'Stroma' 1",
        "ignored class",
        "2 annotations without an area",
        "1 cells, 1 TMA cores",
    ):
        assert words in said


def test_nothing_is_said_of_a_file_that_is_used_whole(tmp_path: Path) -> None:
    assert report(tmp_path, feature(box(0, 0, 2050, 1536))).notes() == ()


def test_another_slides_coordinates_and_y_upwards_are_distinguished(tmp_path: Path) -> None:
    other = report(tmp_path, feature(box(30_000, 20_000, 34_000, 24_000)))
    assert "another slide's" in other.notes()[0]
    upwards = report(tmp_path, feature(box(100, -900, 400, -200)))
    assert upwards.n_above == 1
    assert "upwards" in upwards.notes()[0]


def test_a_class_in_the_name_counts_only_where_it_is_asked_for(tmp_path: Path) -> None:
    areas = [feature(box(0, 0, 9, 9), None, name=name) for name in ("tumor", "ROI 7")]
    found = report(tmp_path, *areas)
    assert (found.n_areas["Tumor"], found.n_without_class) == (1, 1)
    assert any("counted as 'Tumor'" in note for note in found.notes())
    # A file that has classes means what it says: a named area without one is none.
    mixed = report(tmp_path, *areas, feature(box(0, 0, 9, 9), "Normal"))
    assert (mixed.n_areas, mixed.n_without_class) == ({"Tumor": 0, "Normal": 1}, 2)
    assert report(tmp_path, *areas, classes=("Gland",)).names_without_class == ("tumor", "ROI 7")


@pytest.mark.parametrize(
    "identity",
    ["PathCellObject", "PathTileObject", "PathDetectionObject", "TMACoreObject", "PathRootObject"],
)
def test_objects_of_old_qupath_are_no_annotations(tmp_path: Path, identity: str) -> None:
    old = {**feature(box(0, 0, 9, 9)), "id": identity}
    del old["properties"]["objectType"]
    kept = {**feature(box(0, 0, 9, 9), "Normal"), "id": "PathAnnotationObject"}
    del kept["properties"]["objectType"]
    found = report(tmp_path, old, kept)
    assert found.n_areas == {"Tumor": 0, "Normal": 1}
    assert sum(found.n_not_annotations.values()) == 1


@pytest.mark.parametrize("kind", ["tma_core", "TMACore", "root", "Cell", "tile"])
def test_objects_of_all_spellings_are_no_annotations(tmp_path: Path, kind: str) -> None:
    found = report(tmp_path, feature(box(0, 0, 9, 9), objectType=kind), feature(box(0, 0, 9, 9)))
    assert found.n_areas["Tumor"] == 1


HALO = (
    '<Annotations><Annotation Name="{layer}" LineColor="1" Visible="True"><Regions>{regions}'
    "</Regions></Annotation></Annotations>"
)


def halo_region(kind: str, *points: tuple[int, int], negative: int = 0) -> str:
    vertices = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in points)
    return (
        f'<Region Type="{kind}" NegativeROA="{negative}"><Vertices>{vertices}</Vertices></Region>'
    )


def test_halo_shapes_and_what_is_cut_out_of_them() -> None:
    square = [(0, 0), (100, 0), (100, 100), (0, 100)]
    regions = (
        halo_region("Polygon", *square)
        + halo_region("Rectangle", (200, 0), (300, 50))
        + halo_region("Ellipse", (400, 0), (500, 50))
        + halo_region("Ruler", (0, 0), (9, 9))
        + halo_region("Polygon", (20, 20), (40, 20), (40, 40), (20, 40), negative=1)
    )
    found = parse_xml(HALO.format(layer="Tumor", regions=regions).encode(), "a.annotations")
    assert [round(p.geometry.area) for p in found] == [9600, 5000, pytest.approx(3925, rel=0.01)]
    assert {p.class_name for p in found} == {"Tumor"}


def test_a_layer_that_nobody_named_leaves_the_word_to_its_regions() -> None:
    region = (
        '<Region Type="0" Text="Tumor"><Vertices><Vertex X="0" Y="0"/><Vertex X="9" Y="0"/>'
        '<Vertex X="9" Y="9"/></Vertices></Region>'
    )
    for layer, expected in (("Layer 1", "Tumor"), ("Stroma", "Stroma")):
        found = parse_xml(HALO.format(layer=layer, regions=region).encode(), "a.xml")
        assert found[0].class_name == expected


@pytest.mark.parametrize(
    ("written", "index"),
    [("tumor", 0), ("Tumor : positive", 0), ("TUMOR", 0), ("Dysplasie\u0301", 1), ("  Tumor", 0),
     ("Tumour", None), ("", None), ("Tumor*", None), (": Positive", None)],
)  # fmt: skip
def test_classes_match_without_regard_to_spelling(written: str, index: int | None) -> None:
    assert match_class(written, ("Tumor", "Dysplasi\u00e9")) == index


def test_found_classes_are_named_once() -> None:
    found = merge_class_names(
        ["Tumor", "tumor ", "", " ", "Ignore*", "Tumor: Positive", "Immune cells: CD3"],
        ["Normal", "TUMOR", "grade: 1", "grade: 2"],
    )
    assert found.names == ("Immune cells", "Normal", "TUMOR", "grade: 1", "grade: 2")
    assert found.respelled == {"Tumor": "TUMOR", "tumor": "TUMOR"}
    assert found.derived == {"Tumor: Positive": "TUMOR", "Immune cells: CD3": "Immune cells"}


# ----- the cases from the field
@pytest.fixture
def field(data_dir: Path) -> Path:
    folder = data_dir / "field"
    if not folder.is_dir():
        pytest.skip("the field cases are not here")
    return folder


def field_report(path: Path) -> AnnotationReport:
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    return report_on(read_annotation_file(path), CLASSES, FRAME)


@pytest.mark.real
def test_field_qupath_02(field: Path) -> None:
    found = field_report(field / "qupath02_cells_count_as_annotations" / "slide.geojson")
    assert found.n_areas == {"Tumor": 0, "Normal": 1}
    assert found.n_not_annotations == {"cells": 48}


@pytest.mark.real
def test_field_halo(field: Path) -> None:
    path = field / "halo_annotations_lost" / "slide.annotations"
    assert field_report(path).n_areas == {"Tumor": 1, "Normal": 1}
    tumour, normal = read_annotations(path)
    assert tumour.geometry.equals(box(0, 0, 1024, 1536))
    assert normal.geometry.equals(box(1024, 0, 2048, 1536))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "n_used", "words"),
    [
        ("outside.geojson", 0, "1 annotated area outside the slide (are these another slide's"),
        ("half_outside.geojson", 1, "1 annotated area outside the slide"),
        ("points.geojson", 0, "2 annotations without an area"),
        ("nameonly.geojson", 2, "counted as 'Tumor'"),
        ("asap_nogroup.xml", 0, "1 annotated area without a class left out (named 'Annotation 0'"),
        ("neg_y.geojson", 0, "upwards"),
        ("imagescope_layer.xml", 2, ""),
    ],
)
def test_field_annotations_without_effect(field: Path, name: str, n_used: int, words: str) -> None:
    found = field_report(field / "annotations_without_effect_are_not_told" / name)
    assert found.n_used == n_used
    assert words in "; ".join(found.notes())


def test_areas_beside_the_tissue_are_told() -> None:
    grid = PatchGrid(0.0, 0.0, 1.0, 64, 32, 40, 30)
    rows, cols = np.mgrid[5:15, 5:35]
    tissue = np.stack([cols.ravel(), rows.ravel()], axis=1)
    right = box(5 * 32, 5 * 32, 36 * 32, 16 * 32)
    for shift, told in ((0, ""), (64, ""), (8 * 32, "only 20%"), (12 * 32, "nothing")):
        moved = translate(right, 0, shift)
        notes = off_tissue_notes([LabelledPolygon("Tumor", moved)], ("Tumor",), grid, tissue)
        wanted = [f"of the area annotated as 'Tumor' {told} is tissue"] if told else []
        assert [note.partition(":")[0] for note in notes] == wanted
    few = LabelledPolygon("Tumor", box(0, 0, 70, 70))
    assert off_tissue_notes([few], ("Tumor",), grid, tissue) == ()

"""Importing corrections loses nothing that nobody touched, and says what became of the rest."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box
from test_import_annotations import BOUNDS, exported, saved

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.cli import app, run_command
from pathology_scaat.errors import AnnotationError, UsageError
from pathology_scaat.export.qupath.import_annotations import import_annotations
from pathology_scaat.export.qupath.merge import labelled_area, merge_annotations


def drawn(
    x: float, y: float, side: float, name: Any, number: int | None = None, height: float = 0
) -> dict[str, Any]:
    right, bottom = x + side, y + (height or side)
    ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    value = uuid.UUID(int=number) if number is not None else uuid.uuid4()
    return {
        "type": "Feature", "id": str(value), "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }  # fmt: skip


def shape_without_area(kind: str, points: list[Any]) -> dict[str, Any]:
    feature = drawn(0, 0, 1, "Tumor")
    return {**feature, "geometry": {"type": kind, "coordinates": points}}


class Cohort:
    """Two exported slides with annotations, as a manifest names them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.overlays = exported(folder)
        record = json.loads((self.overlays / "S1.json").read_text())
        (self.overlays / "S2.json").write_text(json.dumps({**record, "slide_id": "S2"}))
        self.former = {
            "S1": saved(folder / "labels" / "one.geojson", drawn(0, 0, 200, "tumour", 1),
                        drawn(300, 0, 200, "normal", 2)),
            "S2": saved(folder / "labels" / "two.geojson", drawn(0, 0, 100, "normal", 3)),
        }  # fmt: skip
        self.manifest = folder / "cohort.csv"
        lines = [f"{s}.svs,{s},labels/{p.name}" for s, p in self.former.items()]
        self.manifest.write_text("\n".join(["slide_path,slide_id,annotation_path", *lines]) + "\n")
        self.back, self.out = folder / "bad", folder / "out"  # what comes in may be anything

    def bring(self, **options: Any) -> Any:
        manifest = options.pop("manifest", self.manifest)
        return import_annotations(self.back, self.overlays, self.out, manifest=manifest, **options)

    def named(self) -> dict[str, Path]:
        """Annotation of each slide by the manifest that the import wrote."""
        with (self.out / "manifest.csv").open() as stream:
            return {r["slide_id"]: self.out / r["annotation_path"] for r in csv.DictReader(stream)}

    def areas(self, slide_id: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for one in read_annotations(self.named()[slide_id]):
            found[one.class_name] = found.get(one.class_name, 0) + one.geometry.area
        return found


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


def test_a_slide_of_which_nothing_came_back_keeps_its_annotations(cohort: Cohort) -> None:
    saved(cohort.back / "S1.geojson", drawn(10, 300, 100, "Tumor", 9))
    saved(cohort.back / "S2.geojson")  # the script writes an empty file for it
    one, two = cohort.bring()
    assert cohort.named()["S2"].resolve() == cohort.former["S2"].resolve()
    assert (two.path, two.merged.n_kept) == (None, 1)
    assert "nothing came back; it keeps what it had" in two.summary()
    assert (one.merged.n_added, one.merged.n_kept) == (1, 2)
    assert cohort.areas("S1") == {"tumour": 200 * 200 + 100 * 100, "normal": 200 * 200}


def test_ids_show_what_was_edited(cohort: Cohort) -> None:
    saved(cohort.back / "S1.geojson", drawn(0, 0, 150, "Tumor", 1))
    (one,) = cohort.bring()
    assert (one.merged.n_replaced, one.merged.n_kept, one.merged.n_added) == (1, 1, 0)
    assert cohort.areas("S1") == {"tumour": 150 * 150, "normal": 200 * 200}
    kept = {a.object_id: a.class_name for a in read_annotations(one.path)}
    assert kept == {str(uuid.UUID(int=1)): "tumour", str(uuid.UUID(int=2)): "normal"}
    summary = one.summary()
    assert "1 replaced" in summary
    assert "1 kept" in summary


def test_outlines_show_what_was_edited_where_ids_are_new(cohort: Cohort) -> None:
    saved(
        cohort.back / "S1.geojson",
        drawn(0, 0, 190, "Tumor"),  # edited
        drawn(300, 0, 200, "Normal"),  # as it was
    )
    (one,) = cohort.bring()
    assert (one.merged.n_replaced, one.merged.n_unchanged, one.merged.n_kept) == (1, 1, 0)
    assert cohort.areas("S1") == {"tumour": 190 * 190, "normal": 200 * 200}


def test_a_returned_area_of_another_class_replaces_it(cohort: Cohort) -> None:
    """Also over a former area that is smaller, which would lie on top by the labels' rule."""
    saved(cohort.back / "S1.geojson", drawn(250, 0, 350, "Tumor", 9, height=250))
    (one,) = cohort.bring()
    assert cohort.areas("S1") == {"tumour": 200 * 200 + 350 * 250}
    saved(cohort.back / "S1.geojson", drawn(0, 0, 100, "Normal", 10))
    (one,) = cohort.bring()
    assert one.merged.n_cut == 1
    assert cohort.areas("S1")["tumour"] == 200 * 200 - 100 * 100 + 350 * 250


def test_labels_are_not_halved_unless_asked(cohort: Cohort) -> None:
    saved(cohort.back / "S1.geojson", drawn(0, 0, 60, "Tumor", 1), drawn(300, 0, 60, "Normal", 2))
    saved(cohort.back / "S2.geojson", drawn(0, 200, 50, "Tumor"))
    report = cohort.bring()
    assert [one.slide_id for one in report] == ["S2"]
    (why,) = report.failed.values()
    assert why.startswith("S1: would keep 9 % of its labelled area (2 areas before)")
    assert "--replace" in why
    assert cohort.named()["S1"].resolve() == cohort.former["S1"].resolve()
    one, two = cohort.bring(replace_former=True)
    assert one.classes == {"normal": 1, "tumour": 1}
    assert two.classes == {"tumour": 1}
    assert cohort.areas("S1") == {"tumour": 3600, "normal": 3600}


def test_earlier_imports_are_not_forgotten(cohort: Cohort) -> None:
    saved(cohort.back / "S1.geojson", drawn(10, 300, 100, "Tumor", 9))
    cohort.bring()
    (cohort.back / "S1.geojson").unlink()
    saved(cohort.back / "S2.geojson", drawn(200, 200, 50, "Tumor", 11))
    report = cohort.bring()  # with the first manifest again
    assert report.n_other == 1
    assert cohort.areas("S1")["tumour"] == 200 * 200 + 100 * 100
    saved(cohort.back / "S1.geojson", drawn(200, 300, 100, "Tumor", 12))
    cohort.bring(manifest=cohort.out / "manifest.csv")
    assert cohort.areas("S1")["tumour"] == 200 * 200 + 2 * 100 * 100
    before = {p.name: p.read_bytes() for p in cohort.out.glob("*.geojson")}
    cohort.bring()
    assert {p.name: p.read_bytes() for p in cohort.out.glob("*.geojson")} == before


def test_no_file_of_the_user_is_replaced(cohort: Cohort) -> None:
    saved(cohort.back / "S1.geojson", drawn(10, 300, 100, "Tumor", 9))
    own = saved(cohort.out / "S1.geojson", drawn(1, 1, 10, "normal"))
    before = own.read_bytes()
    with pytest.raises(AnnotationError, match="was not written by an import; give another folder"):
        cohort.bring()
    assert own.read_bytes() == before
    own.unlink()
    table = cohort.out / "manifest.csv"
    table.write_text(cohort.manifest.read_text())
    with pytest.raises(UsageError, match=r"manifest\.csv: is there and was not written"):
        cohort.bring()
    assert table.read_text() == cohort.manifest.read_text()


def test_slides_of_one_file_name_are_distinguished_or_refused(cohort: Cohort) -> None:
    cohort.manifest.write_text("slide_path,slide_id\nsiteA/x.svs,S1\nsiteB/x.svs,S2\n")
    saved(cohort.back / "x.geojson", drawn(0, 0, 50, "Tumor"))
    with pytest.raises(AnnotationError, match="may be of S1 or S2: they have one file name"):
        cohort.bring()
    (cohort.back / "x.geojson").rename(cohort.back / "siteB_x.geojson")
    (one,) = cohort.bring()
    assert one.slide_id == "S2"


def test_an_id_that_is_another_slides_name_is_refused(cohort: Cohort) -> None:
    cohort.manifest.write_text("slide_path,slide_id\nS2.svs,S1\nS1.svs,S2\n")
    saved(cohort.back / "S1.geojson", drawn(0, 0, 50, "Tumor"))
    with pytest.raises(AnnotationError, match="may be of S1 or S2"):
        cohort.bring()


def test_lines_and_points_with_a_class_are_reported(cohort: Cohort) -> None:
    saved(
        cohort.back / "S1.geojson",
        drawn(10, 300, 100, "Tumor", 9),
        shape_without_area("LineString", [[0, 0], [5, 5]]),
        shape_without_area("MultiPoint", [[0, 0], [5, 5]]),
        shape_without_area("Point", [3, 3]),
    )
    (one,) = cohort.bring()
    assert "1 lines with a class left out: they have no area" in one.notes
    assert "2 points with a class left out: they have no area" in one.notes


def test_an_alien_or_damaged_file_stops_no_other(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(cohort.back / "A-alien.geojson", drawn(0, 0, 50, "Tumor"))
    (cohort.back / "S1.geojson").write_text('{"type": "FeatureColl')
    saved(cohort.back / "S2.json.gz", drawn(200, 200, 50, "Tumor", 11))
    (cohort.back / "S9.json").write_bytes((cohort.overlays / "S1.json").read_bytes())  # a record
    out = cohort.folder / "run"
    out.mkdir()
    cohort.overlays.rename(out / "overlays")
    arguments = ["import-annotations", str(cohort.back), "--out", str(out)]
    arguments += ["--manifest", str(cohort.manifest)]
    assert run_command(lambda: app(arguments, standalone_mode=False)) == 3
    said = capsys.readouterr()
    assert "S2: 1 normal, 1 tumour; 1 added, 1 kept" in said.out
    assert "1 other slide(s) of the manifest keep what they had" in said.out
    assert "left out: A-alien.geojson: belongs to no slide that was exported" in said.err
    assert "left out: S1.geojson: ends in the middle" in said.err
    assert "2 file(s): could not be used" in said.err


def test_files_of_one_slide_are_joined_or_refused(cohort: Cohort) -> None:
    saved(cohort.back / "S1.geojson", drawn(10, 300, 100, "Tumor", 9))
    saved(cohort.back / "S1.json", drawn(10, 300, 100, "Tumor", 9), drawn(150, 300, 80, "Tumor", 8))
    saved(cohort.back / "S1.geojson.gz", drawn(300, 300, 80, "Normal", 7))
    (one,) = cohort.bring()
    assert one.merged.n_added == 3
    assert "joined from 3 files" in one.notes
    saved(cohort.back / "S1.json", drawn(10, 300, 90, "Tumor", 9))
    with pytest.raises(AnnotationError, match="hold an object of slide S1 in two versions"):
        cohort.bring()


def test_a_class_that_was_taken_away_is_reported(cohort: Cohort) -> None:
    saved(cohort.back / "S1.geojson", drawn(0, 0, 200, None, 1))
    (one,) = cohort.bring()
    assert "1 dropped: their class was taken away" in one.summary()
    assert cohort.areas("S1") == {"normal": 200 * 200}


def test_former_xml_is_of_the_whole_canvas(cohort: Cohort) -> None:
    x, y = BOUNDS.x + 100, BOUNDS.y + 50
    corners = [(x, y), (x + 80, y), (x + 80, y + 80), (x, y + 80)]
    points = "".join(
        f'<Coordinate Order="{i}" X="{a}" Y="{b}"/>' for i, (a, b) in enumerate(corners)
    )
    (cohort.folder / "labels" / "one.xml").write_text(
        "<ASAP_Annotations><Annotations>"
        f'<Annotation Name="a" Type="Polygon" PartOfGroup="tumour"><Coordinates>{points}'
        "</Coordinates></Annotation></Annotations><AnnotationGroups/></ASAP_Annotations>"
    )
    cohort.manifest.write_text("slide_path,slide_id,annotation_path\nS1.svs,S1,labels/one.xml\n")
    saved(cohort.back / "S1.geojson", drawn(10, 300, 100, "Normal", 9))
    (one,) = cohort.bring()
    (kept,) = (a for a in read_annotations(one.path) if a.class_name == "tumour")
    assert kept.geometry.bounds == (100, 50, 180, 130)


CLASSES = st.sampled_from(["Tumor", "Normal", "Stroma"])


@st.composite
def areas(draw: st.DrawFn, first: int) -> list[LabelledPolygon]:
    found = []
    for index in range(draw(st.integers(0, 5))):
        x, y = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        shape = box(x, y, x + draw(st.integers(2, 30)), y + draw(st.integers(2, 30)))
        found.append(LabelledPolygon(draw(CLASSES), shape, "", f"{first + index}"))
    return found


@settings(max_examples=150, deadline=None)
@given(areas(0), areas(3))
def test_merging_forgets_no_area_and_lets_returned_ones_win(
    former: list[LabelledPolygon], returned: list[LabelledPolygon]
) -> None:
    merged = merge_annotations(former, returned)
    assert list(merged.areas[: len(returned)]) == returned
    assert merged.n_kept + merged.n_replaced + merged.n_unchanged == len(former)
    kept = merged.areas[len(returned) :]
    assert len(kept) == merged.n_kept
    for one in kept:
        for other in returned:
            if other.class_name != one.class_name:
                assert one.geometry.intersection(other.geometry).area < 1e-6
    ids = {one.object_id for one in returned}
    everything = shapely.union_all([a.geometry for a in merged.areas])
    for old in former:
        if old.object_id in ids:
            continue
        near = [r for r in returned if r.geometry.intersects(old.geometry)]
        if not near:
            assert old in kept
        elif old.object_id in {k.object_id for k in kept}:
            assert old.geometry.difference(everything).area < len(near) * 2 + 2
    again = merge_annotations(merged.areas, returned)
    assert np.isclose(labelled_area(again.areas), labelled_area(merged.areas))

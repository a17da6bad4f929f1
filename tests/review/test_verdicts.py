"""Verdicts: kept one by one, taken back, turned into labels; agreement as its definition says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_stores import run_with_maps
from shapely import Polygon, make_valid
from shapely.ops import unary_union

from pathology_scaat.annotations import read_annotations
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.pipeline.review import import_review
from pathology_scaat.review.agreement import Moved, agreement_of, moved_by_maps
from pathology_scaat.review.drawings import Drawing, DrawingTable
from pathology_scaat.review.judged_regions import JudgedRegion, JudgedRegions
from pathology_scaat.review.regions import overlay_path, read_regions
from pathology_scaat.review.verdicts import Verdict, VerdictTable, latest_verdicts

YES = Verdict("ann", "s1", "r1", "tumour", "yes")


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    table = VerdictTable(tmp_path)
    rows = [
        YES, replace(YES, answer="no", blind=True, seconds=1.25, note='a "b", c\nd'),
        replace(YES, reviewer="=SUM(A1)", region_id="slide", answer="unsure"),
    ]  # fmt: skip
    for row in rows:
        table.append(row)
    back = table.rows()
    assert back[0] == rows[0]
    assert (back[1].answer, back[1].blind, back[1].seconds) == ("no", True, 1.25)
    assert back[1].note == 'a "b", c d'
    assert back[2].reviewer == "'=SUM(A1)"  # no spreadsheet takes it for a formula
    assert {p.name for p in tmp_path.iterdir()} == {"review"}


@given(st.lists(st.sampled_from(["yes", "no", "unsure", "undo"])))
def test_undo_brings_back_the_answer_before(answers: list[str]) -> None:
    expected: list[str] = []
    for answer in answers:
        expected = expected[:-1] if answer == "undo" else [*expected, answer]
    held = latest_verdicts(replace(YES, answer=answer) for answer in answers)
    assert [v.answer for v in held.values()] == expected[-1:]


def test_a_link_in_the_place_of_the_table_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "out" / "review").mkdir(parents=True)
    (tmp_path / "out" / "review" / "verdicts.csv").symlink_to(victim)
    with pytest.raises(StoreError, match="cannot be written"):
        VerdictTable(tmp_path / "out").append(YES)
    assert victim.read_text() == "mine"


def test_a_table_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "verdicts.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StoreError, match="not a table of verdicts"):
        VerdictTable(tmp_path).rows()


def test_labels_are_what_all_readers_said(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1", "s2"))
    path = overlay_path(out / "overlays", "s1")
    assert path is not None
    regions = read_regions(path)
    assert len(regions) >= 4
    table = VerdictTable(out)
    for reader in ("ann", "ben"):
        for number, region in enumerate(regions[:3]):
            answer = ("yes", "no", "yes" if reader == "ann" else "no")[number]
            table.append(Verdict(reader, "s1", region.region_id, "tumour", answer))
    table.append(Verdict("ann", "s1", regions[3].region_id, "tumour", "unsure"))
    table.append(Verdict("ann", "s1", "another-models-region", "tumour", "yes"))
    table.append(Verdict("ann", "s2", "slide", "tumour", "no"))
    done = import_review(out, negative_class="normal")
    assert done.labels.counts == {"tumour": 1, "normal": 2}
    assert (done.labels.contradicted, done.labels.gone) == (1, 1)
    assert list(done.labels.files) == ["s1", "s2"]
    (whole,) = read_annotations(done.labels.files["s2"])  # a slide of which all said no
    assert (whole.class_name, whole.geometry.bounds) == ("normal", (0, 0, 768, 768))
    polygons = read_annotations(done.labels.files["s1"])
    assert sorted(p.class_name for p in polygons) == ["normal", "tumour"]
    text = json.loads(done.labels.files["s1"].read_text())
    outline = text["features"][0]["geometry"]["coordinates"][0]
    assert [list(p) for p in {r.region_id: r for r in regions}[regions[0].region_id].rings[0]] in [
        f["geometry"]["coordinates"][0] for f in text["features"]
    ]
    assert len(outline) >= 4
    assert done.agreement.confirmed == {"ann": (3, 4), "ben": (1, 3)}


@pytest.mark.parametrize(
    ("more", "contradicted"),
    [
        ([], 0),
        ([Verdict("ben", "s1", "slide", "tumour", "yes")], 1),
        ([Verdict("ben", "s1", "REGION", "tumour", "yes")], 1),
        ([Verdict("ben", "s1", "REGION", "tumour", "no")], 0),
        ([Verdict("ben", "s1", "slide", "tumour", "unsure")], 0),
        ([Verdict("ann", "s1", "slide", "tumour", "undo")], 0),
    ],
)
def test_a_slide_without_the_class_is_a_label_unless_somebody_saw_it(
    tmp_path: Path, more: list[Verdict], contradicted: int
) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    path = overlay_path(out / "overlays", "s1")
    assert path is not None
    region = read_regions(path)[0]
    table = VerdictTable(out)
    table.append(Verdict("ann", "s1", "slide", "tumour", "no"))
    for verdict in more:
        name = verdict.region_id.replace("REGION", region.region_id)
        table.append(replace(verdict, region_id=name))
    if more and more[0].answer == "undo":
        with pytest.raises(UsageError, match="no verdict"):
            import_review(out, negative_class="normal")
        return
    labels = import_review(out, negative_class="normal").labels
    assert labels.contradicted == contradicted
    whole = not contradicted
    areas = [p.geometry.area for path in labels.files.values() for p in read_annotations(path)]
    assert (768 * 768 in areas) == whole


def test_no_verdict_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no verdict"):
        import_review(tmp_path)


def test_how_far_the_map_moved_a_reader(tmp_path: Path) -> None:
    blind = replace(YES, blind=True)
    rows = [
        replace(blind, answer="no"), YES,  # over to the model
        replace(blind, region_id="r2"), replace(YES, region_id="r2", answer="no"),  # away from it
        replace(blind, region_id="r3"),  # stayed
        replace(blind, region_id="r4", answer="unsure"), replace(YES, region_id="r4"),
        replace(YES, region_id="r4", answer="undo"),  # taken back: stayed
        replace(YES, region_id="r5"), replace(YES, region_id="r5", answer="no"),  # not blind
        replace(blind, region_id="slide"),
    ]  # fmt: skip
    assert moved_by_maps(rows) == {"ann": Moved(n_blind=4, n_changed=2, to_yes=1, from_yes=1)}
    for row in rows:
        VerdictTable(tmp_path).append(row)
    assert import_review(tmp_path).agreement.moved["ann"].n_changed == 2


def answers_of(reader: str, answers: str, slides: int = 5) -> list[Verdict]:
    return [
        Verdict(reader, f"s{i % slides}", f"r{i}", "tumour", {"y": "yes", "n": "no"}[a])
        for i, a in enumerate(answers)
    ]


def test_kappa_of_a_textbook_table() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: kappa is 0.4 (Cohen 1960's kind of table)."""
    first = "y" * 25 + "n" * 25
    second = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    (pair,) = agreement_of([*answers_of("a", first, 7), *answers_of("b", second, 7)]).pairs
    assert pair.kappa == pytest.approx(0.4)
    assert pair.n_regions == 50
    assert pair.low < 0.4 < pair.high


def test_kappa_is_undefined_without_both_answers_and_where_nothing_is_shared() -> None:
    (pair,) = agreement_of([*answers_of("a", "yyyy"), *answers_of("b", "yyyy")]).pairs
    assert math.isnan(pair.kappa)
    other = [replace(v, region_id="x" + v.region_id) for v in answers_of("b", "ynyn")]
    (pair,) = agreement_of([*answers_of("a", "ynyn"), *other]).pairs
    assert pair.n_regions == 0
    assert math.isnan(pair.kappa)


def test_the_interval_follows_the_number_of_slides() -> None:
    rng = np.random.default_rng(0)
    first = "".join(rng.choice(list("yn"), 60))
    second = "".join(a if rng.random() < 0.8 else "yn"[a == "y"] for a in first)
    few, many = (
        agreement_of([*answers_of("a", first, n), *answers_of("b", second, n)]).pairs[0]
        for n in (1, 12)
    )
    assert math.isnan(few.low)
    assert many.low < many.kappa < many.high


def drawn(reviewer: str, class_name: str, left: float, width: float = 100) -> Drawing:
    ring = ((left, 50), (left + width, 50), (left + width, 150), (left, 150))
    return Drawing(reviewer, "s1", f"{reviewer}-{left}", class_name, ring)


def test_drawings_become_labels_and_are_cut_out_of_regions(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    path = overlay_path(out / "overlays", "s1")
    assert path is not None
    region = read_regions(path)[0]
    shape = make_valid(Polygon(region.rings[0], region.rings[1:]))
    VerdictTable(out).append(Verdict("ann", "s1", region.region_id, "tumour", "yes"))
    x, y = shape.representative_point().coords[0]
    ring = ((x - 3, y - 3), (x + 3, y - 3), (x + 3, y + 3), (x - 3, y + 3))
    table = DrawingTable(out)
    table.append(Drawing("ann", "s1", "1", "normal", ring))
    done = import_review(out)
    assert done.labels.drawn == 1
    labels = read_annotations(done.labels.files["s1"])
    by_class = {c: unary_union([r.geometry for r in labels if r.class_name == c])
                for c in ("normal", "tumour")}  # fmt: skip
    assert by_class["normal"].equals(Polygon(ring))
    assert by_class["tumour"].equals(shape.difference(Polygon(ring)))
    table.append(Drawing("ann", "s1", "1", "normal", (), removed=True))
    assert import_review(out).labels.drawn == 0


def test_an_area_that_two_readers_draw_as_different_classes_labels_nothing(
    tmp_path: Path,
) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    table = DrawingTable(out)
    for drawing in (drawn("ann", "tumour", 0), drawn("bob", "normal", 60)):
        table.append(drawing)
    done = import_review(out)
    assert (done.labels.contradicted, done.labels.counts) == (1, {"tumour": 1, "normal": 1})
    areas = {r.class_name: r.geometry.bounds for r in
             read_annotations(done.labels.files["s1"])}  # fmt: skip
    assert areas == {"tumour": (0, 50, 60, 150), "normal": (100, 50, 160, 150)}


def test_what_two_models_regions_of_different_classes_share_labels_nothing(
    tmp_path: Path,
) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    path = overlay_path(out / "overlays", "s1")
    assert path is not None
    region = read_regions(path)[0]
    old = Polygon(region.rings[0], region.rings[1:])
    x, y = old.representative_point().coords[0]
    ring = ((x - 3, y - 3), (x + 3, y - 3), (x + 3, y + 3), (x - 3, y + 3), (x - 3, y - 3))
    JudgedRegions(out).keep(JudgedRegion("s1", "of-the-model-before", "old", (ring,)))
    table = VerdictTable(out)
    table.append(Verdict("ann", "s1", "of-the-model-before", "tumour", "no"))
    table.append(Verdict("ann", "s1", region.region_id, "tumour", "yes"))
    done = import_review(out, negative_class="normal")
    assert (done.labels.contradicted, done.labels.gone) == (1, 0)
    labels = read_annotations(done.labels.files["s1"])
    held = {c: unary_union([r.geometry for r in labels if r.class_name == c])
            for c in ("normal", "tumour")}  # fmt: skip
    assert held["tumour"].equals(make_valid(old).difference(Polygon(ring)))
    assert held["normal"].equals(Polygon(ring).difference(make_valid(old)))


@pytest.mark.parametrize("line", ['{"slide_id": "a"}', "[]", "{", '{"slide_id": "s", '
    '"region_id": "r", "name": "n", "rings": [[[0, 0], [1, 1]]]}'])  # fmt: skip
def test_a_damaged_list_of_regions_is_said(tmp_path: Path, line: str) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "regions.jsonl").write_text(line + "\n")
    with pytest.raises(StoreError, match="not a list of regions"):
        JudgedRegions(tmp_path).current()


def test_a_damaged_list_of_drawings_is_said(tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "drawings.jsonl").write_text('{"reviewer": "a"}\n')
    with pytest.raises(StoreError, match="not a list of drawings"):
        DrawingTable(tmp_path).current()

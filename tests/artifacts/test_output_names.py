"""No two files of an output folder have one name, whatever the slides are called."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from pathology_scaat.artifacts.output_names import (
    CONTACT_SHEET,
    FORMAT_SUFFIXES,
    PAGE,
    SUFFIXES,
    id_of_record,
    overlay_name,
)
from pathology_scaat.cohort.ids import id_key, id_problem
from pathology_scaat.export.export import WRITERS

PIECES = ["a", "A", "contact_sheet", "index", "~", ".", "ß", "é", "manifest", " "]
PIECES += [piece for suffix in SUFFIXES for piece in (suffix, suffix.upper(), suffix.split(".")[1])]
IDS = (st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)).filter(
    lambda text: id_problem(text) is None
)


@given(IDS, IDS, st.sampled_from(SUFFIXES), st.sampled_from(SUFFIXES))
def test_names_are_injective(one: str, other: str, first: str, second: str) -> None:
    assume((id_key(one), first) != (id_key(other), second))
    assert id_key(overlay_name(one, first)) != id_key(overlay_name(other, second))


@given(IDS, st.sampled_from(SUFFIXES))
def test_no_slide_takes_a_name_of_the_cohort(slide_id: str, suffix: str) -> None:
    name = overlay_name(slide_id, suffix)
    assert id_key(name) not in {CONTACT_SHEET, PAGE}


@given(IDS)
def test_the_id_comes_back_from_the_name_of_the_record(slide_id: str) -> None:
    assert id_of_record(overlay_name(slide_id, ".json")) == slide_id


def test_ordinary_ids_are_names_as_they_are() -> None:
    assert overlay_name("S19-01.A", ".png") == "S19-01.A.png"
    assert overlay_name("a.figure", ".png") == "a.figure~.png" != overlay_name("a", ".figure.png")
    assert overlay_name("contact_sheet", ".png") != CONTACT_SHEET


def test_every_format_has_a_suffix() -> None:
    assert WRITERS.keys() == FORMAT_SUFFIXES.keys()

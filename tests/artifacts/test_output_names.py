"""No two files of an output folder have one name, whatever the slides are called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pathology_scaat.artifacts.output_names import (
    CONTACT_SHEET,
    FORMAT_SUFFIXES,
    PAGE,
    PICTURE_KINDS,
    SUFFIXES,
    id_of_record,
    overlay_name,
    picture_name,
    plug_in_name,
)
from pathology_scaat.cohort.ids import id_key, id_problem
from pathology_scaat.errors import UsageError
from pathology_scaat.export.exporters import EXPORTERS

PIECES = ["a", "A", "contact_sheet", "index", "~", ".", "ß", "é", "manifest", " "]
PIECES += [piece for suffix in SUFFIXES for piece in (suffix, suffix.upper(), suffix.split(".")[1])]
PIECES += [".probability", ".evidence-1-tumor", ".saliency-2", ".plugin-x", "x", ".xml", ".png"]
IDS = (st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)).filter(
    lambda text: id_problem(text) is None
)


@given(IDS, IDS, st.sampled_from(SUFFIXES), st.sampled_from(SUFFIXES))
def test_names_are_injective(one: str, other: str, first: str, second: str) -> None:
    assume((id_key(one), first) != (id_key(other), second))
    assert id_key(overlay_name(one, first)) != id_key(overlay_name(other, second))


FILES = st.one_of(
    st.sampled_from(SUFFIXES).map(lambda suffix: lambda one: overlay_name(one, suffix)),
    st.tuples(
        st.sampled_from(PICTURE_KINDS), st.integers(0, 12), st.sampled_from(["Tumor", "x", "é b"])
    ).map(lambda what: lambda one: picture_of(one, *what)),
    st.tuples(st.sampled_from(["x", "y-1"]), st.sampled_from([".png", ".json", ".xml"])).map(
        lambda what: lambda one: plug_in_name(one, *what)
    ),
)


def picture_of(slide_id: str, kind: str, number: int, class_name: str) -> str:
    stem = overlay_name(slide_id, ".png").removesuffix(".png")
    return f"{stem}.{picture_name(kind, number, class_name)}.png"


@given(IDS, IDS, FILES, FILES)
def test_pictures_and_files_of_plug_ins_take_no_other_slides_name(
    one: str, other: str, first: Callable[[str], str], second: Callable[[str], str]
) -> None:
    assume(id_key(one) != id_key(other))
    assert id_key(first(one)) != id_key(second(other))


@pytest.mark.parametrize(
    ("name", "suffix"), [("../x", ".xml"), ("x", ""), ("x", ".x/y"), ("", ".x")]
)
def test_a_plug_in_without_a_plain_ending_is_refused(name: str, suffix: str) -> None:
    with pytest.raises(UsageError, match="no usable ending"):
        plug_in_name("a", name, suffix)


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
    assert {e.name for e in EXPORTERS if not e.provider} == FORMAT_SUFFIXES.keys()

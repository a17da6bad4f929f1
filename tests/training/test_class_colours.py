"""No two classes of a model look alike in QuPath."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology_scaat.export.qupath.palette import qupath_classes
from pathology_scaat.training.class_colours import (
    MIN_DELTA_E,
    QUPATH_COLOURS,
    alike,
    class_colours,
    delta_e,
    qupath_name,
)

COHORTS = [
    ("Benign", "IDC"),
    ("LUAD", "LUSC", "Normal"),
    ("Grade 1", "Grade 2", "Grade 3"),
    ("Gleason 3", "Gleason 4", "Gleason 5", "Benign"),
    ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"),
    ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"),
    ("normal", "Tumor"),
    ("Tumor", "Positive", "Negative", "Immune cells", "Other", "Ignore*", "Region*", "Necrosis"),
    ("tumor", "tumour"),
    ("Normal", "normal"),
]


def least(names: tuple[str, ...]) -> float:
    colours = class_colours(names)
    apart = delta_e(colours, colours)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min())


@pytest.mark.parametrize("names", COHORTS)
def test_classes_of_one_model_never_look_alike(names: tuple[str, ...]) -> None:
    assert least(names) >= MIN_DELTA_E
    assert least(tuple(c.name for c in qupath_classes(names))) >= MIN_DELTA_E


NAMES = st.one_of(
    st.sampled_from([*QUPATH_COLOURS, "tumour", "NORMAL", "Normal", "stroma", "IMMUNE CELLS"]),
    st.text(string.ascii_letters + " ", min_size=1, max_size=12).filter(str.strip),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=20, unique=True))
def test_any_list_of_classes_is_distinguished(names: list[str]) -> None:
    colours = class_colours(tuple(names))
    assert len(set(colours)) == len(names)
    assert alike(tuple(names), colours) == ()
    shown = [qupath_name(name) for name in names]
    for own in ("Tumor", "Stroma", "Immune cells", "Necrosis", "Other"):
        if own in shown:
            assert QUPATH_COLOURS[own] in colours  # QuPath's own first


@given(st.lists(NAMES, min_size=2, max_size=8, unique_by=lambda n: qupath_name(n).casefold()),
       st.randoms())  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_neither_order_nor_case_changes_a_colour(names: list[str], random: object) -> None:
    given_ = dict(zip(names, class_colours(tuple(names)), strict=True))
    turned = list(reversed(names))
    assert dict(zip(turned, class_colours(tuple(turned)), strict=True)) == given_
    upper = tuple(name.upper() for name in names)
    if len({qupath_name(n).casefold() for n in upper}) == len(upper):
        assert class_colours(upper) == tuple(given_.values())


def test_more_classes_than_colours_are_reported() -> None:
    names = tuple(f"class {n}" for n in range(60))
    colours = class_colours(names)
    assert len(set(colours)) == 60
    assert alike(names, colours)


def test_qupath_draws_what_the_bundle_keeps() -> None:
    kept = {"a": (1, 2, 3), "b": (200, 200, 10)}
    assert [c.colour for c in qupath_classes(("a", "b"), kept)] == [(1, 2, 3), (200, 200, 10)]
    assert [c.colour for c in qupath_classes(("a", "c"), kept)] == list(class_colours(("a", "c")))

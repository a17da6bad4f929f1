"""What a table of predictions says is read back as it was, whatever classes are called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.evaluation.performance.predictions import (
    Prediction,
    parse_predictions,
    predictions_text,
)

NAMES = st.lists(
    st.sampled_from(["+", "-", "=A1", "a", "b", "a | b", "none", '"', '"a"', 'a "b" | c', "|", "é"])
    | st.text("ab|\"' +-", min_size=1, max_size=6).filter(lambda t: t == " ".join(t.split())),
    min_size=2, max_size=5, unique=True,
)  # fmt: skip


@given(NAMES, st.data())
def test_classes_of_any_name_are_read_back(names: list[str], data: st.DataObject) -> None:
    names = [name for name in names if not name.startswith(("'=", "'+", "'-", "'@"))]
    if len(names) < 2:
        return
    possible = tuple(name for name in names if data.draw(st.booleans()))
    row = Prediction(
        "-7", "s", None, "test", names[0], np.full(len(names), 1 / len(names)), possible=possible
    )
    (found,), read = parse_predictions(predictions_text([row], names, names[1]).splitlines())
    assert list(read) == names
    assert (found.patient_id, found.label, found.possible) == ("-7", names[0], possible)


def test_many_possible_classes_are_all_read_back() -> None:
    names = [f"a class with a rather long name, number {number}" for number in range(40)]
    row = Prediction("p", "s", None, "", "", np.full(40, 1 / 40), possible=tuple(names))
    (found,), _ = parse_predictions(predictions_text([row], names, names[0]).splitlines())
    assert found.possible == tuple(names)


@pytest.mark.parametrize(("cell", "possible"), [("a | b", ("a", "b")), ("none", ()), ("", None)])
def test_tables_of_before_are_read(cell: str, possible: tuple[str, ...] | None) -> None:
    lines = ["patient_id,slide_id,fold,split,label,p_a,p_b,possible", f"p,s,,,a,.5,.5,{cell}"]
    (found,), _ = parse_predictions(lines)
    assert found.possible == possible

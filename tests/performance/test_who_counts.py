"""Slides and patients that are in no figure are counted; who was trained on tests nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pathology_scaat.evaluation.performance.predictions import (
    EXTERNAL,
    KNOWN_PATIENT,
    Prediction,
)
from pathology_scaat.evaluation.performance.report import Measured, measure_performance
from pathology_scaat.evaluation.performance.report_files import markdown
from pathology_scaat.evaluation.performance.who_counts import (
    notes_of_record,
    why_not_measured,
)

NAMES = ("Normal", "Tumor")
THREE = ("A", "B", "C")


def slide(patient: str, number: int, label: str, split: str, k: int = 2) -> Prediction:
    p = np.full(k, 0.1)
    p[number % k] = 1 - 0.1 * (k - 1)
    return Prediction(patient, f"s{number}", None, split, label, p)


def measured(
    rows: Sequence[Prediction], names: tuple[str, ...] = NAMES, *, known: bool = True
) -> Measured:
    return measure_performance(rows, names, names[-1], how={}, splits_known=known)


def test_labels_that_the_model_does_not_know_are_counted() -> None:
    rows = [slide(f"p{k}", k, NAMES[k % 2], EXTERNAL) for k in range(4)]
    rows += [slide("p8", 8, "Carcinoma", EXTERNAL), slide("p9", 9, "Carcinoma", EXTERNAL)]
    performance = measured(rows).performance
    assert performance is not None
    assert performance.slide.n == 4
    text = markdown(performance)
    assert "2 slide(s) have a label that the model does not know ('Carcinoma')" in text
    assert "it knows 'Normal', 'Tumor'" in text
    nothing = measured(rows[-2:])
    assert nothing.performance is None
    assert "'Carcinoma'" in nothing.left_out[0]


def test_a_patient_who_was_trained_on_tests_nothing_with_another_slide() -> None:
    rows = [slide(f"p{k}", k, NAMES[k % 2], EXTERNAL) for k in range(4)]
    rows += [slide("p0", 10, "Normal", "train"), slide("p1", 11, "Tumor", "val")]
    found = measured(rows)
    assert [r.split for r in found.slides] == [KNOWN_PATIENT, KNOWN_PATIENT, EXTERNAL, EXTERNAL,
                                               "train", "val"]  # fmt: skip
    assert found.performance is not None
    assert found.performance.slide.n == found.performance.patient.n == 2
    assert any("2 slide(s) of 2 patient(s)" in note for note in found.performance.notes)
    alone = measured(rows[2:4]).performance
    assert alone is not None
    assert not any("in no figure" in note for note in alone.notes)


def test_patients_of_several_classes_are_counted_where_they_have_no_label() -> None:
    rows = [slide(f"p{k}", k, THREE[k % 3], "test", 3) for k in range(6)]
    rows += [slide("both", 7, "A", "test", 3), slide("both", 8, "B", "test", 3)]
    performance = measured(rows, THREE).performance
    assert performance is not None
    assert (performance.slide.n, performance.patient.n) == (8, 6)
    assert "1 patient(s) have slides of different classes" in markdown(performance)


def test_a_model_of_unknown_slides_says_which_it_does_know() -> None:
    rows = [slide(f"p{k}", k, NAMES[k % 2], "train" if k < 2 else "") for k in range(6)]
    performance = measured(rows, known=False).performance
    assert performance is not None
    assert any("Of 2 of them it is known that it was trained" in n for n in performance.notes)


def test_a_class_name_does_not_break_the_tables() -> None:
    names = ("A|B", "Tumor")
    rows = [slide(f"p{k}", k, names[k % 2], "test") for k in range(4)]
    performance = measured(rows, names).performance
    assert performance is not None
    table = [line for line in markdown(performance).splitlines() if "A\\|B" in line]
    assert [line.replace("\\|", "").count("|") for line in table] == [4, 4]


def test_slides_that_a_given_model_was_made_with_are_named_and_the_others_counted() -> None:
    """The sentence of slides that it never saw spoke of all of the folder."""
    new = [slide("a", 1, "", EXTERNAL), slide("b", 2, "", EXTERNAL)]
    assert [n.split(";")[0] for n in notes_of_record(new)] == [
        "By the record of the model it was not trained on these slides"
    ]
    seen, others = notes_of_record([slide("c", 0, "", "train"), *new, slide("d", 3, "", "test")])
    assert "1 slide was trained on" in seen
    assert "(s0): what it says of it tells nothing about new slides" in seen
    assert "was not trained on the 2 other slide(s)" in others
    assert len(notes_of_record([slide("c", 0, "", "train"), slide("e", 5, "", "val")])) == 1
    assert not notes_of_record([slide("d", 3, "", "test")])


def test_why_nothing_is_measured_is_said_as_it_is() -> None:
    trained = [slide(f"p{k}", k, NAMES[k % 2], "train") for k in range(4)]
    for rows, words in (
        ([slide("p", 0, "", "test")], "no predicted slide has a label"),
        (trained, "no slide with a label was held out"),
        ([*trained, slide("p9", 9, "Tumor", "test")], "do not name two"),
    ):
        found = measured(rows)
        assert found.performance is None
        assert words in why_not_measured(found.slides)

"""What validation cases chose, used elsewhere: the same calls, whatever the others' labels are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.errors import BundleError
from pathology_scaat.evaluation.performance.calling import Called, call, choices
from pathology_scaat.evaluation.performance.kept import Kept
from pathology_scaat.evaluation.performance.levels import DEFAULT_THRESHOLD
from pathology_scaat.evaluation.performance.predictions import EXTERNAL, KEPT_RULES, Prediction
from pathology_scaat.evaluation.performance.report import measure_performance
from pathology_scaat.evaluation.performance.report_files import markdown
from pathology_scaat.pipeline.kept_decision import kept_choice, step_notes
from pathology_scaat.training.decision import (
    DECISION_NAME,
    Choice,
    Decision,
    Together,
    read_decision,
    write_decision,
)

NAMES = ("Normal", "Tumor", "Other")


def cases(
    n: int, split: str, seed: int, n_classes: int = 2, *,
    fold: int | None = None, slides: int = 1, mixed: bool = False, labelled: bool = True,
) -> list[Prediction]:  # fmt: skip
    """Slides of n patients; where mixed, some slides of a patient have another label."""
    rng = np.random.default_rng(seed)
    found = []
    for patient in range(n):
        truth = int(rng.integers(n_classes))
        for slide in range(slides):
            own = int(rng.integers(n_classes)) if mixed else truth
            p = rng.dirichlet(np.ones(n_classes) + 3 * np.eye(n_classes)[own])
            found.append(
                Prediction(f"{split}{fold}-{patient}", f"{split}{fold}-{patient}-{slide}", fold,
                           split, NAMES[own] if labelled else "", p)
            )  # fmt: skip
    return found


def as_called(found: Called, split: str) -> list[tuple[object, ...]]:
    names = NAMES[: len(found.slides[0].probability)]
    return [
        (row.patient_id, row.slide_id, row.threshold, row.possible, row.refer, row.refer_reason,
         row.called(names, "Tumor"), tuple(row.probability))
        for row in (*found.slides, *found.abstained.patients)
        if row.split == split and row.fold is None
    ]  # fmt: skip


@given(
    seed=st.integers(0, 10_000), n_val=st.integers(1, 40), n_new=st.integers(1, 12),
    n_classes=st.sampled_from([2, 3]), slides=st.integers(1, 3), mixed=st.booleans(),
)  # fmt: skip
def test_new_cases_are_called_as_beside_those_that_chose(
    seed: int, n_val: int, n_new: int, n_classes: int, slides: int, mixed: bool
) -> None:
    names = NAMES[:n_classes]
    val = cases(n_val, "val", seed, n_classes, slides=slides, mixed=mixed)
    new = cases(n_new, EXTERNAL, seed + 1, n_classes, slides=slides, labelled=False)
    chosen = choices(val, names, "Tumor").get(None)
    together = call([*val, *new], names, "Tumor")
    if chosen is None:
        assert len({row.label for row in val}) < 2
        assert together.source == "nothing"
        return
    chosen = Choice.model_validate_json(chosen.model_dump_json())  # as the file holds it
    away = call(new, names, "Tumor", chosen)
    assert (together.source, away.source) == ("table", "model")
    assert as_called(away, EXTERNAL) == as_called(together, EXTERNAL)
    # labels of the new cohort choose nothing
    known = cases(n_new, EXTERNAL, seed + 1, n_classes, slides=slides, mixed=False)
    rng = np.random.default_rng(seed)
    shuffled = [replace(row, label=names[int(rng.integers(n_classes))]) for row in known]
    assert as_called(call(shuffled, names, "Tumor", chosen), EXTERNAL) == as_called(away, EXTERNAL)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 12), mixed=st.booleans())
def test_folds_together_call_others_as_beside_the_out_of_fold_predictions(
    seed: int, n: int, mixed: bool
) -> None:
    names = NAMES[:2]
    rows = []
    for fold in range(3):
        for split in ("val", "test"):
            rows += cases(n, split, seed + 7 * fold, fold=fold, slides=2, mixed=mixed)
    new = cases(4, EXTERNAL, seed + 1, slides=2, labelled=False)
    found = choices(rows, names, "Tumor")
    if None not in found:
        assert len({row.label for row in rows if row.split == "test"}) < 2
        return
    assert found[None].chosen_on == "out-of-fold"
    beside = call([*rows, *new], names, "Tumor")
    away = call(new, names, "Tumor", found[None])
    # with folds one more patient is asked for, who is left out where he is judged himself
    if found[None].referral.n != 9:
        assert as_called(away, EXTERNAL) == as_called(beside, EXTERNAL)
    for fold in {row.fold for row in rows}:  # and each by itself as its validation cases chose
        mine = [row for row in rows if row.fold == fold and row.split == "val"]
        own = found.get(fold)
        if own is None:
            assert len({row.label for row in mine}) < 2
        else:
            given = {row.threshold for row in beside.slides if row.fold == fold}
            assert own.slide is not None
            assert given == {own.slide.threshold}


def test_the_rule_of_patients_goes_with_the_model() -> None:
    """A cohort validated by the largest was predicted by the mean where it had no labels."""
    val = cases(12, "val", 3, slides=2, mixed=True)
    chosen = choices(val, NAMES[:2], "Tumor")[None]
    assert chosen.patient_rule == "largest"
    new = [Prediction("p", f"s{k}", None, EXTERNAL, "", np.array([1 - p, p]))
           for k, p in enumerate((0.1, 0.7))]  # fmt: skip
    (patient,) = call(new, NAMES[:2], "Tumor", chosen).abstained.patients
    assert patient.probability[1] == 0.7
    alike = choices(cases(12, "val", 3, slides=2), NAMES[:2], "Tumor")[None]
    differing = [replace(new[0], label="Normal"), replace(new[1], label="Tumor")]
    called = call(differing, NAMES[:2], "Tumor", alike)
    assert called.patient_rule == KEPT_RULES["mean"]
    assert called.abstained.patients[0].probability[1] == pytest.approx(0.4)
    assert called.abstained.patients[0].label == "Tumor"  # the truth is that of the labels


def test_what_is_kept_is_told_with_the_figures() -> None:
    val, new = cases(20, "val", 1), cases(30, EXTERNAL, 2)
    chosen = choices(val, NAMES[:2], "Tumor")[None]
    found = measure_performance(new, NAMES[:2], "Tumor", how={}, kept=chosen)
    assert found.performance is not None
    text = markdown(found.performance)
    assert chosen.patient is not None
    assert "(chosen on 20 validation patients when the model was made)" in text
    assert "calibrated on 20 validation patients when the model was made" in text
    assert f"- Patients: {KEPT_RULES['mean']}." in text
    assert set(Kept(chosen).notes()) <= set(found.performance.notes)
    few = choices(val[:8], NAMES[:2], "Tumor")[None]
    found = measure_performance(new, NAMES[:2], "Tumor", how={}, kept=few)
    assert found.performance is not None
    assert "8 patients of known class that validated the model when it was made were too few" in (
        markdown(found.performance)
    )
    silent = measure_performance(cases(3, EXTERNAL, 2, labelled=False), NAMES[:2], "Tumor", how={},
                                 kept=few)  # fmt: skip
    assert silent.performance is None
    assert any(note.startswith("Nobody is referred") for note in silent.uncalled)
    assert not any(f"from a probability of {DEFAULT_THRESHOLD}" in note for note in silent.uncalled)


def test_several_models_use_what_was_chosen_for_just_these() -> None:
    val, unseen = cases(12, "val", 1, fold=0), cases(12, "test", 2, fold=0)
    found = choices([*val, *unseen], NAMES[:2], "Tumor")
    prints = tuple(letter * 64 for letter in "abc")
    together = Together(models=prints, choice=found[None])
    all_of = [Decision(model=one, alone=found[0], together=together) for one in prints]
    assert kept_choice(all_of) == found[None]
    assert kept_choice(all_of[::-1]) == found[None]
    assert kept_choice(all_of[:1]) == found[0]
    assert kept_choice(all_of[:2]) is None
    assert kept_choice([*all_of[:2], None]) is None
    assert kept_choice([all_of[0]] * 3) is None
    assert kept_choice([]) is None
    alone = [one.model_copy(update={"together": None}) for one in all_of]
    assert kept_choice(alone) is None


def test_only_slides_that_are_tiled_otherwise_are_told() -> None:
    known = Decision(model="a" * 64, step_px=128)
    assert step_notes([known], [128]) == []
    assert step_notes([known], []) == []
    assert step_notes([None, Decision(model="a" * 64)], [64]) == []
    (note,) = step_notes([known], [64])
    assert note.startswith("Patches lie 64 px apart here, and 128 px on the slides that chose")


def test_the_file_is_whole_and_of_its_model_or_refused(tmp_path: Path) -> None:
    chosen = choices(cases(12, "val", 1), NAMES[:2], "Tumor")[None]
    decision = Decision(model="a" * 64, alone=chosen, step_px=64)
    assert read_decision(tmp_path, "a" * 64) is None
    assert write_decision(tmp_path, decision)
    assert not write_decision(tmp_path, decision)
    assert read_decision(tmp_path, "a" * 64) == decision
    with pytest.raises(BundleError, match=r"has a decision\.json of another model; copy"):
        read_decision(tmp_path, "b" * 64)
    path = tmp_path / DECISION_NAME
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):  # one flipped bit anywhere
        changed = bytearray(whole)
        changed[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(BundleError, match=r"decision\.json"):
            read_decision(tmp_path, "a" * 64)
    for text in ("[]", "", "{", '"x"', json.dumps({"schema_name": "pathology_scaat.decision"})):
        path.write_text(text)
        with pytest.raises(BundleError, match=r"decision\.json"):
            read_decision(tmp_path, "a" * 64)

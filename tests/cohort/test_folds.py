"""Folds: a patient in one only, classes spread, sites kept together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.cohort.folds import assign_folds, split_of
from pathology_scaat.errors import ManifestError

cohorts = st.lists(st.sampled_from("abc"), min_size=5, max_size=60)


@given(cohorts, st.integers(3, 5), st.integers(0, 3))
def test_every_patient_is_tested_once_and_classes_are_spread(
    labels: list[str], n_folds: int, seed: int
) -> None:
    of_patient = {f"p{i}": label for i, label in enumerate(labels)}
    folds = assign_folds(of_patient, n_folds, seed)
    assert folds.keys() == of_patient.keys()
    assert set(folds.values()) == set(range(n_folds))
    for label in set(labels):
        counts = Counter(folds[p] for p, own in of_patient.items() if own == label)
        per_fold = [counts[f] for f in range(n_folds)]
        assert max(per_fold) - min(per_fold) <= 1
    backwards = dict(reversed(of_patient.items()))
    assert assign_folds(backwards, n_folds, seed) == folds


@given(cohorts, st.integers(3, 5), st.integers(0, 3))
def test_splits_of_a_fold_share_no_patient(labels: list[str], n_folds: int, seed: int) -> None:
    folds = assign_folds({f"p{i}": label for i, label in enumerate(labels)}, n_folds, seed)
    tested = Counter()
    for fold in range(n_folds):
        splits = {patient: split_of(own, fold, n_folds) for patient, own in folds.items()}
        assert set(splits.values()) == {"train", "val", "test"}
        tested.update(patient for patient, split in splits.items() if split == "test")
    assert set(tested.values()) == {1}


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 11)), min_size=20, max_size=60),
    st.integers(3, 4),
)
def test_a_site_is_in_one_fold(rows: list[tuple[str, int]], n_folds: int) -> None:
    labels = {f"p{i}": label for i, (label, _) in enumerate(rows)}
    sites = {f"p{i}": f"s{site}" for i, (_, site) in enumerate(rows)}
    if len(set(sites.values())) < n_folds:
        with pytest.raises(ManifestError, match="sites"):
            assign_folds(labels, n_folds, sites=sites)
        return
    folds = assign_folds(labels, n_folds, sites=sites)
    for site in set(sites.values()):
        assert len({folds[p] for p, own in sites.items() if own == site}) == 1


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ManifestError, match="not from 3"):
        assign_folds({"a": "x"}, 2)
    with pytest.raises(ManifestError, match="2 patients"):
        assign_folds({"a": "x", "b": "y"}, 3)

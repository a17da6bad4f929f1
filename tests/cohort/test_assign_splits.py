"""Splits: patient-disjoint, stratified, seeded, and sensible for very few patients."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.cohort.manifest import Manifest, ManifestRow, assign_splits
from pathology_scaat.errors import ManifestError


def cohort(patients: list[tuple[str, str | None, int]]) -> Manifest:
    rows = [
        ManifestRow(Path(f"/{p}-{i}.svs"), f"{p}-{i}", p, label=label)
        for p, label, count in patients
        for i in range(count)
    ]
    return Manifest(tuple(rows))


def splits_of(manifest: Manifest) -> dict[str, str]:
    return {row.patient_id: row.split or "" for row in manifest.rows}


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    labels=st.integers(1, 4),
    seed=st.integers(0, 1000),
    order=st.randoms(use_true_random=False),
)
def test_patients_are_whole_and_order_does_not_matter(
    counts: list[int], labels: int, seed: int, order: object
) -> None:
    manifest = cohort([(f"p{i}", f"c{i % labels}", n) for i, n in enumerate(counts)])
    found = assign_splits(manifest, seed=seed)
    by_patient: dict[str, set[str | None]] = {}
    for row in found.rows:
        by_patient.setdefault(row.patient_id, set()).add(row.split)
    assert all(len(s) == 1 and None not in s for s in by_patient.values())
    rows = list(manifest.rows)
    order.shuffle(rows)  # type: ignore[attr-defined]
    assert splits_of(assign_splits(Manifest(tuple(rows)), seed=seed)) == splits_of(found)
    sizes = Counter(splits_of(found).values())
    n, n_classes = len(counts), min(labels, len(counts))
    trained = {f"c{i % labels}" for i in range(n) if splits_of(found)[f"p{i}"] == "train"}
    assert len(trained) == n_classes
    if n >= 3 and n - n_classes >= 2:
        assert set(sizes) == {"train", "val", "test"}
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs(sizes[split] - n * share) <= 1.0001 or n < 5


def test_strata_are_spread() -> None:
    manifest = cohort([(f"p{i}", "T" if i < 20 else "N", 1) for i in range(40)])
    found = splits_of(assign_splits(manifest, seed=3))
    for group in (range(20), range(20, 40)):
        sizes = Counter(found[f"p{i}"] for i in group)
        assert abs(sizes["train"] - 12) <= 1
        assert abs(sizes["val"] - 4) <= 1


def test_seeds_differ_and_repeat() -> None:
    manifest = cohort([(f"p{i}", None, 1) for i in range(30)])
    one, again, other = (splits_of(assign_splits(manifest, seed=s)) for s in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    ("n", "expected", "notes"),
    [(1, {"train"}, 2), (2, {"train", "val"}, 1), (3, {"train", "val", "test"}, 0)],
)
def test_very_few_patients(n: int, expected: set[str], notes: int) -> None:
    found = assign_splits(cohort([(f"p{i}", "T", 2) for i in range(n)]))
    assert set(splits_of(found).values()) == expected
    assert len(found.notes) == notes


def test_unlabelled_patients_do_not_fill_the_splits_that_matter() -> None:
    manifest = cohort([("a", "T", 1), ("b", "T", 1), ("c", "T", 1), ("d", None, 1), ("e", None, 1)])
    for seed in range(20):
        found = splits_of(assign_splits(manifest, seed=seed))
        assert {found[p] for p in "abc"} == {"train", "val", "test"}
        chosen = splits_of(assign_splits(manifest, seed=seed, trainable=["d-0", "a-0", "e-0"]))
        assert {chosen[p] for p in "ade"} == {"train", "val", "test"}


@pytest.mark.parametrize("seed", range(30))
def test_a_rare_class_is_trained_on_and_reported(seed: int) -> None:
    manifest = cohort([("a", "T", 1), ("b", "N", 1), ("c", "N", 1), ("d", "N", 1)])
    found = assign_splits(manifest, seed=seed)
    splits = splits_of(found)
    assert splits["a"] == "train"
    assert Counter(splits.values()) == {"train": 2, "val": 1, "test": 1}
    assert any("one patient alone has class 'T'" in note for note in found.notes)


def test_a_class_that_given_splits_keep_from_training_is_reported() -> None:
    rows = list(cohort([("a", "T", 1), ("b", "N", 1), ("c", "N", 1)]).rows)
    rows[0] = replace(rows[0], split="test")
    found = assign_splits(Manifest(tuple(rows)))
    assert any("class 'T' is in the training split" in note for note in found.notes)


def test_the_classes_of_annotations_count_as_those_of_labels() -> None:
    manifest = cohort([(f"p{i}", "N", 1) for i in range(8)])
    classes = {f"p{i}-0": ["N", "Rare"] if i == 5 else ["N"] for i in range(8)}
    for seed in range(10):
        assert splits_of(assign_splits(manifest, seed=seed, classes=classes))["p5"] == "train"


def test_given_splits_stay() -> None:
    manifest = cohort([(f"p{i}", "T", 2) for i in range(5)])
    rows = list(manifest.rows)
    rows[0] = replace(rows[0], split="test")
    found = assign_splits(Manifest(tuple(rows)))
    assert splits_of(found)["p0"] == "test"
    assert {r.split for r in found.rows if r.patient_id == "p0"} == {"test"}
    assert Counter(splits_of(found).values()) == {"train": 3, "val": 1, "test": 1}


def test_no_test_split_if_none_is_asked_for() -> None:
    manifest = cohort([(f"p{i}", "T", 1) for i in range(6)])
    found = assign_splits(manifest, (2, 1, 0))
    assert Counter(splits_of(found).values()) == {"train": 4, "val": 2}
    assert found.notes == ()


@pytest.mark.parametrize("shares", [(0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1), (1, 1)])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ManifestError, match="no shares"):
        assign_splits(cohort([("a", "T", 1)]), shares)  # type: ignore[arg-type]


def test_a_split_that_the_table_leaves_empty_is_not_for_want_of_patients() -> None:
    rows = tuple(
        replace(row, split="train") for row in cohort([(f"p{i}", "T", 1) for i in range(30)]).rows
    )
    said = assign_splits(Manifest(rows)).notes
    assert [note.partition(":")[0] for note in said] == [
        "the table puts no patient with something to learn from into the validation split",
        "the table puts no patient with something to learn from into the test split",
    ]
    assert "too few patients for a test split" in assign_splits(cohort([("p", "T", 1)])).notes[1]

"""Cohorts of other people's reports: class names in two cases, a rare class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pathology_scaat.cohort.manifest import assign_splits, read_manifest
from pathology_scaat.pipeline.class_names import discover_class_names, find_classes

pytestmark = pytest.mark.real


@pytest.fixture
def field(data_dir: Path) -> Path:
    folder = data_dir / "field"
    if not folder.is_dir():
        pytest.skip("the field cases are not here")
    return folder


def test_class_names_of_annotations_in_two_cases(field: Path) -> None:
    cohort = read_manifest(field / "class_names_in_two_cases" / "annotations.csv")
    found = find_classes(cohort.rows)
    assert len({name.casefold() for name in found.names}) == len(found.names)
    assert discover_class_names(cohort.rows) == found.names
    assert sum("in another spelling" in note for note in found.notes) == 1


def test_class_names_of_labels_in_two_cases(field: Path) -> None:
    cohort = read_manifest(field / "class_names_in_two_cases" / "labels.csv")
    assert [row.label for row in cohort.rows] == ["Tumor", "Tumor", "Normal", "Normal"]
    assert sum("in another spelling" in note for note in cohort.notes) == 2
    assert discover_class_names(cohort.rows) == ("Normal", "Tumor")


@pytest.mark.parametrize("seed", range(10))
def test_the_rare_class_is_trained_on(field: Path, seed: int) -> None:
    cohort = read_manifest(field / "rare_class_goes_to_test" / "cohort.csv")
    found = assign_splits(cohort, seed=seed)
    assert next(row.split for row in found.rows if row.label == "Tumor") == "train"
    assert Counter(row.split for row in found.rows) == {"train": 2, "val": 1, "test": 1}

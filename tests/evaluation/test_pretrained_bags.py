"""The benchmark of bags with a pretrained encoder: its own arithmetic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STORED = sorted((BENCHMARKS / "results").glob("slide-labels-pretrained*.json"))


@pytest.fixture(scope="module")
def benchmark_module() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import slide_labels_pretrained

        yield slide_labels_pretrained
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_intervals_of_unpaired_seeds_hold_the_truth(benchmark_module: ModuleType) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        patients = rng.normal(0, 1, 10)  # the same in both arms
        tables = [
            centre + patients + rng.normal(0, 0.3, 10) + rng.normal(0, spread, (5, 1))
            + rng.normal(0, 0.3, (5, 10))
            for centre, spread in ((1.0, 0.3), (0.6, 0.8))
        ]  # fmt: skip
        found = benchmark_module.unpaired(*tables)
        held += found.low <= 0.4 <= found.high
    assert 0.92 <= held / 400 <= 0.99


def test_of_the_same_table_nothing_differs(benchmark_module: ModuleType) -> None:
    table = np.random.default_rng(1).normal(size=(5, 10))
    found = benchmark_module.unpaired(table, table[::-1])
    assert abs(found.value) < 1e-12
    assert found.p_value > 0.99


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_stored_comparisons_are_those_of_the_stored_runs(
    path: Path, benchmark_module: ModuleType
) -> None:
    report = json.loads(path.read_text(encoding="utf-8"))
    beside = path.with_name(path.name.replace("-pretrained", ""))
    small = json.loads(beside.read_text(encoding="utf-8"))
    assert report["cohort"]["test_slides"] == small["cohort"]["test_slides"]
    again = benchmark_module.pretrained_summary(
        report["runs"], small["runs"], report["cohort"]["test_slides"]
    )
    assert json.loads(json.dumps(again["pretrained"])) == report["pretrained"]
    for found in report["pretrained"]["comparisons"].values():
        assert found["n_seeds"] >= 5

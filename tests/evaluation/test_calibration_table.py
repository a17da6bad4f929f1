"""The table of calibration errors of the evidence: means, and differences paired by seed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

SOURCE = Path(__file__).parents[2] / "benchmarks" / "evidence" / "calibration_table.py"


def table(facts: dict[str, list[dict[str, float]]]) -> str:
    spec = importlib.util.spec_from_file_location("calibration_table", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str = module.calibration_markdown(facts)
    return found


def test_differences_are_paired_by_seed() -> None:
    plain, other = [0.1, 0.2, 0.3], [0.15, 0.22, 0.36]
    facts = {
        "plain": [{"seed": s, "ece": e} for s, e in enumerate(plain)],
        "other": [{"seed": s, "ece": e} for s, e in reversed([*enumerate(other)])],
        "once": [{"seed": 2, "ece": 0.4}],
    }
    lines = table(facts).splitlines()
    low, high = stats.ttest_rel(other, plain).confidence_interval(0.95)
    gain = np.mean(np.subtract(other, plain))
    assert f"| other | 3 | 0.243 | {gain:+.3f} ({low:+.3f} to {high:+.3f}) |" in lines
    assert "| plain | 3 | 0.200 |  |" in lines
    assert "| once | 1 | 0.400 |  |" in lines  # of one seed there is no interval


@pytest.mark.parametrize(
    "facts", [{}, {"plain": [{"seed": 0}]}, {"other": [{"seed": 0, "ece": 1}]}]
)
def test_there_is_none_without_figures_of_plain_training(
    facts: dict[str, list[dict[str, float]]],
) -> None:
    assert table(facts) == ""

"""Figures with an interval in the documents are those of the result files that they cite."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
EVIDENCE = ROOT / "benchmarks" / "evidence" / "results"
NUMBER = r"([+-]?\d*\.?\d+)"
QUOTED = re.compile(rf"{NUMBER}\**\s*\({NUMBER} to {NUMBER}\)")
BY_HAND = {
    # a first look of which no file of results was kept
    ".861 (.54 to 1.00)", ".861 (.57 to 1.00)",
}  # fmt: skip
DOCUMENTS = {
    "docs/slide-labels.md": RESULTS,
    "docs/exports.md": RESULTS,
    "docs/review.md": RESULTS,
    "benchmarks/README.md": RESULTS,
    "docs/concepts/evidence.md": EVIDENCE,
    "benchmarks/evidence/README.md": EVIDENCE,
    "README.md": EVIDENCE,
}


def intervals(value: Any) -> Iterator[tuple[float, float, float]]:
    """Every figure with an interval in a JSON value, in whichever of the ways they are kept."""
    if isinstance(value, dict):
        low, high = value.get("low"), value.get("high")
        for key, inner in value.items():
            if isinstance(inner, int | float) and isinstance(low, int | float):
                if isinstance(high, int | float) and key not in ("low", "high"):
                    yield inner, low, high
            else:
                yield from intervals(inner)
    elif isinstance(value, list):
        numbers = [v for v in value if isinstance(v, int | float)]
        if numbers and len(numbers) == len(value):
            if len(numbers) == 3:
                yield numbers[0], numbers[1], numbers[2]
            # of seeds: the mean, the least and the largest
            yield sum(numbers) / len(numbers), min(numbers), max(numbers)
        for inner in value:
            yield from intervals(inner)


def known(folder: Path) -> Any:
    """(N, 3) array of the figures of all result files of a folder."""
    found = {
        figure
        for path in sorted(folder.rglob("*.json"))
        for figure in intervals(json.loads(path.read_text(encoding="utf-8")))
    }
    return np.array(sorted(found))


@pytest.mark.parametrize("folder", [RESULTS, EVIDENCE], ids=["results", "evidence"])
def test_quoted_intervals_are_in_the_results(folder: Path) -> None:
    figures = known(folder)
    if folder == EVIDENCE:  # its page speaks of one measurement beside the comparisons
        figures = np.concatenate([figures, known(RESULTS / "attribution-located")])
    strange, n_checked = [], 0
    for name in (n for n, f in DOCUMENTS.items() if f == folder):
        for quoted in QUOTED.finditer((ROOT / name).read_text(encoding="utf-8")):
            if quoted[0].replace("*", "") in BY_HAND:
                continue
            texts = quoted.groups()
            n_checked += 1
            decimals = [len(text.partition(".")[2]) for text in texts]
            slack = np.array([0.5 * 10.0**-n + 1e-9 for n in decimals])
            said = np.array([float(text) for text in texts])
            in_percent = (1, 100) if decimals[0] <= 1 else (1,)
            if not any((abs(figures * s - said) <= slack).all(axis=1).any() for s in in_percent):
                strange.append(f"{name}: {quoted[0]}")
    assert n_checked > 20
    assert not strange, "\n".join(strange)

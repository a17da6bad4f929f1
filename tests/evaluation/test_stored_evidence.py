"""The evidence that is kept: its README says what its JSON says, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "evidence"
RESULTS = [p for p in sorted(FOLDER.glob("results/*/*-*.json")) if not p.name.startswith("roar")]


def comparisons(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [v for k, v in content.items() if k.startswith("comparison") and "one_seed" not in k]


def shown(interval: dict[str, float]) -> str:
    """As the README writes it: three decimals without the leading zero."""
    numbers = [f"{interval[k]:+.3f}".replace("0.", ".", 1) for k in ("value", "low", "high")]
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})"


def test_there_is_evidence() -> None:
    assert len(RESULTS) >= 18


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_verdict_is_given_on_fewer_than_five_seeds(path: Path) -> None:
    for comparison in comparisons(path):
        for arm in comparison["arms"]:
            if arm["n_seeds"] < 5 and arm["arm"] != comparison["baseline"]:
                assert arm["verdict"].startswith("no verdict")
                assert arm["non_inferior"] is None
        for row in comparison["rows"]:
            if row["gain"] is not None and row["gain"]["low"] is not None:
                assert row["gain"]["n_seeds"] == len(row["seed_values"])
                assert row["gain"]["seed_se"] is not None, "the seed is in every gain"
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    few = any(a["n_seeds"] < 5 for c in comparisons(path) for a in c["arms"])
    assert ("No verdicts: they need at least 5 seeds an arm" in text) == few


@pytest.mark.parametrize(
    "name",
    [
        *(f"gpu-short/resnet18-{d}" for d in ("planted", "demo", "colon", "idc")),
        *(f"cpu-steps/cnn-{d}" for d in ("planted", "demo", "colon", "idc")),
        "cpu/cnn-planted", "cpu-real/cnn-colon", "cpu-real/cnn-idc", "cpu-real/cnn-granular",
        "cpu-vit/vit-planted",
    ],
)  # fmt: skip
def test_the_tables_of_the_readme_are_those_of_the_json(name: str) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8").replace("\n  ", " ")
    for comparison in comparisons(FOLDER / "results" / f"{name}.json"):
        for row in comparison["rows"]:
            is_primary = (row["measure"], row["subset"]) == (comparison["primary"], "all")
            if row["arm"] == "scaat-soft-16" and is_primary and row["gain"] is not None:
                assert shown(row["gain"]) in text, comparison["baseline"]


def test_the_picture_of_costs_counts_steps_where_a_gpu_was_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time of a training that shared a GPU with others is not its cost."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import cost_figure

    gpu = json.loads((FOLDER / "results/gpu-staged/resnet18-hard.json").read_text("utf-8"))
    found = cost_figure.costs(gpu["facts"])
    assert found["plain"] == 1.0
    assert found["plain-1.5x"] == 1.5
    assert found["scaat-soft-16"] == pytest.approx(2.08, abs=0.01)
    assert found["staged-soft-16"] == pytest.approx(1.54, abs=0.01)
    cpu = json.loads((FOLDER / "results/cpu-method/cnn-narrow-hard.json").read_text("utf-8"))
    assert cost_figure.costs(cpu["facts"])["staged-soft-16"] == pytest.approx(1.54, abs=0.01)

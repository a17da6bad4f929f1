"""Nothing is rounded to 0, 1, none or all that is not; one second is no plural."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat import review
from pathology_scaat.evaluation.performance.bootstrap import Estimate
from pathology_scaat.evaluation.performance.predictions import Prediction, predictions_text
from pathology_scaat.pipeline.members import slide_facts
from pathology_scaat.review.ensemble import agreement_words
from pathology_scaat.system.amounts import in_time
from pathology_scaat.system.rounding import decimals, done_percent, percent
from pathology_scaat.training.bundle_quality import Estimate as Quality
from pathology_scaat.training.results import TrainProgress


@given(st.floats(0, 1), st.integers(0, 3))
def test_only_0_and_1_are_called_so(value: float, digits: int) -> None:
    text = decimals(value, digits)
    whole = text.lstrip("<>")
    if text == whole:
        assert (float(text) in (0.0, 1.0)) == (value in (0.0, 1.0))
        assert float(text) == pytest.approx(value, abs=0.51 * 10**-digits)
    else:
        assert value < 1e-6 if text[0] == "<" else value > 1 - 1e-6


@given(st.floats(0, 1), st.integers(0, 1))
def test_only_none_and_all_are_0_and_100_percent(share: float, digits: int) -> None:
    text = percent(share, digits)
    assert text.endswith("%")
    if " " not in text:
        assert (float(text[:-1]) in (0.0, 100.0)) == (share in (0.0, 1.0))


def test_estimates_that_are_nearly_perfect_are_not_called_perfect() -> None:
    assert Estimate(0.9996, 0.9981, 0.99994).text() == "0.9996 (0.998-0.9999)"
    assert Estimate(1.0).text() == "1.000 (no interval)"
    assert Quality(value=0.997, low=0.989, high=1.0).text() == "0.997 (0.99 to 1.00)"


def test_durations() -> None:
    assert in_time(0.2) == "1 second"
    assert in_time(1.6) == "2 seconds"


def test_the_pages_of_the_review_round_alike() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    values = [0.0, 1.0, 0.9996, 0.0002, 0.4567, 1e-9, 1 - 1e-9, 0.99949, 0.5]
    shares = [0.0, 0.004, 0.254, 0.996, 1.0, 0.125, 0.135]
    script = (Path(review.__file__).parent / "static" / "numbers.js").read_text(encoding="utf-8")
    asked = (
        f"{values}.map((v) => decimals(v, 3)), {shares}.map(percent), "
        "[99.6, 40, 100].map(fartherThan)"
    )
    done = subprocess.run(
        [node, "-e", f"{script}\nconsole.log(JSON.stringify([{asked}]))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown, percents, far = json.loads(done.stdout)
    assert shown == [decimals(value) for value in values]
    assert percents[:5] == ["0 %", "below 1 %", "25 %", "above 99 %", "100 %"]
    assert percents[5:] == [percent(share).replace("%", " %") for share in shares[5:]]
    assert far == [
        "farther than more than 99 % of held-out patches",
        "farther than 40 % of held-out patches",
        "farther than all held-out patches",
    ]


def test_a_table_calls_no_probability_1_that_is_less() -> None:
    rows = [Prediction("p", "s", None, "test", "", np.array([4e-7, 0.9999996]), 0.5)]
    facts = slide_facts(rows, ("Normal", "Tumor"), "Tumor")
    assert facts["s"]["probabilities"] == "Normal=4e-07; Tumor=0.9999996"
    assert ",4e-07,0.9999996," in predictions_text(rows, ("Normal", "Tumor"), "Tumor")


def test_progress_calls_nothing_done_that_is_not() -> None:
    assert TrainProgress(1, 3, 0.5, {"loss": 0.0002, "val_auc": 0.99968}).text == (
        "loss 0.0002, val AUC 0.9997"
    )
    assert [done_percent(n, 1000) for n in (0, 4, 290, 999, 1000)] == [
        "0 %", "0 %", "29 %", "99 %", "100 %",
    ]  # fmt: skip
    members = [{"probability": p, "role": "held out"} for p in (0.903, 0.906)]
    assert "they differ by 0.003 at most" in agreement_words(members, "Tumor")

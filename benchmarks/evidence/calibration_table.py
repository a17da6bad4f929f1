"""Calibration error of each arm's predictions, and its difference from plain training by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Facts = Mapping[str, Sequence[Mapping[str, Any]]]


def calibration_markdown(facts: Facts, baseline: str = "plain") -> str:
    """A table of the expected calibration error; empty where it was not measured.

    The temperature is fitted to the validation images, the error measured on the test images.
    Differences are paired by seed (Student), not corrected: they say what calibration costs, and
    decide nothing.
    """
    errors = {
        arm: {int(one["seed"]): float(one["ece"]) for one in found if "ece" in one}
        for arm, found in facts.items()
    }
    errors = {arm: by_seed for arm, by_seed in errors.items() if by_seed}
    plain = errors.get(baseline)
    if not plain:
        return ""
    lines = [
        "",
        "Expected calibration error on the test images after a temperature was fitted to the "
        "validation images; the difference is paired by seed, of seeds alone and not corrected.",
        "",
        f"| arm | seeds | calibration error | − {baseline} |",
        "|---|---|---|---|",
    ]
    for arm, by_seed in errors.items():
        shared = sorted(set(by_seed) & set(plain))
        told = ""
        if arm != baseline and len(shared) > 1:
            gain = np.array([by_seed[s] - plain[s] for s in shared])
            half = float(stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain))
            mean = float(gain.mean())
            told = f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"
        mean_error = float(np.mean(list(by_seed.values())))
        lines.append(f"| {arm} | {len(by_seed)} | {mean_error:.3f} | {told} |")
    return "\n".join([*lines, ""])

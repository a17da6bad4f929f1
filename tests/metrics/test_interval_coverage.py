"""Do intervals over seeds and patients hold what they say? By simulation, with a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from pathology_scaat.metrics.functional.statistics import MIN_SEEDS, clustered_auc, clustered_mean

N_DRAWS = 1500
"""The standard error of a coverage of 95 % is 0.6 points: two of them are allowed for."""

SLACK = 0.012


def coverage(n_seeds: int, n_patients: int, seed_sd: float, noise_sd: float) -> float:
    """Share of intervals that hold the truth, where patients vary by 1 and differ in size."""
    rng = np.random.default_rng([n_seeds, n_patients, int(100 * seed_sd), int(100 * noise_sd)])
    patients = np.repeat(np.arange(n_patients), 2 + np.arange(n_patients) % 3)
    held = 0
    for _ in range(N_DRAWS):
        of_seed = rng.normal(0, seed_sd, (n_seeds, 1))
        of_patient = rng.normal(0, 1, (1, n_patients))
        between = rng.normal(0, noise_sd, (n_seeds, n_patients))
        values = (of_seed + of_patient + between)[:, patients]
        values += rng.normal(0, 0.3, values.shape)
        found = clustered_mean(values, patients)
        held += found.low <= 0 <= found.high
    return held / N_DRAWS


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
@pytest.mark.parametrize("seed_sd", [0.2, 0.5, 1.0, 3.0])
def test_intervals_hold_the_truth_where_the_seed_matters(n_seeds: int, seed_sd: float) -> None:
    """93 to 97 %, so that at most 7 % (and with enough seeds 6 %) are found where nothing is."""
    found = coverage(n_seeds, 40, seed_sd, 0.3)
    assert 0.93 - SLACK <= found <= 0.97 + SLACK
    if n_seeds >= MIN_SEEDS:
        assert 1 - found <= 0.06 + SLACK


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
@pytest.mark.parametrize("noise_sd", [0.0, 1.0])
def test_without_a_seed_effect_they_are_no_wider(n_seeds: int, noise_sd: float) -> None:
    """Noise between seed and patient is in both variances, and counted once."""
    assert 0.93 - SLACK <= coverage(n_seeds, 40, 0.0, noise_sd) <= 0.97 + SLACK


@pytest.mark.parametrize("n_patients", [6, 40])
@pytest.mark.parametrize("seed_sd", [0.2, 0.5])
def test_three_seeds_with_much_noise(n_patients: int, seed_sd: float) -> None:
    """Where the noise is as large as what patients differ by, and the seed's part is small."""
    assert 0.93 - SLACK <= coverage(3, n_patients, seed_sd, 1.0) <= 0.97 + SLACK


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_few_patients(n_seeds: int) -> None:
    assert 0.93 - SLACK <= coverage(n_seeds, 6, 0.5, 0.3) <= 0.97 + SLACK


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_no_difference_between_aucs_is_rarely_found(n_seeds: int) -> None:
    """Two recipes of the same worth, whose seeds differ: a difference is found in 3 to 7 %."""
    rng = np.random.default_rng(n_seeds)
    patients = np.repeat(np.arange(30), 8)
    truth = np.arange(240) % 2 == 0
    n_draws, found = 500, 0
    for _ in range(n_draws):
        skill = rng.normal(1.2, 0.25, (2, n_seeds, 1))
        of_patient = rng.normal(0, 0.5, 30)[patients]
        scores = skill * truth + of_patient + rng.normal(0, 1, (2, n_seeds, 240))
        interval = clustered_auc(scores[0], truth, patients, minus=scores[1])
        found += interval.low > 0 or interval.high < 0
    assert 0.02 <= found / n_draws <= 0.08

"""The evidence channel: what a patch says, laid where in it that comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_stores import make_saliency_store

from pathology_scaat.geometry import PatchGrid
from pathology_scaat.metrics.functional.localisation import pixel_average_precision
from pathology_scaat.scaat.evidence import patch_evidence
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide


@given(
    seed=st.integers(0, 1000),
    probability=st.floats(0, 1),
    unit=st.floats(1e-6, 1e6),
)
def test_evidence_is_a_share_of_the_probability_in_any_unit(
    seed: int, probability: float, unit: float
) -> None:
    saliency = np.random.default_rng(seed).gamma(0.5, size=(2, 12, 12))
    p = np.array([probability, 1.0])
    found = patch_evidence(saliency, p)
    assert ((found >= 0) & (found <= p[:, None, None] + 1e-12)).all()
    np.testing.assert_allclose(patch_evidence(saliency * unit, p), found, rtol=1e-6, atol=1e-12)
    assert found[1].mean() > 0.5  # a patch that the model is sure of is not dark


def test_a_sure_patch_with_small_gradients_outshines_an_unsure_one_with_large() -> None:
    """What probability times saliency gets wrong: the inside of a tumour."""
    rng = np.random.default_rng(0)
    saliency = rng.gamma(2.0, size=(2, 16, 16)) * np.array([0.01, 1.0])[:, None, None]
    probability = np.array([0.99, 0.2])
    product = saliency * probability[:, None, None]
    assert product[0].max() < product[1].mean()
    evidence = patch_evidence(saliency, probability)
    assert evidence[0].min() > evidence[1].max()


def test_inside_a_patch_evidence_ranks_pixels_at_least_as_well_as_saliency() -> None:
    rng = np.random.default_rng(1)
    truth = np.zeros((32, 32), bool)
    truth[8:20, 10:22] = True
    saliency = rng.gamma(1.0, size=(40, 32, 32)) * np.where(truth, 3.0, 1.0)
    raw = [pixel_average_precision(s, truth) for s in saliency]
    ours = [pixel_average_precision(e, truth) for e in patch_evidence(saliency, np.ones(40))]
    assert np.mean(ours) > np.mean(raw)


def test_a_patch_without_saliency_has_its_probability_evenly() -> None:
    found = patch_evidence(np.zeros((1, 4, 4)), np.array([0.8]))
    np.testing.assert_allclose(found, 0.8 * (1 + 0.25) / 2)


@pytest.mark.parametrize("weighting", ["probability", "none"])
def test_the_channel_of_patches_side_by_side_is_their_evidence(
    tmp_path: Path, weighting: str
) -> None:
    """Saliency's weighting does not touch evidence."""
    grid = PatchGrid(0.0, 0.0, 1.0, 32, 32, 3, 2)
    rng = np.random.default_rng(0)
    saliency = rng.random((6, 8, 8)).astype(np.float16)
    p = rng.random(6).astype(np.float32)
    store = make_saliency_store(
        tmp_path / "s.zarr", grid, saliency=saliency, probability=np.stack([1 - p, p], axis=1)
    )
    stitch_slide(store, tmp_path / "m.ome.zarr", StitchConfig(window="flat", weighting=weighting))
    values = SlideMap(tmp_path / "m.ome.zarr").read("evidence: tumour")
    expected = patch_evidence(saliency.astype(np.float64), p)
    for i, (column, row) in enumerate(grid.all_indices()):
        part = values[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        np.testing.assert_allclose(part, expected[i], rtol=1e-5)

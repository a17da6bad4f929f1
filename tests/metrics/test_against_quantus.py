"""Where Quantus is right we agree with it; where it is wrong, a test says so.

Quantus is no dependency (its licence is LGPL or GPL): these tests run where it is installed.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pathology_scaat.metrics.functional import ranking, sparsity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": True}


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.random((6, 3, 10, 10)).astype(np.float32)
    maps = rng.random((6, 1, 10, 10)).astype(np.float32)
    masks = np.zeros((6, 1, 10, 10), dtype=bool)
    masks[:, :, 2:6, 3:7] = True
    return images, maps, masks


def score(metric: object, images: np.ndarray, maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 2))
    labels = np.zeros(len(images), dtype=np.int64)
    found = metric(  # type: ignore[operator]
        model=model, x_batch=images, y_batch=labels, a_batch=maps, s_batch=masks, device="cpu"
    )
    return np.asarray(found, dtype=np.float64).ravel()


def test_gini_and_entropy_agree(arrays) -> None:
    images, maps, masks = arrays
    batch = torch.from_numpy(maps[:, 0])
    np.testing.assert_allclose(
        sparsity.gini_index(batch), score(quantus.Sparseness(**OPTIONS), *arrays), atol=1e-4
    )
    entropy = score(quantus.Complexity(**OPTIONS), images, maps, masks)
    np.testing.assert_allclose(sparsity.map_entropy(batch) * np.log(100), entropy, atol=1e-3)


def test_rank_accuracy_auc_and_pointing_agree(arrays) -> None:
    _, maps, masks = arrays
    batch = torch.from_numpy(maps[:, 0]), torch.from_numpy(masks[:, 0])
    for ours, theirs in (
        (ranking.relevance_rank_accuracy, quantus.RelevanceRankAccuracy),
        (ranking.pixel_auroc_batch, quantus.AUC),
        (ranking.pointing_hit, quantus.PointingGame),
    ):
        np.testing.assert_allclose(ours(*batch), score(theirs(**OPTIONS), *arrays), atol=1e-5)


def test_an_empty_mask_is_a_hit_for_quantus_and_undefined_for_us(arrays) -> None:
    images, maps, masks = arrays
    masks = masks.copy()
    masks[2] = False
    theirs = score(quantus.PointingGame(**OPTIONS), images, maps, masks)
    assert theirs[2] == 1.0, "if this fails, Quantus has been repaired: say so and drop this test"
    ours = ranking.pointing_hit(torch.from_numpy(maps[:, 0]), torch.from_numpy(masks[:, 0]))
    assert ours[2].isnan()

"""The streaming classes give what the functions give, over any batches."""

from __future__ import annotations

import pytest
import torch

from pathology_scaat import metrics
from pathology_scaat.metrics.functional import ranking, robustness, sparsity

MAPS = torch.rand((11, 12, 12), generator=torch.Generator().manual_seed(0))
OTHER = torch.rand((11, 12, 12), generator=torch.Generator().manual_seed(1))
MASKS = torch.rand((11, 12, 12), generator=torch.Generator().manual_seed(2)) < 0.2
MASKS[4] = False

CASES = [
    ("GiniIndex", (MAPS,), sparsity.gini_index),
    ("MapEntropy", (MAPS,), sparsity.map_entropy),
    ("PixelAveragePrecision", (MAPS, MASKS), ranking.pixel_ap),
    ("PixelAuroc", (MAPS, MASKS), ranking.pixel_auroc_batch),
    ("RelevanceRankAccuracy", (MAPS, MASKS), ranking.relevance_rank_accuracy),
    ("PointingGame", (MAPS, MASKS), ranking.pointing_hit),
    ("RankStability", (MAPS, OTHER), robustness.spearman),
    ("MapSsim", (MAPS, OTHER), robustness.ssim),
]


@pytest.mark.parametrize(("name", "inputs", "function"), CASES)
@pytest.mark.parametrize("batch", [1, 4, 11])
def test_batches_add_up_to_the_mean(name, inputs, function, batch: int) -> None:
    metric = getattr(metrics, name)()
    for start in range(0, 11, batch):
        metric.update(*(part[start : start + batch] for part in inputs))
    values = function(*inputs)
    torch.testing.assert_close(metric.compute(), values.nanmean())
    assert metric.n_undefined == values.isnan().sum()
    metric.reset()
    assert metric.n_defined == 0


def test_nothing_defined_is_nan() -> None:
    metric = metrics.PixelAveragePrecision()
    metric.update(MAPS[4:5], MASKS[4:5])
    assert metric.compute().isnan()
    assert metric.n_undefined == 1


def test_symmetric_relevance_gain_of_an_rgb_batch(small_cnn: torch.nn.Module) -> None:
    images = torch.rand(9, 3, 12, 12)
    metric = metrics.SymmetricRelevanceGain(small_cnn, "mean", mean_colour=torch.full((3,), 0.5))
    for start in (0, 5):
        part = slice(start, start + 5)
        metric.update(images[part], MAPS[:9][part], torch.ones(len(images[part])).long())
    assert metric.compute().isfinite()
    assert metric.n_defined == 9
    assert metric.state_dict() == {}, "the model is no part of the metric"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Magic'"):
        _ = metrics.Magic

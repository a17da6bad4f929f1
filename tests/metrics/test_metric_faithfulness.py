"""Occlusion curves, sparsity, infidelity and stability against closed forms and references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional import (
    faithfulness,
    mosaic,
    occluders,
    randomisation,
    robustness,
    sparsity,
)
from pathology_scaat.saliency.attribution import attribution, input_gradient


class AdditiveModel(torch.nn.Module):
    """Margin = the sum of weight * brightness: what each pixel is worth is known."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        margin = (images.mean(1) * self.weights).sum((1, 2))
        return torch.stack([-margin / 2, margin / 2], dim=1)


def test_gini_against_the_mean_difference_formula() -> None:
    maps = torch.rand(4, 6, 5)
    values = maps.flatten(1).numpy()
    expected = np.abs(values[:, :, None] - values[:, None]).mean((1, 2)) / (2 * values.mean(1))
    np.testing.assert_allclose(sparsity.gini_index(maps).numpy(), expected, rtol=1e-4)


def test_sparsity_extremes() -> None:
    maps = torch.stack([torch.ones(4, 4), torch.eye(16)[5].view(4, 4), torch.zeros(4, 4)])
    assert sparsity.gini_index(maps)[:2].tolist() == pytest.approx([0, 15 / 16])
    assert sparsity.map_entropy(maps)[:2].tolist() == pytest.approx([1, 0])
    assert sparsity.gini_index(maps)[2].isnan()
    assert sparsity.map_entropy(maps)[2].isnan()
    broken = torch.full((1, 4, 4), torch.nan)
    assert sparsity.gini_index(broken).isnan().all()


def test_sharpening_changes_gini_and_keeps_the_ranking() -> None:
    maps = torch.rand(3, 10, 10)
    sharp = sparsity.sharpen_to_gini(maps, torch.tensor([0.5, 0.7, 0.2]))
    torch.testing.assert_close(
        sparsity.gini_index(sharp), torch.tensor([0.5, 0.7, 0.2]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(robustness.spearman(maps, sharp), torch.ones(3))


def test_areas_of_an_additive_model_by_hand() -> None:
    # Four pixels worth 4, 3, 2, 1 on white images, replaced by black: the margin of 10 falls
    # by the worth of what is hidden.
    model = AdditiveModel(torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
    images = torch.ones(2, 3, 2, 2)
    target = torch.tensor([1, 1])
    maps = model.weights.detach().expand(2, 2, 2)
    curves = faithfulness.occlusion_logits(
        model, images, maps, "mean", shares=(0, 0.25, 0.5, 0.75, 1), cell_px=1,
        mean_colour=torch.zeros(3),
    )  # fmt: skip
    scores = faithfulness.faithfulness(curves, maps, target, "margin")
    most = np.trapezoid([10, 6, 3, 1, 0], dx=0.25)
    least = np.trapezoid([10, 9, 7, 4, 0], dx=0.25)
    assert scores.most.tolist() == pytest.approx([most] * 2)
    assert scores.least.tolist() == pytest.approx([least] * 2)
    assert scores.srg.tolist() == pytest.approx([least - most] * 2)
    torch.testing.assert_close(scores.srg, scores.deletion_gain + scores.insertion_gain)
    probability = faithfulness.faithfulness(curves, maps, target, "probability", temperature=2)
    expected = np.trapezoid(1 / (1 + np.exp(-np.array([10, 6, 3, 1, 0]) / 2)), dx=0.25)
    assert probability.most.tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize("name", occluders.OCCLUDERS)
def test_the_right_map_beats_a_random_and_an_inverted_one(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand((12, 12), generator=generator) ** 4
    model = AdditiveModel(weights)
    images = torch.rand((16, 3, 12, 12), generator=generator)
    # The true worth of a pixel depends on what replaces it: only the mean keeps that simple.
    right = weights * (images.mean(1) - images.mean())
    target = torch.ones(16, dtype=torch.int64)
    srg = [
        faithfulness.faithfulness(
            faithfulness.occlusion_logits(model, images, maps, name, cell_px=1), maps, target,
            "margin",
        ).srg.mean().item()
        for maps in (right, torch.rand((16, 12, 12), generator=generator), -right)
    ]  # fmt: skip
    assert srg[0] > srg[1] + 0.1 > srg[2] + 0.2
    assert srg[0] == pytest.approx(-srg[2], abs=0.15 * srg[0])


def test_a_constant_map_is_no_better_than_chance() -> None:
    model = AdditiveModel(torch.linspace(0, 1, 144).view(12, 12))
    images = torch.rand((200, 3, 12, 12), generator=torch.Generator().manual_seed(0))
    maps = torch.ones(200, 12, 12)
    curves = faithfulness.occlusion_logits(model, images, maps, "mean", cell_px=1)
    scores = faithfulness.faithfulness(curves, maps, torch.ones(200).long(), "margin")
    assert abs(scores.srg.mean().item()) < 3, "a top-to-bottom order would score about 24"


def test_maps_with_nan_have_no_score() -> None:
    model = AdditiveModel(torch.ones(4, 4))
    maps = torch.rand(2, 4, 4)
    maps[1, 0, 0] = torch.nan
    curves = faithfulness.occlusion_logits(model, torch.rand(2, 3, 4, 4), maps, "mean")
    scores = faithfulness.faithfulness(curves, maps, torch.ones(2).long())
    assert scores.srg.isnan().tolist() == [False, True]


def test_batches_change_nothing_but_the_random_order() -> None:
    model = AdditiveModel(torch.rand(8, 8))
    images, maps = torch.rand(6, 3, 8, 8), torch.rand(6, 8, 8)
    colour = torch.full((3,), 0.4)
    together = faithfulness.occlusion_logits(model, images, maps, "mean", mean_colour=colour)
    for i in range(6):
        alone = faithfulness.occlusion_logits(
            model, images[i : i + 1], maps[i : i + 1], "mean", mean_colour=colour
        )
        torch.testing.assert_close(alone.most[:, 0], together.most[:, i])
        torch.testing.assert_close(alone.least[:, 0], together.least[:, i])


def test_shares_must_span_zero_to_one() -> None:
    with pytest.raises(UsageError, match="ascend from 0 to 1"):
        faithfulness.occlusion_logits(
            AdditiveModel(torch.ones(4, 4)), torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4),
            shares=(0.5, 1.0),
        )  # fmt: skip


def test_cells_that_do_not_divide_the_side() -> None:
    ranks = faithfulness.cell_ranks(torch.rand(2, 7, 10), cell_px=4)
    assert ranks.shape == (2, 6)
    assert sorted(ranks[0].tolist()) == list(range(6))
    assert faithfulness.hidden_pixels(ranks, 1.0, (7, 10), 4).all()
    assert not faithfulness.hidden_pixels(ranks, 0.0, (7, 10), 4).any()


def test_noisy_linear_imputation_solves_its_linear_system() -> None:
    images = torch.rand(1, 3, 9, 9)
    hidden = torch.zeros(1, 9, 9, dtype=torch.bool)
    hidden[0, 3:5, 3:6] = True
    filled = occluders.noisy_linear_imputation(images, hidden, torch.zeros_like(images))
    weights = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    for y, x in hidden[0].nonzero().tolist():
        around = (filled[0, :, y - 1 : y + 2, x - 1 : x + 2] * weights).sum((1, 2))
        torch.testing.assert_close(filled[0, :, y, x], around, atol=1e-4, rtol=0)
    assert torch.equal(filled[:, :, ~hidden[0]], images[:, :, ~hidden[0]])


def test_swapped_tissue_comes_from_another_image() -> None:
    images = torch.rand(3, 3, 4, 4)
    everything = torch.ones(3, 4, 4, dtype=torch.bool)
    swapped = occluders.make_occluder("swap", images)(everything)
    assert not any(torch.equal(a, b) for a, b in zip(swapped, images, strict=True))
    donors = torch.zeros(2, 3, 4, 4)
    assert occluders.make_occluder("swap", images, donors=donors)(everything).sum() == 0


def test_unknown_occluder() -> None:
    with pytest.raises(UsageError, match="is not known"):
        occluders.make_occluder("black", torch.rand(1, 3, 4, 4))  # type: ignore[arg-type]


def test_infidelity_of_the_true_gradient_of_a_linear_model_is_zero_at_any_scale() -> None:
    model = AdditiveModel(torch.rand(4, 4))
    images, target = torch.rand(3, 3, 4, 4), torch.ones(3).long()
    signed, _ = input_gradient(model, images, target)
    for scale in (1.0, 1e-3, 1e3):
        value = robustness.infidelity(model, images, signed * scale, target)
        torch.testing.assert_close(value, torch.zeros(3), atol=1e-3, rtol=0)
    wrong = robustness.infidelity(model, images, torch.randn(3, 3, 4, 4), target, n_samples=200)
    assert wrong.min() > 0.5


def test_relative_sensitivity_does_not_depend_on_the_size_of_the_map() -> None:
    images = torch.rand(3, 3, 6, 6)
    small = robustness.relative_sensitivity(lambda x: x.sum(1), images)
    large = robustness.relative_sensitivity(lambda x: 100 * x.sum(1), images)
    torch.testing.assert_close(small, large)
    assert robustness.relative_sensitivity(lambda x: 0 * x.sum(1), images).isnan().all()


def test_spearman_is_that_of_scipy_with_ties() -> None:
    a = torch.randint(0, 4, (5, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    b = torch.randint(0, 4, (5, 6, 6), generator=torch.Generator().manual_seed(1)).float()
    ours = robustness.spearman(a, b)
    for i in range(5):
        expected = spearmanr(a[i].numpy().ravel(), b[i].numpy().ravel()).statistic
        assert ours[i].item() == pytest.approx(expected, abs=1e-5)
    assert robustness.spearman(a, torch.ones_like(a)).isnan().all()


def test_ssim_is_that_of_scikit_image() -> None:
    a, b = torch.rand(2, 24, 30), torch.rand(2, 24, 30)
    ours = robustness.ssim(a, b)
    for i in range(2):
        expected = structural_similarity(
            (a[i] / a[i].max()).numpy(), (b[i] / b[i].max()).numpy(), data_range=1.0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert ours[i].item() == pytest.approx(expected, abs=1e-4)


def test_mosaics_are_half_target_and_made_of_their_sources() -> None:
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 8, 8)
    made = mosaic.make_mosaics(images, torch.arange(8) >= 4, 10, tiles=4, seed=1)
    assert made.masks.float().mean((1, 2)).tolist() == [0.5] * 10
    assert ((made.images[:, 0] >= 4) == made.masks).all()
    first_tiles = made.images[:, 0, 0, 0].long()
    assert torch.equal(first_tiles, made.sources[:, 0])
    with pytest.raises(UsageError, match="one class"):
        mosaic.make_mosaics(images, torch.ones(8).bool(), 1)
    with pytest.raises(UsageError, match="does not fit"):
        mosaic.make_mosaics(images, torch.arange(8) > 2, 1, tiles=3)


def test_cascading_randomisation_changes_gradients_and_spares_the_model(
    small_cnn: torch.nn.Module, rgb_batch: torch.Tensor
) -> None:
    before = [p.clone() for p in small_cnn.parameters()]
    steps = randomisation.cascade_similarity(
        small_cnn, rgb_batch, lambda m, x: attribution(m, x, 1), n_steps=3
    )
    assert [share for share, _ in steps][-1] == 1.0
    assert steps[-1][1].mean() < 0.9
    assert all(torch.equal(a, b) for a, b in zip(before, small_cnn.parameters(), strict=True))

"""Localisation scores against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional import baselines, ranking
from pathology_scaat.metrics.functional.localisation import (
    pixel_auroc,
    pixel_average_precision,
    slide_localisation,
)

# Few distinct values: ties are the rule, as in a map that is zero over half of the slide.
tied_maps = hnp.arrays(np.float32, (4, 5), elements=st.integers(0, 3).map(float))
masks_2d = hnp.arrays(np.bool_, (4, 5))


@given(tied_maps, masks_2d)
def test_average_precision_and_auroc_are_those_of_scikit_learn(
    values: np.ndarray, mask: np.ndarray
) -> None:
    batch = torch.from_numpy(values)[None], torch.from_numpy(mask)[None]
    if mask.any():
        expected = average_precision_score(mask.ravel(), values.ravel())
        assert pixel_average_precision(values, mask) == pytest.approx(expected)
        assert ranking.pixel_ap(*batch).item() == pytest.approx(expected, abs=1e-6)
    else:
        assert np.isnan(pixel_average_precision(values, mask))
        assert ranking.pixel_ap(*batch).isnan().all()
    if mask.any() and not mask.all():
        expected = roc_auc_score(mask.ravel(), values.ravel())
        assert pixel_auroc(values, mask) == pytest.approx(expected)
        assert ranking.pixel_auroc_batch(*batch).item() == pytest.approx(expected, abs=1e-6)
    else:
        assert np.isnan(pixel_auroc(values, mask))
        assert ranking.pixel_auroc_batch(*batch).isnan().all()


def test_pixels_without_data_take_no_part() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((20, 30)).astype(np.float32)
    mask = rng.random((20, 30)) < 0.3
    values[:, ::3] = np.nan
    there = ~np.isnan(values)
    score = slide_localisation(values, mask)
    assert score.pixel_ap == pytest.approx(average_precision_score(mask[there], values[there]))
    assert score.auroc == pytest.approx(roc_auc_score(mask[there], values[there]))
    assert score.chance == pytest.approx(mask[there].mean())
    assert score.n_px == there.sum()
    batch = torch.from_numpy(values)[None], torch.from_numpy(mask)[None]
    assert ranking.pixel_ap(*batch).item() == pytest.approx(score.pixel_ap, abs=1e-6)
    assert ranking.pixel_auroc_batch(*batch).item() == pytest.approx(score.auroc, abs=1e-6)
    assert ranking.chance_ap(*batch).item() == pytest.approx(score.chance)


def test_a_random_map_scores_its_chance() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((300, 300)) < 0.2
    score = slide_localisation(rng.random((300, 300)), mask)
    assert score.pixel_ap == pytest.approx(score.chance, abs=0.01)
    assert score.auroc == pytest.approx(0.5, abs=0.01)
    constant = slide_localisation(np.ones((300, 300)), mask)
    assert constant.pixel_ap == pytest.approx(constant.chance)


def test_a_map_without_any_data() -> None:
    score = slide_localisation(np.full((3, 3), np.nan), np.ones((3, 3), dtype=bool))
    assert np.isnan([score.pixel_ap, score.chance, score.auroc]).all()
    assert score.n_px == 0


def test_a_mask_that_does_not_fit_is_named() -> None:
    with pytest.raises(UsageError, match="has shape"):
        slide_localisation(np.ones((3, 3)), np.ones((3, 4), dtype=bool))
    with pytest.raises(UsageError, match="not bool"):
        slide_localisation(np.ones((3, 3)), np.ones((3, 3)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="bool masks"):
        ranking.pixel_ap(torch.rand(1, 3, 3), torch.ones(1, 3, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match="channels already summed"):
        ranking.pixel_ap(torch.rand(1, 3, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool))


def test_relevance_rank_accuracy() -> None:
    maps = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]]).repeat(3, 1, 1)
    masks = torch.tensor([
        [[True, True, False, False]],
        [[False, True, True, False]],
        [[False, False, False, False]],
    ])  # fmt: skip
    result = ranking.relevance_rank_accuracy(maps, masks)
    assert result[:2].tolist() == [1.0, 0.5]
    assert result[2].isnan()
    # A constant map has no ranking: its expected share is that of the mask.
    flat = ranking.relevance_rank_accuracy(torch.ones(1, 2, 4), torch.arange(8).view(1, 2, 4) < 2)
    assert flat.item() == pytest.approx(0.25)


def test_pointing_game_with_tolerance_ties_and_empty_masks() -> None:
    maps = torch.zeros(4, 7, 7)
    maps[:3, 3, 3] = 1.0
    masks = torch.zeros(4, 7, 7, dtype=torch.bool)
    masks[0, 3, 3] = True
    masks[1, 3, 5] = True
    masks[3, :, :1] = True
    hits = ranking.pointing_hit(maps, masks)
    assert hits[:2].tolist() == [1.0, 0.0]
    assert hits[2].isnan(), "an empty mask is no hit"
    assert hits[3].item() == pytest.approx(1 / 7), "a constant map points everywhere"
    assert ranking.pointing_hit(maps, masks, tolerance_px=2)[1].item() == 1.0
    assert ranking.pointing_hit(maps, masks, tolerance_px=1)[1].item() == 0.0


def test_mass_accuracy_is_a_share_of_mass() -> None:
    maps = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])
    masks = torch.tensor([[[False, True]], [[False, True]]])
    result = ranking.mass_accuracy(maps, masks)
    assert result[0].item() == 0.75
    assert result[1].isnan()


def test_scores_do_not_change_under_a_monotone_transform() -> None:
    maps = torch.rand(5, 9, 9)
    masks = torch.rand(5, 9, 9) < 0.3
    for score in (ranking.pixel_ap, ranking.pixel_auroc_batch, ranking.relevance_rank_accuracy):
        torch.testing.assert_close(score(maps, masks), score(maps**3 * 7, masks))


def test_haematoxylin_is_high_in_nuclei_and_zero_on_glass() -> None:
    nucleus, stroma, glass = [0.35, 0.25, 0.55], [0.9, 0.6, 0.75], [1.0, 1.0, 1.0]
    image = torch.tensor([nucleus, stroma, glass]).T[None, :, None]
    density = baselines.haematoxylin_density(image)[0, 0]
    assert density[0] > 2 * density[1]
    assert density[2] == 0


def test_haematoxylin_agrees_with_scikit_image_in_rank() -> None:
    from scipy.stats import spearmanr
    from skimage.color import rgb2hed

    image = np.random.default_rng(0).uniform(0.2, 0.9, (12, 12, 3))
    ours = baselines.haematoxylin_density(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    theirs = rgb2hed(image)[..., 0]
    assert spearmanr(ours.numpy()[ours > 0], theirs[ours.numpy() > 0]).statistic > 0.99


def test_centre_prior_is_symmetric() -> None:
    prior = baselines.centre_prior(2, 8, 8)
    torch.testing.assert_close(prior, prior.flip(1))
    torch.testing.assert_close(prior, prior.transpose(1, 2))

"""Foreign tissue is told by what it looks like, also where features do not know it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pathology_scaat.scaat.gradients import sum_of_channels
from pathology_scaat.training.feature_reference import FeatureReference
from pathology_scaat.training.looks import look_statistics

Floats = NDArray[np.float32]


def tissue(n: int, stain: tuple[float, float, float], grain: int, seed: int) -> torch.Tensor:
    """Patches (n, 3, 64, 64) of a stain, with blobs of ``grain`` pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((n, 1, 64 // grain, 64 // grain)).repeat(grain, 2).repeat(grain, 3)
    density = coarse * np.array(stain)[:, None, None] * rng.uniform(0.9, 1.1, (n, 1, 1, 1))
    return torch.from_numpy(np.exp(-density - 0.1).astype(np.float32)).clamp(0, 1)


def looks(*arguments: object) -> Floats:
    found: Floats = look_statistics(tissue(*arguments)).numpy()  # type: ignore[arg-type]
    return found


EOSIN, BROWN = (0.2, 0.9, 0.5), (0.5, 0.7, 0.9)


@pytest.fixture(scope="module")
def known() -> FeatureReference:
    """Features that say nothing, and looks of three slides of slightly different stain."""
    rng = np.random.default_rng(0)
    stains = [(0.2, 0.85, 0.5), (0.22, 0.9, 0.5), (0.2, 0.95, 0.55)]
    training = np.concatenate([looks(80, stain, 4, k) for k, stain in enumerate(stains)])
    held_out = looks(100, EOSIN, 4, 9)
    made = FeatureReference.fit(rng.normal(size=(240, 5)), rng.normal(size=(100, 5)))
    assert made is not None
    of_looks = FeatureReference.of_looks(training, held_out, np.repeat(np.arange(3), 80))
    return FeatureReference.of_tensors(
        {**made.tensors(), **{f"looks.{k}": v for k, v in of_looks.tensors().items()}}  # type: ignore[union-attr]
    )


@pytest.mark.parametrize(("stain", "grain"), [(BROWN, 4), (EOSIN, 1), (EOSIN, 16)])
def test_another_stain_or_texture_is_unlike(
    known: FeatureReference, stain: tuple[float, float, float], grain: int
) -> None:
    features = np.random.default_rng(1).normal(size=(60, 5))  # just as in training
    foreign = known.percentile(features, looks(60, stain, grain, 20))
    own = known.percentile(features, looks(60, EOSIN, 4, 21))
    assert (foreign >= 99).mean() > 0.95
    assert (own >= 99).mean() <= 0.05


def test_a_slide_of_another_shade_is_no_foreign_tissue(known: FeatureReference) -> None:
    """Training slides differ from each other as much, which held-out patches alone do not say."""
    features = np.random.default_rng(2).normal(size=(60, 5))
    new = known.percentile(features, looks(60, (0.21, 0.87, 0.52), 4, 22))
    assert (new >= 99).mean() <= 0.05


def test_files_of_before_hold_and_looks_are_not_forgotten(known: FeatureReference) -> None:
    features = np.zeros((3, 5))
    again = FeatureReference.of_tensors(known.tensors())
    shown = looks(3, EOSIN, 4, 1)
    assert again.percentile(features, shown).tolist() == known.percentile(features, shown).tolist()
    with pytest.raises(ValueError, match="looks are needed"):
        known.percentile(features)
    old = {k: v for k, v in known.tensors().items() if not k.startswith("looks.")}
    assert FeatureReference.of_tensors(old).percentile(features).shape == (3,)
    with pytest.raises(ValueError, match="not a feature"):
        FeatureReference.of_tensors({**old, "looks.mean": old["mean"]})


def test_small_and_even_patches_have_numbers() -> None:
    for side in (8, 15, 32, 224):
        found = look_statistics(torch.full((2, 3, side, side), 0.5))
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("side", [1, 5, 50, 96, 131])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("n", [1, 7])
def test_planes_added_are_the_sum_to_the_bit(
    side: int, n: int, layout: torch.memory_format
) -> None:
    """What is stored of maps and looks must not hang on how three numbers are added."""
    generator = torch.Generator().manual_seed(side)
    images = torch.randn((n, 3, side, side), generator=generator).exp()
    images = images.contiguous(memory_format=layout)
    assert torch.equal(sum_of_channels(images), images.sum(dim=1))
    with torch.no_grad():
        assert torch.equal(sum_of_channels(images), images.sum(dim=1))
        assert torch.equal(sum_of_channels(images) / 3, images.mean(dim=1))
        assert torch.equal(sum_of_channels(images[:, :2]), images[:, :2].sum(dim=1))

"""The synthetic patches of the evidence are what they are said to be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional.baselines import haematoxylin_density
from pathology_scaat.metrics.functional.roar import remove_relevant
from pathology_scaat.metrics.functional.roc import roc_auc

FILE = Path(__file__).resolve().parents[2] / "benchmarks/evidence/planted.py"


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted_under_test", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted_under_test"] = module
    spec.loader.exec_module(module)
    return module


def test_the_class_is_known_by_nuclei_not_by_colour_or_density(planted: ModuleType) -> None:
    made = planted.make_patches(10, 16, seed=0)
    tumour = made.labels == 1
    assert made.masks[tumour].any((1, 2)).all()
    assert not made.masks[~tumour].any()
    images = torch.from_numpy(made.images).permute(0, 3, 1, 2) / 255
    density = haematoxylin_density(images).mean((1, 2)).double().numpy()
    for value in (*made.images.mean((1, 2)).T, density):
        assert 0.2 < roc_auc(value, tumour) < 0.8


@pytest.mark.parametrize("kind", ["ink", "tag", "tint"])
def test_a_shortcut_agrees_with_the_class_as_often_as_asked(planted: ModuleType, kind: str) -> None:
    made = planted.make_patches(8, 30, seed=1, size=32, shortcut=kind, agreement=0.9)
    marked = made.shortcut_masks.any((1, 2))
    assert np.mean(marked == (made.labels == 1)) == pytest.approx(0.9, abs=0.05)
    clean = planted.make_patches(2, 4, seed=1, size=32)
    assert not clean.shortcut_masks.any()


def test_the_same_seed_gives_the_same_patches_and_another_gives_others(
    planted: ModuleType,
) -> None:
    one, two = (planted.make_patches(1, 4, seed=5, size=32) for _ in range(2))
    np.testing.assert_array_equal(one.images, two.images)
    assert (planted.make_patches(1, 4, seed=6, size=32).images != one.images).any()


def test_remove_relevant_takes_what_it_says() -> None:
    images = torch.rand(3, 3, 8, 8)
    maps = torch.arange(64.0).view(1, 8, 8).expand(3, 8, 8)
    colour = torch.zeros(3)
    most = remove_relevant(images, maps, 0.5, mean_colour=colour, cell_px=1)
    least = remove_relevant(images, maps, 0.5, order="least", mean_colour=colour, cell_px=1)
    torch.testing.assert_close(most + least, images)
    assert (most[:, :, 4:] == 0).all()
    chance = remove_relevant(images, maps, 0.5, order="random", mean_colour=colour, cell_px=1)
    assert (chance == 0).float().mean().item() == pytest.approx(0.5)
    assert torch.equal(remove_relevant(images, maps, 0.0), images)
    with pytest.raises(UsageError, match="not within"):
        remove_relevant(images, maps, 1.5)

"""Occlusion, RISE and ADVISE on models whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.advise import count_peaks, unit_relevance
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.occlusion import random_masks


class ReadsSquare(nn.Module):
    """Logit 1 is how dark rows 4 to 7 and columns 8 to 11 are; nothing else is looked at."""

    def forward(self, images: Tensor) -> Tensor:
        dark = (1 - images[:, :, 4:8, 8:12]).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(dark), dark], 1)


def square_mask() -> Tensor:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 8:12] = True
    return mask


def test_occlusion_is_the_mean_change_of_the_squares_that_cover_a_pixel() -> None:
    images = torch.rand(3, 3, 16, 16)
    maps = attribution(ReadsSquare(), images, 1, "occlusion", "logit", square_px=4)
    dark = (1 - images).sum(1) * square_mask()
    total, count = torch.zeros(3, 16, 16), torch.zeros(16, 16)
    for top in range(0, 13, 2):
        for left in range(0, 13, 2):
            window = (slice(top, top + 4), slice(left, left + 4))
            change = dark[:, window[0], window[1]].sum((1, 2))
            total[:, window[0], window[1]] += change[:, None, None]
            count[window] += 1
    torch.testing.assert_close(maps, total / count, rtol=1e-4, atol=1e-5)


def test_rise_at_the_only_pixel_that_is_read_is_its_slope() -> None:
    class ReadsPixel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images[:, 0, 5, 9] * 0, 3 * images[:, 0, 5, 9]], 1)

    images = torch.rand(4, 3, 16, 16)
    maps = attribution(ReadsPixel(), images, 1, "rise", "logit", n_masks=64, square_px=4)
    torch.testing.assert_close(maps[:, 5, 9], 3 * (1 - images[:, 0, 5, 9]), rtol=1e-4, atol=1e-5)
    assert bool((maps.flatten(1).argmax(1) == 5 * 16 + 9).all())


def test_rise_finds_the_square_and_hardly_anything_a_cell_away() -> None:
    images = torch.rand(2, 3, 16, 16) * 0.5
    maps = attribution(ReadsSquare(), images, 1, "rise", "logit", n_masks=2000, square_px=4)
    inside = maps[:, square_mask()].mean(1)
    away = torch.ones(16, 16, dtype=torch.bool)
    away[0:13, 3:16] = False
    assert bool((maps[:, away].mean(1) < 0.06 * inside).all())


def test_rise_depends_on_the_seed_alone() -> None:
    images = torch.rand(5, 3, 16, 16)
    options = {"n_masks": 20, "square_px": 4}
    maps = attribution(ReadsSquare(), images, 1, "rise", **options)  # type: ignore[arg-type]
    alone = attribution(ReadsSquare(), images[3:4], 1, "rise", **options)  # type: ignore[arg-type]
    torch.testing.assert_close(maps[3:4], alone)
    other = attribution(ReadsSquare(), images, 1, "rise", seed=1, **options)  # type: ignore[arg-type]
    assert not torch.equal(maps, other)


@pytest.mark.parametrize(("cell", "size"), [(4, (16, 16)), (5, (17, 23)), (32, (16, 16))])
def test_masks_show_half_of_an_image_everywhere(cell: int, size: tuple[int, int]) -> None:
    masks = random_masks(800, size, cell, 0)
    assert masks.shape == (800, 1, *size)
    assert 0 <= float(masks.min()) <= float(masks.max()) <= 1
    assert float((masks.mean(0) - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize("name", ["n_masks", "square_px"])
def test_too_small_settings_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: is 1"):
        attribution(ReadsSquare(), torch.rand(1, 3, 16, 16), 1, "rise", **{name: 1})  # type: ignore[arg-type]


def test_peaks_of_activations() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.02 * torch.randn(60, generator=generator)
    one = 0.5 + noise
    two = torch.cat([noise[:30], 1 + noise[30:]])
    three = torch.cat([noise[:20], 1 + noise[20:40], 2 + noise[40:]])
    flat = torch.full((60,), 0.7)
    assert count_peaks(torch.stack([two, three, flat])).tolist() == [2, 3, 0]
    assert int(count_peaks(one[None])) >= 1
    # units and scale do not matter
    assert count_peaks(1000 * torch.stack([two, three]) - 5).tolist() == [2, 3]


class TwoUnits(nn.Module):
    """Unit 0 is the image's darkness, unit 1 the same everywhere; both are added to logit 1."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Conv2d(3, 2, 1)
        self.units.weight.data = torch.stack([-torch.ones(3, 1, 1), torch.zeros(3, 1, 1)])
        self.units.bias.data = torch.tensor([3.0, 1.0])

    def forward(self, images: Tensor) -> Tensor:
        both = self.units(images).mean((2, 3)).sum(1)
        return torch.stack([torch.zeros_like(both), both], 1)


def test_advise_weighs_units_by_their_peaks() -> None:
    images = torch.rand(2, 3, 8, 8)
    model = TwoUnits()
    maps = attribution(model, images, 1, "advise", "logit")
    # the flat unit is of no relevance; the gradient of each unit's mean is 1 / 64 a place
    torch.testing.assert_close(maps, (3 - images.sum(1)) / 64)
    cam = attribution(model, images, 1, "grad-cam", "logit")
    torch.testing.assert_close(cam, (4 - images.sum(1)) / 64)
    with torch.no_grad():
        assert unit_relevance(model.units(images)).tolist() == [[1.0, 0.0]] * 2

"""Budgets by the network's own grid: the cell is the network's, and one cell has one budget."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import SCAAT, ScaatOptions
from pathology_scaat.scaat.budget import pixel_budget
from pathology_scaat.scaat.grid import network_cell, on_grid, pooled, spread
from pathology_scaat.training.backbones import Classifier, create_backbone

CELLS = st.tuples(st.integers(2, 8), st.integers(2, 8))
SIDES = st.integers(9, 33)


@pytest.mark.parametrize(
    ("name", "side", "cell"),
    [
        ("vit_tiny_patch16_224", 64, 16),
        ("resnet18", 64, 4),
        ("convnext_atto", 64, 4),
        ("tf_efficientnet_lite0", 64, 2),
        ("xcit_nano_12_p16_224", 64, 16),  # four halvings in its stem
        ("scaat-small", 64, 4),
    ],
)
def test_the_cell_is_found_from_the_network(name: str, side: int, cell: int) -> None:
    model = Classifier(create_backbone(name, 2, side), (0.5,) * 3, (0.25,) * 3).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert network_cell(model, torch.rand(2, 3, side, side)) == (cell, cell)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_a_transformer_of_no_known_library_is_found_too() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(3, 6, 8, 8)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cut(x).flatten(2).mean(2))  # type: ignore[no-any-return]

    assert network_cell(Bare(), torch.rand(1, 3, 32, 32)) == (8, 8)


def test_a_network_without_a_grid_is_refused() -> None:
    model = timm.create_model("vgg11", pretrained=False, num_classes=2)
    with pytest.raises(UsageError, match="no grid but the pixels"):
        network_cell(model, torch.rand(1, 3, 64, 64))


@settings(max_examples=60, deadline=None)
@given(
    cell=CELLS, height=SIDES, width=SIDES, ratio=st.floats(0.05, 0.95),
    gamma=st.sampled_from([0.0, 1.0]), where=st.sampled_from(["low", "high", "random", "all"]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_budget_is_constant_in_each_cell(
    cell: tuple[int, int], height: int, width: int, ratio: float, gamma: float, where: str,
    seed: int,
) -> None:  # fmt: skip
    saliency = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed))
    options = ScaatOptions(mask_ratio=ratio, gamma=gamma, where=where, grid="network")
    budget = on_grid(lambda s, r: pixel_budget(s, options, region=r), saliency, None, cell)
    assert budget.shape == saliency.shape
    cells = pooled(budget, cell)
    assert torch.allclose(spread(cells, cell, (height, width)), budget, atol=1e-6)
    if gamma == 0 and where in ("low", "high", "random"):
        n_cells = math.ceil(height / cell[0]) * math.ceil(width / cell[1])
        assert (cells > 0.5).flatten(1).sum(1).tolist() == [math.ceil(ratio * n_cells)] * 2


@settings(max_examples=30, deadline=None)
@given(cell=CELLS, n=st.integers(2, 5), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_the_share_of_pixels_is_what_was_asked_for_to_one_cell(
    cell: tuple[int, int], n: int, ratio: float, seed: int
) -> None:
    size = (cell[0] * n, cell[1] * n)
    saliency = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(seed))
    options = ScaatOptions(mask_ratio=ratio, gamma=0.0, grid="network")
    budget = on_grid(lambda s, r: pixel_budget(s, options, region=r), saliency, None, cell)
    share = budget.mean(dim=(1, 2, 3))
    assert bool((share >= ratio - 1e-6).all())
    assert bool((share < ratio + 1 / n**2 + 1e-6).all())


def test_the_least_salient_cells_are_chosen_and_glass_is_left_out() -> None:
    saliency = torch.zeros(1, 1, 8, 8)
    saliency[..., :4, :4], saliency[..., :4, 4:], saliency[..., 4:, :4] = 1, 2, 3
    saliency[..., 4:, 4:] = 4
    options = ScaatOptions(mask_ratio=0.5, gamma=0.0, grid="network")

    def share(region: Tensor | None) -> Tensor:
        found = on_grid(lambda s, r: pixel_budget(s, options, region=r), saliency, region, (4, 4))
        return found[0, 0, ::4, ::4]

    assert share(None).tolist() == [[1, 1], [0, 0]]
    tissue = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    tissue[..., :4, :3] = False  # three quarters of the first cell are glass
    assert share(tissue).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_scaat_perturbs_whole_tokens(gamma: float) -> None:
    torch.manual_seed(0)
    model = create_backbone("vit_tiny_patch16_224", 2, 64)
    images = 0.2 + 0.6 * torch.rand(2, 3, 64, 64)
    scaat = SCAAT(model, grid="network", gamma=gamma, random_start="none")
    changed = scaat.perturb(images, torch.tensor([0, 1])) != images
    by_token = changed.any(dim=1).reshape(2, 4, 16, 4, 16).float().mean(dim=(2, 4))
    assert set(by_token.unique().tolist()) <= {0.0, 1.0}
    assert 0.3 < float(by_token.mean()) <= 0.5


def test_an_unknown_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="grid"):
        ScaatOptions(grid="token")

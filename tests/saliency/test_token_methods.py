"""Maps at a transformer's own grid against closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import attribution
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.saliency.tokens import blurred


def tiny_vit(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=2, **options
    )


def cells(maps: Tensor, side: int = 4) -> Tensor:
    n, height, width = maps.shape
    return maps.reshape(n, height // side, side, width // side, side)


def test_a_network_of_one_resolution_has_nothing_to_fuse() -> None:
    with pytest.raises(UsageError, match=r"finds 1 in this network; choose 'grad-cam' or 'grad"):
        attribution(tiny_vit(), torch.rand(1, 3, 16, 16), 1, "fused-cam")


@pytest.mark.parametrize("method", [n for n in ATTRIBUTIONS.names if n != "fused-cam"])
def test_every_method_takes_a_transformer(method: str) -> None:
    model = tiny_vit().train()
    images = torch.rand(3, 3, 16, 16)
    options = {"n_samples": 2, "n_masks": 4, "square_px": 4}
    maps = attribution(model, images, "predicted", method, **options)  # type: ignore[arg-type]
    assert maps.shape == (3, 16, 16)
    assert bool((maps >= 0).all())
    assert bool(maps.isfinite().all())
    again = attribution(model, images, "predicted", method, **options)  # type: ignore[arg-type]
    assert torch.equal(maps, again)
    assert model.training


@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "advise"])
@pytest.mark.parametrize("options", [{"reg_tokens": 8}, {"class_token": False, "reg_tokens": 4}])
def test_registers_of_a_wrapped_network_are_left_out(
    method: str, options: dict[str, object]
) -> None:
    """25 and 20 tokens: of the first all would make a square."""
    if "class_token" in options:
        options = {**options, "global_pool": "avg"}
    body, images = tiny_vit(**options).eval(), torch.rand(2, 3, 16, 16)
    expected = attribution(body, images, 1, method)
    wrapped = nn.Sequential(body).eval()
    torch.testing.assert_close(attribution(wrapped, images, 1, method), expected)


@pytest.mark.parametrize("method", ["gradient-grid", "token-gradient-x-input", "attention-rollout"])
def test_a_token_is_of_one_value(method: str) -> None:
    maps = cells(attribution(tiny_vit(), torch.rand(2, 3, 16, 16), 1, method))
    torch.testing.assert_close(maps, maps[:, :, :1, :, :1].expand_as(maps))
    assert float(maps.std()) > 0


def test_gradient_at_the_grid_is_the_mean_gradient_of_each_cell() -> None:
    model, images = tiny_vit(), torch.rand(2, 3, 16, 16)
    expected = cells(attribution(model, images, 1)).mean((2, 4))
    found = cells(attribution(model, images, 1, "gradient-grid"))[:, :, 0, :, 0]
    torch.testing.assert_close(found, expected)


def test_gradient_x_embedding_of_a_linear_model() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = nn.Conv2d(3, 5, 4, 4)
            self.head = nn.Linear(5, 2, bias=False)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.patch_embed(images).mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(1)
    model, images = Linear(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        embedded = model.patch_embed(images)
    expected = torch.einsum("ndhw,d->nhw", embedded, model.head.weight.detach()[1]).abs() / 16
    maps = attribution(model, images, 1, "token-gradient-x-input", "logit")
    torch.testing.assert_close(cells(maps)[:, :, 0, :, 0], expected)


class OneBlock(nn.Module):
    """One attention of the patches with themselves, whose outputs are averaged."""

    global_pool = "avg"

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        t = self.cut(images).flatten(2).transpose(1, 2)[:, None]
        return self.head(F.scaled_dot_product_attention(t, t, t)[:, 0].mean(1))  # type: ignore[no-any-return]


def test_rollout_of_one_block_is_its_weights_times_their_gradient() -> None:
    torch.manual_seed(2)
    model, images = OneBlock(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        t = model.cut(images).flatten(2).transpose(1, 2)
        weights = (t @ t.transpose(1, 2) / 2).softmax(-1)
    # d logit / d A[s, u] = w . t[u] / tokens
    slope = (t @ model.head.weight.detach()[1])[:, None, :] / 16
    expected = (weights * slope).clamp_min(0).mean(1).reshape(2, 4, 4)
    maps = attribution(model, images, 1, "attention-rollout", "logit")
    torch.testing.assert_close(cells(maps)[:, :, 0, :, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"global_pool": "avg", "class_token": False}])
@pytest.mark.parametrize("fused", [True, False])
def test_rollout_reads_class_token_and_mean(options: dict[str, object], fused: bool) -> None:
    model, images = tiny_vit(**options), torch.rand(2, 3, 16, 16)
    expected = attribution(model, images, 1, "attention-rollout")
    for block in model.blocks:
        block.attn.fused_attn = fused
    torch.testing.assert_close(attribution(model, images, 1, "attention-rollout"), expected)


def test_rollout_knows_leading_tokens_where_they_are_many() -> None:
    torch.manual_seed(3)  # 4 patches and 5 leading tokens are 9, a square too
    model = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=2, reg_tokens=4
    )
    maps = attribution(model, torch.rand(2, 3, 16, 16), 1, "attention-rollout")
    torch.testing.assert_close(
        cells(maps, 8), cells(maps, 8)[:, :, :1, :, :1].expand(2, 2, 8, 2, 8)
    )


def test_rollout_refuses_a_head_that_reads_neither() -> None:
    with pytest.raises(UsageError, match="what this network's head reads"):
        attribution(tiny_vit(global_pool="max"), torch.rand(1, 3, 16, 16), 1, "attention-rollout")


def test_rollout_refuses_attention_in_windows() -> None:
    import timm

    model = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=2, img_size=64, depths=(1, 1, 1, 1),
        embed_dim=24, num_heads=(1, 1, 2, 2),
    )  # fmt: skip
    with pytest.raises(UsageError, match="attention-rollout"):
        attribution(model, torch.rand(1, 3, 64, 64), 1, "attention-rollout")


def test_blurring_keeps_what_is_constant_and_has_the_width_it_says() -> None:
    torch.testing.assert_close(
        blurred(torch.full((1, 1, 20, 30), 2.0), (3, 3)), torch.full((1, 1, 20, 30), 2.0)
    )
    spot = torch.zeros(1, 1, 41, 41)
    spot[0, 0, 20, 20] = 1
    made = blurred(spot, (2.0, 3.0))[0, 0]
    away = torch.arange(41.0) - 20
    assert float((made.sum(1) * away**2).sum() / made.sum()) == pytest.approx(4.0, rel=0.05)
    assert float((made.sum(0) * away**2).sum() / made.sum()) == pytest.approx(9.0, rel=0.05)

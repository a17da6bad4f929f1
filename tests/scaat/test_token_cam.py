"""Class activation of a transformer's upper blocks: which blocks, and what the map is."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import attribute_with_logits, attribution
from pathology_scaat.scaat.fused_cam import FLOOR
from pathology_scaat.scaat.token_cam import token_blocks
from pathology_scaat.training.backbones import Classifier
from pathology_scaat.training.small_cnn import SmallNet

CPU = torch.device("cpu")
TOKEN = 8


def vit(seed: int = 0, side: int = 32, depth: int = 3, **options: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(
        img_size=side, patch_size=TOKEN, embed_dim=24, depth=depth, num_heads=2, num_classes=2,
        **options,
    ).eval()  # fmt: skip


HEADS: list[dict[str, Any]] = [
    {},
    {"reg_tokens": 4},
    {"class_token": False, "global_pool": "avg"},
    {"class_token": False, "global_pool": "avg", "reg_tokens": 3},
    {"global_pool": "avg"},
]


@pytest.mark.parametrize(("depth", "first"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_it_reads_the_upper_half_of_the_blocks(depth: int, first: int) -> None:
    model = vit(depth=depth)
    found = token_blocks(model, (3, 32, 32), CPU)
    assert found.layers == tuple(block.norm1 for block in list(model.blocks)[first:])
    assert (found.prefix, found.grid) == (1, (4, 4))


def by_hand(model: VisionTransformer, image: Tensor) -> Tensor:
    """The map of class 1 of one image: block by block, without a hook, token by token."""
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image))))
    read = []
    for block in model.blocks:
        normed = block.norm1(tokens)
        read.append(normed)
        tokens = tokens + block.attn(normed)
        tokens = tokens + block.mlp(block.norm2(tokens))
    logits = model.forward_head(model.norm(tokens))
    upper = read[len(read) // 2 :]
    slopes = torch.autograd.grad(logits[0, 1] - logits[0, 0], upper)
    maps = []
    for number, (a, g) in enumerate(zip(upper, slopes, strict=True)):
        a, g = a[0, model.num_prefix_tokens :].detach(), g[0, model.num_prefix_tokens :]
        maps.append([max(float((g[t].clamp(min=0) * a[t]).sum()), 0.0) for t in range(len(a))])
        if number == len(upper) - 1:
            maps.append([max(float((g.mean(0) * a[t]).sum()), 0.0) for t in range(len(a))])
    side = image.shape[-1]
    total = torch.ones(side, side)
    for cells in maps:
        grid = torch.tensor(cells).reshape(1, 1, side // TOKEN, side // TOKEN)
        large = F.interpolate(grid, (side, side), mode="bilinear", align_corners=False)[0, 0]
        total = total * (large + FLOOR * large.mean())
    return total ** (1 / len(maps))


@pytest.mark.parametrize("options", HEADS)
def test_it_is_the_geometric_mean_of_what_the_tokens_say(options: dict[str, Any]) -> None:
    model = vit(1, **options)
    images = torch.rand(3, 3, 32, 32)
    maps, logits = attribute_with_logits(model, images, 1, "token-cam")
    torch.testing.assert_close(logits, model(images))
    for k in range(3):
        torch.testing.assert_close(maps[k], by_hand(model, images[k : k + 1]), rtol=1e-4, atol=1e-7)


def test_register_tokens_of_a_wrapped_network_are_not_taken_for_tissue() -> None:
    """Nine tokens, five of them before the grid: they would make a square of three by three."""
    body = vit(2, side=16, reg_tokens=4)
    model = Classifier(body, (0.0,) * 3, (1.0,) * 3).eval()
    image = torch.rand(1, 3, 16, 16)
    assert token_blocks(model, (3, 16, 16), CPU).grid == (2, 2)
    torch.testing.assert_close(
        attribution(model, image, 1, "token-cam")[0], by_hand(body, image), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "beit_base_patch16_224",
             "eva02_tiny_patch14_224", "vit_small_patch14_reg4_dinov2"],
)  # fmt: skip
def test_it_takes_transformers_of_timm(name: str) -> None:
    torch.manual_seed(3)
    patch = 14 if "14" in name else 16
    model = timm.create_model(
        name, num_classes=2, img_size=4 * patch, embed_dim=48, depth=4, num_heads=2
    ).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.05 * torch.randn_like(value)
    images = torch.rand(2, 3, 4 * patch, 4 * patch)
    maps = torch.stack([attribution(model, images, k, "token-cam") for k in (0, 1)])
    assert maps.shape == (2, 2, 4 * patch, 4 * patch)
    assert bool(maps.isfinite().all())
    assert bool((maps >= 0).all())
    assert float(maps.std()) > 0


def test_an_image_leaves_its_neighbours_alone_and_each_class_has_a_map() -> None:
    model, images = vit(4), torch.rand(3, 3, 32, 32)
    tumour, normal = (attribution(model, images, k, "token-cam") for k in (1, 0))
    assert not torch.allclose(tumour, normal)
    torch.testing.assert_close(attribution(model, images[1:2], 1, "token-cam"), tumour[1:2])


@pytest.mark.parametrize(
    ("model", "side", "said"),
    [
        (SmallNet(2), 64, "finds no blocks of attention"),
        (vit(block_fn=ResPostBlock), 32, "finds no blocks of attention"),
        (
            timm.create_model(
                "swin_tiny_patch4_window7_224", num_classes=2, img_size=64, depths=(1, 1, 1, 1),
                embed_dim=24, num_heads=(1, 1, 2, 2),
            ),
            64, "one grid of tokens in every block|no blocks of attention",
        ),
    ],
    ids=["convolutions", "normalised after", "windows"],
)  # fmt: skip
def test_networks_without_such_a_grid_are_refused(model: nn.Module, side: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        attribution(model.eval(), torch.rand(1, 3, side, side), 1, "token-cam")

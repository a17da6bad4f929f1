"""Small networks for small patches, and timm's for the full size."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from pretrained import MEAN, NETWORK, STD, fill
from torch import Tensor, nn

from pathology_scaat.training.backbones import create_backbone, shrink_head_weights


class Normalised(nn.Module):
    """Images in 0..1 to a network that wants them centred."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body((images - 0.6) / 0.25)


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside),
            nn.ReLU(), nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        self.skip = (
            nn.Identity()
            if stride == 1 and inside == outside
            else nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.skip(x))


def small_resnet(width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Residual(width, width, 1), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 2),
    )  # fmt: skip


def small_vgg(width: int = 24) -> nn.Module:
    """The referees' architecture: no residuals, max pooling, another receptive field."""
    layers: list[nn.Module] = []
    inside = 3
    for outside in (width, 2 * width, 4 * width):
        stride = 2 if inside == 3 else 1
        layers += [
            nn.Conv2d(inside, outside, 5 if stride == 2 else 3, stride, 2 if stride == 2 else 1)
        ]
        layers += [nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
        inside = outside
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(inside, 2))


class SmallViT(nn.Module):
    def __init__(self, side_px: int, patch_px: int = 8, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, patch_px, patch_px)
        self.position_embedding = nn.Parameter(
            torch.randn(1, (side_px // patch_px) ** 2, width) * 0.02
        )
        block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2) + self.position_embedding
        return self.head(self.body(tokens).mean(1))


def timm_vit(side_px: int, *, class_token: bool) -> nn.Module:
    """A small transformer of timm, whose layers every attribution method can see.

    With a class token, as timm's are by default, the head reads that alone; else the mean of the
    tokens.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=side_px, patch_size=8, embed_dim=64, depth=3, num_heads=4, mlp_ratio=2,
        num_classes=2, class_token=class_token, global_pool="token" if class_token else "avg",
    )  # fmt: skip


class Pretrained(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights on images twice as large, its head as
    ``scaat train --weights`` begins it.

    Twice, since 56 px would end as 2 x 2 pixels. The weights' file is named by SCAAT_LITE0
    (:mod:`pretrained` says where it is from).
    """

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.body = timm.create_model(NETWORK, pretrained=False, num_classes=2)
        fill(self.body, Path(os.environ["SCAAT_LITE0"]))
        shrink_head_weights(self.body)

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate((images - MEAN) / STD, scale_factor=2, mode="bilinear")
        return self.body(x)


def make_network(name: str, side_px: int) -> nn.Module:
    """A two-class network on 0..1 images: cnn, vit (also -narrow), vit-token, vit-mean, referee,
    lite0 (pretrained), scaat-small (the default of ``scaat train``), or a name of timm."""
    if name == "lite0":
        return Pretrained()
    if name == "scaat-small":
        return Normalised(create_backbone(name, 2, side_px, {}))
    if name == "cnn":
        return Normalised(small_resnet())
    if name == "cnn-narrow":
        return Normalised(small_resnet(8))
    if name in ("vit-token", "vit-mean"):
        return Normalised(timm_vit(side_px, class_token=name == "vit-token"))
    if name == "vit-narrow":
        return Normalised(SmallViT(side_px, width=64, depth=3))
    if name == "referee":
        return Normalised(small_vgg())
    if name == "vit":
        return Normalised(SmallViT(side_px))
    import timm

    options = {"img_size": side_px} if "vit" in name else {}
    return Normalised(timm.create_model(name, pretrained=False, num_classes=2, **options))

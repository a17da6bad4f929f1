"""A network for bags: an encoder of patches and an additive head over them.

A bag enters as one tall image, its patches one below the other. So everything that takes an
image takes a bag: training methods need no second version, and the quantile of a saliency map
over "the image" is the quantile over the bag. One patch is a bag of one, whose logits are the
patch's own class scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.bags.config import BagHeadConfig
from pathology_scaat.training.bags.head import BagHead


def tall_image(patches: Tensor, n_bags: int) -> Tensor:
    """(B * m, C, P, P) patches, bag by bag, as tall images (B, C, m * P, P)."""
    channels, side = patches.shape[1:3]
    return (
        patches.reshape(n_bags, -1, channels, side, side)
        .transpose(1, 2)
        .reshape(n_bags, channels, -1, side)
    )


class BagModel(nn.Module):
    """Logits of bags of patches.

    Parameters
    ----------
    encoder : Classifier
        (N, 3, P, P) in [0, 1] to (N, F) features; normalisation inside.
    head : BagHead
        (..., n, F) features to (..., K) logits.
    """

    def __init__(self, encoder: Classifier, head: BagHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    @property
    def mean(self) -> Tensor:
        """Mean that the encoder subtracts, (1, 3, 1, 1)."""
        return self.encoder.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation that the encoder divides by, (1, 3, 1, 1)."""
        return self.encoder.std

    def features(self, bags: Tensor) -> Tensor:
        """Features (B, m, F) of tall images (B, 3, m * P, P).

        Raises
        ------
        UsageError
            If the height is no multiple of the width.
        """
        n_bags, channels, height, side = bags.shape
        if height % side:
            raise UsageError(
                "bags", f"are {height} px tall, no multiple of the patch's {side} px", ""
            )
        patches = bags.reshape(n_bags, channels, -1, side, side).transpose(1, 2)
        encoded: Tensor = self.encoder(patches.reshape(-1, channels, side, side))
        return encoded.reshape(n_bags, height // side, -1)

    def forward(self, bags: Tensor) -> Tensor:
        """(B, 3, m * P, P) float in [0, 1] to (B, K) logits."""
        # weights of the patches in float32 also under autocast: exponentials of half precision
        # would not sum to one
        features = self.features(bags).float()
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits


def n_features_of(backbone: nn.Module, patch_size_px: int) -> int:
    """Features that a backbone without a classifier gives for a patch.

    Raises
    ------
    UsageError
        If it gives anything but one vector a patch.
    """
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        example = next(backbone.parameters()).new_zeros(1, 3, patch_size_px, patch_size_px)
        found = backbone(example)
    backbone.train(was_training)
    if found.ndim != 2:
        raise UsageError(
            "--backbone", "gives no single vector of features a patch", "choose another network"
        )
    return int(found.shape[1])


def build_bag_model(
    backbone_name: str,
    backbone_options: dict[str, object],
    patch_size_px: int,
    n_classes: int,
    head: BagHeadConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> BagModel:
    """A bag model with random weights."""
    backbone = create_backbone(backbone_name, 0, patch_size_px, dict(backbone_options))
    return with_head(Classifier(backbone, mean, std), patch_size_px, n_classes, head)


def with_head(
    encoder: Classifier, patch_size_px: int, n_classes: int, head: BagHeadConfig
) -> BagModel:
    """A bag model around an encoder."""
    n_features = n_features_of(encoder.backbone, patch_size_px)
    return BagModel(encoder, BagHead(n_features, n_classes, head))

"""Slow references that look at the model from outside: occlusion and RISE.

Neither uses a gradient or sees into the network, so they serve any model and judge the fast
methods. What is covered becomes white, the glass of a slide: black would be ink or a fold.

Images are (N, C, H, W) float in [0, 1], ``classes`` (N,) int64: the class that is explained.

References
----------
Zeiler and Fergus 2014 (occlusion, computed by Captum); Petsiuk et al. 2018 (RISE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.scaat.target import Output, target_score

if TYPE_CHECKING:
    from pathology_scaat.saliency.attribution import AttributionOptions

WHITE = 1.0
KEPT_SHARE = 0.5
"""Share of the cells that a mask of RISE leaves visible."""


def occlusion_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """How much the score falls or rises when a square is covered, (N, H, W), and the logits.

    Squares of ``options.square_px``, half overlapping; a pixel has the mean over those that
    cover it.
    """
    from captum.attr import Occlusion

    def score(inputs: Tensor, target: Tensor) -> Tensor:
        return target_score(model(inputs), target, output)

    _n, channels, height, width = images.shape
    side = (min(options.square_px, height), min(options.square_px, width))
    with torch.no_grad():
        changed = Occlusion(score).attribute(
            images.detach(),
            sliding_window_shapes=(channels, *side),
            strides=(channels, max(side[0] // 2, 1), max(side[1] // 2, 1)),
            baselines=WHITE,
            additional_forward_args=(classes,),
        )
        logits = model(images)
    # a square covers all channels at once: each channel has the square's whole change
    return changed.float().mean(dim=1).abs(), logits.float()


def random_masks(n_masks: int, size: tuple[int, int], cell_px: int, seed: int) -> Tensor:
    """Smooth random masks of RISE, (n_masks, 1, H, W) in 0..1: 1 is visible.

    Cells are kept with probability :data:`KEPT_SHARE`, enlarged bilinearly, and the whole moved
    by a random part of a cell. The same for every image, so that a map does not depend on the
    batch that its image comes in.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    cells = (-(-height // cell_px) + 1, -(-width // cell_px) + 1)
    kept = (torch.rand((n_masks, 1, *cells), generator=generator) < KEPT_SHARE).float()
    shift = torch.randint(0, cell_px, (n_masks, 2), generator=generator).tolist()
    wide = (cells[0] * cell_px, cells[1] * cell_px)
    masks = torch.empty((n_masks, 1, height, width))
    for number, (down, right) in enumerate(shift):
        whole = F.interpolate(
            kept[number : number + 1], size=wide, mode="bilinear", align_corners=False
        )
        masks[number] = whole[0, :, down : down + height, right : right + width].clamp(0, 1)
    return masks


def rise_map(
    model: nn.Module, images: Tensor, classes: Tensor, output: Output, options: AttributionOptions
) -> tuple[Tensor, Tensor]:
    """RISE: how the score depends on whether a pixel is visible, (N, H, W), and the logits.

    Per pixel the least-squares slope of the score by the mask's value over ``options.n_masks``
    masks, which unlike the mean of masked scores is near 0 where nothing depends on the pixel,
    whatever the score's level. One batch goes through the model for each mask.
    """
    masks = random_masks(
        options.n_masks, (images.shape[-2], images.shape[-1]), options.square_px, options.seed
    )
    mean_mask = masks.mean(dim=0).to(images.device)
    together = torch.zeros_like(images[:, :1], dtype=torch.float32)
    spread = torch.zeros_like(mean_mask)
    with torch.no_grad():
        logits = model(images)
        start = target_score(logits.float(), classes, output)
        for mask in masks:
            shown = mask.to(images.device)
            masked = (images - WHITE) * shown + WHITE
            change = target_score(model(masked).float(), classes, output) - start
            away = shown - mean_mask
            together += change[:, None, None, None] * away
            spread += away.square()
        logits = model(images)  # the last pass is of the patches as they are
    # sum(away) is 0 at every pixel, so the scores need no centring
    return (together / spread.clamp_min(1e-6))[:, 0].abs(), logits.float()

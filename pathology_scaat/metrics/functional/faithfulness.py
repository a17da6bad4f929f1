"""Deletion, insertion and their difference, on one set of occluded images.

Notation: hiding the *most* relevant pixels first gives the deletion curve; hiding the *least*
relevant first is the insertion curve read backwards (with a replacement that does not depend
on what is hidden they are the same images). Areas are over the hidden share, 0 to 1:

* deletion gain = area(random order) - area(most first): higher is better;
* insertion gain = area(least first) - area(random order): higher is better;
* **SRG** = area(least first) - area(most first), the sum of the two gains (symmetric relevance
  gain, Blücher et al. 2024, arXiv 2401.06654), whose ranking of explanations is consistent
  over occluders where that of either curve alone is not.

The random order is the model's own: it removes how sensitive the *model* is to occlusion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.metrics.functional._checks import check_images, check_maps
from pathology_scaat.metrics.functional.occluders import OccluderName, make_occluder
from pathology_scaat.scaat.noise import image_noise
from pathology_scaat.scaat.target import evaluating, target_score

Score = Literal["margin", "probability"]
DEFAULT_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class OcclusionLogits:
    """Logits of a model on occluded images.

    Attributes
    ----------
    shares : tuple of float
        Hidden shares, ascending from 0 to 1.
    most, least, random : Tensor, (S, N, K)
        Logits with the most relevant, least relevant or random cells hidden.
    """

    shares: tuple[float, ...]
    most: Tensor
    least: Tensor
    random: Tensor


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the three curves, each (N,) float32; NaN where a map is not finite."""

    most: Tensor
    least: Tensor
    random: Tensor

    @property
    def srg(self) -> Tensor:
        """Symmetric relevance gain, (N,) in [-1, 1] for probabilities: ``least - most``."""
        return self.least - self.most

    @property
    def deletion_gain(self) -> Tensor:
        """``random - most``, (N,): how much sooner the score falls, most relevant hidden first."""
        return self.random - self.most

    @property
    def insertion_gain(self) -> Tensor:
        """``least - random``, (N,): how much longer the score holds, least relevant first."""
        return self.least - self.random


def cell_ranks(maps: Tensor, cell_px: int, seed: int = 0) -> Tensor:
    """Rank of each cell of ``cell_px`` pixels by its mean, 0 = most relevant: (N, cells) int64.

    Maps are (N, H, W) float. Equal cells are ordered at random (seeded), never by their position.
    Maps whose side is no multiple are pooled with smaller cells at the end.

    Examples
    --------
    >>> import torch
    >>> cell_ranks(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]]), cell_px=1)
    tensor([[2, 0, 1, 3]])
    """
    cells = F.avg_pool2d(check_maps(maps)[:, None], cell_px, ceil_mode=True).flatten(1)
    shuffle = torch.randperm(cells.shape[1], generator=torch.Generator().manual_seed(seed))
    shuffle = shuffle.to(maps.device)
    order = shuffle[cells[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    return order.argsort(dim=1)


def hidden_pixels(ranks: Tensor, share: float, side: tuple[int, int], cell_px: int) -> Tensor:
    """(N, H, W) bool: the ``share`` of cells with the lowest ranks, enlarged to pixels.

    ``ranks`` are (N, cells) of :func:`cell_ranks`, ``side`` is the images' (H, W).
    """
    height, width = side
    rows, cols = -(-height // cell_px), -(-width // cell_px)
    hidden = ranks < round(share * ranks.shape[1])
    grid = hidden.view(-1, rows, cols)
    grown = grid.repeat_interleave(cell_px, dim=1).repeat_interleave(cell_px, dim=2)
    return grown[:, :height, :width]


def default_cell_px(side_px: int) -> int:
    """Cells of about 1/24 of the side, at least 1 px: single pixels are mostly noise."""
    return max(1, round(side_px / 24))


@torch.no_grad()
def occlusion_logits(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    occluder: OccluderName = "mean",
    *,
    shares: Sequence[float] = DEFAULT_SHARES,
    cell_px: int | None = None,
    seed: int = 0,
    index: Tensor | Sequence[int] | None = None,
    mean_colour: Tensor | None = None,
    donors: Tensor | None = None,
) -> OcclusionLogits:
    """Logits along the three occlusion orders.

    Parameters
    ----------
    model : nn.Module
        (N, C, H, W) in 0..1 to logits; put in eval mode here. A *referee* model here scores
        another model's maps.
    images : Tensor, (N, C, H, W)
    maps : Tensor, (N, H, W)
    occluder : str
        See :func:`make_occluder`.
    shares : sequence of float
        Hidden shares, ascending, first 0 and last 1.
    cell_px : int, optional
        Side of the cells that are ranked; see :func:`default_cell_px`.
    seed : int
        Of the random order, noise and donors: the same for every model.
    index : sequence of int or Tensor, (N,), optional
        Number of each image, which they are drawn by, so that the batch decides nothing; else
        its place here.
    mean_colour, donors : Tensor, optional
        See :func:`make_occluder`.

    Returns
    -------
    OcclusionLogits

    Raises
    ------
    UsageError
        If images and maps do not fit, the shares do not ascend from 0 to 1, or the occluder is
        unknown.
    ValueError
        If ``index`` has not as many numbers as there are images.
    """
    check_images(images, maps)
    if list(shares) != sorted(shares) or shares[0] != 0.0 or shares[-1] != 1.0:
        raise UsageError("shares", "do not ascend from 0 to 1", "give e.g. 0, 0.5, 1")
    side = (images.shape[2], images.shape[3])
    cell = cell_px or default_cell_px(min(side))
    ranks = cell_ranks(maps, cell, seed)
    cells = ranks.shape[1]
    chance = image_noise(seed + 1, index, len(images)).permutations(cells).to(images.device)
    fill = make_occluder(
        occluder, images, seed=seed, index=index, mean_colour=mean_colour, donors=donors
    )
    with evaluating(model):

        def run(hidden: Tensor) -> Tensor:
            logits: Tensor = model(fill(hidden))
            return logits.float()

        nothing = torch.zeros((len(images), *side), dtype=torch.bool, device=images.device)
        start, end = run(nothing), run(~nothing)
        curves = [
            torch.stack([
                start,
                *(run(hidden_pixels(order, share, side, cell)) for share in shares[1:-1]),
                end,
            ])
            for order in (ranks, cells - 1 - ranks, chance)
        ]  # fmt: skip
    return OcclusionLogits(tuple(shares), *curves)


def curve_scores(
    logits: Tensor, target: Tensor, score: Score, temperature: float = 1.0, scale: float = 1.0
) -> Tensor:
    """Scores (S, N) of logits (S, N, K): probability at a temperature, or margin over a scale.

    ``target`` is (N,) int64, the class that is followed.
    """
    steps, n, _ = logits.shape
    flat = logits.flatten(0, 1)
    classes = target.to(logits.device).repeat(steps)
    margin = target_score(flat if score == "margin" else flat / temperature, classes, "margin")
    values = margin / scale if score == "margin" else torch.sigmoid(margin)
    return values.view(steps, n)


def area_under(scores: Tensor, shares: Sequence[float]) -> Tensor:
    """Trapezoidal area (N,) of curves (S, N) over the shares.

    Examples
    --------
    >>> import torch
    >>> area_under(torch.tensor([[1.0], [0.0]]), [0.0, 1.0])
    tensor([0.5000])
    """
    x = torch.tensor(shares, device=scores.device, dtype=scores.dtype)
    return torch.trapezoid(scores, x, dim=0)


def faithfulness(
    curves: OcclusionLogits,
    maps: Tensor,
    target: Tensor,
    score: Score = "probability",
    *,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> Faithfulness:
    """Areas under the deletion, insertion and random curves of each image.

    Parameters
    ----------
    curves : OcclusionLogits
    maps : Tensor, (N, H, W)
        Only to set images with NaN in the map to NaN.
    target : Tensor, (N,) int64
    score : {"probability", "margin"}
    temperature : float
        Of the probability, fitted on validation data: confidence scales every curve.
    scale : float
        What margins are divided by, e.g. their mean absolute value on clean images.

    Returns
    -------
    Faithfulness

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> images, maps = torch.rand(4, 3, 2, 2), torch.rand(4, 2, 2)
    >>> curves = occlusion_logits(model, images, maps, "mean", cell_px=1)
    >>> faithfulness(curves, maps, torch.ones(4, dtype=torch.int64)).srg.shape
    torch.Size([4])
    """
    broken = ~maps.isfinite().flatten(1).all(1)

    def area(logits: Tensor) -> Tensor:
        values = curve_scores(logits, target, score, temperature, scale)
        return torch.where(broken, torch.nan, area_under(values, curves.shares))

    return Faithfulness(area(curves.most), area(curves.least), area(curves.random))


Explain = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to maps (N, H, W), or to signed attributions (N, C, H, W)."""

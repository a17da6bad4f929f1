"""Thin torchmetrics classes over the functional core: update batch by batch, compute at the end.

Each keeps a sum, a count of the images that had a value and a count of those that had none:
``compute`` is the mean over the former (NaN where there are none), ``n_undefined`` says how many
were left out. States add up over processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pathology_scaat.metrics.functional import ranking, robustness, sparsity
from pathology_scaat.metrics.functional.faithfulness import (
    DEFAULT_SHARES,
    Score,
    faithfulness,
    occlusion_logits,
)
from pathology_scaat.metrics.functional.occluders import OccluderName


class MeanOverImages(Metric):
    """Mean of one value per image; NaN is left out and counted. All states are scalars."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    n_defined: Tensor
    n_undefined: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, dtype in (
            ("total", torch.float64), ("n_defined", torch.int64), ("n_undefined", torch.int64),
        ):  # fmt: skip
            self.add_state(name, default=torch.tensor(0, dtype=dtype), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Take in one value an image, (N,)."""
        undefined = values.isnan()
        self.total = self.total + values[~undefined].double().sum()
        self.n_defined = self.n_defined + (~undefined).sum()
        self.n_undefined = self.n_undefined + undefined.sum()

    def compute(self) -> Tensor:
        """Mean over the images that have a value, a float32 scalar; NaN where none has."""
        return (self.total / self.n_defined).float()


class GiniIndex(MeanOverImages):
    """Mean Gini index of maps; see :func:`functional.sparsity.gini_index`.

    Examples
    --------
    >>> import torch
    >>> metric = GiniIndex()
    >>> metric.update(torch.tensor([[[1.0, 1.0]], [[0.0, 3.0]], [[0.0, 0.0]]]))
    >>> metric.compute(), metric.n_undefined
    (tensor(0.2500), tensor(1))
    """

    higher_is_better = None

    def update(self, maps: Tensor) -> None:
        """Take in maps (N, H, W), float."""
        self.add(sparsity.gini_index(maps))


class MapEntropy(MeanOverImages):
    """Mean relative entropy of maps; see :func:`functional.sparsity.map_entropy`."""

    higher_is_better = None

    def update(self, maps: Tensor) -> None:
        """Take in maps (N, H, W), float."""
        self.add(sparsity.map_entropy(maps))


class PixelAveragePrecision(MeanOverImages):
    """Mean pixel AP of maps against masks; see :func:`functional.ranking.pixel_ap`.

    Examples
    --------
    >>> import torch
    >>> metric = PixelAveragePrecision()
    >>> metric.update(torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[True, False]]]))
    >>> metric.compute()
    tensor(1.)
    """

    higher_is_better = True

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Take in maps (N, H, W), float, and their masks (N, H, W), bool."""
        self.add(ranking.pixel_ap(maps, masks))


class PixelAuroc(MeanOverImages):
    """Mean pixel AUROC; see :func:`functional.ranking.pixel_auroc_batch`."""

    higher_is_better = True

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Take in maps (N, H, W), float, and their masks (N, H, W), bool."""
        self.add(ranking.pixel_auroc_batch(maps, masks))


class RelevanceRankAccuracy(MeanOverImages):
    """Mean share of the best |mask| pixels inside; see :func:`functional.ranking`."""

    higher_is_better = True

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Take in maps (N, H, W), float, and their masks (N, H, W), bool."""
        self.add(ranking.relevance_rank_accuracy(maps, masks))


class PointingGame(MeanOverImages):
    """Share of maps whose top lies within a distance of the mask; empty masks are undefined."""

    higher_is_better = True

    def __init__(self, tolerance_px: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.tolerance_px = tolerance_px

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Take in maps (N, H, W), float, and their masks (N, H, W), bool."""
        self.add(ranking.pointing_hit(maps, masks, self.tolerance_px))


class RankStability(MeanOverImages):
    """Mean rank correlation of two maps of each image; see :func:`functional.robustness`."""

    higher_is_better = True

    def update(self, maps: Tensor, other: Tensor) -> None:
        """Take in maps (N, H, W), float, and other maps (N, H, W) of the same images."""
        self.add(robustness.spearman(maps, other))


class MapSsim(MeanOverImages):
    """Mean structural similarity of two maps of each image, each over its own largest value."""

    higher_is_better = True

    def update(self, maps: Tensor, other: Tensor) -> None:
        """Take in maps (N, H, W), float, and other maps (N, H, W) of the same images."""
        self.add(robustness.ssim(maps, other))


class SymmetricRelevanceGain(MeanOverImages):
    """Mean SRG of a model's maps; see :mod:`functional.faithfulness`.

    Parameters
    ----------
    model : nn.Module
        The model that is occluded: the maps' own, or a referee.
    occluder, score, shares, cell_px, temperature
        See :func:`functional.faithfulness.occlusion_logits` and ``faithfulness``.
    mean_colour : Tensor, (3,), optional
        Of the data set: without it each batch has its own.
    """

    higher_is_better = True

    def __init__(
        self,
        model: nn.Module,
        occluder: OccluderName = "blur",
        score: Score = "probability",
        *,
        shares: Sequence[float] = DEFAULT_SHARES,
        cell_px: int | None = None,
        temperature: float = 1.0,
        mean_colour: Tensor | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        # In a list, so that the metric does not take the model for a part of its own.
        self._models = [model]
        self.occluder, self.score, self.temperature = occluder, score, temperature
        self.occlusion = {"shares": shares, "cell_px": cell_px, "mean_colour": mean_colour}
        self.seed = seed

    def update(self, images: Tensor, maps: Tensor, target: Tensor) -> None:
        """Occlude the images of a batch along their maps' order, and take in their gains.

        Parameters
        ----------
        images : Tensor, (N, C, H, W)
            In [0, 1].
        maps : Tensor, (N, H, W)
        target : Tensor, (N,) int64
            Class whose score is followed.
        """
        curves = occlusion_logits(
            self._models[0], images, maps, self.occluder,
            seed=self.seed + int(self.n_defined + self.n_undefined), **self.occlusion,  # type: ignore[arg-type]
        )  # fmt: skip
        areas = faithfulness(curves, maps, target, self.score, temperature=self.temperature)
        self.add(areas.srg)

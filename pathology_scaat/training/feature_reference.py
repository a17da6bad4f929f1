"""What training patches look like to the model, and how unlike them another patch is.

The features before the classifier's head are described by one Gaussian (Lee et al. 2018, with
one class): the Mahalanobis distance to it is large for tissue, stains and scanners that the
training did not show. Distances are given as percentiles of held-out patches: 99 means as
unlike as the one in a hundred of those that is the most unlike.

Features may not know what the task did not ask for, so a second Gaussian describes what patches
look like (:mod:`.looks`): a patch is unlike the training data if it is by either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MAX_COMPONENTS = 64
SHRINKAGE = 0.1
"""Of the correlations towards none: few patches do not show small variances."""
N_QUANTILES = 201
LEAST_PATCHES = 50
"""With fewer patches no Gaussian is fitted."""


def all_alike(features: NDArray[np.floating[Any]]) -> bool:
    """Whether features (N, F) of several patches differ by rounding at most.

    They tell nothing of a patch then: training has destroyed the network.

    Examples
    --------
    >>> all_alike(np.zeros((9, 4))), all_alike(np.eye(4)), all_alike(np.zeros((9, 0)))
    (True, False, False)
    """
    if len(features) < 2 or features.shape[1] == 0:
        return False
    return float(np.ptp(features, axis=0).max()) <= 1e-5 * float(np.abs(features).max())


@contextmanager
def penultimate(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into the head of a classifier, (B, F) a call; empty where it has none.

    Of a model for bags: the features of its patches, which its encoder gives.
    """
    kept: list[Tensor] = []
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, nn.Module):
        watched = encoder.register_forward_hook(
            lambda _module, _inputs, output: kept.append(output.detach().float())
        )
        try:
            yield kept
        finally:
            watched.remove()
        return
    backbone = getattr(model, "backbone", model)
    head = getattr(backbone, "get_classifier", lambda: None)()
    if not isinstance(head, nn.Module) or isinstance(head, nn.Identity):
        yield kept
        return

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0].detach().float()
        # heads that are convolutions, or take tokens: the mean over positions
        while features.ndim > 2:
            features = features.mean(dim=-1 if features.ndim == 4 else 1)
        kept.append(features)

    handle = head.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


@dataclass(frozen=True)
class FeatureReference:
    """What features of training patches look like, to find patches that are unlike them.

    A Gaussian over standardised features gives a patch's Mahalanobis distance; the distances of
    held-out patches say how unusual it is, as a percentile.

    Attributes
    ----------
    mean, scale : (F,) float32
        Mean and standard deviation of each feature.
    components : (C, F) float32
        Directions of the largest variance, at most 64.
    precision : (C,) float32
        One over the variance along each.
    rest_precision : (1,) float32
        One over the mean variance of all other directions.
    quantiles : (201,) float32
        Distances of held-out patches, from the smallest to the largest.
    looks : FeatureReference, optional
        The same for simple statistics of stain and texture; None in bundles of earlier versions.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    components: NDArray[np.float32]
    precision: NDArray[np.float32]
    rest_precision: NDArray[np.float32]
    quantiles: NDArray[np.float32]
    looks: FeatureReference | None = None

    @classmethod
    def of_looks(
        cls,
        training: NDArray[np.floating[Any]],
        held_out: NDArray[np.floating[Any]],
        slide_of: NDArray[np.integer[Any]],
    ) -> FeatureReference | None:
        """Of looks (N, L) of training patches of slides (N,), and (M, L) of others.

        Slides differ in stain more than patches of one slide do: how unlike the others each
        training slide is counts beside what held-out patches are.
        """
        made = cls.fit(training, held_out)
        if made is None:
            return None
        judged = [made.distance(held_out)] if len(held_out) >= LEAST_PATCHES else []
        for slide in np.unique(slide_of):
            mine = slide_of == slide
            others = cls.fit(training[~mine], training[mine])
            if others is not None:
                judged.append(others.distance(training[mine]))
        if not judged:
            return made
        levels = np.quantile(np.concatenate(judged), np.linspace(0, 1, N_QUANTILES))
        return replace(made, quantiles=levels.astype(np.float32))

    @classmethod
    def fit(
        cls, training: NDArray[np.floating[Any]], held_out: NDArray[np.floating[Any]]
    ) -> FeatureReference | None:
        """Of features (N, F) of training patches, and (M, F) of others.

        None of too few, and of such as are all alike: nothing is like or unlike them.
        """
        if len(training) < LEAST_PATCHES or training.shape[1] == 0 or all_alike(training):
            return None
        data = training.astype(np.float64)
        mean, scale = data.mean(axis=0), data.std(axis=0)
        scale = np.maximum(scale, max(1e-3 * float(scale.max()), 1e-9))
        standard = (data - mean) / scale
        # of patches or of features, whichever is fewer: networks may have thousands of features
        _, singular, rows = np.linalg.svd(standard, full_matrices=False)
        variance = singular**2 / len(standard)
        count = min(MAX_COMPONENTS, len(variance))
        rest = max(standard.shape[1] - count, 1)
        left = max(float((standard**2).mean(axis=0).sum() - variance[:count].sum()), 0.0) / rest
        shrunk = (1 - SHRINKAGE) * variance[:count] + SHRINKAGE
        made = cls(
            mean.astype(np.float32),
            scale.astype(np.float32),
            rows[:count].astype(np.float32),
            (1 / shrunk).astype(np.float32),
            np.array([1 / ((1 - SHRINKAGE) * left + SHRINKAGE)], np.float32),
            np.zeros(N_QUANTILES, np.float32),
        )
        judged = held_out if len(held_out) >= LEAST_PATCHES else training
        levels = np.quantile(made.distance(judged), np.linspace(0, 1, N_QUANTILES))
        return replace(made, quantiles=levels.astype(np.float32))

    def distance(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Mahalanobis distance of features (N, F), (N,)."""
        standard = (features.astype(np.float64) - self.mean) / self.scale
        along = standard @ self.components.T.astype(np.float64)
        rest = np.maximum((standard**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = (along**2 * self.precision).sum(axis=1) + rest * self.rest_precision[0]
        return np.asarray(np.sqrt(squared), dtype=np.float64)

    def percentile(
        self,
        features: NDArray[np.floating[Any]],
        looks: NDArray[np.floating[Any]] | None = None,
    ) -> NDArray[np.float32]:
        """Share of held-out patches that are less unlike, in %, (N,); 100 beyond all of them.

        Parameters
        ----------
        features : (N, F)
        looks : (N, L), optional
            Needed where :attr:`looks` is known. Being unlike by the one or the other is then half
            as surprising, so that still about one held-out patch of a hundred is at 99.

        Raises
        ------
        ValueError
            If looks are known, and not given.
        """
        shares = np.linspace(0, 100, len(self.quantiles))
        found = np.interp(self.distance(features), self.quantiles, shares)
        if self.looks is not None:
            if looks is None:
                raise ValueError("looks are needed beside features")
            found = np.maximum(found, self.looks.percentile(looks))
            found = np.maximum(100 - 2 * (100 - found), 0)
        return np.asarray(found, dtype=np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """For a file of tensors: the arrays by name, those of looks after ``looks.``."""
        own = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name)))
               for name in _ARRAYS}  # fmt: skip
        looks = {} if self.looks is None else self.looks.tensors()
        return {**own, **{_LOOKS + name: value for name, value in looks.items()}}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> FeatureReference:
        """From a file of tensors; ValueError where it is another."""
        own = {name: value for name, value in tensors.items() if not name.startswith(_LOOKS)}
        if set(own) != set(_ARRAYS):
            raise ValueError("not a feature reference")
        rest = {name.removeprefix(_LOOKS): tensors[name] for name in tensors.keys() - own.keys()}
        looks = cls.of_tensors(rest) if rest else None
        return cls(**{name: value.float().numpy() for name, value in own.items()}, looks=looks)


_ARRAYS = tuple(f.name for f in fields(FeatureReference) if f.name != "looks")
_LOOKS = "looks."

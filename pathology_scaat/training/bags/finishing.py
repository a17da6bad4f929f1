"""The end of a training on bags: attention learns from whole slides, and one epoch is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.scaat.objective import Objective
from pathology_scaat.training.bags.attention import (
    finish_attention,
    has_attention,
    losses_of_slides,
    surely_worse,
)
from pathology_scaat.training.bags.job import BagJob
from pathology_scaat.training.bags.model import BagModel

NOT_FINISHED = (
    "At the end attention alone learnt from whole slides; the validation slides were "
    "surely worse predicted then, so that it was left as it was before."
)


@dataclass(frozen=True)
class Finished:
    """An epoch's model with its attention finished.

    Attributes
    ----------
    model : BagModel
        In evaluation mode.
    epoch : int
        From which its weights are, counted from 1.
    logits : (n, K) float32
        Of the validation slides (or cases).
    notes : tuple of str
        What is to be said of it.
    """

    model: BagModel
    epoch: int
    logits: NDArray[np.float32]
    notes: tuple[str, ...]


def finished(
    model: BagModel,
    epoch: int,
    job: BagJob,
    objective: Objective,
    validation_logits: Callable[[BagModel], NDArray[np.float32]],
    training_features: Callable[[BagModel], Iterator[Tensor]],
) -> Finished:
    """Finish a model's attention on whole slides, unless the validation slides speak against it.

    Parameters
    ----------
    model : BagModel
        Changed in place.
    epoch : int
        From which its weights are.
    job : BagJob
        Labels of the slides, and the settings.
    objective : Objective
        What the training minimised.
    validation_logits : callable
        Logits (n, K) of the validation slides under a model.
    training_features : callable
        Features (n_i, F) of each training slide under a model.
    """
    model.eval()
    before = validation_logits(model)
    settings = job.config.bag
    if settings.attention_steps == 0 or not has_attention(model.head):
        return Finished(model, epoch, before, ())
    kept = copy.deepcopy(model.head.state_dict())
    # of bfloat16 two bytes a number: features of all slides are in memory at once
    features = [found.bfloat16().cpu() for found in training_features(model)]
    finish_attention(
        model.head, features, job.train.labels, objective, steps=settings.attention_steps,
        seed=job.seed, balanced=job.config.class_balance == "sampling",
    )  # fmt: skip
    after, labels = validation_logits(model), job.val.labels
    if len(labels) and surely_worse(
        losses_of_slides(after, labels), than=losses_of_slides(before, labels)
    ):
        model.head.load_state_dict(kept)
        return Finished(model, epoch, before, (NOT_FINISHED,))
    note = (
        f"At the end attention alone learnt from whole slides "
        f"({settings.attention_steps:,} steps, at most {settings.attention_patches:,} patches of "
        "each slide)."
    )
    return Finished(model, epoch, after, (note,))


def later_unless_worse(best: Finished, last: Finished, labels: NDArray[np.int64]) -> Finished:
    """The last epoch's model, unless the validation slides are surely worse predicted by it.

    ``labels`` (n,) are the classes of the validation slides. Few of them say little: of many epochs
    the best may be so by chance, and be one in which little was learnt yet.
    """
    worse = surely_worse(
        losses_of_slides(last.logits, labels), than=losses_of_slides(best.logits, labels)
    )
    return best if worse else last

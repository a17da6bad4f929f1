"""A look at an imported model on a few patches: does it answer, and can it be explained?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pathology_scaat.errors import TrainingError
from pathology_scaat.scaat.target import Output, evaluating, target_score
from pathology_scaat.system.memory import is_out_of_memory
from pathology_scaat.system.signals import raise_again

N_RANDOM = 8
TOLERANCE = 1e-3
"""Largest difference of a logit alone and in a batch, relative to the largest logit."""


@dataclass(frozen=True)
class Tried:
    """What was seen.

    Attributes
    ----------
    n_patches : int
    predicted : tuple of int
        Patches of each class, by the largest logit.
    mean_gradient : float
        Mean size of the gradient of the explained score by a channel of a pixel.
    notes : tuple of str
        Sentences on what looks odd.
    """

    n_patches: int
    predicted: tuple[int, ...]
    mean_gradient: float
    notes: tuple[str, ...] = ()


def random_patches(side_px: int, seed: int = 0) -> Tensor:
    """Smooth coloured noise, (8, 3, P, P) in [0, 1]: no tissue, but no grey square either."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((N_RANDOM, 3, 8, 8), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(side_px, side_px), mode="bilinear")
    return (smooth + 0.1 * torch.rand(smooth.shape, generator=generator)).clamp(0, 1)


def try_model(
    model: nn.Module, images: Tensor, target: int, class_names: tuple[str, ...], subject: str,
    output: Output = "margin",
) -> Tried:  # fmt: skip
    """Run a model on patches and explain them.

    Parameters
    ----------
    model : nn.Module
        (B, 3, P, P) in [0, 1] to (B, K) logits; normalisation inside.
    images : Tensor
        (N, 3, P, P) in [0, 1], N of at least 2.
    target : int
        Class that is explained.
    class_names : tuple of str
    subject : str
        Name of the model, for errors.

    Raises
    ------
    TrainingError
        In one sentence: what cannot be used.
    """
    n_classes = len(class_names)
    with evaluating(model):
        logits = _logits(model, images, subject)
        if logits.ndim != 2 or logits.shape[0] != len(images):
            raise TrainingError(
                subject,
                f"gives {tuple(logits.shape)} for {len(images)} patches, not a row of logits each",
                "only classifiers of patches can be explained",
            )
        if logits.shape[1] != n_classes:
            raise TrainingError(
                subject,
                f"classifies into {logits.shape[1]}, and {n_classes} classes are named",
                "name its classes with --classes, in the order of its outputs"
                if logits.shape[1] > 1
                else "of one logit, name the one class that it speaks for, with --multi-label",
            )
        if not bool(torch.isfinite(logits).all()):
            raise TrainingError(subject, "gives what is no number (NaN or infinite)", "check it")
        notes = _refuse_probabilities(logits, subject, several=output == "logit")
        if float((logits - logits[:1]).abs().max()) == 0:
            raise TrainingError(
                subject, "says the same of every patch", "check the weights and --mean and --std"
            )
        alone = torch.cat([_logits(model, one[None], subject) for one in images[:2]])
        size = float(logits.abs().max())
        if float((alone - logits[:2]).abs().max()) > TOLERANCE * max(size, 1e-6):
            raise TrainingError(
                subject,
                "answers otherwise for a patch alone than among others",
                "export it in evaluation mode (model.eval())",
            )
        with torch.enable_grad():
            leaf = images.clone().requires_grad_(True)
            answer = _logits(model, leaf, subject, grad=True)
            classes = torch.full((len(images),), target)
            slope = None
            if answer.requires_grad:
                score = target_score(answer, classes, output).sum()
                (slope,) = torch.autograd.grad(score, [leaf], allow_unused=True)
    if slope is None or not bool(torch.isfinite(slope).all()) or not bool(slope.any()):
        raise TrainingError(
            subject,
            "has no gradient by its input that can be used: its maps would be empty",
            "export it so that it can be differentiated, without rounding or no_grad",
        )
    counts = torch.bincount(logits.argmax(1), minlength=n_classes)
    return Tried(len(images), tuple(counts.tolist()), float(slope.abs().mean()), notes)


def _refuse_probabilities(logits: Tensor, subject: str, *, several: bool) -> tuple[str, ...]:
    """Refuse what has gone through softmax or sigmoid already; a note where that may be.

    ``several`` says that several classes may hold at once: a sigmoid follows, and logits of a
    class that is not there are negative.
    """
    within = bool((logits >= 0).all() and (logits <= 1).all())
    if within and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        kind, last = "gives probabilities", "softmax"
    elif within and several:
        kind, last = "gives numbers from 0 to 1 alone, as probabilities are", "sigmoid"
    elif several and logits.shape[1] > 1 and bool(((logits.exp().sum(1) - 1).abs() < 1e-4).all()):
        kind, last = "gives logarithms of probabilities that sum to 1", "log-softmax"
    elif within:
        return (
            "All its outputs lie between 0 and 1 here: if it ends in a sigmoid, its probabilities "
            "and maps are wrong; then export it without.",
        )
    else:
        return ()
    raise TrainingError(
        subject, f"{kind}, and saliency is taken from logits", f"export it without its last {last}"
    )


def _logits(model: nn.Module, images: Tensor, subject: str, *, grad: bool = False) -> Tensor:
    try:
        with torch.set_grad_enabled(grad):
            answer = model(images)
    except Exception as error:
        raise_again()
        if is_out_of_memory(error):
            raise
        words = str(error).strip().rpartition("\n")[2][:120]
        raise TrainingError(
            subject,
            f"cannot run on patches of {images.shape[-1]} px ({words or type(error).__name__})",
            "check --patch-size and --backbone",
        ) from None
    if not isinstance(answer, Tensor):
        raise TrainingError(
            subject,
            f"gives a {type(answer).__name__}, not a tensor of logits",
            "export logits alone",
        )
    return answer.float()

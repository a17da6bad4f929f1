"""Weights into a network, every one of them or none: a model half filled would answer at random.

Names are matched after a common prefix is dropped (``module.``, ``model.``, ``backbone.``) and a
classifier under another name is put in its place; nothing is left as it was initialised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pathology_scaat.errors import TrainingError
from pathology_scaat.training.backbones import resample_positions
from pathology_scaat.training.imported.hugging_face import is_hugging_face_vit, renamed_vit
from pathology_scaat.training.weight_names import COUNTERS, likely_prefixes

HARMLESS = ("mask_token", "relative_position_index", "attn_mask", "total_ops", "total_params",
            "pooler.", COUNTERS)  # fmt: skip
"""Tensors that decide nothing of a classifier's answer."""


@dataclass(frozen=True)
class Matched:
    """Weights in a network's own names and shapes, and what was done to them, in sentences."""

    state: dict[str, Tensor]
    notes: tuple[str, ...]


def _prefix(given: dict[str, Tensor], own: dict[str, Tensor], subject: str) -> str:
    """What stands before the network's own names, where most of them are found."""
    found = likely_prefixes(given, own)
    if len(found) > 1:
        several = ", ".join(f"'{prefix}'" for prefix in found)
        raise TrainingError(
            subject,
            f"holds several networks of this kind (under {several})",
            "save the one you mean in a file of its own",
        )
    return found[0]


def _heads(candidate: dict[str, Tensor], own: dict[str, Tensor], width: int) -> list[str]:
    """Names of weights that a classifier over so many features may have."""
    return [
        key
        for key, value in candidate.items()
        if key not in own
        and key.endswith(".weight")
        and value.ndim in (2, 4)
        and value.flatten(1).shape[1] == width
        and f"{key.removesuffix('weight')}bias" in candidate
    ]


def _put_head(
    network: nn.Module, own: dict[str, Tensor], given: dict[str, Tensor],
    beside: dict[str, Tensor], subject: str, n_classes: int,
) -> list[str]:  # fmt: skip
    """Put a classifier under another name, or of one logit, in its place; what was done.

    It is looked for among the encoder's tensors, then among those beside it in the file.
    """
    name = str((getattr(network, "pretrained_cfg", None) or {}).get("classifier") or "head")
    weight, bias = f"{name}.weight", f"{name}.bias"
    if weight not in own:
        return []
    width = own[weight].shape[1]
    notes: list[str] = []
    if weight not in given:
        candidate = next(
            (candidate for candidate in (given, beside) if _heads(candidate, own, width)), given
        )
        free = _heads(candidate, own, width)
        if not free:
            raise TrainingError(
                subject,
                "holds an encoder without a classifier",
                "train one on it: scaat train --backbone NAME --weights FILE --trainable head",
            )
        if len(free) > 1:
            raise TrainingError(
                subject,
                f"holds several layers that may be its classifier ({', '.join(free[:4])})",
                f"rename the one you mean to '{weight}'",
            )
        stem = free[0].removesuffix("weight")
        given[weight], given[bias] = candidate.pop(f"{stem}weight"), candidate.pop(f"{stem}bias")
        notes.append(f"Its classifier was named '{stem.rstrip('.')}'.")
    given[weight] = given[weight].flatten(1)  # a convolution of 1 x 1
    outputs = len(given[weight])
    if outputs == 1 and n_classes == 2:
        # softmax(0, z) is sigmoid(z): the same probabilities, in the form that we explain
        given[weight] = torch.cat([torch.zeros_like(given[weight]), given[weight]])
        if bias in given:
            given[bias] = torch.cat([torch.zeros_like(given[bias]), given[bias]])
        notes.append("Its one logit is the second class's; the first class's is 0.")
    elif outputs != n_classes:
        raise TrainingError(
            subject,
            f"classifies into {outputs}, and {n_classes} classes are named",
            "name its classes with --classes, in the order of its outputs",
        )
    return notes


def match_weights(
    network: nn.Module, given: dict[str, Tensor], subject: str, n_classes: int
) -> Matched:
    """A file's weights under the network's names.

    Parameters
    ----------
    network : nn.Module
        Of as many outputs as there are classes.
    given : dict of str to Tensor
        As read from a file.
    subject : str
        Name of the file, for errors.
    n_classes : int
        Classes that were named.

    Raises
    ------
    TrainingError
        If a weight of the network is not in the file, or the file holds layers that the network
        has not: it is another network's.
    """
    own = dict(network.state_dict())
    if is_hugging_face_vit(given):
        given = renamed_vit(given)
    prefix = _prefix(given, own, subject)
    beside = {key: v for key, v in given.items() if not key.startswith(prefix)}
    given = {key.removeprefix(prefix): v for key, v in given.items() if key.startswith(prefix)}
    notes = _put_head(network, own, given, beside, subject, n_classes)
    if beside:
        notes.append(f"{len(beside)} other tensors of the file are not used.")
    if resample_positions(network, given, own):
        notes.append("Its positions were resampled to this patch size.")
    missing = [
        key for key, value in own.items()
        if not key.endswith(COUNTERS) and (key not in given or given[key].shape != value.shape)
    ]  # fmt: skip
    if missing:
        total = sum(not key.endswith(COUNTERS) for key in own)
        raise TrainingError(
            subject,
            f"fills only {total - len(missing)} of the network's {total} tensors (not "
            f"'{missing[0]}')",
            "check that --backbone and --backbone-options are those of the weights",
        )
    spare = [k for k in given if k not in own and not any(word in k for word in HARMLESS)]
    if spare:
        raise TrainingError(
            subject,
            f"holds {len(spare)} tensors that this network has no place for ('{spare[0][:60]}')",
            "check that --backbone and --backbone-options are those of the weights",
        )
    state = {key: given[key].to(value.dtype) for key, value in own.items() if key in given}
    state.update({key: value for key, value in own.items() if key not in state})  # counters
    return Matched(state, tuple(notes))

"""Low-rank adaptation: a few weights beside each matrix are trained, and added to it at the end.

The library *peft* (extra ``lora``) puts the adapters in and merges them; the network that is saved
has the architecture of the one that was given, so that a bundle needs no adapter to be used.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

from torch import nn

from pathology_scaat.errors import UsageError
from pathology_scaat.training.config import LORA

RANK = 8
"""Of ``lora`` without a number."""


def lora_rank(trainable: str) -> int | None:
    """Rank of a setting such as ``lora`` or ``lora-16``; None for another setting.

    Examples
    --------
    >>> lora_rank("lora"), lora_rank("lora-16"), lora_rank("head")
    (8, 16, None)
    """
    if re.fullmatch(LORA, trainable) is None:
        return None
    _, _, number = trainable.partition("-")
    return int(number) if number else RANK


def require_lora(trainable: str) -> None:
    """Refuse low-rank adaptation where its library is missing, or a rank of 0.

    Raises
    ------
    UsageError
    """
    rank = lora_rank(trainable)
    if rank is None:
        return
    if rank < 1:
        raise UsageError("--trainable", "'lora-0' trains nothing", "use lora or lora-8")
    if find_spec("peft") is None:
        raise UsageError(
            "--trainable",
            "'lora' needs the library peft, which is not installed",
            "pip install 'pathology-scaat[lora]'",
        )


def add_lora(backbone: nn.Module, rank: int) -> int:
    """Freeze a network but for its head and low-rank adapters, which are added; how many.

    Matrices of the blocks get them, and convolutions whose channels are not in groups: all that
    is left where it was is frozen. At first they change nothing.

    Parameters
    ----------
    backbone : nn.Module
    rank : int

    Raises
    ------
    UsageError
        If the network names no head, or has nothing to adapt.
    """
    from peft import LoraConfig, inject_adapter_in_model

    head = getattr(backbone, "get_classifier", lambda: None)()
    if not isinstance(head, nn.Module):
        raise UsageError("--trainable", "this backbone names no head", "use --trainable all")
    inside_head = {id(module) for module in head.modules()}
    targets = [
        name
        for name, module in backbone.named_modules()
        if id(module) not in inside_head
        and _can_be_adapted(module)
        # torch's own attention reads this matrix itself, and would not see an adapter
        and not name.endswith("out_proj")
    ]
    if not targets:
        raise UsageError(
            "--trainable", "this backbone has no matrix to adapt", "use --trainable all"
        )
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets), backbone
    )
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    backbone.get_classifier().requires_grad_(True)  # type: ignore[operator]
    return len(targets)


def _can_be_adapted(module: nn.Module) -> bool:
    """Whether an adapter beside a layer is the same arithmetic as a change of its matrix.

    Not where a layer has a forward of its own, or pads its input in a way that the adapter's
    convolution would not repeat: the merged network would be another one than was trained.
    """
    if type(module) is nn.Linear:
        return True
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.in_channels > 3
        and module.padding_mode == "zeros"
        and module.dilation == (1, 1)
    )


def merge_lora(network: nn.Module) -> int:
    """Add adapters to the matrices that they stand beside, and remove them; how many there were.

    A network without any is left as it is.
    """
    if not any(".lora_" in name for name, _ in network.named_parameters()):
        return 0
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, BaseTunerLayer)
    ]
    for name, module in found:
        module.merge()
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, module.get_base_layer())
    return len(found)

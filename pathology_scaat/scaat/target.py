"""What is explained: the number of a prediction, the class it speaks of, the model held still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pathology_scaat.errors import UsageError

Output = Literal["margin", "margin-best", "logit"]
Target = int | str | Tensor

OUTPUTS: tuple[str, ...] = get_args(Output)

Scorer = Callable[[Tensor, Tensor], Tensor]


def target_score(logits: Tensor, target: Tensor, output: Output = "margin") -> Tensor:
    r"""The number per image whose attribution is asked.

    Parameters
    ----------
    logits : Tensor, (N, K)
        K of 1 is read as the logit of class 1 against class 0; where it is that of an only label,
        ask for class 1.
    target : Tensor, (N,) int64
        Class of each image.
    output : {"margin", "margin-best", "logit"}
        ``"logit"`` is :math:`z_t`; ``"margin"`` is :math:`z_t - \log\sum_{j \ne t} e^{z_j}` (the
        log-odds of the class); ``"margin-best"`` is :math:`z_t - \max_{j \ne t} z_j`.

    Returns
    -------
    Tensor, (N,)

    Raises
    ------
    UsageError
        If the output is unknown.

    Examples
    --------
    >>> import torch
    >>> target_score(torch.tensor([[1.0, 3.0]]), torch.tensor([1]))
    tensor([2.])
    """
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.shape[1] == 1:
        return torch.where(target == 1, logits[:, 0], -logits[:, 0])
    chosen = logits.gather(1, target[:, None])[:, 0]
    if output == "logit":
        return chosen
    others = logits.scatter(1, target[:, None], float("-inf"))
    if output == "margin":
        return chosen - torch.logsumexp(others, dim=1)
    if output == "margin-best":
        return chosen - others.max(dim=1).values
    raise UsageError("output", f"'{output}' is not known", f"use one of {', '.join(OUTPUTS)}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with frozen weights; all is put back afterwards.

    Frozen, because layers then keep no activations for weight gradients that nobody wants:
    less memory, and no work that could be skipped.
    """
    modes = [(module, module.training) for module in model.modules()]
    free = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for parameter in free:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def resolve_target(model: nn.Module, images: Tensor, target: Target) -> Tensor:
    """Class index per image, (N,) int64, from an index, a tensor or ``"predicted"``.

    Raises
    ------
    UsageError
        If a tensor is not (N,), or a text is not ``"predicted"``.
    """
    if isinstance(target, Tensor):
        if target.shape != (images.shape[0],):
            raise UsageError(
                "target", f"has shape {tuple(target.shape)}", "give one class per patch"
            )
        return target.to(device=images.device, dtype=torch.int64)
    if isinstance(target, str):
        if target != "predicted":
            raise UsageError(
                "target", f"'{target}' is not known", "give a class index or 'predicted'"
            )
        with torch.no_grad():
            logits: Tensor = model(images)
        if logits.ndim == 1 or logits.shape[1] == 1:
            return (logits.reshape(-1) > 0).to(torch.int64)
        return logits.argmax(dim=1)
    return torch.full((images.shape[0],), int(target), dtype=torch.int64, device=images.device)

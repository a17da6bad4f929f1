"""Under which names a network's tensors stand in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

COUNTERS = "num_batches_tracked"
"""Buffers that count batches: they decide nothing of an answer."""


def likely_prefixes(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What stands before the network's own names where most of them are found with their shape.

    Parameters
    ----------
    given : mapping of str to Tensor
        As in the file.
    own : mapping of str to Tensor
        As the network has them.

    Returns
    -------
    list of str
        ``[""]`` where names are the network's own, or nothing fits; several where the file holds
        several networks of the kind.
    """
    counts: Counter[str] = Counter()
    for key, value in given.items():
        parts = key.split(".")
        for cut in range(len(parts)):
            name = ".".join(parts[cut:])
            if name in own and own[name].shape == value.shape:
                counts[key[: len(key) - len(name)]] += 1
    if not counts:
        return [""]
    most = max(counts.values())
    return sorted(prefix for prefix, count in counts.items() if count == most)


def renamed_tensor(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[str, str] | None:
    """A tensor's name in the file and in the network, where a file is the network's but for names.

    That is so where the tensors are of the network's shapes, one after the other: another
    library's file of the same network. None where they are not, or nothing is named otherwise.

    Parameters
    ----------
    given, own : mapping of str to Tensor
        As in the file; as the network has them, without its classifier.

    Examples
    --------
    >>> import torch
    >>> renamed_tensor({"_stem.weight": torch.ones(3)}, {"stem.weight": torch.ones(3)})
    ('_stem.weight', 'stem.weight')
    """
    file, network = (
        [(k, v.shape) for k, v in tensors.items() if not k.endswith(COUNTERS)]
        for tensors in (given, own)
    )
    pairs = list(zip(file, network, strict=False))
    if len(file) < len(network) or any(one[1] != other[1] for one, other in pairs):
        return None
    return next(((one[0], other[0]) for one, other in pairs if one[0] != other[0]), None)

"""Whether the classes that somebody names can be those of a model's outputs."""

from __future__ import annotations

from collections.abc import Sequence

from pathology_scaat.errors import UsageError
from pathology_scaat.system.names import name_key


def refuse_another_order(said: Sequence[str] | None, own: Sequence[str]) -> None:
    """Refuse the folder's own names in another order: maps would speak of the other class.

    Raises
    ------
    UsageError
        If a name that was given is the folder's for another output.
    """
    keys = [name_key(name) for name in own]
    for place, name in enumerate(said or ()):
        if name_key(name) in keys and keys.index(name_key(name)) != place:
            raise UsageError(
                "--classes",
                f"calls output {place + 1} '{name}', and by the model's own folder that is output "
                f"{keys.index(name_key(name)) + 1} ({', '.join(own)})",
                "leave it out, or name the outputs in their order",
            )


def refuse_one_class(names: Sequence[str], *, multi_label: bool) -> None:
    """Refuse a single class under a softmax: it would be certain of every patch.

    Raises
    ------
    UsageError
        If there is one class, and no sigmoid makes its probability.
    """
    if len(names) == 1 and not multi_label:
        raise UsageError(
            "--classes",
            "names one class, which by a softmax over one output is certain everywhere",
            "name all classes of its outputs, or add --multi-label where its one output is the "
            "logit of a sigmoid",
        )

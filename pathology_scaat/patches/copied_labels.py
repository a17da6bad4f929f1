"""Which slides' patches have the label of their slide, copied onto every one of them."""

from __future__ import annotations

from pathology_scaat.annotations.classes import match_class
from pathology_scaat.patches.schema import PatchStoreMeta


def copied_class(meta: PatchStoreMeta) -> str | None:
    """The class that was copied from the slide onto all its patches; None where none was.

    Annotations go before the label of the slide, also where they label nothing.
    """
    inputs = meta.parameters.get("inputs")
    if not isinstance(inputs, dict) or inputs.get("annotation") is not None:
        return None
    label = inputs.get("label")
    owner = match_class(str(label), meta.class_names) if label and meta.class_names else None
    return None if owner is None else meta.class_names[owner]

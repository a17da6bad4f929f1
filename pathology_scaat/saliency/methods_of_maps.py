"""By which attribution methods the maps of an output folder were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pathology_scaat.errors import StoreError
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.saliency.store import SaliencyStore


def method_of_each(out: Path, model_fingerprint: str = "") -> dict[str, str]:
    """The method that each slide's saliency was made by, by slide id.

    Parameters
    ----------
    out : Path
        Output folder of a run.
    model_fingerprint : str
        Only maps of this model; of every one where it is empty.
    """
    found = {}
    for path in sorted((out / "saliency").glob("*.zarr")):
        try:
            meta = SaliencyStore(path).meta
        except StoreError:
            continue  # whoever reads its map is told
        if model_fingerprint in ("", meta.model_fingerprint):
            found[meta.slide_id] = meta.method
    return found


def methods_of_maps(out: Path, model_fingerprint: str = "") -> dict[str, int]:
    """Slides by the method that their saliency was made by, in the order of the methods' names.

    For the arguments see :func:`method_of_each`.
    """
    return dict(sorted(Counter(method_of_each(out, model_fingerprint).values()).items()))


def card_is_of(card_method: str, methods: Mapping[str, int]) -> bool:
    """Whether a trust card measured maps as those are made that it lies beside.

    Parameters
    ----------
    card_method : str
        What it measured; a card of a model of slides measures the patches' contributions, whatever
        method the maps are made by.
    methods : mapping
        Of the maps (:func:`methods_of_maps`); of none, nothing is known against it.
    """
    if not methods or card_method not in ATTRIBUTIONS.names:
        return True
    return set(methods) == {card_method}


def method_words(methods: Mapping[str, int]) -> str:
    """The methods and their slides in words; of several it is said that they do not compare.

    Examples
    --------
    >>> method_words({"gradient": 6})
    "'gradient'"
    >>> method_words({"fused-cam": 5, "gradient": 1})
    "'fused-cam' (5 slides) and 'gradient' (1 slide): maps by different methods do not compare"
    """
    if len(methods) < 2:
        return "".join(f"'{name}'" for name in methods)
    parts = [f"'{name}' ({n} slide{'s'[: n != 1]})" for name, n in methods.items()]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{listed}: maps by different methods do not compare"

"""The id of each slide of a table: as given, or made from its file name and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pathology_scaat.artifacts.urls import SlideLocation
from pathology_scaat.cohort.ids import id_from_name, id_key, safe_id
from pathology_scaat.cohort.retyped import refuse_rounded
from pathology_scaat.errors import ManifestError


def slide_ids_of(
    given: Sequence[str],
    slides: Sequence[SlideLocation],
    base: Path,
    where: Callable[[int], str],
) -> list[str]:
    """Ids as given, checked; made from the file names where none are given.

    Parameters
    ----------
    given : sequence of str
        As the table gives them, empty where it gives none.
    slides : sequence of Path or SlideUrl
        The slides, in the same order.
    base : Path
        Folder of the table; the folders between it and a slide tell slides of one name apart.
    where : callable
        Names a row, for the sentences of errors.

    Raises
    ------
    ManifestError
        If an id cannot be a file name, or is given twice (upper and lower case are the same).
    """
    ids: list[str] = []
    seen: dict[str, int] = {}
    for index, text in enumerate(given):
        if not text:
            ids.append("")
            continue
        refuse_rounded(text, "slide_id", where(index))
        try:
            identity = safe_id(text)
        except ManifestError as error:
            raise ManifestError(where(index), f"slide_id {error.problem}", error.remedy) from None
        if id_key(identity) in seen:
            raise ManifestError(
                where(index), f"gives the slide_id '{identity}' a second time",
                "give each slide an id of its own (upper and lower case count as the same)",
            )  # fmt: skip
        seen[id_key(identity)] = index
        ids.append(identity)
    stems = Counter(
        id_key(id_from_name(_stem(s))) for s, i in zip(slides, ids, strict=True) if not i
    )
    for index, slide in enumerate(slides):
        if ids[index]:
            continue
        made = id_from_name(_stem(slide))
        if stems[id_key(made)] > 1 or id_key(made) in seen:
            # The same name in two folders: the folders tell them apart.
            parts = _folders(slide, base)
            made = id_from_name("_".join([*parts, _stem(slide)]))
        if id_key(made) in seen:
            made = id_from_name("_".join([*_folders(slide, base), slide.name]))
        number = 2
        while id_key(made) in seen:
            made = id_from_name(f"{_stem(slide)}_{number}")
            number += 1
        seen[id_key(made)] = index
        ids[index] = made
    return ids


def _stem(slide: SlideLocation) -> str:
    name = slide.name
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return slide.stem


def _folders(slide: SlideLocation, base: Path) -> list[str]:
    """Folder names between the table and the slide; never those above the table."""
    if not isinstance(slide, Path):
        return [part for part in urlsplit(slide.url).path.split("/")[:-1] if part][-1:]
    if slide.is_relative_to(base):
        return [part for part in slide.relative_to(base).parts[:-1] if part not in ("..", ".")]
    return [slide.parent.name] if slide.parent.name else []

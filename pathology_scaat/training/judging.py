"""Which held-out patches can tell whether a model is right: not those whose label was copied.

A label that was copied from a slide onto all its patches is wrong for many of them. A patch that
is judged by it says nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.patches.copied_labels import copied_class
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.positive_class import doubtful_label


@dataclass(frozen=True)
class Judges:
    """The patches of a split that figures are taken from.

    Attributes
    ----------
    table : PatchTable
        What is counted.
    whole : PatchTable
        All patches of the split; those with a copied label have none here (-1).
    n_left_out, n_slides_left_out : int
        Patches with a copied label that count in no figure, and the slides they are of.
    copied : bool
        Whether nothing else was left to judge by, so that ``table`` holds copied labels.
    """

    table: PatchTable
    whole: PatchTable
    n_left_out: int = 0
    n_slides_left_out: int = 0
    copied: bool = False

    def notes(self, split: str) -> tuple[str, ...]:
        """What is to be said of a split ("validation" or "test")."""
        if self.copied:
            return (
                f"The {split} patches are judged by the labels of their slides, copied onto every "
                "patch, for annotations leave no two classes to judge by: the figures of patches "
                "say neither that the model is good nor that it is bad.",
            )
        if not self.n_left_out:
            return ()
        return (
            f"{self.n_left_out} {split} patch(es) of {self.n_slides_left_out} slide(s) without "
            "annotations have their slide's label copied onto them and count in no figure; "
            f"{len(self.table)} others do.",
        )


def own_labels(
    labels: NDArray[np.integer[Any]], doubtful: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], bool]:
    """Which patches figures are taken from: those whose label was not copied from a slide.

    Parameters
    ----------
    labels : (N,) int
        -1 where there is none.
    doubtful : (N,) bool
        Whose label was copied from their slide, and may be wrong for them.

    Returns
    -------
    (N,) bool, bool
        The patches that count; and whether those are all of them, copied labels too, since the
        others are of fewer than two classes though all together are of more.

    Examples
    --------
    >>> keep, copied = own_labels(np.array([0, 1, 1]), np.array([False, False, True]))
    >>> keep.tolist(), copied
    ([True, True, False], False)
    >>> own_labels(np.array([0, 0, 1]), np.array([False, False, True]))[1]
    True
    """
    every = np.ones(len(labels), bool)
    if not doubtful.any():
        return every, False
    kept, present = (len(np.unique(x[x >= 0])) for x in (labels[~doubtful], labels))
    copied = bool(doubtful.all()) or kept < min(2, present)
    return (every if copied else ~doubtful), copied


def judges_of(table: PatchTable, class_names: Sequence[str]) -> Judges:
    """Choose the patches of a split that figures are taken from.

    Those with labels of their own, and those of slides whose copied label is right for every patch
    (:func:`~pathology_scaat.training.positive_class.shows_nothing`). All of them, and this is told,
    where that leaves fewer than two classes though the split has more.
    """
    doubtful = np.array(
        [doubtful_label(copied_class(s.meta), class_names) for s in table.stores], bool
    )
    out = doubtful[table.store_index] if len(table) else np.zeros(0, bool)
    if not out.any():
        return Judges(table, table)
    labels = table.labels.copy()
    labels[out] = -1
    whole = replace(table, labels=labels)
    keep, copied = own_labels(table.labels, out)
    if copied:
        return Judges(table, whole, copied=True)
    n_slides = len(np.unique(table.store_index[out]))
    return Judges(table.select(keep), whole, int(out.sum()), n_slides)

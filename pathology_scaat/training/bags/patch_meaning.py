"""What a patch's probability says under a model of whole slides.

It is the probability that a slide would be given all of whose patches contribute as this one does
(:func:`~pathology_scaat.training.bags.slopes.patch_probability`): about even where a patch
contributes next to nothing, whatever class it is above even of.
"""

from __future__ import annotations

LITTLE = 0.1
"""Share of the way from even to certain below which a patch contributes little to its slide."""


def least_said(n_classes: int) -> float:
    """Probability of a class, 0 to 1, from which a patch contributes more than little to it.

    A patch that contributes nothing has ``1 / n_classes`` of each class: under attention that is
    most of a slide, and to which side of even such a patch falls means nothing.

    Examples
    --------
    >>> round(least_said(2), 3)
    0.55
    """
    return 1 / n_classes + LITTLE * (1 - 1 / n_classes)


def most_against(n_classes: int) -> float:
    """Probability of a class, 0 to 1, up to which a patch speaks against it by more than little.

    Examples
    --------
    >>> round(most_against(2), 3)
    0.45
    """
    return (1 - LITTLE) / n_classes

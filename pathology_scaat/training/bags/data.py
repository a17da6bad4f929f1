"""Which patches belong to which bag, and which an epoch shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import TrainingError
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.training.bags.config import BagUnit
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.results import TrainingSlide


@dataclass(frozen=True)
class BagTable:
    """Slides, or cases, as bags: all their patches in one numbered set, and a label each.

    Attributes
    ----------
    patches : PatchTable
        All patches, bag by bag, of a case slide by slide.
    starts : (n + 1,) int64
        Bag *i* holds the patches ``starts[i]`` to ``starts[i + 1]``.
    labels : (n,) int64
        Class of each bag.
    slide_ids : tuple of str
        Of each store.
    patient_ids : tuple of str
        Of each bag.
    bag_of_store : (n_stores,) int64
        Which bag a store belongs to.
    """

    patches: PatchTable
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    slide_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    bag_of_store: NDArray[np.int64]

    @property
    def store_patients(self) -> tuple[str, ...]:
        """Patient of each store."""
        return tuple(self.patient_ids[bag] for bag in self.bag_of_store)

    def __len__(self) -> int:
        return len(self.labels)

    def members(self, bag: int) -> NDArray[np.int64]:
        """Rows of :attr:`patches` that belong to a bag, (n,) int64, ascending."""
        return np.arange(self.starts[bag], self.starts[bag + 1])

    def spread(self, bag: int, most: int) -> NDArray[np.int64]:
        """At most so many of a bag's patches, evenly spread, (m,) int64; always the same."""
        mine = self.members(bag)
        if len(mine) <= most:
            return mine
        return mine[np.unique(np.linspace(0, len(mine) - 1, most).round().astype(np.int64))]


def make_bags(
    slides: Sequence[TrainingSlide], class_names: tuple[str, ...], of: BagUnit = "slide"
) -> BagTable:
    """The bags of some slides, in their order; slides without any patch are left out.

    Raises
    ------
    TrainingError
        If a slide has no label, or one that is no class, or a bag's slides have different ones.
    """
    cases: dict[str, list[tuple[TrainingSlide, PatchStore]]] = {}
    for slide in slides:
        if slide.label not in class_names:
            raise TrainingError(
                slide.slide_id,
                f"has the label '{slide.label}'" if slide.label else "has no label",
                f"give it one of {', '.join(class_names)} in the manifest",
            )
        store = PatchStore(slide.store)
        if len(store):
            key = slide.slide_id if of == "slide" else slide.patient_id
            cases.setdefault(key, []).append((slide, store))
    for key, case in cases.items():
        if len({slide.label for slide, _ in case}) > 1:
            raise TrainingError(
                f"patient '{key}'",
                "has slides with different labels",
                "give all slides of a patient one label, or learn from bags of slides",
            )
    stores = [store for case in cases.values() for _, store in case]
    sizes = np.array([len(store) for store in stores], np.int64)
    none = np.zeros(0, np.int64)
    patches = PatchTable(
        tuple(stores),
        np.repeat(np.arange(len(stores)), sizes).astype(np.int64),
        np.concatenate([none, *(np.arange(size) for size in sizes)]),
        np.full(int(sizes.sum()), -1, np.int64),  # nobody knows the class of a patch
    )
    members = [len(case) for case in cases.values()]
    bag_of_store = np.repeat(np.arange(len(cases)), members).astype(np.int64)
    in_bag = np.bincount(bag_of_store, weights=sizes, minlength=len(cases)).astype(np.int64)
    first = [case[0][0] for case in cases.values()]
    return BagTable(
        patches,
        np.concatenate([[0], np.cumsum(in_bag)]).astype(np.int64),
        np.array([class_names.index(slide.label or "") for slide in first], np.int64),
        tuple(slide.slide_id for case in cases.values() for slide, _ in case),
        tuple(slide.patient_id for slide in first),
        bag_of_store,
    )


@dataclass(frozen=True)
class BagBatch:
    """One step: the bags (B,), and the numbers of their patches (B * m,), m a bag, bag by bag."""

    bags: NDArray[np.int64]
    patches: NDArray[np.int64]


def epoch_of_bags(
    table: BagTable,
    bags_per_step: int,
    patches_per_bag: int,
    draws: int,
    rng: np.random.Generator,
    *,
    balanced: bool = False,
    max_steps: int | None = None,
) -> list[BagBatch]:
    """The steps of an epoch: every slide is drawn ``draws`` times, in random order.

    ``balanced`` draws as many slides, with replacement, each class equally often. A bag's patches
    are drawn without replacement where the slide has enough, else with. A last step below the
    size is dropped unless it is the only one.
    """
    if balanced:
        share = 1 / np.bincount(table.labels)[table.labels]
        order = rng.choice(len(table), len(table) * draws, p=share / share.sum())
    else:
        order = np.concatenate([rng.permutation(len(table)) for _ in range(draws)])
    size = min(bags_per_step, len(order))
    steps = [order[i : i + size] for i in range(0, len(order) - size + 1, size)][:max_steps]
    return [
        BagBatch(
            bags,
            np.concatenate(
                [
                    rng.choice(members, patches_per_bag, replace=len(members) < patches_per_bag)
                    for members in (table.members(int(bag)) for bag in bags)
                ]
            ),
        )
        for bags in steps
    ]


def annotated_patches(table: BagTable, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Class of each patch of all bags by its annotation, -1 where it has none, (n,) int64.

    Stores may know classes that no slide is labelled with; their patches count as not annotated.
    """
    parts = [np.zeros(0, np.int64)]
    for store in table.patches.stores:
        known = [class_names.index(n) if n in class_names else -1 for n in store.meta.class_names]
        lookup = np.array([*known, -1], np.int64)  # -1 is the last one: not annotated
        parts.append(lookup[store.labels.astype(np.int64)])
    return np.concatenate(parts)


@dataclass(frozen=True)
class PatchBatch:
    """One step of annotated patches, each a bag of one: numbers (n,) and classes (n,)."""

    patches: NDArray[np.int64]
    labels: NDArray[np.int64]


def annotated_steps(
    labels: NDArray[np.int64],
    shares: NDArray[np.floating],
    n_patches: int,
    step_size: int,
    rng: np.random.Generator,
) -> list[PatchBatch]:
    """Annotated patches of an epoch, in steps; those of small classes come several times.

    Parameters
    ----------
    labels : (n,) int64
        Class of each patch, -1 where it is not annotated.
    shares : (K,) float
        How often each class is drawn; classes without a patch leave theirs to the others.
    n_patches, step_size : int
        Patches of the epoch, and of a step.
    rng : Generator
    """
    there = np.array([(labels == k).any() for k in range(len(shares))])
    wanted = np.where(there, shares, 0.0)
    if not wanted.any() or n_patches < 1:
        return []
    counts = np.maximum(np.round(n_patches * wanted / wanted.sum()).astype(int), wanted > 0)
    drawn = []
    for k in np.flatnonzero(counts):
        mine = np.flatnonzero(labels == k)
        drawn.append(rng.choice(mine, counts[k], replace=len(mine) < counts[k]))
    order = rng.permutation(np.concatenate(drawn))
    size = min(step_size, len(order))
    steps = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    return [PatchBatch(step, labels[step]) for step in steps]


def mixed_patches(table: BagTable, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Patches spread evenly over all bags, shuffled, (m,) int64: what statistics are taken from."""
    each = max(1, most // max(len(table), 1))
    chosen = [
        rng.choice(members, min(each, len(members)), replace=False)
        for members in (table.members(bag) for bag in range(len(table)))
    ]
    return rng.permutation(np.concatenate([np.zeros(0, np.int64), *chosen]))

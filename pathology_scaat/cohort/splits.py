"""Assigning patients to train, val and test."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pathology_scaat.errors import ManifestError

SPLITS = ("train", "val", "test")

_EMPTY_NOTES = {
    "val": ("validation", "no epoch is chosen by other patients than those trained on"),
    "test": ("test", "no figure on held-out patients can be given"),
}


@dataclass(frozen=True)
class Stratum:
    """What the assignment to splits needs to know of a patient.

    Attributes
    ----------
    is_useful : bool
        Whether there is anything to learn from.
    label : str
        What to stratify by.
    classes : frozenset of str
        Classes that the patient's slides show; a rare one must not miss the training.
    """

    is_useful: bool
    label: str
    classes: frozenset[str] = frozenset()


def split_patients(
    strata: Mapping[str, Stratum],
    fixed: Mapping[str, str],
    fractions: tuple[float, float, float],
    seed: int,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Assign patients to splits.

    First each class gets a patient to train on, the rarest class first. Then each stratum is
    assigned by itself, in an order drawn from the seed and the patient's id alone; each patient
    goes to the split that lacks most of its share, first within the stratum, then over all.
    Useful patients come first, so that the splits that training needs are filled before
    anything else.

    Parameters
    ----------
    strata : mapping of patient to Stratum
    fixed : mapping of patient to split
        Patients whose split is given.
    fractions : (train, val, test)
        Shares, divided by their sum.
    seed : int
        Decides the order.

    Returns
    -------
    dict, tuple of str
        Split of each patient, and notes on what could not be filled.

    Raises
    ------
    ManifestError
        If the fractions are no shares, or training gets none.
    """
    if (
        len(fractions) != 3
        or not all(math.isfinite(f) and f >= 0 for f in fractions)
        or fractions[0] <= 0
    ):
        raise ManifestError(
            "split fractions", f"{fractions} are no shares", "give e.g. (0.6, 0.2, 0.2)"
        )
    total = sum(fractions)
    shares = {split: f / total for split, f in zip(SPLITS, fractions, strict=True)}
    wanted = [split for split in SPLITS if shares[split] > 0]
    assigned = {p: fixed[p] for p in strata if p in fixed}
    useful = sorted(p for p, stratum in strata.items() if stratum.is_useful)
    others = sorted(p for p, stratum in strata.items() if not stratum.is_useful)
    _train_on_every_class(useful, strata, assigned, seed)
    for group in (useful, others):
        _assign_group(group, strata, assigned, shares, wanted, seed)
    learned_from = useful or others
    # Where the table names all splits, it is not the number of patients that leaves one empty.
    given = all(p in fixed for p in learned_from)
    notes = tuple(
        f"the table puts no patient with something to learn from into the {name} split: {so}"
        if given
        else f"too few patients for a {name} split: {so}"
        for split, (name, so) in _EMPTY_NOTES.items()
        if split in wanted and not any(assigned[p] == split for p in learned_from)
    )
    if not any(assigned[p] == "train" for p in learned_from):
        notes = ("no patient with labels is in the training split", *notes)
    return assigned, (*notes, *_class_notes(useful, strata, assigned))


def _train_on_every_class(
    useful: Sequence[str],
    strata: Mapping[str, Stratum],
    assigned: dict[str, str],
    seed: int,
) -> None:
    """Put a patient of each class into training that has none there, if one is free."""
    by_class: dict[str, list[str]] = {}
    for patient in sorted(useful, key=lambda p: _draw(seed, p)):
        for name in strata[patient].classes:
            by_class.setdefault(name, []).append(patient)
    for name in sorted(by_class, key=lambda k: (len(by_class[k]), k)):
        patients = by_class[name]
        if any(assigned.get(p) == "train" for p in patients):
            continue
        free = [p for p in patients if p not in assigned]
        if free:
            # Of one class alone rather than of many: the others are wanted elsewhere too.
            chosen = min(free, key=lambda p: len(strata[p].classes))
            assigned[chosen] = "train"


def _class_notes(
    useful: Sequence[str], strata: Mapping[str, Stratum], assigned: Mapping[str, str]
) -> list[str]:
    """What is to be said of classes that few patients have, or that training does not see."""
    by_class: dict[str, list[str]] = {}
    for patient in useful:
        for name in strata[patient].classes:
            by_class.setdefault(name, []).append(assigned[patient])
    notes = []
    for name, splits in sorted(by_class.items()):
        if "train" not in splits:
            notes.append(
                f"no patient of class '{name}' is in the training split: it cannot be learned"
            )
        elif len(splits) == 1 and len(useful) > 1:
            notes.append(
                f"one patient alone has class '{name}': no figure on held-out patients can "
                "speak of it"
            )
    return notes


def _draw(seed: int, patient: str) -> str:
    """A key that sorts patients into a random order, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{patient}".encode(errors="surrogatepass")).hexdigest()


def _assign_group(
    group: list[str],
    strata: Mapping[str, Stratum],
    assigned: dict[str, str],
    shares: Mapping[str, float],
    wanted: list[str],
    seed: int,
) -> None:
    if not group:
        return
    targets = _targets(len(group), shares, wanted)
    n_open = {
        split: targets[split] - sum(assigned.get(p) == split for p in group) for split in wanted
    }
    queues: dict[str, list[str]] = {}
    for patient in sorted(group, key=lambda p: _draw(seed, p)):
        if patient not in assigned:
            queues.setdefault(strata[patient].label, []).append(patient)
    # The largest stratum first: the small ones then fill what is left most evenly.
    for label in sorted(queues, key=lambda k: (-len(queues[k]), k)):
        size = sum(strata[p].label == label for p in group)
        held = {
            s: sum(assigned.get(p) == s for p in group if strata[p].label == label) for s in wanted
        }
        for patient in queues[label]:
            free = [s for s in wanted if n_open[s] > 0] or ["train"]
            split = max(free, key=lambda s: (size * shares[s] - held[s], -wanted.index(s)))
            assigned[patient] = split
            held[split] = held.get(split, 0) + 1
            n_open[split] = n_open.get(split, 0) - 1


def _targets(count: int, shares: Mapping[str, float], wanted: list[str]) -> dict[str, int]:
    """Seats of each split: largest remainders, but one at least for each wanted split."""
    exact = {split: count * shares[split] for split in wanted}
    quota = {split: int(exact[split]) for split in wanted}
    by_remainder = sorted(wanted, key=lambda s: (quota[s] - exact[s], wanted.index(s)))
    for split in by_remainder[: count - sum(quota.values())]:
        quota[split] += 1
    for split in wanted[:count]:
        if quota[split] == 0:
            largest = max(wanted, key=lambda s: (quota[s], -wanted.index(s)))
            if quota[largest] > 1:
                quota[largest] -= 1
                quota[split] += 1
    return quota

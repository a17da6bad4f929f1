"""Dealing patients into train, val and test."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from pathology_scaat.errors import ManifestError

SPLITS = ("train", "val", "test")

_EMPTY_NOTES = {
    "val": "too few patients for a validation split: training stops on the training patients",
    "test": "too few patients for a test split: no figure on held-out patients can be given",
}


def split_patients(
    strata: Mapping[str, tuple[bool, str]],
    fixed: Mapping[str, str],
    fractions: tuple[float, float, float],
    seed: int,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Deal patients into splits.

    Each stratum is dealt by itself, in an order drawn from the seed and the patient's id
    alone; each patient goes to the split that lacks most of its share, first within the
    stratum, then over all. Useful patients come first, so that the splits that training
    needs are filled before anything else.

    Parameters
    ----------
    strata : mapping of patient to (useful, label)
        Whether the patient has anything to learn from, and what to stratify by.
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
    useful = sorted(p for p, (is_useful, _) in strata.items() if is_useful)
    others = sorted(p for p, (is_useful, _) in strata.items() if not is_useful)
    for group in (useful, others):
        _deal(group, strata, assigned, shares, wanted, seed)
    learned_from = useful or others
    notes = tuple(
        _EMPTY_NOTES[split]
        for split in wanted
        if split in _EMPTY_NOTES and not any(assigned[p] == split for p in learned_from)
    )
    if not any(assigned[p] == "train" for p in learned_from):
        notes = ("no patient with labels is in the training split", *notes)
    return assigned, notes


def _draw(seed: int, patient: str) -> str:
    """A key that sorts patients into a random order, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{patient}".encode(errors="surrogatepass")).hexdigest()


def _deal(
    group: list[str],
    strata: Mapping[str, tuple[bool, str]],
    assigned: dict[str, str],
    shares: Mapping[str, float],
    wanted: list[str],
    seed: int,
) -> None:
    if not group:
        return
    targets = _targets(len(group), shares, wanted)
    open_seats = {
        split: targets[split] - sum(assigned.get(p) == split for p in group) for split in wanted
    }
    queues: dict[str, list[str]] = {}
    for patient in sorted(group, key=lambda p: _draw(seed, p)):
        if patient not in assigned:
            queues.setdefault(strata[patient][1], []).append(patient)
    # The largest stratum first: the small ones then fill what is left most evenly.
    for label in sorted(queues, key=lambda k: (-len(queues[k]), k)):
        size = sum(strata[p][1] == label for p in group)
        held = {
            s: sum(assigned.get(p) == s for p in group if strata[p][1] == label) for s in wanted
        }
        for patient in queues[label]:
            free = [s for s in wanted if open_seats[s] > 0] or ["train"]
            split = max(free, key=lambda s: (size * shares[s] - held[s], -wanted.index(s)))
            assigned[patient] = split
            held[split] = held.get(split, 0) + 1
            open_seats[split] = open_seats.get(split, 0) - 1


def _targets(count: int, shares: Mapping[str, float], wanted: list[str]) -> dict[str, int]:
    """Seats of each split: largest remainders, but one at least for each wanted split."""
    exact = {split: count * shares[split] for split in wanted}
    seats = {split: int(exact[split]) for split in wanted}
    by_remainder = sorted(wanted, key=lambda s: (seats[s] - exact[s], wanted.index(s)))
    for split in by_remainder[: count - sum(seats.values())]:
        seats[split] += 1
    for split in wanted[:count]:
        if seats[split] == 0:
            donor = max(wanted, key=lambda s: (seats[s], -wanted.index(s)))
            if seats[donor] > 1:
                seats[donor] -= 1
                seats[split] += 1
    return seats

"""Dealing patients into folds of cross-validation: no patient in two, classes spread evenly."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from pathology_scaat.errors import ManifestError

MIN_FOLDS = 3
"""One fold is tested, one validates, and at least one is left to train on."""
MAX_FOLDS = 100


def assign_folds(
    labels: Mapping[str, str],
    n_folds: int,
    seed: int = 0,
    sites: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Assign patients to folds 0 to ``n_folds - 1``.

    Parameters
    ----------
    labels : mapping of patient to label
        What the folds are stratified by.
    n_folds : int
    seed : int
        Equal seeds give equal folds, whatever the order of the patients.
    sites : mapping of patient to site, optional
        Patients of one site stay in one fold, so that every fold tests sites that its model has
        never seen (Howard et al., Nat Commun 2021;12:4423). A patient that is not named is a
        site of its own.

    Returns
    -------
    dict of patient to fold

    Raises
    ------
    ManifestError
        If there are fewer patients or sites than folds, or the number is out of range.

    Examples
    --------
    >>> found = assign_folds({"a": "x", "b": "x", "c": "x", "d": "y", "e": "y", "f": "y"}, 3)
    >>> sorted(found.values())
    [0, 0, 1, 1, 2, 2]
    """
    if not MIN_FOLDS <= n_folds <= MAX_FOLDS:
        raise ManifestError(
            "--folds", f"{n_folds} is not from {MIN_FOLDS} to {MAX_FOLDS}", "give e.g. 5"
        )
    groups: dict[str, list[str]] = {}
    for patient in labels:
        # the prefixes keep a site and a patient of one name apart
        site = (sites or {}).get(patient)
        groups.setdefault(f"site {site}" if site else f"patient {patient}", []).append(patient)
    if len(groups) < n_folds:
        what = "sites" if sites else "patients with a label"
        raise ManifestError(
            "the cohort", f"has {len(groups)} {what} for {n_folds} folds", "ask for fewer folds"
        )
    counts: dict[str, Counter[str]] = {
        name: Counter(labels[patient] for patient in members) for name, members in groups.items()
    }
    held: list[Counter[str]] = [Counter() for _ in range(n_folds)]
    found: dict[str, int] = {}
    frequency = Counter(labels.values())

    def turn(name: str) -> tuple[int, int, str]:
        """Large groups first, then rare classes: what comes last fills the gaps."""
        rarest = min(frequency[label] for label in counts[name])
        return (-sum(counts[name].values()), rarest, _draw(seed, name))

    for name in sorted(groups, key=turn):
        own = counts[name]

        def fullness(fold: int, own: Counter[str] = own) -> tuple[float, int, int]:
            """How full a fold is of these classes, then of anything."""
            share = sum(n * held[fold][label] / frequency[label] for label, n in own.items())
            return (share, held[fold].total(), fold)

        # an empty fold first: every fold needs somebody to test
        best = min(range(n_folds), key=lambda f: (*fullness(f),))
        held[best].update(own)
        found.update(dict.fromkeys(groups[name], best))
    return found


def _draw(seed: int, name: str) -> str:
    """A key that sorts names into a random order, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).hexdigest()


def split_of(fold: int, tested: int, n_folds: int) -> str:
    """What a patient of some fold is while another fold is tested: the next one validates."""
    if fold == tested:
        return "test"
    return "val" if fold == (tested + 1) % n_folds else "train"

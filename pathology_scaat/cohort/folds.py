"""Folds of cross-validation: no patient in two, classes spread evenly."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    refuse_too_few(len(groups), "sites" if sites else "patients with a label", n_folds)
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


def refuse_too_few(n: int, what: str, n_folds: int) -> None:
    """Refuse more folds than there are patients, or sites; ``what`` are counted, in words.

    Raises
    ------
    ManifestError
        If there are fewer than folds.
    """
    if n < n_folds:
        raise ManifestError(
            "the cohort", f"has {n} {what} for {n_folds} folds", "ask for fewer folds"
        )


@dataclass(frozen=True)
class FoldSlide:
    """What the assignment to folds needs to know of a slide.

    Attributes
    ----------
    label : str
        What folds are stratified by.
    fold : int or None
        The manifest's own.
    """

    slide_id: str
    patient_id: str
    label: str
    fold: int | None = None


def slide_folds(
    slides: Iterable[FoldSlide],
    n_folds: int,
    seed: int = 0,
    sites: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Folds of slides, all of a patient's in one; the manifest's own where every slide has one.

    Parameters
    ----------
    slides : iterable of FoldSlide
    n_folds, seed
        As for :func:`assign_folds`.
    sites : mapping of slide id to site, optional
        Sites that are kept together.

    Returns
    -------
    dict of slide id to fold

    Raises
    ------
    ManifestError
        If there are too few patients or sites, a patient is at two sites, or the manifest's
        folds part a patient or a site, or are of another number.
    """
    known = tuple(slides)
    labels: dict[str, set[str]] = {}
    sites_of_patient: dict[str, set[str]] = {}
    given: dict[str, set[int]] = {}
    for slide in known:
        labels.setdefault(slide.patient_id, set()).add(slide.label)
        if sites and slide.slide_id in sites:
            sites_of_patient.setdefault(slide.patient_id, set()).add(sites[slide.slide_id])
        if slide.fold is not None:
            given.setdefault(slide.patient_id, set()).add(slide.fold)
    _refuse_torn(sites_of_patient, "the cohort", "at more than one site", "give each one site")
    if known and all(slide.fold is not None for slide in known):
        _refuse_torn(given, "the manifest", "in more than one fold", "give each one fold")
        found = _given_folds(known, n_folds)
        _refuse_parted(found, sites or {})
        return found
    fold_of_patient = assign_folds(
        {patient: " and ".join(sorted(found)) for patient, found in labels.items()},
        n_folds,
        seed,
        {patient: next(iter(found)) for patient, found in sites_of_patient.items()}
        if sites
        else None,
    )
    return {s.slide_id: fold_of_patient[s.patient_id] for s in known}


def _refuse_torn(
    found: Mapping[str, set[str]] | Mapping[str, set[int]], subject: str, where: str, remedy: str
) -> None:
    torn = sorted(patient for patient, values in found.items() if len(values) > 1)
    if torn:
        raise ManifestError(subject, f"has patient '{torn[0]}' {where}", remedy)


def _refuse_parted(fold_of: Mapping[str, int], sites: Mapping[str, str]) -> None:
    """Refuse folds of the manifest that part a site which is to be kept together."""
    folds: dict[str, set[int]] = {}
    for slide, fold in fold_of.items():
        if slide in sites:
            folds.setdefault(sites[slide], set()).add(fold)
    parted = sorted(site for site, found in folds.items() if len(found) > 1)
    if parted:
        raise ManifestError(
            "--preserve-site",
            f"does not go with the manifest's folds: they put '{parted[0]}' into several",
            "leave out --preserve-site, or the column fold",
        )


def _given_folds(slides: Iterable[FoldSlide], n_folds: int) -> dict[str, int]:
    of_slide = {s.slide_id: s.fold for s in slides if s.fold is not None}
    numbers = sorted(set(of_slide.values()))
    if len(numbers) != n_folds:
        raise ManifestError(
            "the manifest",
            f"has {len(numbers)} folds ({', '.join(map(str, numbers[:10]))})",
            f"ask for --folds {len(numbers)}, or leave the column fold out",
        )
    return {slide: numbers.index(fold) for slide, fold in of_slide.items()}


def _draw(seed: int, name: str) -> str:
    """A key that sorts names into a random order, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).hexdigest()


def split_of(fold: int, tested: int, n_folds: int) -> str:
    """What a patient of some fold is while another fold is tested: the next one validates."""
    if fold == tested:
        return "test"
    return "val" if fold == (tested + 1) % n_folds else "train"

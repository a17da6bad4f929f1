"""Cross-validation of heads on features, and the record that looks at test cases are counted in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.run_record import FILE_NAME, write_run_record
from pathology_scaat.cohort.folds import FoldSlide, slide_folds, split_of
from pathology_scaat.cohort.manifest import ManifestRow
from pathology_scaat.errors import BundleError
from pathology_scaat.pipeline.head_targets import HEAD, fold_heads
from pathology_scaat.training.decision import Decision, read_decision
from pathology_scaat.training.heads.bundle import HeadBundle, load_head
from pathology_scaat.training.heads.train import FOLD_KEYS, Fold

SPLITS_DO_NOT_COUNT = (
    "The table's splits do not count: with folds every slide is tested once, by a head that never "
    "saw its patient."
)


@dataclass(frozen=True)
class FoldSplits:
    """Split of each slide while one fold is tested; of all slides where there is no fold."""

    fold: Fold | None
    splits: Mapping[str, str]


def plan_head_folds(
    rows: Sequence[ManifestRow], n_folds: int, seed: int, sites: Mapping[str, str] | None
) -> tuple[tuple[FoldSplits, ...], tuple[str, ...]]:
    """Folds of the slides of which the table says something, and what is to be said of them.

    Parameters
    ----------
    rows : sequence of ManifestRow
        Their labels are what folds are stratified by.
    n_folds, seed
        As for bags of patches.
    sites : mapping of slide id to site, optional

    Raises
    ------
    ManifestError
        If there are too few patients or sites.
    """
    slides = [FoldSlide(r.slide_id, r.patient_id, r.label or "", r.fold) for r in rows]
    fold_of = slide_folds(slides, n_folds, seed, sites)
    plans = tuple(
        FoldSplits(
            Fold(tested, n_folds),
            {slide: split_of(fold, tested, n_folds) for slide, fold in fold_of.items()},
        )
        for tested in range(n_folds)
    )
    patients: dict[int, set[str]] = {}
    for row in rows:
        patients.setdefault(fold_of[row.slide_id], set()).add(row.patient_id)
    counts = ", ".join(f"{fold}: {len(found)}" for fold, found in sorted(patients.items()))
    notes = [f"Patients of each fold: {counts}."]
    if any(row.split for row in rows):
        notes.append(SPLITS_DO_NOT_COUNT)
    return plans, tuple(notes)


@dataclass(frozen=True)
class Member:
    """One head that predicts; of cross-validation with its fold.

    ``decision`` is what is kept with it of what its validation cases chose, in ``folder``.
    """

    fold: int | None
    bundle: HeadBundle
    folder: Path | None = None
    decision: Decision | None = None


def member_of(fold: int | None, path: Path) -> Member:
    """A head of a folder, with what is kept with it.

    Raises
    ------
    BundleError
        If either is damaged, or what is kept is of another head.
    """
    bundle = load_head(path)
    return Member(fold, bundle, path, read_decision(path, bundle.fingerprint))


def members_of(folder: Path) -> tuple[Member, ...]:
    """The head of a folder, or those of all folds.

    Raises
    ------
    BundleError
        If a head is damaged, or some of the folds have none.
    """
    found = fold_heads(folder)
    if not found:
        return (member_of(None, folder / HEAD),)
    members = tuple(member_of(fold, path) for fold, path in found.items())
    for one in members:
        fold, n_folds = (one.bundle.config.training.get(key) for key in FOLD_KEYS)
        if fold != one.fold or n_folds != len(members):
            raise BundleError(
                folder.name,
                f"holds heads of {len(members)} folds, and that of fold {one.fold} is of {n_folds}",
                "repeat 'scaat train --features' with the same --folds",
            )
    return members


def record_heads(folder: Path, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Write ``run.json``, in which each look at test cases is entered.

    Looks that it holds stay.
    """
    write_run_record(folder, {"command": "train --features", **config}, inputs=inputs)


def ensure_record(folder: Path, config: Mapping[str, Any]) -> None:
    """A record where a head of elsewhere predicts and none is there."""
    if not (folder / FILE_NAME).exists():
        write_run_record(folder, {"command": "predict --features", **config})

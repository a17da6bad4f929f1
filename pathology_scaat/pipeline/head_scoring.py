"""What heads say of bags of features: of folds each of its own patients, of others all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pathology_scaat.errors import BundleError, ManifestError
from pathology_scaat.evaluation.performance.predictions import EXTERNAL
from pathology_scaat.pipeline.contributions import (
    CONTRIBUTIONS,
    contribution_files,
    write_contributions,
)
from pathology_scaat.pipeline.head_folds import Member
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.training.bundle_quality import silent_note
from pathology_scaat.training.heads.bundle import HeadBundle
from pathology_scaat.training.heads.data import FeatureBag, FeatureReader, is_known
from pathology_scaat.training.heads.patch_words import not_compared, other_patches

NO_ONE_MAP = (
    "{n} slide(s) that several heads predicted together have no contributions: they would be one "
    "head's."
)


@dataclass(frozen=True)
class Scored:
    """What heads say of one bag.

    Attributes
    ----------
    fold : int or None
        Of the head that never saw the patient; None where there is one head, or all spoke.
    split : str
        Part of the bag in the training of the head.
    scores : tuple of (K,) float64
        Of the one head, or of all.
    heads : tuple of HeadBundle
        Those that spoke.
    """

    bag: FeatureBag
    fold: int | None
    split: str
    scores: tuple[NDArray[np.float64], ...]
    heads: tuple[HeadBundle, ...]


@dataclass(frozen=True)
class AllScored:
    """Bags with what heads say of them, and what is to be said of it."""

    bags: tuple[Scored, ...]
    notes: tuple[str, ...]


def check_members(members: Sequence[Member]) -> None:
    """Refuse heads that do not tell the same thing.

    Raises
    ------
    BundleError
    """
    first = members[0].bundle.config
    for one in members[1:]:
        own = one.bundle.config
        if (own.target, own.unit, own.n_features, own.positive_class) != (
            first.target, first.unit, first.n_features, first.positive_class,
        ):  # fmt: skip
            raise BundleError("the heads", "do not tell the same", "train them alike")


def check_fit(bag: FeatureBag, bundle: HeadBundle) -> None:
    """Refuse features of another encoder than the head's, or of other patches.

    Raises
    ------
    BundleError
    """
    config = bundle.config
    for file in bag.files:
        if file.n_features != config.n_features:
            raise BundleError(
                file.path.name,
                f"has {file.n_features} features a patch, and the head wants {config.n_features}",
                "give features of the encoder that the head was trained on",
            )
        if file.encoder and config.encoder and file.encoder != config.encoder:
            raise BundleError(
                file.path.name,
                f"names the encoder '{file.encoder}', and the head '{config.encoder}'",
                "give features of the encoder that the head was trained on",
            )
        if other_patches(file.patch_words, config.patches):
            raise BundleError(
                file.path.name,
                f"is of patches of {file.patch_words}, and the head learnt from those of "
                f"{' and '.join(config.patches)}",
                "give features of patches of the same size and magnification",
            )


def _role(bundle: HeadBundle, bag: FeatureBag) -> str:
    """A bag's part in the training, by the head's own record: the one closest to training."""
    roles = {bundle.role_of(file.fingerprint, bag.patient_id) for file in bag.files}
    return next((role for role in ("train", "val", "test") if role in roles), "")


def refuse_known(bags: Sequence[FeatureBag], members: Sequence[Member]) -> None:
    """Refuse an external bag that a head was made with.

    Raises
    ------
    ManifestError
        Naming the first.
    """
    for bag in bags:
        roles = {_role(one.bundle, bag) for one in members}
        if roles & {"train", "val"}:
            raise ManifestError(
                "--test-manifest",
                f"holds '{bag.bag_id}' of patient '{bag.patient_id}', which the head was trained "
                "with: its slide or another one of that patient",
                "test on others",
            )


def score_bags(
    folder: Path,
    members: Sequence[Member],
    bags: Sequence[FeatureBag],
    external: frozenset[str],
    slides: Mapping[str, Path],
    listener: Reporter,
) -> AllScored:
    """Ask the heads: of folds each for the patients that it tests, all for those of elsewhere.

    Contributions are written into ``folder`` where one head alone speaks of a slide.

    Parameters
    ----------
    folder : Path
    members : sequence of Member
        One head, those of all folds, or several that speak together.
    bags : sequence of FeatureBag
        None without a patch.
    external : set of str
        Ids of bags of an external cohort.
    slides : mapping of slide id to Path
        Slide files, where they are there: to see whether patches lie on them.
    listener : Reporter
    """
    target = members[0].bundle.config.target
    reader = FeatureReader(0)
    found: list[Scored] = []
    notes: list[str] = []
    known = sorted({words for one in members for words in one.bundle.config.patches})
    stated = [file.patch_words for bag in bags for file in bag.files]
    if said := not_compared(stated, known):
        notes.append(said)
    n_unplaced = n_alone = n_together = n_without = 0
    for bag in bags:
        for one in members:
            check_fit(bag, one.bundle)
        roles = [_role(one.bundle, bag) for one in members]
        features = reader.read(bag)
        folds = members[0].fold is not None
        if folds and any(roles):
            speaking = [(m, r) for m, r in zip(members, roles, strict=True) if r in ("test", "val")]
            n_without += not any(role == "test" for _, role in speaking)
        else:
            speaking = []
        if not folds or not any(roles):
            worst = next((r for r in ("train", "val", "", "test") if r in roles), "")
            split = worst or (EXTERNAL if is_known(bag, target) else "")
            if bag.bag_id in external and split == "test":
                split = EXTERNAL
            parts = [_contributions(one.bundle, features) for one in members]
            heads = tuple(one.bundle for one in members)
            found.append(Scored(bag, None, split, tuple(p.sum(axis=0) for p in parts), heads))
            alone = parts[0] if len(members) == 1 else None
        else:
            alone = None
            for one, role in speaking:
                part = _contributions(one.bundle, features)
                found.append(Scored(bag, one.fold, role, (part.sum(axis=0),), (one.bundle,)))
                alone = part if role == "test" else alone
        start = 0
        for file in bag.files:
            rows = slice(start, start + file.n_patches)
            start = rows.stop
            if alone is None:
                n_together += len(members) > 1 and not speaking
                _forget(folder, file.slide_id)
                continue
            n_alone += 1
            written, problem = write_contributions(
                folder / CONTRIBUTIONS, file, alone[rows], target, slides.get(file.slide_id)
            )
            n_unplaced += not written.squares and not problem
            if problem:
                notes.append(problem)
        listener.advance("predict")
    if n_unplaced:
        notes.append(
            f"{n_unplaced} of {n_alone} slides have no contributions for QuPath: their "
            "files do not say where patches lie and how large they are on level 0."
        )
    if n_together:
        notes.append(NO_ONE_MAP.format(n=n_together))
    if n_without:
        notes.append(f"{n_without} bag(s) have no prediction: no fold's head is without them.")
    return AllScored(tuple(found), (*notes, *_silent(members)))


@torch.no_grad()
def _contributions(bundle: HeadBundle, features: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = bundle.model.contributions(features).numpy()
    return found


def _forget(folder: Path, slide_id: str) -> None:
    """Take away what an earlier head said of a slide's patches."""
    for path in contribution_files(folder / CONTRIBUTIONS, slide_id):
        path.unlink(missing_ok=True)


def _silent(members: Sequence[Member]) -> list[str]:
    """Heads that have learnt nothing, by fold."""
    told = [
        silent_note(one.bundle.config.nothing_learnt, one.fold, number, len(members))
        for number, one in enumerate(members, 1)
    ]
    return [note for note in told if note]

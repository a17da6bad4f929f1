"""Training a head on features that are there already: minutes on a CPU, no pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathology_scaat.errors import BundleError
from pathology_scaat.training.bundle_quality import LEARNT_FROM_PAINTED
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.bundle import load_head, read_head_config, save_head
from pathology_scaat.training.heads.checks import check_learnable
from pathology_scaat.training.heads.config import HeadBundleConfig, Target, Unit
from pathology_scaat.training.heads.data import FeatureBag, check_alike, is_known
from pathology_scaat.training.heads.identity import counts_by_class, identity_of, keys_by_split
from pathology_scaat.training.heads.judging import judge_classes, judge_survival
from pathology_scaat.training.heads.learning import HeadLearning
from pathology_scaat.training.heads.patch_words import PATCHES_NOT_KNOWN, stated_patches
from pathology_scaat.training.heads.settings import NOT_OF_HEADS, USED, head_settings
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.results import TrainProgress

FOLD_KEYS = ("fold", "n_folds")
"""What the record of a training says of cross-validation; absent where there was none."""


@dataclass(frozen=True)
class Fold:
    """One of the folds of cross-validation, from 0: the head does not see its patients."""

    number: int
    n_folds: int


@dataclass(frozen=True)
class HeadResult:
    """What training a head left.

    Attributes
    ----------
    metrics : dict
        On the validation bags: ``val_auc``... or ``val_c_index``.
    skipped : bool
        True where the right head was there already.
    fold : int or None
        Of cross-validation, which of its folds the head does not know.
    """

    path: Path
    config: HeadBundleConfig
    metrics: dict[str, float]
    n_epochs: int
    best_epoch: int
    notes: tuple[str, ...]
    nothing_learnt: str = ""
    skipped: bool = False
    fold: int | None = None


def train_head(
    bags: Sequence[FeatureBag],
    out_dir: Path,
    config: TrainConfig,
    target: Target,
    *,
    unit: Unit = "slide",
    seed: int = 0,
    fold: Fold | None = None,
    overwrite: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
) -> HeadResult:
    """Train an additive head on bags of features, and save it.

    Parameters
    ----------
    bags : sequence of FeatureBag
        Those for testing take no part.
    out_dir : Path
        The head's folder; the right one that is there already is kept.
    config : TrainConfig
        :data:`~pathology_scaat.training.heads.settings.USED` names the settings that count.
    target : Target
        What is learnt; with its classes or grades.
    unit : str
        What a bag is, for the record.
    fold : Fold, optional
        Which one of cross-validation, for the record.
    seed, overwrite, progress
        As for other trainings.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, or the files are of different encoders.
    UsageError
        If grades are fewer than two.
    """
    named = set(config.model_fields_set)
    config = head_settings(config)
    known = [b for b in bags if is_known(b, target) and b.n_patches]
    train = [b for b in known if b.split == "train"]
    val = [b for b in known if b.split == "val"]
    notes = check_learnable(bags, train, target, config, named)
    n_features, encoder = check_alike([*train, *val])
    patches = stated_patches(f.patch_words for bag in (*train, *val) for f in bag.files)
    if not patches:
        notes.append(PATCHES_NOT_KNOWN)
    if any(file.painted for bag in (*train, *val) for file in bag.files):
        notes.append(LEARNT_FROM_PAINTED)
    identity = identity_of(train, val, config, target, unit, seed)
    part = None if fold is None else fold.number
    slides = keys_by_split([(b.split, f.fingerprint) for b in bags for f in b.files], identity)
    patients = keys_by_split([(b.split, b.patient_id) for b in bags], identity)
    of_fold = {} if fold is None else {"fold": fold.number, "n_folds": fold.n_folds}
    if not overwrite:
        known_by = {"slides": slides, "patients": patients}
        if (done := _finished(out_dir, identity, of_fold, known_by)) is not None:
            return replace(done, fold=part)
    work = HeadLearning(train, val, config, target, n_features, seed, progress)
    work.run()
    survival = target.kind == "survival"
    judged = (
        judge_survival(work.model, work.reader, train, val)
        if survival
        else judge_classes(work.model, work.reader, val, target, unit, seed)
    )
    notes += judged.notes
    metrics = {
        "n_train_bags": float(len(train)),
        "n_val_bags": float(len(val)),
        "best_epoch": float(work.best_epoch),
        **judged.metrics,
    }
    written = save_head(
        out_dir,
        work.model,
        HeadBundleConfig(
            target=target,
            positive_class=""
            if survival
            else positive_class(config.positive_class, target.names).name,
            unit=unit,
            n_features=n_features,
            encoder=encoder,
            patches=patches,
            head=work.bag.head(),
            temperature=judged.temperature,
            calibration=judged.calibration,
            median_risk=judged.median_risk,
            training={
                **config.model_dump(mode="json", include=USED - {"cache_bytes"}),
                "bag": work.bag.model_dump(mode="json", exclude=NOT_OF_HEADS),
                "seed": seed,
                **of_fold,
            },
            training_fingerprint=identity,
            slides=slides,
            patients=patients,
            counts=counts_by_class(train, target),
            metrics=metrics,
            notes=tuple(notes),
        ),
    )  # fmt: skip
    return HeadResult(
        out_dir, written, metrics, work.epochs_done, work.best_epoch, tuple(notes),
        judged.nothing_learnt, fold=part,
    )  # fmt: skip


def _finished(
    path: Path,
    identity: str,
    of_fold: Mapping[str, int],
    known_by: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> HeadResult | None:
    """The head that this very training left, where it did.

    Slides that only test have no part in the training: where others do now, the head is kept and
    told of them, so that they are not taken for slides of elsewhere.
    """
    try:
        config = read_head_config(path)
    except BundleError:
        return None
    if config.training_fingerprint != identity:
        return None
    training = {k: v for k, v in config.training.items() if k not in FOLD_KEYS} | dict(of_fold)
    told = config.model_copy(update={**known_by, "training": training})
    if told != config:
        try:
            config = save_head(path, load_head(path).model, told)
        except BundleError:
            return None
    return HeadResult(path, config, dict(config.metrics), 0, int(config.metrics["best_epoch"]),
                      config.notes, config.nothing_learnt, skipped=True)  # fmt: skip

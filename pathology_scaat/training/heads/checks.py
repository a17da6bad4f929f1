"""What cannot be learnt from is refused; what is to be said of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.config import Target
from pathology_scaat.training.heads.data import FeatureBag, is_known
from pathology_scaat.training.heads.settings import USED
from pathology_scaat.training.positive_class import positive_class

LEAST_EVENTS = 2


def check_learnable(
    bags: Sequence[FeatureBag],
    train: list[FeatureBag],
    target: Target,
    config: TrainConfig,
    named: set[str],
) -> list[str]:
    """Refuse what cannot be learnt from; what is to be said of the rest.

    Parameters
    ----------
    bags : sequence of FeatureBag
        All of the cohort, those for testing among them.
    train : list of FeatureBag
        Those for training of which the table says something.
    target : Target
    config : TrainConfig
    named : set of str
        Settings that were asked for.

    Raises
    ------
    TrainingError
        If a patient is in two splits, or there is nothing to tell apart.
    UsageError
        If grades are fewer than two.
    """
    notes = []
    splits: dict[str, set[str]] = {}
    for bag in bags:
        splits.setdefault(bag.patient_id, set()).add(bag.split)
    divided = sorted(p for p, found in splits.items() if len(found - {""}) > 1)
    if divided:
        raise TrainingError(
            "the splits", f"put patient '{divided[0]}' into more than one", "give each patient one"
        )
    empty = [b.bag_id for b in bags if not b.n_patches]
    if empty:
        notes.append(f"Left out, since they hold no patch: {', '.join(empty[:5])}"
                     f"{', ...' if len(empty) > 5 else ''}.")  # fmt: skip
    unknown = sum(not is_known(b, target) for b in bags)
    if unknown:
        notes.append(f"{unknown} without a value of {target.column} take no part in the training.")
    if target.kind == "survival":
        events = sum(bool(b.event) for b in train)
        if events < LEAST_EVENTS:
            raise TrainingError(
                "the training patients",
                f"have {events} events",
                f"a Cox model needs {LEAST_EVENTS} at the very least; check the columns",
            )
        notes.append(
            f"Survival: {len(train)} training patients with {events} events; Cox partial "
            "likelihood over the patients of a step, ties by Efron."
        )
    else:
        if target.kind == "grades" and len(target.names) < 2:
            raise UsageError("--grades", "are fewer than two", "name them from lowest to highest")
        counts = Counter(b.label for b in train)
        shown_counts = (
            ", ".join(f"{name}: {counts.get(name, 0)}" for name in target.names) or "none"
        )
        if len(counts) < 2:
            raise TrainingError(
                "the training slides",
                f"have labels of fewer than two classes ({shown_counts})",
                "label more slides, or check the split",
            )
        notes.append(f"Training bags by class: {shown_counts}.")
        if missing := [name for name in target.names if not counts.get(name)]:
            notes.append(f"No training slide of: {', '.join(missing)}.")
        if target.kind == "classes":
            chosen = positive_class(config.positive_class, target.names).note
            notes.append(f"{chosen.replace('saliency speaks', 'sensitivity speaks', 1)}.")
    without = sorted(named - USED - {"labels", "method", "trainable"})
    if without:
        notes.append(f"Settings without effect on a head on features: {', '.join(without)}.")
    return notes

"""What validation cases chose goes with the model: read before it predicts, kept when it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.evaluation.performance.aggregate import Calibration
from pathology_scaat.evaluation.performance.calling import choices
from pathology_scaat.evaluation.performance.predictions import Prediction
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.members import FoldModel
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.decision import (
    DECISION_NAME,
    Choice,
    Decision,
    SlideCalibration,
    Together,
    read_decision,
    write_decision,
)

MAX_WORDS = 300


@dataclass(frozen=True)
class Chooser:
    """A model of this folder, whose validation cases may choose here.

    Attributes
    ----------
    fold : int or None
    bundle : Path
        Where what is chosen is kept.
    fingerprint : str
        Of the model.
    calibration : Calibration or None
        How its scores of slides became probabilities; None where its probabilities are the
        model's own.
    step_px : int or None
        From patch to patch on the slides here; None of features, or where slides differ.
    """

    fold: int | None
    bundle: Path
    fingerprint: str
    calibration: Calibration | None = None
    step_px: int | None = None


def with_decisions(models: Sequence[FoldModel]) -> list[FoldModel]:
    """The models with what is kept with each.

    Raises
    ------
    BundleError
        If a bundle, or what is kept with it, is damaged or of another model.
    """
    return [
        replace(one, decision=read_decision(one.model, model_fingerprint(config)))
        for one in models
        for config in (read_bundle_config(one.model),)
    ]


def kept_choice(decisions: Sequence[Decision | None]) -> Choice | None:
    """What was chosen for these models, as they predict together; None where nothing was.

    Of one model what its own validation cases chose; of several what was chosen for just these
    together, as for the models of all folds. Thresholds of models are not averaged: that of their
    mean is another one.
    """
    known = [one for one in decisions if one is not None]
    if not known or len(known) < len(decisions):
        return None
    if len(known) == 1:
        return known[0].alone
    prints = tuple(sorted(one.model for one in known))
    together = known[0].together
    same = together is not None and all(one.together == together for one in known)
    return together.choice if same and together is not None and together.models == prints else None


def steps_of(space: Workspace, rows: Sequence[Prediction]) -> tuple[int, ...]:
    """Distances from patch to patch on these slides, px; nearly always one."""
    stores = (PatchStore(space.patches(slide)) for slide in sorted({r.slide_id for r in rows}))
    return tuple(sorted({store.meta.grid.step_px for store in stores}))


def step_notes(decisions: Sequence[Decision | None], steps: Sequence[int]) -> list[str]:
    """That slides are tiled more or less densely than those that chose, as a sentence."""
    then = {one.step_px for one in decisions if one is not None and one.step_px is not None}
    if not steps or not then or set(steps) == then:
        return []
    here, there = (" and ".join(map(str, sorted(some))) for some in (steps, then))
    return [
        f"Patches lie {here} px apart here, and {there} px on the slides that chose threshold and "
        "referrals when the model was made: probabilities may be others, so that what was chosen "
        "fits less; tile with the same --overlap."
    ]


def keep(
    choosers: Sequence[Chooser],
    rows: Sequence[Prediction],
    class_names: Sequence[str],
    positive: str,
    listener: Reporter,
) -> None:
    """Keep with each model what its validation cases chose among these predictions of slides.

    Where they choose nothing (no labelled validation slides of two classes are here), what is
    kept already stays.
    """
    found = choices(rows, class_names, positive)
    folds = any(one.fold is not None for one in choosers)
    prints = tuple(sorted({one.fingerprint for one in choosers}))
    joint = found.get(None) if folds and len(prints) > 1 else None
    together = None if joint is None else Together(models=prints, choice=joint)
    changed = []
    for one in choosers:
        alone = found.get(one.fold)
        if alone is None and together is None:
            continue
        fit = one.calibration
        calibration = None if fit is None else SlideCalibration(
            slope=fit.slope, intercept=fit.intercept, text=fit.text[:MAX_WORDS]
        )  # fmt: skip
        changed.append(
            write_decision(
                one.bundle,
                Decision(
                    model=one.fingerprint,
                    step_px=one.step_px,
                    calibration=calibration,
                    alone=alone,
                    together=together,
                ),
            )
        )
    if any(changed):
        whose = "the model" if len(choosers) == 1 else "each of the models"
        listener.note(
            f"What the validation cases chose (threshold, referrals, how slides become patients) "
            f"is kept with {whose} ({DECISION_NAME}): applied to other slides it is used again."
        )

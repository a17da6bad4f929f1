"""Survival predicted by heads on features: risks of patients, and how well they are ordered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, SUMS_NAME
from pathology_scaat.artifacts.run_record import record_test
from pathology_scaat.evaluation.performance.predictions import EXTERNAL
from pathology_scaat.evaluation.performance.report_files import STEMS, remove_performance
from pathology_scaat.evaluation.performance.survival import (
    Risk,
    measure_risks,
    survival_files,
    write_risks,
    write_survival,
)
from pathology_scaat.pipeline.head_folds import Member
from pathology_scaat.pipeline.head_scoring import Scored
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.training.bundle_quality import painted_note, read_first

RULE = (
    "a head on features: the sum of what the patches of a bag contribute, a log hazard; a bag is "
    "one patient"
)
JOINT_RULE = (
    "the mean of {n} heads' log hazards, each above the median of its own training patients"
)
OWN_ZERO = (
    "The log hazards of two folds have no common zero: compare patients within a fold, or by "
    "risk_group, which is of each head's own median."
)


@dataclass(frozen=True)
class SurvivalRecords:
    """What was measured: of the evaluated patients, and of an external cohort beside folds."""

    n_predicted: int
    main: dict[str, Any]
    external: dict[str, Any] | None


def publish_survival(
    folder: Path,
    members: Sequence[Member],
    scored: Sequence[Scored],
    notes: Sequence[str],
    subgroups: Mapping[str, Mapping[str, str]],
    seed: int,
    listener: Reporter,
) -> SurvivalRecords:
    """Write risks and what they are worth into ``folder``.

    Parameters
    ----------
    folder : Path
    members : sequence of Member
        The heads that predicted.
    scored : sequence of Scored
        Bags of patients.
    notes : sequence of str
    subgroups : mapping of column to (mapping of slide id to value)
    seed : int
        Of the bootstrap.
    listener : Reporter
    """
    folds = members[0].fold is not None
    # those that a fold's head was chosen by are tested by another one
    risks = [_risk(one) for one in scored if one.fold is None or one.split == "test"]
    write_risks(folder / PREDICTIONS_NAME, risks)
    sets = [risks]
    if folds:
        inside = [r for r in risks if r.split != EXTERNAL]
        outside = [r for r in risks if r.split == EXTERNAL and r.is_known]
        sets = [inside, outside] if outside else [inside]
    config = members[0].bundle.config
    how: dict[str, Any] = {
        "rule": RULE if len(members) == 1 or folds else JOINT_RULE.format(n=len(members)),
        "calibration": config.calibration,
        "models": [{"fold": one.fold, "fingerprint": one.bundle.fingerprint,
                    "median_log_hazard": one.bundle.config.median_risk} for one in members],
        "risk_group": "high above the median log hazard of the training patients",
    }  # fmt: skip
    if len(members) == 1:
        how["model"] = members[0].bundle.fingerprint
    if len(sets) > 1:
        how["external_rule"] = JOINT_RULE.format(n=len(members))
    said = [*notes, *([OWN_ZERO] if folds else [])]
    records = []
    painted = {f.slide_id for one in scored for f in one.bag.files if f.painted}
    of_models = said
    for own, stem in zip(sets, STEMS, strict=False):
        judged, words = _judged(own)
        shown = {slide_id for risk in judged for slide_id in risk.slide_ids}
        note = painted_note(len(shown & painted), len(shown))
        said = [*([note] if note else []), *of_models]
        record = measure_risks(judged, words, subgroups=subgroups, seed=seed)
        looks = record_test(folder, words, record["predictions_fingerprint"]) if judged else 0
        record |= {"prediction": how, "earlier_looks_at_these_cases": looks, "notes": said,
                   "read_first": list(read_first(said))}  # fmt: skip
        write_survival(folder, record, stem)
        records.append(record)
    for stem in STEMS[len(records) :]:
        remove_performance(folder, stem)
    files = [name for stem in STEMS[: len(records)] for name in survival_files(stem)]
    write_sums(folder, SUMS_NAME, (PREDICTIONS_NAME, *files))
    for note in said:
        listener.note(note)
    return SurvivalRecords(len(risks), records[0], records[1] if len(records) > 1 else None)


def _risk(one: Scored) -> Risk:
    """A patient's risk: of the head that spoke, or of several what they put above their medians."""
    medians = np.array([b.config.median_risk or 0.0 for b in one.heads])
    values = np.array([float(s[0]) for s in one.scores])
    above = values - medians
    several = len(values) > 1
    return Risk(
        one.bag.patient_id, tuple(f.slide_id for f in one.bag.files), one.split,
        float(above.mean()) if several else float(values[0]), bool(above.mean() > 0),
        one.bag.time, one.bag.event, "" if several else one.heads[0].fingerprint,
        fold=one.fold, disagreement=float(above.std()) if several else None,
    )  # fmt: skip


def _judged(risks: Sequence[Risk]) -> tuple[list[Risk], str]:
    """Which patients count: those that took no part in training, where there are any."""
    tested = [r for r in risks if r.split == "test" and r.is_known]
    n_folds = len({r.fold for r in tested if r.fold is not None})
    out_of_fold = (
        f"out-of-fold predictions of {n_folds} folds: each patient by a head that never saw it"
    )
    for split, words in (
        (EXTERNAL, "external test patients"),
        ("test", out_of_fold if n_folds else "test patients"),
        ("val", "validation patients, which chose the epoch: optimistic"),
    ):
        found = [r for r in risks if r.split == split and r.is_known]
        if found:
            return found, words
    return [], "no patients that took no part in the training"

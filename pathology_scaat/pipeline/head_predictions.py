"""``scaat predict --features``: what heads say of slides and patients, and of each patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, SUMS_NAME, claim_output
from pathology_scaat.errors import BundleError, UsageError
from pathology_scaat.evaluation.performance.predictions import EXTERNAL, Prediction
from pathology_scaat.evaluation.performance.survival import (
    Risk,
    measure_risks,
    write_risks,
    write_survival,
)
from pathology_scaat.metrics.functional.calibration import softmax
from pathology_scaat.pipeline.contributions import CONTRIBUTIONS, write_contributions
from pathology_scaat.pipeline.head_cohort import (
    FeatureCohort,
    Truth,
    make_bags,
    read_feature_cohort,
    truth_of,
)
from pathology_scaat.pipeline.head_targets import HEAD, head_folders, refuse_slide_models
from pathology_scaat.pipeline.predict import Gathered, PredictReport, publish
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.training.heads.bundle import HeadBundle, load_head, read_head_config
from pathology_scaat.training.heads.data import FeatureBag, FeatureReader, is_known

BAG_RULE = (
    "a head on features: the sum of what the patches of a bag contribute, calibrated; a bag is "
    "one {unit}"
)
OF_PATIENTS = "Each bag is all slides of a patient: what is headed slides counts bags."


@dataclass(frozen=True)
class HeadPredictions:
    """What predicting with one head left.

    Attributes
    ----------
    classes : PredictReport or None
        Of classes and grades.
    survival : dict or None
        The record of survival, as ``performance.json``.
    """

    folder: Path
    n_predicted: int
    classes: PredictReport | None = None
    survival: dict[str, Any] | None = None

    @property
    def performance(self) -> dict[str, Any] | None:
        """The record of what was measured; None where nothing was."""
        if self.classes is None:
            return self.survival
        found = self.classes.performance
        return found.as_dict() if found is not None else None


def predict_heads(
    manifest: Path,
    out: Path,
    features: Path,
    *,
    model: Path | None = None,
    prevalence: float | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> tuple[HeadPredictions, ...]:
    """Predict with the heads in ``out``, or with another one, and measure where there is a truth.

    Writes ``predictions.csv``, ``performance.*``, and of each slide what its patches contribute.

    Raises
    ------
    UsageError
        If there is no head, or table and features do not fit.
    BundleError
        If the features are of another encoder than the head's.
    """
    listener = reporter or Silent()
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError("--prevalence", f"{prevalence} is no share", "give e.g. 0.1")
    pairs = [(out, model)] if model is not None else [(f, f / HEAD) for f in head_folders(out)]
    if not pairs:
        raise UsageError("--out", "holds no head", "train one with 'scaat train --features'")
    for _, path in pairs:
        read_head_config(path)
    refuse_slide_models(out)
    cohort = read_feature_cohort(manifest, features)
    claim_output(out)
    for note in cohort.notes:
        listener.note(note)
    return tuple(
        _predict_one(folder, load_head(path), cohort, prevalence, seed, listener)
        for folder, path in pairs
    )


def _predict_one(
    folder: Path,
    bundle: HeadBundle,
    cohort: FeatureCohort,
    prevalence: float | None,
    seed: int,
    listener: Reporter,
) -> HeadPredictions:
    config = bundle.config
    truth = truth_of(cohort, config.target, needed=False)
    bags = make_bags(cohort, truth, config.unit)
    bags = [bag for bag in bags if bag.n_patches]
    for bag in bags:
        _check_fit(bag, bundle)
    listener.begin("predict", len(bags))
    reader = FeatureReader(0)
    scores = []
    notes: list[str] = []
    n_squares = n_tables = 0
    for bag in bags:
        with torch.no_grad():
            parts = bundle.model.contributions(reader.read(bag))
        scores.append(parts.sum(dim=0).numpy())
        start = 0
        for file in bag.files:
            mine = parts[start : start + file.n_patches].numpy()
            start += file.n_patches
            written, problem = write_contributions(
                folder / CONTRIBUTIONS, file, mine, config.target, _slide_of(cohort, file.slide_id)
            )
            n_tables += written.table
            n_squares += written.squares
            if problem:
                notes.append(problem)
        listener.advance("predict")
    listener.end("predict")
    n_slides = sum(len(bag.files) for bag in bags)
    if n_squares < n_slides:
        notes.append(
            f"{n_slides - n_squares} of {n_slides} slides have no contributions for QuPath: their "
            "files do not say where patches lie and how large they are on level 0."
        )
    if config.notes and any("LEARNT NOTHING" in note for note in config.notes):
        notes.append(next(note for note in config.notes if "LEARNT NOTHING" in note))
    found = np.array(scores, np.float64).reshape(len(bags), -1)
    splits = [_split_of(bundle, bag) for bag in bags]
    if config.target.kind == "survival":
        return _survival(folder, bundle, bags, found[:, 0], splits, notes, seed, listener)
    return _classes(folder, bundle, bags, found, splits, notes, truth, prevalence, seed, listener)


def _check_fit(bag: FeatureBag, bundle: HeadBundle) -> None:
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


def _slide_of(cohort: FeatureCohort, slide_id: str) -> Path | None:
    """The slide's file, where the table names one that is there and is no file of features."""
    row = next(r for r in cohort.manifest.rows if r.slide_id == slide_id)
    location = row.slide_path
    if not isinstance(location, Path) or location.suffix.lower() in (".h5", ".hdf5"):
        return None
    return location if location.exists() else None


def _split_of(bundle: HeadBundle, bag: FeatureBag) -> str:
    """A bag's part in the training, by the head's own record: the one closest to training."""
    roles = {bundle.role_of(file.fingerprint, bag.patient_id) for file in bag.files}
    worst = next((role for role in ("train", "val", "test") if role in roles), "")
    return worst or (EXTERNAL if is_known(bag, bundle.config.target) else "")


def _classes(
    folder: Path,
    bundle: HeadBundle,
    bags: Sequence[FeatureBag],
    scores: np.ndarray,
    splits: Sequence[str],
    notes: list[str],
    truth: Mapping[str, Truth],
    prevalence: float | None,
    seed: int,
    listener: Reporter,
) -> HeadPredictions:
    config = bundle.config
    with torch.no_grad():
        logits = bundle.model.logits(torch.from_numpy(scores).float()).double().numpy()
    chances = softmax(logits / config.temperature)
    rows = tuple(
        Prediction(
            bag.patient_id, "; ".join(f.slide_id for f in bag.files), None, split, bag.label,
            chance, model=bundle.fingerprint,
        )
        for bag, split, chance in zip(bags, splits, chances, strict=True)
    )  # fmt: skip
    if config.unit == "patient":
        notes.append(OF_PATIENTS)
    if not truth:
        notes.append(f"The table has no column {config.target.column}: nothing is measured.")
    how = {
        "rule": BAG_RULE.format(unit=config.unit),
        "calibration": config.calibration,
        "models": [{"fold": None, "fingerprint": bundle.fingerprint,
                    "calibration": config.calibration}],
    }  # fmt: skip
    gathered = Gathered(rows, config.target.names, config.positive_class, how, True, False)
    report = publish(
        folder, gathered, notes=notes, folds=False, prevalence=prevalence, subgroups=None,
        seed=seed, listener=listener, fill_slide_table=False,
    )  # fmt: skip
    if report.performance is None:
        for note in notes:
            listener.note(note)
    return HeadPredictions(folder, len(rows), classes=report)


def _survival(
    folder: Path,
    bundle: HeadBundle,
    bags: Sequence[FeatureBag],
    hazards: np.ndarray,
    splits: Sequence[str],
    notes: list[str],
    seed: int,
    listener: Reporter,
) -> HeadPredictions:
    median = bundle.config.median_risk or 0.0
    risks = [
        Risk(
            bag.patient_id, tuple(f.slide_id for f in bag.files), split, float(hazard),
            bool(hazard > median), bag.time, bag.event, bundle.fingerprint,
        )
        for bag, hazard, split in zip(bags, hazards, splits, strict=True)
    ]  # fmt: skip
    write_risks(folder / PREDICTIONS_NAME, risks)
    judged, words = _judged(risks)
    record = {
        **measure_risks(judged, words, seed=seed),
        "prediction": {"rule": BAG_RULE.format(unit="patient"),
                       "calibration": bundle.config.calibration,
                       "model": bundle.fingerprint,
                       "risk_group": f"high above {median:.6g}, the training patients' median"},
        "notes": notes,
    }  # fmt: skip
    write_survival(folder, record)
    write_sums(folder, SUMS_NAME, (PREDICTIONS_NAME, "performance.json", "performance.md"))
    for note in notes:
        listener.note(note)
    return HeadPredictions(folder, len(risks), survival=record)


def _judged(risks: Sequence[Risk]) -> tuple[list[Risk], str]:
    """Which patients count: those that took no part in training, where there are any."""
    for split, words in (
        (EXTERNAL, "external test patients"),
        ("test", "test patients"),
        ("val", "validation patients, which chose the epoch: optimistic"),
    ):
        found = [r for r in risks if r.split == split and r.is_known]
        if found:
            return found, words
    return [], "no patients that took no part in the training"

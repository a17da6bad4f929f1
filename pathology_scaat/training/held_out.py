"""How good a model is on tissue it was not trained on, with intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.metrics.classification import macro_auc
from pathology_scaat.metrics.functional.calibration import sigmoid, softmax
from pathology_scaat.training.bundle_quality import Estimate, HeldOut
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.results import TrainingSlide
from pathology_scaat.training.sampling import class_counts

BLOCK_PATCHES = 4
"""Side of a block that is resampled as one, in patches: neighbours look alike."""

N_RESAMPLES = 1000
LEAST_UNITS = 5
MOST_PATCHES = 20_000
"""Beyond, as many evenly spread ones are resampled: the interval is over units, not patches."""

Unit = Literal["patient", "slide", "block", "patch"]


def units(
    table: PatchTable, slides: Sequence[TrainingSlide]
) -> tuple[Unit, NDArray[np.int64], int, int]:
    """What to resample: the largest unit of which there are five; unit codes (N,), and how many
    slides and patients there are."""
    used = np.unique(table.store_index)
    patients = np.array([slides[i].patient_id for i in range(len(slides))])
    n_patients = len(np.unique(patients[used])) if len(used) else 0
    found: dict[Unit, NDArray[Any]] = {}
    if len(used):
        found["patient"] = patients[table.store_index]
    found["slide"] = table.store_index
    block = np.zeros((len(table), 3), np.int64)
    for number in used:
        mine = table.store_index == number
        store = table.stores[number]
        reach = max(1, -(-store.meta.grid.patch_size_px // store.meta.grid.step_px))
        cells = store.grid_index[table.row[mine]].astype(np.int64)
        block[mine] = np.column_stack(
            [np.full(int(mine.sum()), number), cells // (BLOCK_PATCHES * reach)]
        )
    found["block"] = np.unique(block, axis=0, return_inverse=True)[1].ravel()
    found["patch"] = np.arange(len(table))
    for unit, codes in found.items():
        _, numbers = np.unique(codes, return_inverse=True)
        if unit == "patch" or int(numbers.max(initial=-1)) + 1 >= LEAST_UNITS:
            return unit, np.asarray(numbers, np.int64).ravel(), len(used), n_patients
    raise AssertionError("unreachable")


def _balanced_accuracy(hit: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Mean recall over classes from weighted hits and counts, (K,); NaN where a class is none."""
    return float((hit / truth).mean()) if (truth > 0).all() else math.nan


def _resampled(
    probability: NDArray[np.float64], labels: NDArray[Any], codes: NDArray[np.int64], seed: int
) -> tuple[list[float], list[float]]:
    """AUC and balanced accuracy of bootstrap samples of whole units."""
    n_units = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=N_RESAMPLES)
    members = [np.flatnonzero(codes == u) for u in range(n_units)]
    hits, totals = _recall_parts(probability, labels)
    aucs, accuracies = [], []
    numbers = np.arange(n_units)
    per_unit_hit = np.stack([hits[m].sum(axis=0) for m in members])
    per_unit_total = np.stack([totals[m].sum(axis=0) for m in members])
    for number, drawn in enumerate(draws):
        accuracies.append(_balanced_accuracy(drawn @ per_unit_hit, drawn @ per_unit_total))
        if number < N_RESAMPLES // 4:  # ranking costs more
            some = np.concatenate([members[u] for u in np.repeat(numbers, drawn)])
            aucs.append(macro_auc(probability[some], labels[some]))
    return aucs, accuracies


def _recall_parts(
    probability: NDArray[np.float64], labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each patch and class: right and of the class, of the class; (N, K) each.

    For several labels a class counts twice, present and absent.
    """
    if labels.ndim == 2:
        there, said = labels > 0.5, probability > 0.5
        truth = np.concatenate([there, ~there], axis=1)
        return (truth & np.concatenate([said, ~said], axis=1)).astype(float), truth.astype(float)
    present = np.unique(labels)
    truth = labels[:, None] == present
    return (truth & (probability.argmax(axis=1) == labels)[:, None]).astype(float), truth.astype(
        float
    )


def _estimate(value: float, drawn: list[float]) -> Estimate | None:
    if not math.isfinite(value):
        return None
    kept = np.array([v for v in drawn if math.isfinite(v)])
    if len(kept) < len(drawn) / 2 or not len(kept):
        return Estimate(value=round(value, 6))
    low, high = np.quantile(kept, [0.025, 0.975])
    if high - low < 1e-12:  # all samples agree: a bootstrap would call the value certain
        return Estimate(value=round(value, 6))
    return Estimate(value=round(value, 6), low=round(float(low), 6), high=round(float(high), 6))


def measure_held_out(
    logits: NDArray[np.floating[Any]],
    temperature: float,
    table: PatchTable,
    slides: Sequence[TrainingSlide],
    class_names: Sequence[str],
    source: Literal["test slides", "validation slides", "blocks of the training slides"],
    seed: int = 0,
) -> HeldOut:
    """Scores of held-out patches, (N, K) logits in the table's order, calibrated here.

    ``slides`` are those that the table's stores are of, in their order.
    """
    labels = table.labels
    calibrated = logits.astype(np.float64) / temperature
    probability = sigmoid(calibrated) if labels.ndim == 2 else softmax(calibrated)
    counts = class_counts(labels, len(class_names))
    unit, codes, n_slides, n_patients = units(table, slides)
    span = 0.0
    if len(labels):
        low, high = np.quantile(probability, [0.05, 0.95], axis=0)
        span = float((high - low).max())
    present = int((counts > 0).sum())
    auc = accuracy = None
    if present >= 2 or (labels.ndim == 2 and present):
        hit, truth = (part.sum(axis=0) for part in _recall_parts(probability, labels))
        values = macro_auc(probability, labels), _balanced_accuracy(hit, truth)
        some = np.unique(
            np.linspace(0, len(labels) - 1, min(len(labels), MOST_PATCHES)).astype(np.int64)
        )
        _, chosen = np.unique(codes[some], return_inverse=True)
        drawn = _resampled(probability[some], labels[some], chosen.ravel(), seed)
        auc, accuracy = (_estimate(v, d) for v, d in zip(values, drawn, strict=True))
    return HeldOut(
        source=source,
        n_patches=len(labels),
        n_slides=n_slides,
        n_patients=n_patients,
        unit=unit,
        n_units=int(codes.max(initial=-1)) + 1,
        class_counts={n: int(c) for n, c in zip(class_names, counts, strict=True)},
        auc=auc,
        balanced_accuracy=accuracy,
        chance=0.5 if labels.ndim == 2 else 1 / max(present, 1),
        probability_span=round(span, 6),
    )


def measure_held_out_slides(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    temperature: float,
    patients: Sequence[str],
    n_patches: int,
    class_names: Sequence[str],
    seed: int = 0,
) -> HeldOut:
    """Scores of whole validation slides under a model for bags, (N, K) logits.

    Intervals are over patients, and there are none with fewer than five of them.

    Parameters
    ----------
    logits, labels : (N, K), (N,)
    temperature : float
        Calibrates the logits.
    patients : (N,)
        Of each slide.
    n_patches : int
        In all these slides.
    """
    probability = softmax(logits.astype(np.float64) / temperature)
    counts = class_counts(labels, len(class_names))
    _, codes = np.unique(np.asarray(patients), return_inverse=True)
    n_patients = int(codes.max(initial=-1)) + 1
    present = int((counts > 0).sum())
    span = 0.0
    if len(labels):
        low, high = np.quantile(probability, [0.05, 0.95], axis=0)
        span = float((high - low).max())
    auc = accuracy = None
    if present >= 2:
        hit, truth = (part.sum(axis=0) for part in _recall_parts(probability, labels))
        values = macro_auc(probability, labels), _balanced_accuracy(hit, truth)
        drawn: tuple[list[float], list[float]] = ([], [])
        if n_patients >= LEAST_UNITS:
            drawn = _resampled(probability, labels, codes.astype(np.int64), seed)
        auc, accuracy = (_estimate(v, d) for v, d in zip(values, drawn, strict=True))
    return HeldOut(
        source="validation slides",
        n_patches=n_patches,
        n_slides=len(labels),
        n_patients=n_patients,
        unit="patient",
        n_units=n_patients,
        class_counts={n: int(c) for n, c in zip(class_names, counts, strict=True)},
        auc=auc,
        balanced_accuracy=accuracy,
        chance=1 / max(present, 1),
        probability_span=round(span, 6),
        judged="slides",
    )

"""The training patches that a patch lies nearest to in the model's features.

The bundle keeps features and where the patches came from as keyed hashes of slide and store: no
pixel and no name, so that a bundle that leaves a hospital takes no picture of a patient along.
Whoever has the patch stores of the training can show the patches; nobody else can.

Search is exact (Euclidean distance of standardised features), and distances are given relative to
those that held-out patches have to their nearest training patch of another patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.metrics.classification import macro_auc
from pathology_scaat.metrics.functional.calibration import sigmoid, softmax
from pathology_scaat.patches.copied_labels import copied_class
from pathology_scaat.training.bundle_config import slide_key
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.positive_class import doubtful_label

VOTERS = 15
"""Neighbours that are asked which class a patch is of."""
N_QUANTILES = 201
LEAST_PATCHES = 50
KEY_DIGITS = 15
"""Hex digits of a key: as many as an int64 holds."""
ALL_PATIENTS = -1


def short_key(fingerprint: str, training_fingerprint: str) -> int:
    """Keyed hash of a slide's or a store's fingerprint, as a number."""
    return int(slide_key(fingerprint, training_fingerprint)[:KEY_DIGITS], 16)


@dataclass(frozen=True)
class NeighbourIndex:
    """Standardised features of N training patches, and what is known of each.

    Attributes
    ----------
    features : (N, F) float16
    mean, scale : (F,) float32
        What features are standardised by.
    label : (N,) int64, or (N, K) int64 of 0 and 1
        Class of the patch, or which of several labels it has. Of a model that learnt from slides
        it is the class of the patch's slide: nobody knows that of the patch.
    patient : (N,) int64
        Number of the patient; not who it is.
    store, row : (N,) int64
        Number of the patch store, and the patch's row in it.
    slide_keys, store_keys : (S,) int64
        :func:`short_key` of slide and store by number of the store.
    usual : (201,) float32
        Distances of held-out patches to their nearest training patch of another patient, from
        the smallest to the largest; NaN where they could not be measured.
    voted_auc, model_auc : (1,) float32
        AUC of the vote of the nearest 15, and of the model, on the same held-out patches; NaN
        where unknown.
    copied : (N,) int64
        Whether the class is that of the patch's slide, copied onto the patch, which may show
        nothing of it: 1, or 0, or -1 where an index of before does not say.
    """

    features: NDArray[np.float16]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    label: NDArray[np.int64]
    patient: NDArray[np.int64]
    store: NDArray[np.int64]
    row: NDArray[np.int64]
    slide_keys: NDArray[np.int64]
    store_keys: NDArray[np.int64]
    usual: NDArray[np.float32]
    voted_auc: NDArray[np.float32]
    model_auc: NDArray[np.float32]
    copied: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def distances(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Of one patch's features (F,) to each training patch, (N,)."""
        query = ((features - self.mean) / self.scale).astype(np.float32)
        apart = self.features.astype(np.float32) - query
        found: NDArray[np.float32] = np.sqrt((apart * apart).sum(axis=1))
        return found

    def others(self, patient: int) -> NDArray[np.bool_]:
        """(N,): patches of other patients than that one."""
        return np.asarray(self.patient != patient)

    def patient_of_slide(self, key: int) -> int:
        """The patient's number of a training slide; :data:`ALL_PATIENTS` for any other slide."""
        (found,) = np.nonzero(self.slide_keys == key)
        mine = np.isin(self.store, found)
        return int(self.patient[mine][0]) if mine.any() else ALL_PATIENTS

    def has(self, number: int) -> NDArray[np.bool_]:
        """(N,): patches of a class, or that have a label."""
        if self.label.ndim == 2:
            return np.asarray(self.label[:, number] > 0)
        return np.asarray(self.label == number)

    def nearest(
        self, distances: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Indices of the ``count`` nearest allowed training patches, nearest first, (n,) int64.

        ``distances`` and ``allowed`` are (N,), one for each patch of the index.
        """
        numbers = np.flatnonzero(allowed)
        order = np.argsort(distances[numbers], kind="stable")[:count]
        return numbers[order]

    def vote(self, distances: NDArray[np.float32], patient: int, n_classes: int) -> NDArray[Any]:
        """Share of each class among the nearest patches of other patients, (K,); NaN of none.

        Shares sum to one, except where a patch may have several labels.
        """
        chosen = self.nearest(distances, VOTERS, self.others(patient))
        if self.label.ndim == 2:
            return self.label[chosen].mean(axis=0) if len(chosen) else np.full(n_classes, math.nan)
        counts = np.bincount(self.label[chosen], minlength=n_classes).astype(float)
        return counts / counts.sum() if counts.sum() else np.full(n_classes, math.nan)

    def percentile(self, distance: float) -> float | None:
        """Share of held-out patches that lie nearer to their neighbour, in %; None if unknown."""
        if np.isnan(self.usual).any():
            return None
        return float(np.interp(distance, self.usual, np.linspace(0, 100, len(self.usual))))

    def tensors(self) -> dict[str, Tensor]:
        """For a file of tensors; copies, since no two of a file may share memory."""
        return {f.name: torch.from_numpy(np.array(getattr(self, f.name), order="C"))
                for f in fields(self)}  # fmt: skip

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> NeighbourIndex:
        """From a file of tensors; ValueError where it is another, or its parts do not fit."""
        if "copied" not in tensors and "row" in tensors:
            tensors = {**tensors, "copied": torch.full_like(tensors["row"], -1)}
        if set(tensors) != {f.name for f in fields(cls)}:
            raise ValueError("not an index of neighbours")
        made = cls(**{name: value.numpy() for name, value in tensors.items()})
        per_patch = (made.patient, made.store, made.row, made.copied)
        n = len(made.features)
        if made.label.ndim not in (1, 2) or len(made.label) != n:
            raise ValueError("labels that do not fit the patches")
        if made.features.ndim != 2 or any(part.shape != (n,) for part in per_patch):
            raise ValueError("parts of an index that do not fit each other")
        if n and not (made.store.min() >= 0 and made.store.max() < len(made.store_keys)):
            raise ValueError("a patch of no store")
        return made


def build_index(
    training: tuple[PatchTable, NDArray[np.float32]],
    held_out: tuple[PatchTable, NDArray[np.float32]],
    training_patients: Sequence[str],
    held_out_patients: Sequence[str],
    held_out_logits: NDArray[np.floating[Any]] | None,
    training_fingerprint: str,
    n_classes: int,
) -> NeighbourIndex | None:
    """Index the training patches, and measure what distances and votes are worth.

    Parameters
    ----------
    training, held_out : (PatchTable, (N, F) float32)
        Patches with their features.
    training_patients, held_out_patients : sequence of str
        Of the tables' stores, in their order.
    held_out_logits : (M, K), optional
        The model's own, calibrated, of the held-out patches.
    training_fingerprint : str
        Key of the hashes.
    n_classes : int

    Returns
    -------
    NeighbourIndex or None
        None where patches are too few, or the model has no features.
    """
    table, features = training
    if len(table) < LEAST_PATCHES or not features.shape[1]:
        return None
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.maximum(scale, max(1e-3 * float(scale.max()), 1e-9))
    names = sorted({*training_patients, *held_out_patients})
    code = {name: number for number, name in enumerate(names)}
    metas = [store.meta for store in table.stores]
    unknown = np.full(1, np.nan, np.float32)
    made = NeighbourIndex(
        features=np.clip((features - mean) / scale, -6e4, 6e4).astype(np.float16),
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        label=_whole(table.labels),
        patient=np.array([code[p] for p in training_patients], np.int64)[table.store_index],
        store=table.store_index.astype(np.int64),
        row=table.row.astype(np.int64),
        slide_keys=np.array([short_key(m.slide_fingerprint, training_fingerprint) for m in metas]),
        store_keys=np.array([short_key(m.fingerprint, training_fingerprint) for m in metas]),
        usual=np.full(N_QUANTILES, np.nan, np.float32),
        voted_auc=unknown,
        model_auc=unknown,
        copied=_copied(table),
    )
    return _measured(made, *held_out, held_out_patients, code, held_out_logits, n_classes)


def _copied(table: PatchTable) -> NDArray[np.int64]:
    """(N,): 1 where a patch has its slide's label, and that may be wrong for it, else 0."""
    metas = [store.meta for store in table.stores]
    doubtful = [doubtful_label(copied_class(m), m.class_names) for m in metas]
    return np.array(doubtful, np.int64)[table.store_index]


def _whole(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Classes as they are; several labels a patch as 0 and 1."""
    return (labels > 0.5).astype(np.int64) if labels.ndim == 2 else labels.astype(np.int64)


def _measured(
    index: NeighbourIndex,
    table: PatchTable,
    features: NDArray[np.float32],
    of_store: Sequence[str],
    code: dict[str, int],
    logits: NDArray[np.floating[Any]] | None,
    n_classes: int,
) -> NeighbourIndex:
    patients = [code[of_store[number]] for number in table.store_index]
    found, votes = [], []
    for row, patient in zip(features, patients, strict=True):
        distances = index.distances(row)
        nearest = index.nearest(distances, 1, index.others(patient))
        if not len(nearest):
            return index  # all training patches are of the held-out patches' own patient
        found.append(distances[nearest[0]])
        votes.append(index.vote(distances, patient, n_classes))
    if len(found) < LEAST_PATCHES:
        return index
    usual = np.quantile(found, np.linspace(0, 1, N_QUANTILES)).astype(np.float32)
    known = (table.labels if table.labels.ndim == 1 else table.labels[:, 0]) >= 0
    truth = table.labels[known]
    voted = macro_auc(np.stack(votes)[known], truth) if known.any() else math.nan
    own = math.nan
    if logits is not None and logits.shape[1] and known.any():
        lone = logits.shape[1] == 1 and n_classes == 2
        both = np.column_stack([0 * logits, logits]) if lone else logits
        chances = sigmoid if table.labels.ndim == 2 else softmax
        own = macro_auc(chances(both.astype(np.float64))[known], truth)
    changed = {"usual": usual, "voted_auc": np.array([voted], np.float32),
               "model_auc": np.array([own], np.float32)}  # fmt: skip
    return NeighbourIndex(**({f.name: getattr(index, f.name) for f in fields(index)} | changed))

"""The images that explanation quality is measured on: the same for every model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.annotations.classes import match_class
from pathology_scaat.annotations.labels import UNLABELLED
from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.held_out import patient_groups
from pathology_scaat.system.names import name_key
from pathology_scaat.training.judging import own_labels
from pathology_scaat.training.positive_class import doubtful_label

if TYPE_CHECKING:
    from pathology_scaat.execution.engine import EngineConfig
    from pathology_scaat.patches import PatchStore


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled images with the patient of each, and masks where there are some.

    Attributes
    ----------
    images : ndarray, (N, P, P, 3) uint8
    labels : ndarray, (N,) int64
    groups : ndarray, (N,)
        Patient (or slide) of each image: what intervals are clustered by.
    positive_class : int
        Class whose probability the AUC is of.
    masks : ndarray, (N, P, P) bool, optional
        Where the positive class is; all False on images without it.
    name : str
        For reports.
    unit : str
        What ``groups`` are, in the plural, for reports: "patients" only where they are.
    copied : bool
        Whether the labels are those of slides, copied onto every patch: wrong for many of them.
    label_note : str
        What is to be said of the labels, as a sentence; empty where all is well.

    Raises
    ------
    UsageError
        If the arrays do not have these shapes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[Any]
    positive_class: int = 1
    masks: NDArray[np.bool_] | None = None
    name: str = "patches"
    unit: str = "patients"
    copied: bool = False
    label_note: str = ""

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or self.images.shape[3] != 3:
            raise UsageError(
                self.name,
                f"images are {self.images.shape} {self.images.dtype}",
                "give (N, P, P, 3) uint8",
            )
        if len(self.labels) != n or len(self.groups) != n:
            raise UsageError(self.name, "does not have one label and one patient per image", "")
        if self.masks is not None and self.masks.shape != self.images.shape[:3]:
            raise UsageError(self.name, "masks do not have the images' size", "")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_positive(self) -> NDArray[np.bool_]:
        """Whether each image is labelled as the positive class, (N,) bool."""
        return np.asarray(self.labels == self.positive_class)

    def take(self, indices: NDArray[np.integer]) -> EvaluationSet:
        """Some of the images, in the order given; ``indices`` is (M,), into the N images."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            groups=self.groups[indices],
            masks=None if self.masks is None else self.masks[indices],
        )

    def spread(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Indices of ``n`` images, as even over classes and patients as there are (seeded).

        Classes take turns; within a class the patients take turns. Ascending, (min(n, N),) int64.
        """
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self))
        # A class has its patients' names of its own: a patient may have images of both.
        turn_of_patient = _turns([f"{self.labels[i]}|{self.groups[i]}" for i in shuffled])
        by_turn = shuffled[np.argsort(turn_of_patient, kind="stable")]
        turn_of_class = _turns([int(self.labels[i]) for i in by_turn])
        chosen = by_turn[np.argsort(turn_of_class, kind="stable")][:n]
        return np.sort(chosen)

    def digest(self) -> str:
        """SHA-256 over the content, for fingerprints of results."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels, self.masks):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\x00".join(map(str, self.groups)).encode())
        digest.update(str(self.positive_class).encode())
        return digest.hexdigest()


def _turns(keys: Sequence[Any]) -> NDArray[np.int64]:
    """How often each key came before: 0 where it stands first, 1 where it comes again, ..."""
    seen: dict[Any, int] = {}
    turns = np.empty(len(keys), dtype=np.int64)
    for i, key in enumerate(keys):
        turns[i] = seen.get(key, 0)
        seen[key] = int(turns[i]) + 1
    return turns


@dataclass(frozen=True)
class SlidePart:
    """Patches of one slide that are chosen for an evaluation set.

    Attributes
    ----------
    store : Path
        Patch store of the slide.
    indices : ndarray, (M,) int64
        Rows of the store, ascending.
    annotation : Path, optional
        Gives the patches their masks; without it their masks are empty.
    """

    store: Path
    indices: NDArray[np.int64]
    annotation: Path | None = None


@dataclass(frozen=True)
class ChosenPatches:
    """Which patches an evaluation set consists of; their pixels are still in the stores.

    Small enough to be sent to another machine, which reads the pixels itself.

    Attributes
    ----------
    parts : tuple of SlidePart
        Slide by slide, in the order of the set.
    labels : ndarray, (N,) int64
    groups : ndarray, (N,)
        Patient (or slide) of each patch.
    positive_class : str
        Name of the class that masks show.
    positive_index : int
        The same in the order of the model's classes.
    has_masks : bool
        Whether the set has masks at all.
    name, unit, copied, label_note
        As in :class:`EvaluationSet`.
    """

    parts: tuple[SlidePart, ...]
    labels: NDArray[np.int64]
    groups: NDArray[Any]
    positive_class: str
    positive_index: int
    has_masks: bool
    name: str
    unit: str
    copied: bool = False
    label_note: str = ""

    def read(self) -> EvaluationSet:
        """The evaluation set with its pixels and masks.

        Raises
        ------
        StoreError
            If a store cannot be read.
        AnnotationError
            If an annotation file cannot be read.
        """
        from pathology_scaat.patches import PatchStore

        pixels: list[NDArray[np.uint8]] = []
        masks: list[NDArray[np.bool_]] = []
        for part in self.parts:
            store = PatchStore(part.store)
            pixels.append(store.read(part.indices))
            if self.has_masks:
                masks.append(_masks(store, part.indices, part.annotation, self.positive_class))
        return EvaluationSet(
            np.concatenate(pixels),
            self.labels,
            self.groups,
            positive_class=self.positive_index,
            masks=np.concatenate(masks) if self.has_masks else None,
            name=self.name,
            unit=self.unit,
            copied=self.copied,
            label_note=self.label_note,
        )


def choose_patches(
    stores: Mapping[str, Path],
    class_names: Sequence[str],
    positive_class: str,
    *,
    patients: Mapping[str, str] | None = None,
    annotations: Mapping[str, Path] | None = None,
    max_patches: int = 2000,
    max_pixels: int = 100_000_000,
    seed: int = 0,
    name: str = "patches",
    engine: EngineConfig | None = None,
) -> ChosenPatches | None:
    """Choose labelled patches of some slides; None where no patch has a label.

    Patches whose label was copied from their slide, and may be wrong for them, are left out and
    counted, unless the others are of fewer than two classes.

    Parameters
    ----------
    stores : mapping of slide id to patch store
    class_names : sequence of str
        Of the model; labels of the stores are matched by name.
    positive_class : str
    patients : mapping of slide id to patient id, optional
        Where the patient of any slide is not known, images are grouped by slide, and the set's
        ``unit`` says so.
    annotations : mapping of slide id to annotation file, optional
        Gives the patches their masks of the positive class; patches of other slides have
        empty masks. Without any the set has no masks.
    max_patches : int
        At most so many, spread over classes and slides.
    max_pixels : int
        At most so many pixels in all (memory).
    seed : int
    name : str
    engine : EngineConfig, optional
        Where the labels are read, one job per slide; in this process by default.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    from pathology_scaat.patches.stored_labels import over_stores, read_patch_labels

    known = {name_key(n): i for i, n in enumerate(class_names)}
    stores = dict(sorted(stores.items()))
    found = over_stores(read_patch_labels, stores, engine)
    slide_of: list[str] = []
    labels: list[NDArray[np.int64]] = []
    indices: list[NDArray[np.int64]] = []
    doubtful: list[bool] = []
    for slide_id, store in found.items():
        table = np.array(
            [known.get(name_key(n), UNLABELLED) for n in store.class_names] + [UNLABELLED],
            dtype=np.int64,
        )
        own = table[store.labels.astype(np.int64)] if len(store.labels) else table[:0]
        labelled = np.flatnonzero(own != UNLABELLED)
        labels.append(own[labelled])
        indices.append(labelled)
        slide_of += [slide_id] * len(labelled)
        doubtful += [doubtful_label(store.copied, class_names)] * len(labelled)
    if not slide_of:
        return None
    all_labels, all_indices = np.concatenate(labels), np.concatenate(indices)
    slides, out = np.array(slide_of), np.array(doubtful, bool)
    keep, copied = own_labels(all_labels, out)
    label_note = _label_note(slides[out], copied)
    all_labels, all_indices, slides = all_labels[keep], all_indices[keep], slides[keep]
    slide_of = [str(slide_id) for slide_id in slides]
    group_of, unit = patient_groups(tuple(dict.fromkeys(slide_of)), patients)
    groups = np.array([group_of[s] for s in slide_of])
    # The choice is made on labels and patients alone; only chosen pixels are read.
    blank = np.zeros((len(slides), 1, 1, 3), dtype=np.uint8)
    side = max(store.patch_size_px for store in found.values())
    limit = max(1, min(max_patches, max_pixels // side**2))
    chosen = EvaluationSet(blank, all_labels, groups, name=name).spread(limit, seed)
    # ``chosen`` is sorted, and patches stand slide by slide: order is kept.
    parts = tuple(
        SlidePart(
            Path(stores[slide_id]),
            all_indices[chosen[slides[chosen] == slide_id]],
            (annotations or {}).get(slide_id),
        )
        for slide_id in map(str, dict.fromkeys(slides[chosen]))
    )
    return ChosenPatches(
        parts,
        all_labels[chosen],
        groups[chosen],
        positive_class=positive_class,
        positive_index=known[name_key(positive_class)],
        has_masks=bool(annotations),
        name=name,
        unit=unit,
        copied=copied,
        label_note=label_note,
    )


def _label_note(slides_left_out: NDArray[Any], copied: bool) -> str:
    """What is to be said of patches whose label was copied from their slide."""
    n, n_slides = len(slides_left_out), len(np.unique(slides_left_out))
    if copied:
        return (
            f"{n} labelled patch(es) of {n_slides} slide(s) without annotations are judged by "
            "their slide's label, copied onto every patch, for annotations leave no two classes "
            "to judge by: figures that rest on labels say neither good nor bad."
        )
    if not n:
        return ""
    return (
        f"{n} labelled patch(es) of {n_slides} slide(s) without annotations have their slide's "
        "label copied onto them and are not among these."
    )


def evaluation_set_from_stores(
    stores: Mapping[str, Path], class_names: Sequence[str], positive_class: str, **choice: Any
) -> EvaluationSet | None:
    """Labelled patches of some slides with their pixels; None where no patch has a label.

    Parameters
    ----------
    stores, class_names, positive_class, **choice
        As in :func:`choose_patches`.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    chosen = choose_patches(stores, class_names, positive_class, **choice)
    return None if chosen is None else chosen.read()


def _masks(
    store: PatchStore, indices: NDArray[np.int64], annotation: Path | None, positive_class: str
) -> NDArray[np.bool_]:
    from pathology_scaat.annotations import Background, read_annotations
    from pathology_scaat.annotations.rasterize import patch_masks

    grid = store.meta.grid
    side = grid.patch_size_px
    if annotation is None:
        return np.zeros((len(indices), side, side), dtype=bool)
    bounds = store.meta.slide.bounds_px
    offset = (bounds.x, bounds.y) if bounds else (0, 0)
    # The masks follow the labels' own rule: classes, overlaps, background and all.
    names = store.meta.class_names
    owner = match_class(positive_class, names)
    if owner is None:
        return np.zeros((len(indices), side, side), dtype=bool)
    background = store.meta.parameters.get("background_class")
    return patch_masks(
        read_annotations(annotation, offset_px=offset),
        names[owner],
        names,
        grid.exact_origins_px(store.grid_index[indices]),
        grid.patch_size_level0_px,
        side,
        Background(background, store.meta.slide.frame_px) if background else None,
    )

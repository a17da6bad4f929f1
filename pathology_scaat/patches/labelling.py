"""The labels of a slide's patches: from annotations, or from the slide's own label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.annotations.classes import match_class
from pathology_scaat.annotations.labels import UNLABELLED
from pathology_scaat.geometry import PatchGrid
from pathology_scaat.patches.config import TileJob
from pathology_scaat.slides import SlideInfo


@dataclass(frozen=True, eq=False)
class PatchLabels:
    """Labels and coverages of patches, and what to say about the file they came from.

    Attributes
    ----------
    label : (N,) int16
        Index into the class names, -1 where undecided.
    coverage : (N, K) float32
        Share of the patch that each class covers, 0 to 1.
    notes : tuple of str
        For the user, a sentence each.
    """

    label: NDArray[np.int16]
    coverage: NDArray[np.float32]
    notes: tuple[str, ...] = ()
    from_annotations: bool = False
    """Whether annotations were to label patches: if they label none, that is a warning."""


def labels_of(
    job: TileJob,
    info: SlideInfo,
    grid: PatchGrid,
    index: NDArray[np.int32],
    *,
    every: bool = True,
) -> PatchLabels:
    """Annotations decide where there are any, else the slide's label.

    Parameters
    ----------
    job : TileJob
    info : SlideInfo
    grid : PatchGrid
    index : (N, 2) int32
        Column and row in ``grid`` of the patches to label.
    every : bool
        Whether ``index`` holds every patch of tissue, not only those that were labelled.

    Raises
    ------
    AnnotationError
        If the annotation file cannot be read.
    """
    names = job.config.class_names
    label = np.full(len(index), UNLABELLED, dtype=np.int16)
    coverage = np.zeros((len(index), len(names)), dtype=np.float32)
    if job.annotation_path is not None:
        return _labels_from_annotations(job, job.annotation_path, info, grid, index, every)
    if job.label is not None and names:
        owner = match_class(job.label, names)
        if owner is None:
            return PatchLabels(
                label, coverage, (f"its label '{job.label}' is none of the classes",)
            )
        label[:] = owner
        coverage[:, owner] = 1.0
    return PatchLabels(label, coverage)


def _labels_from_annotations(
    job: TileJob,
    path: Path,
    info: SlideInfo,
    grid: PatchGrid,
    index: NDArray[np.int32],
    every: bool,
) -> PatchLabels:
    from pathology_scaat.annotations import (
        Background,
        label_patches,
        off_tissue_notes,
        read_annotation_file,
        report_on,
    )

    names, config = job.config.class_names, job.config
    bounds = info.bounds_px
    file = read_annotation_file(path, offset_px=(bounds.x, bounds.y) if bounds else (0, 0))
    report = report_on(file, names, info.frame_px)
    background = config.background_class
    found, share = label_patches(
        file.polygons,
        names,
        grid.exact_origins_px(index),
        grid.patch_size_level0_px,
        config.min_coverage,
        Background(background, info.frame_px) if background is not None else None,
    )
    notes = report.notes()
    if every:
        notes = (*notes, *off_tissue_notes(file.polygons, names, grid, index))
    if not names:
        notes = ("annotations were not used: no class names were given or found", *notes)
    if background is not None and report.n_used:
        notes = (*notes, f"tissue outside the annotations counts as '{background}'")
    return PatchLabels(
        found.astype(np.int16),
        share.astype(np.float32).reshape(len(index), len(names)),
        notes,
        from_annotations=True,
    )


def label_warnings(labels: PatchLabels) -> tuple[str, ...]:
    """What the user must not miss: annotations that label nothing."""
    if not labels.from_annotations or (labels.label != UNLABELLED).any():
        return ()
    if not len(labels.label):
        return ("its annotations label nothing: no patch holds enough tissue",)
    reasons = "; ".join(labels.notes) or "no area covers enough of a patch with tissue"
    return (f"its annotations label nothing ({reasons})",)

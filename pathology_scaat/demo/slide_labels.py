"""A cohort whose slides have a diagnosis each and no annotations: half hold tumour, half none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pathology_scaat.cohort.manifest import Manifest, ManifestRow, write_manifest
from pathology_scaat.demo.cohort import (
    CLASS_NAMES,
    POSITIVE_CLASS,
    DemoCohort,
    SlidePlan,
    make_slide,
)

N_LABELLED_SLIDES = {"train": 36, "val": 12, "test": 20}
"""Slides of each split; every slide is of a patient of its own."""
LABELLED_SIZE_PX = 1536
"""Side at 0.5 µm/px: smaller slides than the annotated demo's, and many more of them."""
TUMOR_SHARES = (0.2, 0.5)
"""Share of the tissue that tumour grows in, where there is some."""
SCANNERS = ((0.4990, True), (0.5000, False), (0.5040, True))
"""µm/px, and whether the file is Aperio-style; in turn, whatever the label."""


def make_labelled_cohort(
    out_dir: Path | str,
    seed: int = 0,
    counts: dict[str, int] | None = None,
    size_px: int = LABELLED_SIZE_PX,
    progress: Callable[[int, int, str], None] | None = None,
) -> DemoCohort:
    """Make a synthetic cohort with a label for each slide, and a manifest without annotations.

    Stain and scanner are drawn apart from the label, so that they tell nothing about it; the
    amount of stain is the same in tumour and normal nests. The truth is kept beside, for judging.

    Parameters
    ----------
    out_dir : path
        Folder to write into; files of the same names are replaced.
    seed : int
        Equal seeds give equal bytes.
    counts : dict, optional
        Slides of each split; :data:`N_LABELLED_SLIDES` by default.
    size_px : int
        Side of a slide at 0.5 µm/px.
    progress : callable, optional
        Called as ``progress(done, total, slide_id)`` after each slide.
    """
    out = Path(out_dir)
    plans = [
        (split, number)
        for split, count in (counts or N_LABELLED_SLIDES).items()
        for number in range(count)
    ]
    slides, rows = [], []
    for index, (split, number) in enumerate(plans):
        rng = np.random.default_rng([seed, 4, index])
        mpp, aperio = SCANNERS[rng.integers(len(SCANNERS))]
        positive = number % 2 == 1
        share = float(rng.uniform(*TUMOR_SHARES)) if positive else 0.0
        plan = SlidePlan(index + 1, split, mpp, aperio, share, bool(rng.random() < 0.1))
        slide = make_slide(out, seed, index, size_px, plan)
        slides.append(slide)
        rows.append(
            ManifestRow(
                slide_path=slide.slide_path.absolute(),
                slide_id=slide.slide_id,
                patient_id=slide.patient_id,
                label=POSITIVE_CLASS if positive else CLASS_NAMES[0],
                split=split,
            )
        )
        if progress is not None:
            progress(index + 1, len(plans), slide.slide_id)
    manifest_path = out / "cohort.csv"
    write_manifest(Manifest(tuple(rows)), manifest_path)
    return DemoCohort(manifest_path, tuple(slides))

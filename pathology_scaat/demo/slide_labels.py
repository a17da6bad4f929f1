"""A cohort whose slides have a diagnosis each and no annotations: half hold tumour, half none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathology_scaat.cohort.manifest import Manifest, ManifestRow, write_manifest
from pathology_scaat.demo.cohort import (
    CLASS_NAMES,
    POSITIVE_CLASS,
    DemoCohort,
    DemoSlide,
    SlidePlan,
    make_slide,
)
from pathology_scaat.errors import UsageError
from pathology_scaat.execution.engine import EngineConfig, map_jobs

N_LABELLED_SLIDES = {"train": 32, "val": 10, "test": 20}
"""Slides of each split; every slide is of a patient of its own."""
LABELLED_SIZE_PX = 1536
"""Side at 0.5 µm/px: smaller slides than the annotated demo's, and many more of them."""
TUMOR_SHARES = (0.3, 0.6)
"""Share of the tissue that tumour grows in, where there is some."""
SCANNERS = ((0.4990, True), (0.5000, False), (0.5040, True))
"""µm/px, and whether the file is Aperio-style; in turn, whatever the label."""


def make_labelled_cohort(
    out_dir: Path | str,
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    size_px: int = LABELLED_SIZE_PX,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    tumor_shares: tuple[float, float] = TUMOR_SHARES,
) -> DemoCohort:
    """Make a synthetic cohort with a label for each slide, and a manifest without annotations.

    Stain and scanner are drawn apart from the label, so that they carry no information about it;
    the amount of stain is the same in tumour and normal nests. The truth is kept beside,
    for evaluation.

    Parameters
    ----------
    out_dir : path
        Folder to write into; files of the same names are replaced.
    seed : int
        Equal seeds give equal bytes.
    counts : mapping of split to int, optional
        Slides of each split; :data:`N_LABELLED_SLIDES` by default.
    size_px : int
        Side of a slide at 0.5 µm/px.
    workers : int, optional
        Local processes that make slides; the machine's by default.
    progress : callable, optional
        Called as ``progress(done, total, slide_id)`` after each slide.
    tumor_shares : tuple of float
        Least and largest share of a positive slide's tissue that tumour grows in, above 0 to 1;
        about half of it are nests.

    Raises
    ------
    UsageError
        If the shares are no two shares in order.
    """
    if not 0 < tumor_shares[0] <= tumor_shares[1] <= 1:
        raise UsageError("tumor_shares", "are not two shares in order", "give e.g. (0.3, 0.6)")
    out = Path(out_dir)
    plans = _plans(seed, counts or N_LABELLED_SLIDES, tumor_shares)
    jobs = [LabelledSlideJob(out, seed, n, size_px, plan) for n, plan in enumerate(plans)]
    made: dict[int, DemoSlide] = {}
    with closing(map_jobs(make_labelled_slide, jobs, EngineConfig(workers=workers))) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            if outcome.result is None:
                continue
            made[outcome.index] = outcome.result
            if progress is not None:
                progress(len(made), len(jobs), outcome.result.slide_id)
    slides = tuple(made[n] for n in range(len(jobs)))
    rows = tuple(
        ManifestRow(
            slide_path=slide.slide_path.absolute(),
            slide_id=slide.slide_id,
            patient_id=slide.patient_id,
            label=POSITIVE_CLASS if plan.tumor_share else CLASS_NAMES[0],
            split=slide.split,
        )
        for slide, plan in zip(slides, plans, strict=True)
    )
    manifest_path = out / "cohort.csv"
    write_manifest(Manifest(rows), manifest_path)
    return DemoCohort(manifest_path, slides)


@dataclass(frozen=True)
class LabelledSlideJob:
    """One slide to make, wherever the work runs."""

    out: Path
    seed: int
    index: int
    size_px: int
    plan: SlidePlan

    @property
    def slide_id(self) -> str:
        return f"demo-{self.index + 1:02d}"


def make_labelled_slide(job: LabelledSlideJob) -> DemoSlide:
    """Make one slide of the cohort."""
    return make_slide(job.out, job.seed, job.index, job.size_px, job.plan)


def _plans(
    seed: int, counts: Mapping[str, int], tumor_shares: tuple[float, float] = TUMOR_SHARES
) -> list[SlidePlan]:
    """Every other slide of each split holds tumour; scanner and pen are drawn apart from that."""
    plans: list[SlidePlan] = []
    for split, count in counts.items():
        for number in range(count):
            index = len(plans)
            rng = np.random.default_rng([seed, 4, index])
            mpp, aperio = SCANNERS[rng.integers(len(SCANNERS))]
            share = float(rng.uniform(*tumor_shares)) if number % 2 else 0.0
            plans.append(SlidePlan(index + 1, split, mpp, aperio, share, bool(rng.random() < 0.1)))
    return plans

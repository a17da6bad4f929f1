"""A small cohort with a known answer, for a first look, for tests and for measurements.

Six synthetic slides of five patients, H&E-like to the eye. Tumour differs from normal nests
in its nuclei alone: larger, unlike each other, crowded, with clumped chromatin, nucleoli and
mitoses. The stain per area is the same, so that mean colour carries no information, and
laboratories and scanners differ from patient to patient more than tumour from normal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathology_scaat.cohort.manifest import Manifest, ManifestRow, write_manifest
from pathology_scaat.demo.files import mask_polygons, write_annotations, write_slide
from pathology_scaat.demo.layout import LAYOUT_UM, make_layout
from pathology_scaat.demo.paint import develop, make_appearance, paint_stains
from pathology_scaat.errors import UsageError

CLASS_NAMES = ("Normal", "Tumor")
POSITIVE_CLASS = "Tumor"
DEFAULT_SIZE_PX = 4608

_PLAN = (
    # patient, split, µm/px, Aperio-style, share of tumour, pen mark
    (0, "train", 0.4990, True, 0.45, False),
    (1, "train", 0.5000, False, 0.35, False),
    (1, "train", 0.5000, False, 0.50, True),
    (2, "val", 0.5040, True, 0.45, False),
    (3, "test", 0.4990, True, 0.40, False),
    (4, "test", 0.3450, False, 0.50, False),
)


@dataclass(frozen=True)
class DemoSlide:
    """One synthetic slide and the truth about it.

    ``annotation_path`` holds the regions a pathologist would draw ("Tumor", "Normal");
    ``truth_path`` the planted tumour nests themselves (class "Tumor"), for judging maps.
    """

    slide_id: str
    patient_id: str
    split: str
    mpp: float
    slide_path: Path
    annotation_path: Path
    truth_path: Path


@dataclass(frozen=True)
class DemoCohort:
    """Where the cohort is."""

    manifest_path: Path
    slides: tuple[DemoSlide, ...]
    class_names: tuple[str, ...] = CLASS_NAMES
    positive_class: str = POSITIVE_CLASS


def make_demo_cohort(
    out_dir: Path | str,
    seed: int = 0,
    n_slides: int = 6,
    size_px: int = DEFAULT_SIZE_PX,
    progress: Callable[[int, int, str], None] | None = None,
) -> DemoCohort:
    """Make the synthetic cohort: slides, annotations, truth and a manifest.

    Parameters
    ----------
    out_dir : path
        Folder to write into; files of the same names are replaced.
    seed : int
        Equal seeds give equal bytes.
    n_slides : int
        1 to 60. Beyond six the plan is repeated with new patients.
    size_px : int
        Side of a slide at 0.5 µm/px; slides of other µm/px cover the same area.
    progress : callable, optional
        Called as ``progress(done, total, slide_id)`` after each slide.

    Returns
    -------
    DemoCohort

    Raises
    ------
    UsageError
        If the number of slides or their size is out of range.
    """
    if not 1 <= n_slides <= 60:
        raise UsageError("number of slides", f"{n_slides} is not from 1 to 60")
    if not 1024 <= size_px <= 20_000:
        raise UsageError("slide size", f"{size_px} px is not from 1024 to 20000")
    out = Path(out_dir)
    slides = []
    for index in range(n_slides):
        slide = _make_slide(out, seed, index, size_px)
        slides.append(slide)
        if progress is not None:
            progress(index + 1, n_slides, slide.slide_id)
    rows = tuple(
        ManifestRow(
            slide_path=s.slide_path.absolute(),
            slide_id=s.slide_id,
            patient_id=s.patient_id,
            split=s.split,
            annotation_path=s.annotation_path.absolute(),
        )
        for s in slides
    )
    manifest_path = out / "cohort.csv"
    write_manifest(Manifest(rows), manifest_path)
    return DemoCohort(manifest_path, tuple(slides))


def _make_slide(out: Path, seed: int, index: int, size_px: int) -> DemoSlide:
    round_, number = divmod(index, len(_PLAN))
    patient, split, mpp, aperio, share, pen = _PLAN[number]
    plan = SlidePlan(round_ * 5 + patient + 1, split, mpp, aperio, share, pen)
    return make_slide(out, seed, index, size_px, plan)


@dataclass(frozen=True)
class SlidePlan:
    """What one slide of a cohort is to be: ``tumor_share`` of the tissue, 0 for none at all."""

    patient_number: int
    split: str
    mpp: float
    aperio: bool
    tumor_share: float
    pen: bool


def make_slide(out: Path, seed: int, index: int, size_px: int, plan: SlidePlan) -> DemoSlide:
    """Make slide number ``index`` of a cohort, with its annotations and its truth."""
    mpp, share = plan.mpp, plan.tumor_share
    patient_number = plan.patient_number
    slide_id = f"demo-{index + 1:02d}"
    # The look belongs to the patient, everything else to the slide.
    appearance = make_appearance(np.random.default_rng([seed, 1, patient_number]))
    rng = np.random.default_rng([seed, 2, index])
    side_px = round(size_px * 0.5 / mpp)
    layout = make_layout(rng, side_px, mpp, share, plan.pen)
    hema, eosin = paint_stains(rng, layout, side_px, mpp)
    rgb = develop(rng, layout, hema, eosin, appearance, mpp)
    slide_path = out / "slides" / f"{slide_id}{'.svs' if plan.aperio else '.tiff'}"
    write_slide(slide_path, rgb, mpp, plan.aperio)
    scale_px = LAYOUT_UM / mpp
    drawn = []
    for class_name in CLASS_NAMES:
        region = layout.region(class_name == POSITIVE_CLASS)
        polygons = mask_polygons(region, scale_px, scale_px, (160 / mpp) ** 2)
        drawn += [
            (class_name, f"{class_name} {n}", polygon) for n, polygon in enumerate(polygons, 1)
        ]
    annotation_path = out / "annotations" / f"{slide_id}.geojson"
    write_annotations(annotation_path, slide_id, drawn, side_px)
    nests = mask_polygons(layout.tumor_truth, scale_px, scale_px / 4, (10 / mpp) ** 2)
    truth_path = out / "truth" / f"{slide_id}.geojson"
    truth = [(POSITIVE_CLASS, f"nest {n}", polygon) for n, polygon in enumerate(nests, 1)]
    write_annotations(truth_path, slide_id, truth, side_px)
    return DemoSlide(
        slide_id,
        f"patient-{patient_number}",
        plan.split,
        mpp,
        slide_path,
        annotation_path,
        truth_path,
    )

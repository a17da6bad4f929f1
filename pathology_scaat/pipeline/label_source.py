"""What a cohort's model learns from: labels of slides, or of patches; decided and said once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest, ManifestRow, assign_splits
from pathology_scaat.errors import TrainingError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.stored_labels import count_labels, over_stores
from pathology_scaat.pipeline.class_table import slide_class_notes
from pathology_scaat.pipeline.same_slides import refuse_copies
from pathology_scaat.training import TrainingSlide
from pathology_scaat.training.bags.config import LabelSource

ResolvedLabelSource = Literal["slide", "mixed", "copy", "patch"]

FROM_BAGS = ("slide", "mixed")
"""Sources that learn from bags."""


def label_source(rows: Sequence[ManifestRow], asked: LabelSource) -> ResolvedLabelSource:
    """What to learn from: as asked, else labels of slides where there are no annotations."""
    if asked != "auto":
        return asked
    annotated = any(row.annotation_path is not None for row in rows)
    labelled = any(row.label for row in rows)
    return "slide" if labelled and not annotated else "patch"


def copies_labels(rows: Sequence[ManifestRow], asked: LabelSource) -> bool:
    """Whether tiling writes the label of a slide without annotations onto all its patches.

    Where some slides have annotations it does: slides without any are then, as a rule, those
    that show nothing, whose label holds for each of their patches.
    """
    if asked == "auto":
        return label_source(rows, asked) == "patch"
    return asked == "copy" or (
        asked == "patch" and any(row.annotation_path is not None for row in rows)
    )


def label_notes(rows: Sequence[ManifestRow], asked: LabelSource) -> tuple[str, ...]:
    """What the user should know of where the labels of patches come from."""
    if not copies_labels(rows, asked):
        return ()
    copied = [row for row in rows if row.label and row.annotation_path is None]
    if not copied:
        return ()
    named = ", ".join(row.slide_id for row in copied[:3]) + (", ..." if len(copied) > 3 else "")
    return (
        f"The label of {len(copied)} slide(s) without annotations ({named}) is copied onto every "
        "patch: that is wrong for each patch that does not show it; '--labels slide' learns from "
        "the slide's label as such.",
    )


def labelled_slides(
    manifest: Manifest,
    out: Path,
    seed: int,
    *,
    assign: bool = True,
    engine: EngineConfig | None = None,
    announce: Callable[[str], None] | None = None,
) -> tuple[tuple[TrainingSlide, ...], tuple[str, ...]]:
    """The tiled slides that have a label, with patient-disjoint splits; and what to say.

    Splits that the manifest gives are kept; where it gives none they are made (stratified by
    label, seeded) and recorded in ``slides.csv``; without ``assign`` all are ``train``. Stores are
    looked into where the engine says, one job per slide; in this process by default.

    Raises
    ------
    TrainingError
        If no tiled slide has a label.
    ManifestError
        If one slide is there under two patients.
    """
    space = Workspace(out)
    labelled = [row for row in manifest.rows if row.label]
    n_bare = len(manifest.rows) - len(labelled)
    tiled = StatusTable(out).without_failed("tile", (row.slide_id for row in labelled))
    stores = {slide_id: space.patches(slide_id) for slide_id in tiled}
    counted = over_stores(count_labels, stores, engine, skip_unreadable=True, announce=announce)
    rows = [row for row in labelled if row.slide_id in counted]
    notes: list[str] = []
    if not rows:
        raise TrainingError(
            "the cohort",
            "has no tiled slide with a label",
            "fill in the label column of the manifest, or check what failed in slides.csv",
        )
    if n_bare:
        notes.append(f"{n_bare} slide(s) without a label take no part in the training.")
    refuse_copies(rows, [counted[row.slide_id].slide_fingerprint for row in rows])
    cohort = Manifest(rows=tuple(rows))
    if assign:
        # Also where all splits are given: what they leave out is said all the same.
        cohort = assign_splits(cohort, seed=seed)
        patients = manifest.patient_keys()
        StatusTable(out).update_many(
            (
                row.slide_id,
                "tile",
                "done",
                "",
                {"split": row.split, "patient": patients.get(row.slide_id)},
            )
            for row in cohort.rows
        )
    slides = tuple(
        TrainingSlide(
            store=space.patches(row.slide_id),
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            split=row.split or "train",
            label=row.label,
        )
        for row in cohort.rows
    )
    if assign:
        notes += [*slide_class_notes(slides), *cohort.notes]
    return slides, tuple(notes)


def bag_class_names(slides: Sequence[TrainingSlide]) -> tuple[str, ...]:
    """The labels that occur, in the order of the stores' classes where these name them all."""
    labels = {slide.label for slide in slides if slide.label}
    known = PatchStore(slides[0].store).meta.class_names
    if labels <= set(known):
        return tuple(name for name in known if name in labels)
    return tuple(sorted(labels))

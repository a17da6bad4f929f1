"""How many patches, slides and patients of each class each split has, before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pathology_scaat.patches.stored_labels import LabelCounts
from pathology_scaat.training import TrainingSlide

SPLIT_NAMES: Mapping[str, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class ClassCount:
    """Labelled patches of one class in one split, and the slides and patients they are of."""

    class_name: str
    split: str
    n_patches: int
    n_slides: int
    n_patients: int


def count_classes(
    slides: Sequence[TrainingSlide], counts: Mapping[str, LabelCounts]
) -> tuple[ClassCount, ...]:
    """Counts for each class and split, classes in the stores' order, also where there is none.

    Parameters
    ----------
    slides : sequence of TrainingSlide
        With their splits.
    counts : mapping of slide id to LabelCounts
        Of each of these slides.
    """
    names: tuple[str, ...] = ()
    found: dict[tuple[int, str], tuple[int, set[str], set[str]]] = {}
    for slide in slides:
        own = counts[slide.slide_id]
        names = own.class_names
        for index, count in enumerate(own.counts):
            if count:
                n, ids, patients = found.setdefault((index, slide.split), (0, set(), set()))
                ids.add(slide.slide_id)
                patients.add(slide.patient_id)
                found[index, slide.split] = (n + count, ids, patients)
    none: tuple[int, set[str], set[str]] = (0, set(), set())
    return tuple(
        ClassCount(name, split, n, len(ids), len(patients))
        for index, name in enumerate(names)
        for split in SPLIT_NAMES
        for n, ids, patients in [found.get((index, split), none)]
    )


def class_table_notes(counts: Sequence[ClassCount]) -> list[str]:
    """One line for each class: what each split has of it."""
    lines = []
    for name in dict.fromkeys(count.class_name for count in counts):
        parts = [
            f"{SPLIT_NAMES[c.split]} {_many(c.n_patches, 'patch', 'patches')} "
            f"({_many(c.n_slides, 'slide', 'slides')}, "
            f"{_many(c.n_patients, 'patient', 'patients')})"
            if c.n_patches
            else f"{SPLIT_NAMES[c.split]} none"
            for c in counts
            if c.class_name == name
        ]
        lines.append(f"class '{name}': {'; '.join(parts)}")
    return lines


def slide_class_notes(slides: Sequence[TrainingSlide]) -> list[str]:
    """One line for each label of slides, and what a split of one label alone cannot show."""
    labels = sorted({slide.label for slide in slides if slide.label})
    lines = []
    for name in labels:
        parts = []
        for split, word in SPLIT_NAMES.items():
            found = [s for s in slides if s.split == split and s.label == name]
            patients = len({s.patient_id for s in found})
            parts.append(
                f"{word} {_many(len(found), 'slide', 'slides')} "
                f"({_many(patients, 'patient', 'patients')})"
                if found
                else f"{word} none"
            )
        lines.append(f"class '{name}': {'; '.join(parts)}")
    for split, effect in (
        ("val", "its AUROC cannot be given and probabilities are not calibrated"),
        ("test", "its AUROC cannot be given"),
    ):
        there = {s.label for s in slides if s.split == split and s.label}
        if len(there) == 1 and len(labels) > 1:
            lines.append(
                f"The {SPLIT_NAMES[split]} split holds one class only ({there.pop()}): {effect}."
            )
    return lines


def classes_in(counts: Sequence[ClassCount], split: str) -> list[str]:
    """The classes of which a split has patches."""
    return [c.class_name for c in counts if c.split == split and c.n_patches]


def _many(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"

"""Whether models learnt from painted slides, and which slides are painted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.patches import PatchStore
from pathology_scaat.slides.painted import is_painted
from pathology_scaat.training.bundle_quality import LEARNT_FROM_PAINTED, OF_PAINTED_SLIDES
from pathology_scaat.training.bundle_reading import read_bundle_config


def origin_notes(models: Sequence[Path]) -> list[str]:
    """That models learnt from painted slides, as a sentence: of them nothing holds for tissue."""
    n = sum(read_bundle_config(path).of_painted for path in models)
    if not n:
        return []
    return [LEARNT_FROM_PAINTED if len(models) == 1 else
            f"{n} of the {len(models)} models {OF_PAINTED_SLIDES}."]  # fmt: skip


def painted_slides(space: Workspace, slide_ids: Iterable[str]) -> frozenset[str]:
    """Those of the slides that ``scaat demo`` painted, by their patch stores."""
    return frozenset(
        s for s in slide_ids if is_painted(PatchStore(space.patches(s)).meta.slide.vendor)
    )

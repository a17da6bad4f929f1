"""Scores of slides and of cases that a model gives when it is asked: loaded once, when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.evaluation.performance.slide_scores import SlideScore, explained_case
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.stage import usable_slides
from pathology_scaat.training.bundle_config import BundleConfig

if TYPE_CHECKING:
    import torch

    from pathology_scaat.training.bundle import ModelBundle


class ScoresOnDemand:
    """A model that is loaded when a slide turns up that it has not explained.

    As a rule there is none: loading a network, and torch first, would take longer than all the
    rest of predicting.
    """

    def __init__(self, model: Path, device: str) -> None:
        self._model, self._device = model, device
        self._score: Callable[[PatchStore], SlideScore | None] | None = None
        self._case: Callable[[Sequence[PatchStore]], list[SlideScore] | None] | None = None

    def score(self, patches: PatchStore) -> SlideScore | None:
        """What the model says of a slide; None where it has no patch.

        Raises
        ------
        StoreError
            If the patches cannot be read.
        BundleError
            If the model cannot.
        """
        if self._score is None:
            from pathology_scaat.evaluation.performance.computed_scores import computed_score

            bundle, chosen = self._loaded()
            self._score = lambda store: computed_score(bundle, store, chosen)
        return self._score(patches)

    def case(self, stores: Sequence[PatchStore]) -> Sequence[SlideScore | None] | None:
        """What a model of cases says of the slides of one; None where none has a patch."""
        from pathology_scaat.evaluation.performance.computed_scores import computed_case

        if self._case is None:
            bundle, chosen = self._loaded()
            self._case = lambda found: computed_case(bundle, found, chosen)
        return self._case(stores)

    def _loaded(self) -> tuple[ModelBundle, torch.device]:
        from pathology_scaat.execution.devices import choose_device
        from pathology_scaat.training.bundle import load_bundle

        chosen = choose_device(self._device)
        return load_bundle(self._model, str(chosen)), chosen


class CaseScores:
    """Scores of slides under a model of cases: one case after another is kept.

    A case is all slides of the patient in the table that are tiled, also those without a label.
    """

    def __init__(
        self, config: BundleConfig, cohort: Manifest, space: Workspace, computing: ScoresOnDemand
    ) -> None:
        self._config, self._space, self._computing = config, space, computing
        tiled = set(usable_slides(space, "tile"))
        self._members: dict[str, list[str]] = {}
        for row in cohort.rows:
            if row.slide_id in tiled:
                self._members.setdefault(row.patient_id, []).append(row.slide_id)
        self._held: dict[str, dict[str, SlideScore | None]] = {}

    def score_of(self, row: ManifestRow) -> SlideScore | None:
        """What the model says of the slide's case; None where the slide has no patch."""
        if row.patient_id not in self._held:
            ids = sorted(self._members[row.patient_id])
            stores = [PatchStore(self._space.patches(slide)) for slide in ids]
            found: Sequence[SlideScore | None] | None = explained_case(
                self._config,
                [self._space.saliency(slide) for slide in ids],
                [store.meta.fingerprint for store in stores],
            )
            found = found or self._computing.case(stores) or [None] * len(ids)
            scores = {
                slide: score if len(store) else None
                for slide, store, score in zip(ids, stores, found, strict=True)
            }
            self._held = {row.patient_id: scores}
        return self._held[row.patient_id][row.slide_id]

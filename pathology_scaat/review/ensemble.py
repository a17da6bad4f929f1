"""Whether the models of the folds agree about a region: what each says of the same patches.

One model cannot disagree with itself, and models that learnt from a slide agree about it more
than they should; so each is shown with what the slide was to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import BundleError, UsageError
from pathology_scaat.metrics.functional.calibration import sigmoid, softmax
from pathology_scaat.patches import PatchStore
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.system.rounding import decimals
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.predict import bag_logits, encode
from pathology_scaat.training.bundle import ModelBundle, load_bundle
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.run_bundles import fold_bundles

MOST_PATCHES = 64
"""Of a region, evenly spread over it."""
FEW_PATCHES, MOST_REGIONS = 8, 100
"""Of each region, where all of a slide's regions are put into order while the reader waits."""
MOST_MODELS = 10
UNSEEN = ("test", "held out")
"""What a slide is to a model that never saw it."""
PATCH_WORDS = "mean probability of the region's patches"
BAG_WORDS = "probability of a slide that were these patches alone"
ONE_MODEL = (
    "is not known: one model explained this slide, and one cannot disagree with itself "
    "('scaat run --folds' trains several)"
)


@dataclass(frozen=True)
class Member:
    """A model of the ensemble: ``name`` is shown, ``folder`` is not."""

    name: str
    folder: Path


def members_of(out: Path, meta: SaliencyStoreMeta) -> tuple[Member, ...]:
    """The models of the folds that answer the same question as the map, in their order.

    Those of other classes, patches or µm/px are left out: their word is about something else.
    """
    found = []
    for folder in fold_bundles(out)[:MOST_MODELS]:
        try:
            config = read_bundle_config(folder)
        except BundleError:
            continue
        asked = (config.class_names, config.patch_size_px, config.multi_label)
        if asked != (meta.class_names, meta.grid.patch_size_px, meta.multi_label):
            continue
        if config.mpp is not None and not math.isclose(config.mpp, meta.effective_mpp, rel_tol=0.1):
            continue
        found.append(Member(f"fold {folder.parent.name}", folder))
    return tuple(found)


def spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Up to ``most`` of the rows (n,), evenly spaced and in their order, (m,) int64."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))]


@dataclass
class Ensemble:
    """What the models of the folds say; each is loaded when first asked, and kept."""

    out: Path
    _loaded: dict[Path, ModelBundle] = field(default_factory=dict)

    def about(
        self, slide_id: str, meta: SaliencyStoreMeta, inside: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Each model's probability of the map's class for some patches, as JSON.

        Parameters
        ----------
        slide_id : str
        meta : SaliencyStoreMeta
            Of the map that is looked at.
        inside : (n,) int64
            Rows of the slide's patch store.

        Raises
        ------
        UsageError
            If there are fewer than two such models.
        StoreError
            If the patches cannot be read.
        """
        members, store = self._ready(slide_id, meta)
        rows = spread(inside, MOST_PATCHES)
        probabilities = self._probabilities(members, store.read(rows), meta.target_index)
        described = [
            {
                "name": member.name,
                "role": self._bundle(member).config.role_of(store.meta.slide_fingerprint),
                "probability": float(values.mean()),
                "explained": self._bundle(member).fingerprint == meta.model_fingerprint,
            }
            for member, values in zip(members, probabilities, strict=True)
        ]
        bag = self._bundle(members[0]).config.bag is not None
        return {
            "problem": "",
            "class": meta.target_class,
            "rule": BAG_WORDS if bag else PATCH_WORDS,
            "n_patches": len(rows),
            "members": described,
            "agreement": agreement_words(described, meta.target_class),
        }

    def differences(
        self, slide_id: str, meta: SaliencyStoreMeta, regions: dict[str, NDArray[np.int64]]
    ) -> dict[str, float]:
        """How far apart the models' probabilities of each region are, 0 to 1, by region.

        Parameters
        ----------
        regions : mapping of region id to (n,) int64
            Rows of the slide's patch store. The first :data:`MOST_REGIONS` are looked at.

        Raises
        ------
        UsageError, StoreError
            As :meth:`about`.
        """
        members, store = self._ready(slide_id, meta)
        found = {}
        for name, inside in list(regions.items())[:MOST_REGIONS]:
            pixels = store.read(spread(inside, FEW_PATCHES))
            probabilities = [
                float(v.mean()) for v in self._probabilities(members, pixels, meta.target_index)
            ]
            found[name] = max(probabilities) - min(probabilities)
        return found

    def _ready(
        self, slide_id: str, meta: SaliencyStoreMeta
    ) -> tuple[tuple[Member, ...], PatchStore]:
        members = members_of(self.out, meta)
        if len(members) < 2:
            raise UsageError("agreement of models", ONE_MODEL, "")
        store = PatchStore(Workspace(self.out).patches(slide_id))
        if store.meta.fingerprint != meta.patch_fingerprint:
            raise UsageError("the slide", "was tiled anew since its map was made", "")
        return members, store

    def _probabilities(
        self, members: tuple[Member, ...], pixels: NDArray[np.uint8], target: int
    ) -> list[NDArray[np.float64]]:
        """Each model's probability of the target for some patches, (n,) or (1,) of one for bags."""
        return [self._probability(self._bundle(member), pixels, target) for member in members]

    def _bundle(self, member: Member) -> ModelBundle:
        if member.folder not in self._loaded:
            self._loaded[member.folder] = load_bundle(member.folder)
        return self._loaded[member.folder]

    def _probability(
        self, bundle: ModelBundle, pixels: NDArray[np.uint8], target: int
    ) -> NDArray[np.float64]:
        warm = bundle.config.temperature
        batch = torch.from_numpy(pixels)
        if isinstance(bundle.model, BagModel):
            logits = bag_logits(bundle.model, encode(bundle.model, [batch]))[None]
        else:
            with torch.no_grad():
                logits = bundle.model(to_float(batch)).float().cpu().numpy()
        if logits.shape[1] == 1 and not bundle.config.multi_label:
            logits = np.column_stack([np.zeros_like(logits), logits])
        chances = (sigmoid if bundle.config.multi_label else softmax)(logits / warm)
        found: NDArray[np.float64] = chances[:, target].astype(np.float64)
        return found


def agreement_words(members: list[dict[str, Any]], target: str) -> str:
    """How many models see the class, first of those that never saw the slide."""

    def counted(some: list[dict[str, Any]]) -> str:
        return f"{sum(m['probability'] >= 0.5 for m in some)} of {len(some)}"

    unseen = [m for m in members if m["role"] in UNSEEN]
    values = [m["probability"] for m in members]
    words = f"{counted(members)} models see {target} here (probability at least 0.5); "
    words += f"they differ by {decimals(max(values) - min(values), 2)} at most"
    if len(unseen) == len(members):
        return f"{words}; none of them has seen this slide"
    if not unseen:
        return f"{words}; all of them may have seen this slide in training, so they say little"
    return f"{words}; of those that never saw this slide: {counted(unseen)}"

"""Why a region was marked: what it is like, and what the slide would be without it.

Likeness is that of the model's features: the training patches that lie nearest, of other
patients, of the predicted class and of the other one. Without the region means that every patch
that reaches into it is left out of the slide: for a model for bags that is exact, for a model
for patches it goes by the rule that scores slides.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import BundleError, ScaatError, StoreError, UsageError
from pathology_scaat.metrics.functional.calibration import softmax
from pathology_scaat.metrics.functional.slide_score import PATCH_RULE, top_mean
from pathology_scaat.patches import PatchStore
from pathology_scaat.review.ensemble import MOST_REGIONS, Ensemble
from pathology_scaat.review.regions import ReviewRegion
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.system.rounding import decimals
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.predict import bag_logits, encode
from pathology_scaat.training.bundle import ModelBundle, load_bundle, load_neighbours
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.data import PatchTable
from pathology_scaat.training.neighbours import VOTERS, NeighbourIndex, short_key
from pathology_scaat.training.references import features_of
from pathology_scaat.training.run_bundles import fold_bundles

SHOWN = 3
"""Neighbours of a class that are shown."""
SAMPLED = 16
"""Patches of a region among which the most typical one is looked for."""
MOST_BAG_PATCHES = 5000
"""Beyond, encoding all patches of a slide takes longer than a reader waits."""
BATCH = 64


@dataclass
class _Explaining:
    """A model that explained slides of the run, and what it knows of its training."""

    folder: Path
    bundle: ModelBundle
    index: NeighbourIndex | None


@dataclass
class RegionExplainer:
    """Answers about regions; the model is loaded when first asked.

    Parameters
    ----------
    out : Path
        Output folder of a run, with its patch stores.
    model : Path, optional
        The bundle; else ``out/model`` or that of a fold, whichever made the map.
    """

    out: Path
    model: Path | None = None
    ensemble: Ensemble = field(init=False)
    _loaded: dict[str, _Explaining] = field(default_factory=dict)
    _encoded: OrderedDict[tuple[str, str], torch.Tensor] = field(default_factory=OrderedDict)
    _stores: dict[int, Path] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.ensemble = Ensemble(self.out)

    def about(self, slide_id: str, region: ReviewRegion) -> dict[str, Any]:
        """What is known of a region, as JSON; what is not has a ``problem`` in words.

        Raises
        ------
        StoreError
            If the slide was not explained, or a store is damaged.
        """
        saliency = SaliencyStore(Workspace(self.out).saliency(slide_id))
        touching, inside = _patches_of(saliency, region)
        return {
            "region_id": region.region_id,
            "n_patches": int(touching.sum()),
            "without": _answer_or_problem(lambda: self._without(slide_id, saliency, touching)),
            "neighbours": _answer_or_problem(lambda: self._neighbours(slide_id, saliency, inside)),
            "ensemble": _answer_or_problem(
                lambda: self.ensemble.about(slide_id, saliency.meta, inside)
            ),
        }

    def differences(self, slide_id: str, regions: Sequence[ReviewRegion]) -> dict[str, float]:
        """How far apart the models of the folds are about each region, 0 to 1, by region id.

        Raises
        ------
        UsageError
            If there are no such models.
        StoreError
            If the slide was not explained, or a store is damaged.
        """
        saliency = SaliencyStore(Workspace(self.out).saliency(slide_id))
        rows = {r.region_id: _patches_of(saliency, r)[1] for r in regions[:MOST_REGIONS]}
        return self.ensemble.differences(slide_id, saliency.meta, rows)

    def picture(self, slide_id: str, number: int) -> RgbImage:
        """A training patch by its number in the index of the model that explained a slide.

        Raises
        ------
        ScaatError
            If there is no such patch, or its store is not at hand.
        """
        saliency = SaliencyStore(Workspace(self.out).saliency(slide_id))
        model = self._explaining(saliency.meta.model_fingerprint)
        index = model.index
        if index is None or not 0 <= number < len(index):
            raise UsageError("the training patch", "does not exist", "choose another")
        path = self._store_of(model, index, number)
        if path is None:
            raise StoreError("the training patch", "is not at hand", "bring the training's patches")
        pixels: RgbImage = PatchStore(path).read(index.row[number : number + 1])[0]
        return pixels

    # -- without the region
    def _without(
        self, slide_id: str, saliency: SaliencyStore, touching: NDArray[np.bool_]
    ) -> dict[str, Any]:
        names = saliency.meta.class_names
        if touching.all():
            return {"problem": "the region is all of the slide: nothing is left without it"}
        if saliency.contribution is None:
            positive = _positive(saliency)
            scores = [top_mean(p, positive) for p in
                      (saliency.probability, saliency.probability[~touching])]  # fmt: skip
            rule = f"score of the slide: {PATCH_RULE}; not calibrated for slides"
        else:
            model = self._explaining(saliency.meta.model_fingerprint)
            if model.bundle.config.bag_of is not None:
                return {"problem": "the model tells of cases, all slides of a patient together: "
                                   "one slide without a region is not asked for"}  # fmt: skip
            features = self._bag_features(slide_id, saliency, model.bundle)
            kept = torch.from_numpy(~touching)
            scores = [
                softmax(bag_logits(model.bundle.model, part)[None]  # type: ignore[arg-type]
                        / model.bundle.config.temperature)[0]
                for part in (features, features[kept])
            ]  # fmt: skip
            rule = "the model's own probability of the slide, computed anew without these patches"
        before, after = scores
        return {
            "problem": "",
            "rule": rule,
            "classes": [[n, float(b), float(a)] for n, b, a in
                        zip(names, before, after, strict=True)],
        }  # fmt: skip

    def _bag_features(
        self, slide_id: str, saliency: SaliencyStore, bundle: ModelBundle
    ) -> torch.Tensor:
        """Features of the patches that the map was made of, under the model that made it."""
        meta = saliency.meta
        key = (meta.patch_fingerprint, meta.model_fingerprint)
        with self._lock:
            if key in self._encoded:
                return self._encoded[key]
        store = self._patches_of_map(slide_id, saliency)
        if len(store) > MOST_BAG_PATCHES:
            raise UsageError(
                "this slide", f"has {len(store):,} patches: too many to encode while you wait", ""
            )
        assert isinstance(bundle.model, BagModel)  # noqa: S101  (only these contribute)
        batches = (torch.from_numpy(patches) for patches in store.iter_batches(BATCH))
        features = encode(bundle.model, batches)
        with self._lock:
            self._encoded[key] = features
            while len(self._encoded) > 2:
                self._encoded.popitem(last=False)
        return features

    def _patches_of_map(self, slide_id: str, saliency: SaliencyStore) -> PatchStore:
        """The patches that a map was made of.

        Raises
        ------
        UsageError
            If others stand in their place.
        """
        store = PatchStore(Workspace(self.out).patches(slide_id))
        if store.meta.fingerprint != saliency.meta.patch_fingerprint:
            raise UsageError("the slide", "was tiled anew since its map was made", "")
        return store

    # -- the nearest training patches
    def _neighbours(
        self, slide_id: str, saliency: SaliencyStore, inside: NDArray[np.int64]
    ) -> dict[str, Any]:
        model = self._explaining(saliency.meta.model_fingerprint)
        index, names = model.index, saliency.meta.class_names
        if index is None:
            return {"problem": "the model does not hold its training patches' features"}
        store = self._patches_of_map(slide_id, saliency)
        if model.bundle.config.role_of(store.meta.slide_fingerprint) == "unknown":
            return {
                "problem": "whether this slide was trained on is not known: patches of its own "
                "patient could stand here as those of others"
            }
        sampled = inside[np.unique(np.linspace(0, len(inside) - 1, SAMPLED).astype(int))]
        features = _features(model.bundle, store, sampled)
        typical = int(np.linalg.norm(features - features.mean(axis=0), axis=1).argmin())
        distances = index.distances(features[typical])
        key = short_key(store.meta.slide_fingerprint, model.bundle.config.training_fingerprint)
        patient = index.patient_of_slide(key)
        others = index.others(patient)
        of_slides = model.bundle.config.bag is not None
        groups = []
        for title, mask in _groups(index, saliency, int(sampled[typical]), of_slides):
            nearest = index.nearest(distances, SHOWN, others & mask)
            items = [self._item(model, index, int(i), float(distances[i])) for i in nearest]
            groups.append({"title": title, "items": items})
        vote = index.vote(distances, patient, len(names))
        asked = index.nearest(distances, VOTERS, others)
        voters = f"the nearest {len(asked)}"
        said = f"Of {voters} have" if index.label.ndim == 2 else f"{voters.capitalize()} say"
        if not of_slides:
            said += _copied_words(index.copied[asked])
        return {
            "problem": "",
            "groups": groups,
            "voters": f"{voters.capitalize()} are of slides of" if of_slides else said,
            "vote": [[n, None if math.isnan(v) else float(v)] for n, v in
                     zip(names, vote, strict=True)],
            "worth": _vote_quality_text(index, of_slides),
        }  # fmt: skip

    def _item(
        self, model: _Explaining, index: NeighbourIndex, number: int, distance: float
    ) -> dict[str, Any]:
        path = self._store_of(model, index, number)
        return {
            "number": number,
            "distance": round(distance, 2),
            "percentile": index.percentile(distance),
            "label_copied": bool(index.copied[number] == 1),
            "slide_id": path.name.removesuffix(".zarr") if path is not None else None,
        }

    def _store_of(self, model: _Explaining, index: NeighbourIndex, number: int) -> Path | None:
        """The very store that a training patch came from; None where it is not at hand.

        One of the same slide that was tiled anew does not do: the row would be another patch.
        """
        if self._stores is None:
            found = {}
            for path in (self.out / "patches").glob("*.zarr"):
                try:
                    meta = PatchStore(path).meta
                except StoreError:
                    continue
                found[short_key(meta.fingerprint, model.bundle.config.training_fingerprint)] = path
            self._stores = found
        store = self._stores.get(int(index.store_keys[index.store[number]]))
        if store is None or index.row[number] >= len(PatchStore(store)):
            return None
        return store

    def _explaining(self, fingerprint: str) -> _Explaining:
        """The model that made a map."""
        with self._lock:
            if fingerprint not in self._loaded:
                candidates = [self.model] if self.model else [Workspace(self.out).model]
                candidates += fold_bundles(self.out)
                for path_of_model in candidates:
                    try:
                        if model_fingerprint(read_bundle_config(path_of_model)) != fingerprint:
                            continue
                    except BundleError:
                        continue
                    self._stores = None
                    self._loaded = {
                        fingerprint: _Explaining(
                            path_of_model,
                            load_bundle(path_of_model),
                            load_neighbours(path_of_model),
                        )
                    }
                    break
                else:
                    raise BundleError("the model that made this map", "is not at hand", "")
            return self._loaded[fingerprint]


def _answer_or_problem(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """An answer, or why there is none."""
    try:
        return answer()
    except ScaatError as error:
        return {"problem": f"{error.subject} {error.problem}"}


def _positive(saliency: SaliencyStore) -> int | None:
    """As slides are scored: of two classes that exclude each other by the positive one alone."""
    meta = saliency.meta
    return None if meta.multi_label or len(meta.class_names) != 2 else meta.target_index


def _patches_of(
    saliency: SaliencyStore, region: ReviewRegion
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which patches reach into a region, (N,) bool; and numbers of those whose middle lies in it.

    Of a region that holds no patch's middle the nearest patch stands for it.
    """
    meta = saliency.meta
    side = meta.grid.patch_size_px * meta.grid.scale
    frame = meta.slide.frame_px
    corner = saliency.origins_px.astype(float) - (frame.x, frame.y)
    outline = shapely.make_valid(shapely.Polygon(region.rings[0], region.rings[1:]))
    shapely.prepare(outline)
    boxes = shapely.box(corner[:, 0], corner[:, 1], corner[:, 0] + side, corner[:, 1] + side)
    touching = shapely.intersects(outline, boxes) & ~shapely.touches(outline, boxes)
    middle = corner + side / 2
    inside = np.flatnonzero(shapely.contains_xy(outline, middle[:, 0], middle[:, 1]))
    if not len(inside):
        inside = np.argmin(shapely.distance(outline, shapely.points(middle)), keepdims=True)
    return np.asarray(touching, dtype=bool), np.asarray(inside, dtype=np.int64)


def _features(
    bundle: ModelBundle, store: PatchStore, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    none = np.zeros(len(rows), np.int64)
    device = next(bundle.model.parameters()).device
    return features_of(bundle.model, PatchTable((store,), none, rows, none), device)


def _groups(
    index: NeighbourIndex, saliency: SaliencyStore, row: int, of_slides: bool
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Whose neighbours are shown, the class that the model sees first: title, and which (N,)."""
    meta = saliency.meta
    if index.label.ndim == 2:
        mine = index.has(meta.target_index)
        target = meta.target_class
        return [(f"Nearest with {target}", mine), (f"Nearest without {target}", ~mine)]
    order = np.argsort(-saliency.probability[row])[:2]
    kind = "Nearest from slides of" if of_slides else "Nearest of"
    return [(f"{kind} {meta.class_names[k]}", index.has(int(k))) for k in order]


def _copied_words(copied: NDArray[np.int64]) -> str:
    """Of how many of the patches asked the class is their slide's, for a sentence."""
    if (copied == -1).any():
        return " (whether by labels of their own or of their slides, this model does not hold)"
    count = int((copied == 1).sum())
    return f" ({count} of them by the label of their slide, copied)" if count else ""


def _vote_quality_text(index: NeighbourIndex, of_slides: bool) -> str:
    """How good the neighbours' vote is beside the model, in words."""
    voted, own = float(index.voted_auc[0]), float(index.model_auc[0])
    if of_slides and not math.isnan(voted):
        return (
            "on held-out patches such a vote predicts the slide's label with AUC "
            f"{decimals(voted, 2)} (no interval); what a patch itself shows nobody has said, and "
            "most of a slide of a class may show nothing of it"
        )
    if math.isnan(voted) or math.isnan(own):
        return "how often neighbours are right is not known: held-out patches could not show it"
    return (
        f"on some patches held out in training the vote of the nearest {VOTERS} has AUC "
        f"{decimals(voted, 2)}, the model {decimals(own, 2)} (no interval; the model's quality on "
        "unseen slides stands on the page of all slides)"
    )

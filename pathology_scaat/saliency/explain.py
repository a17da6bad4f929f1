"""Explain a slide: patches and model bundle in, saliency store out.

Three things happen at once: a thread reads the next batches (from the patch store, or from the
slide itself), the device explains one, and a thread compresses the last shard. Memory is bounded
by a few batches and one shard, whatever the size of the slide.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.fingerprint import versions
from pathology_scaat.artifacts.leases import lease_if_writable
from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.errors import SlideReadError, StoreError
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.patches.config import TileJob
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.patches.without_pixels import count_unreadable, without_unreadable
from pathology_scaat.saliency.arithmetic import chosen_precision, kept_for_explaining
from pathology_scaat.saliency.batch_explainer import BatchExplainer, compiled_batch
from pathology_scaat.saliency.config import (
    ExplainConfig,
    ExplainResult,
    Precision,
)
from pathology_scaat.saliency.device_copies import Pending
from pathology_scaat.saliency.explanation import (
    Explanation,
    check_match,
    explained_classes,
    plan_explanation,
    settled,
)
from pathology_scaat.saliency.schema import MAIN_ARRAY, UNLIKE_SLIDE_SHARE, unlike_share
from pathology_scaat.saliency.sources import (
    READ_AHEAD_BATCHES,
    UnreadablePatchesError,
    patch_source,
)
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.saliency.store_writer import saliency_store_writer
from pathology_scaat.system.rounding import percent
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config

if TYPE_CHECKING:
    import torch

    from pathology_scaat.saliency.sources import PatchSource
    from pathology_scaat.training.bundle import ModelBundle

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Batches that are queued on a GPU before the results of the first are waited for."""

READY_PATCHES = 8

Progress = Callable[[int, int], None]


def _explainer(
    bundle: ModelBundle, targets: Sequence[int], config: ExplainConfig, device: torch.device
) -> BatchExplainer:
    """What explains the patches of a slide under a model for patches, or for bags."""
    from pathology_scaat.saliency.bags import BagExplainer
    from pathology_scaat.training.bags.model import BagModel

    if isinstance(bundle.model, BagModel):
        temperature = bundle.config.temperature
        return BagExplainer(bundle.model, targets, config, device, temperature, bundle.features)
    if bundle.config.multi_label and len(bundle.config.class_names) == 1:
        # A lone logit is read as that of class 1 against class 0 (target_score): here it is that
        # of the only class, and asking for class 0 would explain what speaks against it.
        targets = [1]
    return BatchExplainer(
        bundle.model,
        targets,
        config,
        device,
        bundle.config.multi_label,
        temperature=bundle.config.temperature,
        features=bundle.features,
    )


def _existing(out_path: Path) -> SaliencyStore | None:
    if not out_path.exists():
        return None
    try:
        store = SaliencyStore(out_path)
        len(store), store.probability  # damaged arrays are found here, and made again
    except StoreError:
        return None
    return store


def _precisions(asked: str) -> tuple[Precision, ...]:
    """In which precision to compute; then, under ``auto``, in which else a result is right."""
    chosen = chosen_precision(asked)
    other: Precision = "float32" if chosen == "bfloat16" else "bfloat16"
    return (chosen, other) if asked == "auto" else (chosen,)


def explain_slide(
    store_path: Path,
    bundle_path: Path,
    out_path: Path,
    config: ExplainConfig | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    slide: TileJob | None = None,
    case: Sequence[Path] = (),
    processes: int | None = None,
) -> ExplainResult:
    """Compute the saliency and the class probabilities of every patch of a slide.

    Parameters
    ----------
    store_path : Path
        Patch store of the slide.
    bundle_path : Path
        Model bundle.
    out_path : Path
        Saliency store to make, ``<slide_id>.zarr``. Nothing is done where it already holds
        this very result.
    config : ExplainConfig, optional
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    overwrite : bool
        Make it anew in any case.
    progress : callable, optional
        Called with (patches done, patches in all).
    slide : TileJob, optional
        How the patch store was made: where it holds no pixels, they are read from this slide.
    case : sequence of Path
        Patch stores, with pixels, of the other slides of the case, where the model's bags are
        cases: the score that is explained is that of all of them together.
    processes : int, optional
        Processes that share the GPU with this one, itself counted, and so its memory.

    Returns
    -------
    ExplainResult

    Raises
    ------
    StoreError, BundleError, SlideError
        If an input cannot be read.
    UsageError
        If patches and model do not fit (size, µm/px), or the target is not a class.
    """
    settings = config or ExplainConfig()
    started = time.perf_counter()
    store = PatchStore(store_path)
    chosen = choose_device(device)
    # The configuration is enough to see that nothing is to be done; weights are read after.
    model_config = read_bundle_config(Path(bundle_path))
    check_match(store.meta, model_config, Path(store_path).name)
    out_path = Path(out_path)
    there = None if overwrite else _existing(out_path)
    others = tuple(map(PatchStore, case)) if model_config.bag_of is not None else ()
    case_prints = [other.meta.fingerprint for other in others]
    plans = [
        plan_explanation(
            store.meta,
            model_config,
            settings.model_copy(update={"precision": one}),
            there,
            case_prints,
        )
        for one in _precisions(settings.precision)
    ]
    held = next((plan for plan in plans if plan.is_held_by(there, model_config)), None)
    if held is not None and there is not None:
        probability = there.target_probability
        return ExplainResult(
            slide_id=store.meta.slide_id,
            path=out_path,
            fingerprint=held.fingerprint,
            n_patches=len(there),
            seconds=time.perf_counter() - started,
            skipped=True,
            mean_probability=float(probability.mean()) if len(probability) else float("nan"),
            unlike_share=unlike_share(there.unlike),
        )
    plan = plans[0]
    bundle = kept_for_explaining(
        Path(bundle_path), plan.model_print, str(chosen), plan.parameters["precision"],
        compiled_batch(plan.config, chosen),
    )  # fmt: skip
    job = _Explaining(plan, bundle, chosen, out_path, progress, others, processes)
    try:
        return job.run(store, slide, started)
    except UnreadablePatchesError as found:
        # Known only now. The slide is read once more, without them.
        store = _without_unreadable(store, found.readable, slide)
    try:
        return job.run(store, slide, started)
    except UnreadablePatchesError as found:
        raise SlideReadError(store.meta.slide_id, str(found), "copy the slide again") from None


def get_ready_to_explain(
    bundle_path: Path, config: ExplainConfig, device: str, n_patches: int = READY_PATCHES
) -> None:
    """Do what explaining the first slide begins with, and what it hands on to the next one.

    The model is loaded, and has explained some black patches: libraries, and on a GPU their
    kernels, are in memory then.

    Parameters
    ----------
    bundle_path : Path
        Model bundle.
    config : ExplainConfig
    device : str
        As :func:`explain_slide` will be given it.
    n_patches : int
        Black patches.

    Raises
    ------
    BundleError, UsageError
        If the bundle cannot be read, the target is not a class, or the method cannot follow the
        network.
    """
    chosen = choose_device(device)
    model_config = read_bundle_config(bundle_path)
    settings = settled(config, model_config)
    bundle = kept_for_explaining(
        bundle_path, model_fingerprint(model_config), str(chosen),
        chosen_precision(settings.precision), compiled_batch(settings, chosen),
    )  # fmt: skip
    targets = [0] * len(explained_classes(settings.target, model_config))
    side = model_config.patch_size_px
    black = np.zeros((n_patches, side, side, 3), np.uint8)
    explain = _explainer(bundle, targets, settings, chosen)
    explain.look([black])  # of a model for bags they are a slide
    for pending in explain.start(black):
        pending.result()


def _without_unreadable(
    store: PatchStore, readable: NDArray[np.bool_], slide: TileJob | None
) -> PatchStore:
    """The store without the patches that cannot be decoded, as tiling would have made it.

    Raises
    ------
    SlideReadError
        If they are too many.
    """
    if slide is not None:
        count_unreadable(readable, slide.config, slide_location(slide.slide_path).name)
    path = store.path
    with lease_if_writable(Path(path), wait_s=60.0):
        now = PatchStore(path)  # another run may have put the pixels there meanwhile
        if not now.meta.has_pixels and now.meta == store.meta:
            without_unreadable(now, readable)
    return PatchStore(path)


class _Explaining:
    """The work of :func:`explain_slide` on one slide."""

    def __init__(
        self,
        plan: Explanation,
        bundle: ModelBundle,
        device: torch.device,
        out_path: Path,
        progress: Progress | None,
        case: Sequence[PatchStore],
        processes: int | None,
    ) -> None:
        self._case, self._processes = case, processes
        self._plan, self._bundle, self._device = plan, bundle, device
        self._out_path, self._progress = out_path, progress
        self._further = {n: array for n, array in plan.arrays.items() if array != MAIN_ARRAY}
        self._target_index = plan.class_names.index(plan.target_class)

    def run(self, store: PatchStore, slide: TileJob | None, started: float) -> ExplainResult:
        """Explain the patches of a store.

        Raises
        ------
        UnreadablePatchesError
            If some could not be decoded; nothing has been written then.
        """
        plan, config, bundle = self._plan, self._plan.config, self._bundle
        source = patch_source(store, slide, pinned=self._device.type == "cuda")
        indices = [self._target_index, *(plan.class_names.index(n) for n in self._further)]
        explain = _explainer(bundle, indices, config, self._device)
        explain.processes = self._processes
        with saliency_store_writer(
            self._out_path,
            plan.meta(store.meta, bundle.config, versions()),
            len(store),
            np.asarray(store.origins_px),
            np.asarray(store.grid_index),
            config.patches_per_shard,
        ) as writer:
            size = explain.batch_size(store.patch_size_px)
            others = (batch for other in self._case for batch in other.iter_batches(size))
            writer.columns.update(explain.look(source.batches(size), others))
            sums = self._explain_all(explain, source, size, len(store), writer.append)
        notes: tuple[str, ...] = ()
        if n := writer.n_clipped:
            values = "value was" if n == 1 else "values were"
            notes = (
                f"{n} saliency {values} cut ({percent(n / writer.n_values)}), being more than the "
                "store holds: for exact ones set explain: saliency_scale in the pipeline file to "
                f"{writer.fitting_scale:g} (now {writer.scale:g})",
            )
            logger.warning("%s: %s", store.meta.slide_id, notes[0])
        share = unlike_share(np.concatenate(sums.unlike) if sums.unlike else None)
        if share is not None and share >= UNLIKE_SLIDE_SHARE:
            notes = (
                *notes,
                f"{percent(share)} of its patches are unlike the model's training data",
            )
        return ExplainResult(
            slide_id=store.meta.slide_id,
            path=self._out_path,
            fingerprint=plan.fingerprint,
            n_patches=len(store),
            seconds=time.perf_counter() - started,
            skipped=False,
            mean_probability=sums.probability / len(store) if len(store) else float("nan"),
            n_clipped=writer.n_clipped,
            unlike_share=share,
            n_unreadable=None if store.meta.has_pixels else store.meta.n_unreadable,
            notes=notes,
        )

    def _explain_all(
        self,
        explain: BatchExplainer,
        source: PatchSource,
        size: int,
        total: int,
        append: Callable[..., None],
    ) -> _Sums:
        sums = _Sums()
        with ThreadPoolExecutor(1, thread_name_prefix="scaat-write") as pool:
            written: deque[Future[None]] = deque()
            in_flight: deque[list[Pending]] = deque()
            done = 0

            def take(parts: list[Pending]) -> None:
                nonlocal done
                for part in parts:
                    maps, probability, *more = part.result()
                    odd = more.pop(0) if self._bundle.features is not None else None
                    if odd is not None:
                        sums.unlike.append(odd)
                    others = dict(zip(self._further.values(), more, strict=True))
                    written.append(pool.submit(append, maps, probability, others, odd))
                    if len(written) > READ_AHEAD_BATCHES:
                        written.popleft().result()
                    done += len(maps)
                    sums.probability += float(probability[:, self._target_index].sum())
                if self._progress is not None:
                    self._progress(done, total)

            ahead = IN_FLIGHT if self._device.type == "cuda" else 0
            begun = 0
            for patches in source.batches(size):
                in_flight.append(explain.start(patches, begun))
                begun += len(patches)
                if len(in_flight) > ahead:
                    take(in_flight.popleft())
            while in_flight:
                take(in_flight.popleft())
            while written:
                written.popleft().result()
        return sums


class _Sums:
    """What is added up over the batches of a slide."""

    def __init__(self) -> None:
        self.unlike: list[NDArray[np.float32]] = []
        self.probability = 0.0

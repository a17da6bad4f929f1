"""Explain a slide: patch store and model bundle in, saliency store out.

Three things happen at once: a thread reads the next batches, the device explains one, and a
thread compresses the last shard. Memory is bounded by a few batches and one shard, whatever
the size of the slide.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.artifacts.fingerprint import fingerprint, versions
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.saliency.batch_explainer import BatchExplainer
from pathology_scaat.saliency.config import ExplainConfig, ExplainResult
from pathology_scaat.saliency.schema import (
    MAIN_ARRAY,
    SCHEMA_NAME,
    SCHEMA_VERSION,
    UNLIKE_PERCENTILE,
    UNLIKE_SLIDE_SHARE,
    SaliencyStoreMeta,
)
from pathology_scaat.saliency.store import SaliencyStore, saliency_store_writer

if TYPE_CHECKING:
    import torch

    from pathology_scaat.patches import PatchStore
    from pathology_scaat.training.bundle import ModelBundle
    from pathology_scaat.training.bundle_config import BundleConfig

logger = logging.getLogger(__name__)

READ_AHEAD_BATCHES = 3
MPP_TOLERANCE = 0.10
NOT_IN_FINGERPRINT = {"batch_size", "patches_per_shard"}

Progress = Callable[[int, int], None]


def _read_ahead(
    store: PatchStore, starts: range, batch: int, pool: ThreadPoolExecutor
) -> Iterator[NDArray[np.uint8]]:
    pending: deque[Future[NDArray[np.uint8]]] = deque()
    total = len(store)
    for start in starts:
        indices = np.arange(start, min(start + batch, total))
        pending.append(pool.submit(store.read, indices))
        if len(pending) > READ_AHEAD_BATCHES:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def unlike_share(percentile: NDArray[np.float32] | None) -> float | None:
    """Share of patches beyond :data:`UNLIKE_PERCENTILE`, 0 to 1; None where none is known."""
    if percentile is None or not len(percentile):
        return None
    return float(np.mean(percentile >= UNLIKE_PERCENTILE))


def check_match(store: PatchStore, bundle_config: Any, subject: str) -> None:
    """Refuse patches that the model was not made for.

    Raises
    ------
    UsageError
        If their size or µm/px is another one.
    """
    size, mpp = store.meta.grid.patch_size_px, store.meta.effective_mpp
    if size != bundle_config.patch_size_px:
        raise UsageError(
            subject,
            f"holds patches of {size} px, the model was trained on {bundle_config.patch_size_px}",
            f"tile again with --patch-size {bundle_config.patch_size_px}",
        )
    if bundle_config.mpp and abs(mpp / bundle_config.mpp - 1) > MPP_TOLERANCE:
        raise UsageError(
            subject,
            f"is at {mpp:g} µm/px, the model was trained at {bundle_config.mpp:g}",
            f"tile again with --mpp {bundle_config.mpp:g}",
        )


def _explainer(
    bundle: ModelBundle, targets: Sequence[int], config: ExplainConfig, device: torch.device
) -> BatchExplainer:
    """What explains the patches of a slide under a model for patches, or for bags."""
    from pathology_scaat.saliency.bags import BagExplainer
    from pathology_scaat.training.bags.model import BagModel

    if isinstance(bundle.model, BagModel):
        temperature = bundle.config.temperature
        return BagExplainer(bundle.model, targets, config, device, temperature)
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


def explained_classes(target: str | None, model_config: BundleConfig) -> tuple[str, ...]:
    """The classes to explain, in the model's order.

    Without any named: of two classes that exclude each other the positive one, since a map of
    the other would say the same once more; else every class.

    Raises
    ------
    UsageError
        If a class is none of the model's.
    """
    names = tuple(model_config.class_names)
    if target is None:
        alone = len(names) <= 2 and not model_config.multi_label
        return (model_config.positive_class,) if alone else names
    asked = [target] if target in names else [part.strip() for part in target.split(",")]
    for name in asked:
        if name not in names:
            raise UsageError(
                "--target", f"'{name}' is no class of the model", f"use one of {', '.join(names)}"
            )
    return tuple(name for name in names if name in asked)


def array_names(
    targets: Sequence[str], main: str, class_names: Sequence[str], config: ExplainConfig
) -> dict[str, str]:
    """Which array holds the saliency of which class."""
    # the margins of two classes differ in sign alone, and saliency is its size
    shared = (
        len(class_names) == 2 and config.output != "logit" and not config.method.startswith("grad-")
    )
    return {
        name: MAIN_ARRAY if shared or name == main else f"{MAIN_ARRAY}_{class_names.index(name)}"
        for name in targets
    }


def _parameters(config: ExplainConfig, model_config: BundleConfig) -> dict[str, Any]:
    """All that decides the result beside patches and model, but the classes."""
    parameters = config.model_dump(mode="json", exclude={*NOT_IN_FINGERPRINT, "target"})
    # the model's fingerprint holds it too: this tells that it was applied
    parameters["temperature"] = model_config.temperature
    if model_config.bag is not None:
        parameters["unit"] = "gradient of the slide's score x number of its patches"
    return parameters


def _with_those_there(
    targets: tuple[str, ...],
    found: SaliencyStore | None,
    patches: str,
    model: str,
    parameters: dict[str, Any],
) -> tuple[str, ...]:
    """Classes asked for, and those that the same explanation holds already: it adds to them."""
    if found is None:
        return targets
    meta = found.meta
    rest = {k: v for k, v in meta.parameters.items() if k != "targets"}
    if (meta.patch_fingerprint, meta.model_fingerprint, rest) != (patches, model, parameters):
        return targets
    return tuple(n for n in meta.class_names if n in targets or n in meta.targets)


def explain_slide(
    store_path: Path,
    bundle_path: Path,
    out_path: Path,
    config: ExplainConfig | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
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

    Returns
    -------
    ExplainResult

    Raises
    ------
    StoreError, BundleError
        If an input cannot be read.
    UsageError
        If patches and model do not fit (size, µm/px), or the target is not a class.
    """
    from pathology_scaat.patches import PatchStore
    from pathology_scaat.training.bundle import kept_bundle, read_bundle_config
    from pathology_scaat.training.bundle_config import model_fingerprint

    config = config or ExplainConfig()
    started = time.perf_counter()
    store = PatchStore(store_path)
    chosen = choose_device(device)
    # The configuration is enough to see that nothing is to be done; weights are read after.
    model_config = read_bundle_config(Path(bundle_path))
    model_print = model_fingerprint(model_config)
    check_match(store, model_config, Path(store_path).name)
    class_names = tuple(model_config.class_names)
    targets = explained_classes(config.target, model_config)
    if model_config.multi_label and config.output != "logit":
        # Classes do not exclude each other: there is no margin between them.
        config = config.model_copy(update={"output": "logit"})
    parameters = _parameters(config, model_config)
    out_path = Path(out_path)
    there = None if overwrite else _existing(out_path)
    targets = _with_those_there(targets, there, store.meta.fingerprint, model_print, parameters)
    positive = model_config.positive_class
    target_class = positive if positive in targets else targets[0]
    parameters["targets"] = list(targets)
    if config.method == "smoothgrad":
        parameters["noise_by"] = "patch"  # once it was drawn by the place in the batch
    wanted = fingerprint(
        {
            "schema": SCHEMA_NAME,
            "schema_version": SCHEMA_VERSION,
            "patches": store.meta.fingerprint,
            "model": model_print,
            "parameters": parameters,
        }
    )
    # Stores of before it was written do not say that their probabilities are sigmoids.
    current = there is not None and there.meta.multi_label == model_config.multi_label
    if there is not None and current and there.meta.fingerprint == wanted:
        found = there
        probability = found.target_probability
        return ExplainResult(
            slide_id=store.meta.slide_id,
            path=out_path,
            fingerprint=wanted,
            n_patches=len(found),
            seconds=time.perf_counter() - started,
            skipped=True,
            mean_probability=float(probability.mean()) if len(probability) else float("nan"),
            unlike_share=unlike_share(found.unlike),
        )
    arrays = array_names(targets, target_class, class_names, config)
    meta = SaliencyStoreMeta(
        slide_id=store.meta.slide_id,
        slide_fingerprint=store.meta.slide_fingerprint,
        fingerprint=wanted,
        patch_fingerprint=store.meta.fingerprint,
        model_fingerprint=model_print,
        slide=store.meta.slide,
        grid=store.meta.grid,
        effective_mpp=store.meta.effective_mpp,
        stride_px=config.stride_px,
        class_names=class_names,
        target_class=target_class,
        method=config.method,
        parameters=parameters,
        versions=versions(),
        multi_label=model_config.multi_label,
        arrays=arrays,
        model=model_config.facts(store.meta.slide_fingerprint),
    )
    bundle = kept_bundle(Path(bundle_path), model_print, str(chosen))
    total = len(store)
    target_index = class_names.index(target_class)
    further = {name: array for name, array in arrays.items() if array != MAIN_ARRAY}
    indices = [target_index, *(class_names.index(name) for name in further)]
    explain = _explainer(bundle, indices, config, chosen)
    unlike: list[NDArray[np.float32]] = []
    probability_sum = 0.0
    with (
        ThreadPoolExecutor(1, thread_name_prefix="scaat-read") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="scaat-write") as writer_pool,
        saliency_store_writer(
            out_path,
            meta,
            total,
            np.asarray(store.origins_px),
            np.asarray(store.grid_index),
            config.patches_per_shard,
        ) as writer,
    ):
        written: deque[Future[None]] = deque()
        done = 0
        starts = range(0, total, config.batch_size)
        writer.columns.update(explain.look(_read_ahead(store, starts, config.batch_size, reader)))
        for patches in _read_ahead(store, starts, config.batch_size, reader):
            maps, probability, *more = explain(patches, done)
            odd = more.pop(0) if bundle.features is not None else None
            if odd is not None:
                unlike.append(odd)
            others = dict(zip(further.values(), more, strict=True))
            written.append(writer_pool.submit(writer.append, maps, probability, others, odd))
            if len(written) > READ_AHEAD_BATCHES:
                written.popleft().result()
            done += len(patches)
            probability_sum += float(probability[:, target_index].sum())
            if progress is not None:
                progress(done, total)
        while written:
            written.popleft().result()
    notes: tuple[str, ...] = ()
    if writer.n_clipped:
        notes = (f"{writer.n_clipped} saliency values were cut: lower saliency_scale",)
        logger.warning("%s: %s", store.meta.slide_id, notes[0])
    share = unlike_share(np.concatenate(unlike) if unlike else None)
    if share is not None and share >= UNLIKE_SLIDE_SHARE:
        notes = (*notes, f"{share:.0%} of its patches are unlike the model's training data")
    return ExplainResult(
        slide_id=store.meta.slide_id,
        path=out_path,
        fingerprint=wanted,
        n_patches=total,
        seconds=time.perf_counter() - started,
        skipped=False,
        mean_probability=probability_sum / total if total else float("nan"),
        n_clipped=writer.n_clipped,
        unlike_share=share,
        notes=notes,
    )

"""Explain a slide: patch store and model bundle in, saliency store out.

Three things happen at once: a thread reads the next batches, the device explains one, and a
thread compresses the last shard. Memory is bounded by a few batches and one shard, whatever
the size of the slide.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.artifacts.fingerprint import fingerprint, versions
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.saliency.attribution import attribute_with_logits
from pathology_scaat.saliency.config import ExplainConfig, ExplainResult
from pathology_scaat.saliency.schema import SCHEMA_NAME, SCHEMA_VERSION, SaliencyStoreMeta
from pathology_scaat.saliency.store import SaliencyStore, saliency_store_writer

if TYPE_CHECKING:
    from pathology_scaat.patches import PatchStore
    from pathology_scaat.training.bundle import ModelBundle

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


def _average(maps: Tensor, stride_px: int) -> Tensor:
    return F.avg_pool2d(maps[:, None], stride_px)[:, 0] if stride_px > 1 else maps


class BatchExplainer:
    """Explains patches on a device, as many at once as its memory holds.

    Parameters
    ----------
    model : nn.Module
    target_index : int
        Class that is explained.
    config : ExplainConfig
    device : torch.device
    multi_label : bool
        Probability is each class's sigmoid instead of the softmax over the classes.

    Attributes
    ----------
    at_once : int or None
        Patches that go to the device together; halved, and kept so, where its memory is short.
    """

    def __init__(
        self,
        model: nn.Module,
        target_index: int,
        config: ExplainConfig,
        device: torch.device,
        multi_label: bool = False,
    ) -> None:
        self.model = model
        self.target_index = target_index
        self.config = config
        self.device = device
        self.multi_label = multi_label
        self.at_once: int | None = None

    def look(self, batches: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """See the whole slide before any of it is explained, if need be: not under this model.

        Returns
        -------
        dict
            Columns that the saliency store gets besides, (N, ...) by name.
        """
        return {}

    def __call__(
        self, patches: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Saliency (n, h, h) and probability (n, K) of (n, P, P, 3) uint8 patches.

        Raises
        ------
        UsageError
            If the GPU's memory does not hold a single patch.
        """
        parts = []
        start = 0
        while start < len(patches):
            part = patches[start : start + (self.at_once or len(patches))]
            found = self._try(part)
            if found is None:
                self._take_fewer(part)
            else:
                parts.append(found)
                start += len(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _try(
        self, patches: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """None where memory is short; the error ends here, for it holds what had been made."""
        try:
            return self._explain(patches)
        except torch.cuda.OutOfMemoryError:
            return None

    def _take_fewer(self, patches: NDArray[np.uint8]) -> None:
        torch.cuda.empty_cache()
        if len(patches) == 1:
            raise UsageError(
                "the GPU",
                f"has too little memory free for one patch of {patches.shape[1]} px",
                "close what else runs on it, or use --device cpu",
            )
        self.at_once = len(patches) // 2
        logger.warning("GPU memory is short: explaining %d patches at a time", self.at_once)

    def _explain(
        self, patches: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        config = self.config
        pixels = torch.from_numpy(patches).to(self.device, non_blocking=True)
        images = pixels.permute(0, 3, 1, 2).float().div_(255)
        mixed = (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if config.precision == "bfloat16"
            else nullcontext()
        )
        with mixed:
            maps, logits = attribute_with_logits(
                self.model,
                images,
                self.target_index,
                config.method,
                config.output,
                n_samples=config.n_samples,
                noise_std=config.noise_std,
                seed=config.seed,
            )
        if logits.shape[1] == 1 and not self.multi_label:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        probability = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        return (
            _average(maps, config.stride_px).cpu().numpy(),
            probability.cpu().numpy().astype(np.float32),
        )


def _check_match(store: PatchStore, bundle_config: Any, subject: str) -> None:
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
    bundle: ModelBundle, target_index: int, config: ExplainConfig, device: torch.device
) -> BatchExplainer:
    """What explains the patches of a slide under a model for patches, or for bags."""
    from pathology_scaat.saliency.bags import BagExplainer
    from pathology_scaat.training.bags.model import BagModel

    if isinstance(bundle.model, BagModel):
        temperature = bundle.config.temperature
        return BagExplainer(bundle.model, target_index, config, device, temperature)
    return BatchExplainer(bundle.model, target_index, config, device, bundle.config.multi_label)


def _existing(out_path: Path, wanted: str) -> SaliencyStore | None:
    if not out_path.exists():
        return None
    try:
        store = SaliencyStore(out_path)
    except StoreError:
        return None
    return store if store.meta.fingerprint == wanted else None


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
    _check_match(store, model_config, Path(store_path).name)
    class_names = tuple(model_config.class_names)
    target_class = config.target or model_config.positive_class
    if model_config.multi_label and config.output != "logit":
        # Classes do not exclude each other: there is no margin between them.
        config = config.model_copy(update={"output": "logit"})
    if target_class not in class_names:
        raise UsageError(
            "target", f"'{target_class}' is no class of the model", f"use one of {class_names}"
        )
    parameters = config.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT)
    parameters["target"] = target_class
    if model_config.bag is not None:
        parameters["unit"] = "gradient of the slide's score x number of its patches"
    wanted = fingerprint(
        {
            "schema": SCHEMA_NAME,
            "schema_version": SCHEMA_VERSION,
            "patches": store.meta.fingerprint,
            "model": model_print,
            "parameters": parameters,
        }
    )
    out_path = Path(out_path)
    found = None if overwrite else _existing(out_path, wanted)
    if found is not None:
        probability = found.target_probability
        return ExplainResult(
            slide_id=store.meta.slide_id,
            path=out_path,
            fingerprint=wanted,
            n_patches=len(found),
            seconds=time.perf_counter() - started,
            skipped=True,
            mean_probability=float(probability.mean()) if len(probability) else float("nan"),
        )
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
    )
    bundle = kept_bundle(Path(bundle_path), model_print, str(chosen))
    total = len(store)
    target_index = class_names.index(target_class)
    explain = _explainer(bundle, target_index, config, chosen)
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
            maps, probability = explain(patches)
            written.append(writer_pool.submit(writer.append, maps, probability))
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
    return ExplainResult(
        slide_id=store.meta.slide_id,
        path=out_path,
        fingerprint=wanted,
        n_patches=total,
        seconds=time.perf_counter() - started,
        skipped=False,
        mean_probability=probability_sum / total if total else float("nan"),
        n_clipped=writer.n_clipped,
        notes=notes,
    )

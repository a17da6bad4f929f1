"""Explaining a batch of patches on a device, as many at once as its memory holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.execution.devices import processes_on_gpu
from pathology_scaat.saliency.attribution import attribute_with_logits
from pathology_scaat.saliency.attributions import AUTO, LOOKS_INSIDE
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.saliency.device_copies import Fetched, Pending, ToDevice
from pathology_scaat.training.feature_reference import FeatureReference, penultimate
from pathology_scaat.training.looks import look_statistics

logger = logging.getLogger(__name__)


CPU_BATCH = 16
"""Patches at once where nothing else is set: 32 took an eighth more CPU time for the same maps."""
GPU_BATCH = 512
"""The most patches at once on a GPU: more make it no faster (256 to 512 fill an H100)."""
MEMORY_SHARE = 0.6
"""Of the GPU's free memory, for the batches of all its processes: the next ones and the libraries'
work space need some."""
PROBE = 8
COMPILED_BATCH = 256
"""Patches at once of a compiled network on a GPU, unless set: its batches are all of one size."""


def compiled_batch(config: ExplainConfig, device: torch.device) -> int:
    """How many patches a compiled network takes at once; 0 where none is compiled.

    Methods that look at single layers have the network as it is.
    """
    if not config.compile or device.type != "cuda" or config.method in LOOKS_INSIDE:
        return 0
    return config.batch_size or COMPILED_BATCH


def average(maps: Tensor, stride_px: int) -> Tensor:
    """Means over squares of a map, (n, H, W) to (n, H // stride, W // stride)."""
    return F.avg_pool2d(maps[:, None], stride_px)[:, 0] if stride_px > 1 else maps


class BatchExplainer:
    """Explains patches on a device, as many at once as its memory holds.

    Parameters
    ----------
    model : nn.Module
    target_index : int or sequence of int
        Class that is explained, or several: the maps of the first come first, those of the
        others last.
    config : ExplainConfig
        Its method is one by name; ``auto``, which a bundle decides, is the gradient here.
    device : torch.device
    multi_label : bool
        Probability is each class's sigmoid instead of the softmax over the classes.
    temperature : float
        Logits are divided by it before they become probabilities.
    features : FeatureReference, optional
        Given it, a call also returns how unlike the training patches are, after the probability.

    Attributes
    ----------
    at_once : int or None
        Patches that go to the device together; halved, and kept so, where its memory is short.
    processes : int or None
        Processes that share the GPU's memory with this one, itself counted; None where nobody
        said: then as many as this machine would start.
    """

    def __init__(
        self,
        model: nn.Module,
        target_index: int | Sequence[int],
        config: ExplainConfig,
        device: torch.device,
        multi_label: bool = False,
        *,
        temperature: float = 1.0,
        features: FeatureReference | None = None,
    ) -> None:
        self.model = model
        self.targets = [target_index] if isinstance(target_index, int) else list(target_index)
        self.temperature = temperature
        self.features = features
        if config.method == AUTO:
            config = config.model_copy(update={"method": "gradient"})
        self.config = config
        self.device = device
        self.multi_label = multi_label
        self.at_once: int | None = None
        self.processes: int | None = None
        self.to_device = ToDevice(device)

    def look(
        self, batches: Iterable[NDArray[np.uint8]], others: Iterable[NDArray[np.uint8]] = ()
    ) -> dict[str, NDArray[np.float32]]:
        """See the whole slide before any of it is explained, if need be: not under this model.

        Both give (n, P, P, 3) uint8 at a time.

        Returns
        -------
        dict
            Columns that the saliency store gets besides, (N, ...) by name.
        """
        return {}

    def __call__(
        self, patches: NDArray[np.uint8], first: int = 0
    ) -> tuple[NDArray[np.float32], ...]:
        """Saliency (n, h, h) and probability (n, K) of (n, P, P, 3) uint8 patches.

        All float32; ``h`` is the patch's side by the stride.

        Then, where asked for: percentiles (n,), 0 to 100, of how unlike the training patches they
        are; saliency (n, h, h) for each further class.

        ``first`` is the number of the first patch in the slide: SmoothGrad's noise is a patch's
        own, so that maps do not depend on how many are explained at once.

        Raises
        ------
        UsageError
            If the GPU's memory does not hold a single patch.
        """
        parts = [pending.result() for pending in self.start(patches, first)]
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(same) for same in zip(*parts, strict=True))

    def start(self, patches: NDArray[np.uint8], first: int = 0) -> list[Pending]:
        """As a call with (n, P, P, 3) uint8, but on a GPU the work is only queued.

        Asking for a result waits for it.

        One for each part, where memory does not hold all patches at once.

        Raises
        ------
        UsageError
            If the GPU's memory does not hold a single patch.
        """
        parts = []
        start = 0
        while start < len(patches):
            part = patches[start : start + (self.at_once or len(patches))]
            found = self._try(part, first + start)
            if found is None:
                self._take_fewer(part)
            else:
                parts.append(found)
                start += len(part)
        return parts

    def batch_size(self, side_px: int) -> int:
        """Patches to give at once: as configured, or as many as memory holds and serve speed."""
        if self.config.batch_size is not None:
            return self.config.batch_size
        if fixed := compiled_batch(self.config, self.device):
            return fixed
        if self.device.type != "cuda":
            return CPU_BATCH
        return self._fitting(side_px)

    def _fitting(self, side_px: int) -> int:
        """By what a few patches take of the GPU's memory."""
        device = self.device
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        for pending in self.start(np.zeros((PROBE, side_px, side_px, 3), np.uint8)):
            pending.result()
        each = max((torch.cuda.max_memory_allocated(device) - before) / PROBE, 1.0)
        torch.cuda.empty_cache()  # what others have freed counts as free
        sharing = self.processes or processes_on_gpu(str(device))
        room = torch.cuda.mem_get_info(device)[0] * MEMORY_SHARE / sharing
        fitting = int(room / each)
        size = CPU_BATCH
        while size * 2 <= min(fitting, GPU_BATCH):
            size *= 2
        return max(1, min(size, fitting))

    def _try(self, patches: NDArray[np.uint8], first: int) -> Pending | None:
        """None where memory is short; the error ends here, for it holds what had been made."""
        try:
            return self._explain(patches, first)
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

    def _explain(self, patches: NDArray[np.uint8], first: int) -> Pending:
        config = self.config
        n_patches = len(patches)
        fixed = compiled_batch(config, self.device)
        size = (self.at_once or fixed) if fixed else 0
        if n_patches < size:
            # The last batch of a slide: another size would be compiled for seconds.
            patches = np.concatenate([patches, np.repeat(patches[-1:], size - n_patches, axis=0)])
        images = self.to_device(patches)
        maps_of_all = []
        with penultimate(self.model) as features:
            for target in self.targets:
                maps, logits = attribute_with_logits(
                    self.model,
                    images,
                    target,
                    config.method,
                    config.output,
                    n_samples=config.n_samples,
                    noise_std=config.noise_std,
                    n_masks=config.n_masks,
                    square_px=config.square_px,
                    seed=config.seed,
                    index=range(first, first + len(patches)),
                )
                maps_of_all.append(average(maps, config.stride_px))
        if logits.shape[1] == 1 and not self.multi_label:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        logits = logits.float() / self.temperature
        probability = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        tensors = [*maps_of_all, probability]
        if self.features is not None:
            # the last pass of every method is of the patches as they are
            tensors.append(features[-1])
            if self.features.looks is not None:
                tensors.append(look_statistics(images))
        reference, n_maps = self.features, len(maps_of_all)

        def finish(values: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
            odd = () if reference is None else (reference.percentile(*values[n_maps + 1 :]),)
            return (values[0], values[n_maps], *odd, *values[1:n_maps])

        return Pending(Fetched([tensor[:n_patches] for tensor in tensors]), finish, patches)

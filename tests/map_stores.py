"""Saliency stores made for tests, without slide or model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.patches.schema import ATTRIBUTES_KEY, SlideGeometry
from pathology_scaat.saliency.schema import SaliencyStoreMeta


def make_saliency_store(
    path: Path,
    grid: PatchGrid,
    *,
    kept: NDArray[np.bool_] | None = None,
    saliency: Any = None,
    probability: Any = None,
    class_names: tuple[str, ...] = ("normal", "tumour"),
    stride_px: int = 4,
    mpp: float = 0.5,
    bounds: BoxPx | None = None,
    size: SizePx | None = None,
    slide_id: str = "S1",
    seed: int = 0,
    shuffle: bool = False,
) -> Path:
    """Write a store; what is not given is drawn at random."""
    rng = np.random.default_rng(seed)
    index = grid.all_indices()
    if kept is not None:
        index = index[kept[index[:, 1], index[:, 0]]]
    n, side, k = len(index), grid.patch_size_px // stride_px, len(class_names)
    values = rng.random((n, side, side)) if saliency is None else np.asarray(saliency)
    values = np.array(np.broadcast_to(values, (n, side, side)), np.float16)
    if probability is None:
        logits = rng.normal(size=(n, k)) * 2
        probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probability = np.array(np.broadcast_to(probability, (n, k)), np.float32)
    if shuffle:
        order = rng.permutation(n)
        index, values, probability = index[order], values[order], probability[order]
    if size is None:
        right = (
            grid.anchor_x_px + ((grid.n_cols - 1) * grid.step_px + grid.patch_size_px) * grid.scale
        )
        bottom = (
            grid.anchor_y_px + ((grid.n_rows - 1) * grid.step_px + grid.patch_size_px) * grid.scale
        )
        size = SizePx(int(np.ceil(right)) + 5, int(np.ceil(bottom)) + 3)
    meta = SaliencyStoreMeta(
        slide_id=slide_id,
        slide_fingerprint="a" * 64,
        fingerprint="b" * 64,
        patch_fingerprint="c" * 64,
        model_fingerprint="d" * 64,
        slide=SlideGeometry(size, mpp, "slide", bounds, "generic-tiff", "openslide"),
        grid=grid,
        effective_mpp=mpp * grid.scale,
        stride_px=stride_px,
        class_names=class_names,
        target_class=class_names[-1],
        method="gradient",
    )
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    for name, data in (
        ("saliency", values),
        ("probability", probability),
        ("origin_px", grid.origins_px(index)),
        ("grid_index", index),
    ):
        array = group.create_array(
            name, shape=data.shape, dtype=data.dtype,
            chunks=tuple(max(min(s, 256), 1) for s in data.shape),
        )  # fmt: skip
        if data.size:
            array[:] = data
    group.attrs[ATTRIBUTES_KEY] = meta.to_attributes()
    return path

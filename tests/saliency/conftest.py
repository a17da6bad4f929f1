"""Small things that every test of saliency needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathology_scaat.geometry import PatchGrid, SizePx
from pathology_scaat.patches.schema import SlideGeometry
from pathology_scaat.saliency.schema import SaliencyStoreMeta


@pytest.fixture
def saliency_meta() -> SaliencyStoreMeta:
    n_cols, n_rows, patch_px, stride_px = 3, 2, 32, 4
    grid = PatchGrid(0.0, 0.0, 1.0, patch_px, patch_px // 2, n_cols, n_rows)
    side = patch_px * max(n_cols, n_rows)
    return SaliencyStoreMeta(
        slide_id="s1",
        slide_fingerprint="a" * 64,
        fingerprint="b" * 64,
        patch_fingerprint="c" * 64,
        model_fingerprint="d" * 64,
        slide=SlideGeometry(SizePx(side, side), 0.5, "slide"),
        grid=grid,
        effective_mpp=0.5,
        stride_px=stride_px,
        class_names=("normal", "tumour"),
        target_class="tumour",
        method="gradient",
    )


@pytest.fixture
def small_cnn() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(8, 12, 3, padding=1, stride=2),
        torch.nn.ReLU(inplace=True),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 3),
    )


@pytest.fixture
def rgb_batch() -> torch.Tensor:
    return torch.rand((5, 3, 16, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def random_maps() -> np.ndarray:
    return np.random.default_rng(0).random((6, 12, 10)).astype(np.float32)

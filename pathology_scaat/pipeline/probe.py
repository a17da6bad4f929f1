"""A few patches cut and explained in a temporary folder, to measure what a run will cost here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.cohort.manifest import ManifestRow
from pathology_scaat.geometry import PatchGrid, plan_grid, plan_read
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.saliency import ExplainConfig
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.spacing import check_enlargement, require_mpp, with_fallback
from pathology_scaat.tissue.given_mask import read_given_mask
from pathology_scaat.tissue.mask import TissueMask, find_tissue

SIZES = (16, 64, 512)
"""Patches of the three trials: the first warms up, the difference of the others counts."""

LONG_S = 20.0
"""After a trial that took so long no longer one is made."""


@dataclass(frozen=True)
class ProbedSlide:
    """What probing a slide shows.

    Attributes
    ----------
    tissue : TissueMask
    grid : PatchGrid
        Of all patches, glass included.
    n_patches : int
        Patches with enough tissue.
    seconds : float
        What probing took: a run does the same before it extracts patches.
    """

    tissue: TissueMask
    grid: PatchGrid
    n_patches: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What a trial came to.

    Attributes
    ----------
    n_patches : int
        Patches of the largest trial.
    patch_s : float
        Seconds a patch.
    patch_bytes : float
        Bytes of the disk a patch.
    """

    n_patches: int
    patch_s: float
    patch_bytes: float


def probe_slide(row: ManifestRow, config: TileConfig) -> ProbedSlide:
    """Find the tissue of a slide and the patches on it, as tiling does.

    Raises
    ------
    SlideError
        If the slide cannot be opened or used at the asked-for µm/px.
    UsageError
        If its mask cannot be read.
    """
    began = time.monotonic()
    name = slide_location(row.slide_path).name
    with open_slide(row.slide_path, reader=config.reader, mpp=row.mpp) as slide:
        info = with_fallback(slide.info, config.slide_mpp, name)
        mpp = require_mpp(info, name)
        check_enlargement(mpp, config.mpp, config.mpp_tolerance, config.allow_upsampling, name)
        plan = plan_read(mpp, info.level_downsamples, config.mpp, config.mpp_tolerance)
        grid = plan_grid(info.frame_px, plan, config.patch_size_px, config.step_px)
        if row.mask_path is not None:
            tissue = read_given_mask(row.mask_path, info)
        else:
            tissue = find_tissue(slide, config.tissue)
    n_patches = _count(tissue, grid, config.min_tissue)
    return ProbedSlide(tissue, grid, n_patches, time.monotonic() - began)


def _count(tissue: TissueMask, grid: PatchGrid, min_tissue: float) -> int:
    """Patches of a grid with enough tissue."""
    rows_at_once = max(1, (1 << 18) // grid.n_cols)
    found = 0
    for first in range(0, grid.n_rows, rows_at_once):
        rows, cols = np.mgrid[first : min(first + rows_at_once, grid.n_rows), 0 : grid.n_cols]
        index = np.stack([cols.ravel(), rows.ravel()], axis=1).astype(np.int32)
        share = tissue.fractions(grid.exact_origins_px(index), grid.patch_size_level0_px)
        found += int(((share >= min_tissue) & (share > 0)).sum())
    return found


def _cut_down(probed: ProbedSlide, min_tissue: float, wanted: int) -> TissueMask:
    """The upper rows of a mask, so many that about the wanted number of patches is on them."""
    mask = probed.tissue.mask
    low, high = 0, mask.shape[0]
    while high - low > 1:
        middle = (low + high) // 2
        if _count(_upper(probed.tissue, middle), probed.grid, min_tissue) > wanted:
            high = middle
        else:
            low = middle
    return _upper(probed.tissue, high)


def _upper(tissue: TissueMask, n_rows: int) -> TissueMask:
    kept = tissue.mask.copy()
    kept[n_rows:] = False
    return replace(tissue, mask=kept)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _per_patch(trials: Sequence[tuple[int, float]]) -> float:
    """Seconds a patch, without what a trial takes whatever it extracts, where that is known."""
    n, seconds = trials[-1]
    if len(trials) > 1:
        n_before, seconds_before = trials[-2]
        if n > 2 * n_before and seconds > seconds_before:
            return (seconds - seconds_before) / (n - n_before)
    return seconds / n


def try_tiling(row: ManifestRow, probed: ProbedSlide, config: TileConfig, folder: Path) -> Measured:
    """Cut some patches of a slide into stores in a folder; the largest is ``large.zarr``.

    Raises
    ------
    ScaatError
        As tiling.
    """
    plain = config.model_copy(
        update={"only_labelled": False, "class_names": (), "background_class": None}
    )
    trials: list[tuple[int, float]] = []
    for size in SIZES:
        cut = _cut_down(probed, config.min_tissue, size)
        mask_path = folder / "mask.png"
        Image.fromarray(cut.mask.astype(np.uint8) * 255).save(mask_path)
        store = folder / "large.zarr"
        job = TileJob(
            row.slide_path, "probe", store, plain, mask_path=mask_path, mpp=row.mpp, overwrite=True
        )
        began = time.monotonic()
        result = tile_slide(job)
        trials.append((max(result.n_patches, 1), time.monotonic() - began))
        if trials[-1][1] > LONG_S or result.n_patches >= probed.n_patches:
            break
    counted = trials[1:] or trials  # the first one warms up
    n_patches = trials[-1][0]
    return Measured(n_patches, _per_patch(counted), _bytes_of(folder / "large.zarr") / n_patches)


def try_explaining(folder: Path, model: Path, config: ExplainConfig, device: str) -> Measured:
    """Explain the patches that :func:`try_tiling` left.

    Raises
    ------
    ScaatError
        As explaining.
    """
    from pathology_scaat.saliency import explain_slide  # needs torch; tiling is tried first

    trials = []
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        result = explain_slide(
            folder / "large.zarr", model, folder / "saliency.zarr", config, device=device,
            overwrite=True,
        )  # fmt: skip
        trials.append((max(result.n_patches, 1), time.monotonic() - began))
        if trials[-1][1] > LONG_S:
            break
    n_patches, seconds = trials[-1]
    size = _bytes_of(folder / "saliency.zarr") / n_patches
    return Measured(n_patches, seconds / n_patches, size)

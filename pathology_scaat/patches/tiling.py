"""One slide into one patch store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.annotations.labels import UNLABELLED
from pathology_scaat.artifacts.fingerprint import versions
from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.errors import StoreError
from pathology_scaat.execution.engine import job_threads
from pathology_scaat.geometry import PatchGrid, plan_grid, plan_read
from pathology_scaat.patches.blocks import block_side_px, plan_blocks
from pathology_scaat.patches.config import TileJob, TileResult
from pathology_scaat.patches.extractor import ExtractorLimits, PatchExtractor
from pathology_scaat.patches.identity import identity_of_job, inputs_of, settings_of
from pathology_scaat.patches.labelling import PatchLabels, label_warnings, labels_of
from pathology_scaat.patches.plan import check_slide_disk_space
from pathology_scaat.patches.publish import new_store
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.patches.relabel import relabel_store
from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
from pathology_scaat.patches.slide_jpeg import TileSource, copy_tiles, kept_note, tile_source
from pathology_scaat.patches.without_pixels import count_unreadable, write_without_pixels
from pathology_scaat.patches.writer import PatchStoreWriter
from pathology_scaat.slides import Slide, SlideInfo, open_slide
from pathology_scaat.slides.fingerprint import FingerprintTask
from pathology_scaat.slides.spacing import check_enlargement, require_mpp, with_fallback
from pathology_scaat.slides.tiles import as_tiled
from pathology_scaat.tissue.given_mask import read_given_mask
from pathology_scaat.tissue.mask import TissueMask, find_tissue, save_tissue_overlay
from pathology_scaat.tissue.segmentation import DARK_BACKGROUND

MOSTLY_INK = (
    "more of it was left out as pen ink than kept as tissue; look at its picture in tissue/, "
    "and use --keep-ink (tile.tissue.drop_ink: false) if that is stain"
)
NO_BRIGHTFIELD = (
    "CHECK THE SLIDE: its background is dark and next to nothing is bright glass, as on pictures "
    "of fluorescence and inverted ones; only brightfield slides can be judged here"
)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """Patches to cut: grid index (N, 2), tissue (N,), label (N,), coverage (N, K)."""

    index: NDArray[np.int32]
    tissue: NDArray[np.float32]
    label: NDArray[np.int16]
    coverage: NDArray[np.float32]

    def where(self, keep: NDArray[np.bool_]) -> _Wanted:
        return _Wanted(self.index[keep], self.tissue[keep], self.label[keep], self.coverage[keep])


def _existing(job: TileJob) -> PatchStore | None:
    """The store that is there, of whatever it was made."""
    if job.overwrite:
        return None
    try:
        return PatchStore(job.store_path)
    except StoreError:
        return None


def _choose(
    job: TileJob, info: SlideInfo, grid: PatchGrid, tissue: TissueMask
) -> tuple[_Wanted, tuple[str, ...], tuple[str, ...]]:
    """Which patches of the grid are wanted, a few grid rows at a time; their labels' notes."""
    config = job.config
    rows_at_once = max(1, (1 << 18) // grid.n_cols)
    kept_index, kept_tissue = [], []
    for first in range(0, grid.n_rows, rows_at_once):
        rows, cols = np.mgrid[first : min(first + rows_at_once, grid.n_rows), 0 : grid.n_cols]
        index = np.stack([cols.ravel(), rows.ravel()], axis=1).astype(np.int32)
        share = tissue.fractions(grid.exact_origins_px(index), grid.patch_size_level0_px)
        keep = (share >= config.min_tissue) & (share > 0)
        kept_index.append(index[keep])
        kept_tissue.append(share[keep])
    index = np.concatenate(kept_index)
    labels = labels_of(job, info, grid, index)
    share = np.concatenate(kept_tissue).astype(np.float32)
    wanted = _Wanted(index, share, labels.label, labels.coverage)
    if config.only_labelled:
        wanted = wanted.where(labels.label != UNLABELLED)
    return wanted, *_notes_and_warnings(labels)


def _no_patch(job: TileJob, info: SlideInfo, grid: PatchGrid, mpp: float) -> str:
    """Why a slide with tissue gives no patch: as a rule a µm/px that is none."""
    frame = info.frame_px
    side_um = grid.patch_size_level0_px * mpp
    return (
        f"NO PATCH holds enough tissue: each is {side_um:,.0f} µm wide "
        f"({job.config.patch_size_px} px at {job.config.mpp:g} µm/px), and the slide "
        f"{frame.width * mpp:,.0f} x {frame.height * mpp:,.0f} µm"
    )


def _notes_and_warnings(labels: PatchLabels) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Notes and warnings of labels: a warning holds the notes that explain it."""
    warnings = label_warnings(labels)
    return () if warnings else labels.notes, warnings


def _write(
    partial: Path,
    job: TileJob,
    slide: Slide,
    meta: PatchStoreMeta,
    plan: Any,
    wanted: _Wanted,
    source: TileSource | None,
    limits: ExtractorLimits | None,
    signed: Callable[[PatchStoreMeta], PatchStoreMeta],
) -> PatchStoreMeta:
    config, threads = job.config, job_threads()
    side = meta.block_size_px
    blocks = None if side is None else plan_blocks(meta.grid, wanted.index, side)
    grid = meta.grid if blocks is None else blocks.grid
    index = wanted.index if blocks is None else blocks.index
    with (
        PatchStoreWriter(
            partial,
            len(index),
            grid.patch_size_px,
            as_blocks=blocks is not None,
            shard_bytes=config.shard_bytes,
            codec=config.codec,
            slide_jpeg=source is not None,
        ) as writer,
        PatchExtractor(as_tiled(slide), plan, grid, threads=threads, limits=limits) as extractor,
    ):

        def decode(items: NDArray[np.integer]) -> NDArray[np.bool_]:
            if threads == 1:
                return extractor.extract(items, writer.append, lambda _: None)
            return extractor.extract(items, writer.encode, writer.append_encoded)

        if source is None:
            readable = decode(index)
        else:
            readable, kept_tiles = copy_tiles(source, index, writer, decode)
            said = kept_note(kept_tiles, "patches" if blocks is None else "blocks")
            meta = replace(meta, slide_jpeg=kept_tiles, notes=(*meta.notes, said))
        patch_blocks = None
        if blocks is not None:  # a patch is readable where all of its blocks are
            moved = blocks.where(readable)
            readable = np.asarray((moved >= 0).all(axis=1), bool)
            patch_blocks = moved[readable]
        n_unreadable = count_unreadable(readable, config, _name(job))
        kept = wanted.where(readable)
        meta = signed(replace(meta, n_unreadable=n_unreadable))
        writer.finish(
            meta,
            grid_index=kept.index,
            tissue_fraction=kept.tissue,
            label=kept.label,
            label_coverage=kept.coverage,
            patch_blocks=patch_blocks,
        )
    return meta


def _block_side_px(grid: PatchGrid, source: TileSource | None) -> int | None:
    """Side of the blocks that are stored; None where patches are stored whole."""
    if source is None:
        return block_side_px(grid.patch_size_px, grid.step_px)
    return source.side_px if source.side_px < grid.patch_size_px else None


def _name(job: TileJob) -> str:
    return slide_location(job.slide_path).name


def _tissue(job: TileJob, slide: Slide) -> TissueMask:
    """The tissue mask, given or found, and its overlay where one is asked for."""
    if job.mask_path is not None:
        tissue = read_given_mask(job.mask_path, slide.info)
    else:
        tissue = find_tissue(slide, job.config.tissue, threads=job_threads())
    if job.tissue_path is not None:
        save_tissue_overlay(tissue, job.tissue_path)
    return tissue


def tile_slide(job: TileJob, *, limits: ExtractorLimits | None = None) -> TileResult:
    """Cut one slide into a patch store.

    A store with the right fingerprint is left as it is. Otherwise it is made beside its
    place and renamed into it when whole; same slide and settings give the same bytes,
    whatever threads, workers or limits made them.

    Parameters
    ----------
    job : TileJob
        The slide, the store and the settings.
    limits : ExtractorLimits, optional
        How much is held in memory.

    Returns
    -------
    TileResult

    Raises
    ------
    SlideError
        If the slide cannot be opened, its µm/px is unknown, or too much of it is unreadable.
    AnnotationError
        If its annotations cannot be read.
    """
    began = time.monotonic()
    with (
        open_slide(job.slide_path, reader=job.config.reader, mpp=job.mpp) as slide,
        FingerprintTask(slide_location(job.slide_path), job.fingerprint_key) as content,
    ):
        info = with_fallback(slide.info, job.config.slide_mpp, _name(job))
        mpp = require_mpp(info, _name(job))
        tolerance = job.config.mpp_tolerance
        enlarged = check_enlargement(
            mpp, job.config.mpp, tolerance, job.config.allow_upsampling, _name(job)
        )
        info = replace(info, notes=(*info.notes, *enlarged))
        inputs = inputs_of(job)

        def signed(meta: PatchStoreMeta) -> PatchStoreMeta:
            """The slide is read whole by now, or soon: the fingerprints are of all its bytes."""
            slide_print = content.result()
            wanted = identity_of_job(job, slide_print, inputs)
            return replace(
                meta,
                slide_fingerprint=slide_print,
                fingerprint=wanted.pixels,
                label_fingerprint=wanted.labels,
            )

        present = _existing(job)
        before = _state(present)
        if present is not None:
            right = signed(present.meta)
            same = present.meta == right
            if job.keep_pixels and not present.meta.has_pixels:
                pass  # its pixels are asked for
            elif same or (present.meta.fingerprint == right.fingerprint and _can_relabel(present)):
                if job.tissue_path is not None and not job.tissue_path.exists():
                    _tissue(job, slide)
                if same:
                    return _result(job, info, present.meta, present.labels, began, skipped=True)
                return _relabelled(job, info, present, right, inputs, began)
        tissue = _tissue(job, slide)
        plan = plan_read(mpp, info.level_downsamples, job.config.mpp, tolerance)
        grid = plan_grid(info.frame_px, plan, job.config.patch_size_px, job.config.step_px)
        wanted, label_notes, warnings = _choose(job, info, grid, tissue)
        source, not_kept = None, ""
        if job.keep_pixels:
            source, not_kept = tile_source(job.config, slide, plan, grid)
        notes = (*tissue.notes, *((not_kept,) if not_kept else ()))
        if not len(wanted.index) and not job.config.only_labelled and tissue.mask.any():
            notes = (*notes, _no_patch(job, info, grid, mpp))
        if tissue.flags:
            notes = (*notes, "tissue: " + ", ".join(tissue.flags))
        if DARK_BACKGROUND in tissue.flags:
            notes = (*notes, NO_BRIGHTFIELD)
        elif "mostly-ink" in tissue.flags and job.config.tissue.drop_ink:
            notes = (*notes, MOSTLY_INK)
        meta = PatchStoreMeta(
            slide_id=job.slide_id,
            slide_fingerprint="",
            fingerprint="",
            slide=SlideGeometry(
                size_px=info.size_px,
                mpp=mpp,
                mpp_source=info.mpp_source,
                bounds_px=info.bounds_px,
                vendor=info.vendor,
                reader=info.reader,
            ),
            grid=grid,
            requested_mpp=plan.requested_mpp,
            effective_mpp=plan.effective_mpp,
            level_read=plan.level,
            block_size_px=_block_side_px(grid, source),
            has_pixels=job.keep_pixels,
            class_names=job.config.class_names,
            notes=notes,
            warnings=warnings,
            label_notes=label_notes,
            parameters={
                **settings_of(job.config),
                "tissue_flags": list(tissue.flags),
                "inputs": inputs,
            },
            versions=versions(),
        )
        store = slide_location(job.store_path)
        if not job.keep_pixels:
            meta = signed(meta)
            write_without_pixels(
                job.store_path, meta, wanted.index, wanted.tissue, wanted.label, wanted.coverage
            )
            return _result(job, info, meta, wanted.label, began)
        if isinstance(store, Path):
            check_slide_disk_space(
                len(wanted.index), job.config, store.parent, _name(job), kept=source is not None
            )
        with new_store(job.store_path) as partial:
            meta = _write(partial, job, slide, meta, plan, wanted, source, limits, signed)
    labels = PatchStore(job.store_path).labels
    same = before == (meta.fingerprint, len(labels))
    return _result(job, info, meta, labels, began, same_patches=same)


def _state(store: PatchStore | None) -> tuple[str, int] | None:
    """What is computed from a store's patches hangs on this; None where there are none."""
    try:
        return None if store is None else (store.meta.fingerprint, len(store))
    except StoreError:
        return None


def _can_relabel(store: PatchStore) -> bool:
    """Whether only new labels are to be written: on local disks, where the columns are whole.

    In object storage there are no links: a store there is made anew.
    """
    try:
        return isinstance(store.path, Path) and len(store.grid_index) == len(store)
    except StoreError:
        return False


def _relabelled(
    job: TileJob,
    info: SlideInfo,
    present: PatchStore,
    meta: PatchStoreMeta,
    inputs: dict[str, Any],
    began: float,
) -> TileResult:
    """The patches are right, their labels are not: new labels on the same pixels."""
    labels = labels_of(job, info, meta.grid, present.grid_index, every=not job.config.only_labelled)
    label_notes, warnings = _notes_and_warnings(labels)
    meta = replace(
        meta,
        class_names=job.config.class_names,
        label_notes=label_notes,
        warnings=warnings,
        parameters={**meta.parameters, **settings_of(job.config), "inputs": inputs},
    )
    relabel_store(present, meta, labels.label, labels.coverage)
    return _result(job, info, meta, labels.label, began, relabelled=True, same_patches=True)


def _result(
    job: TileJob,
    info: SlideInfo,
    meta: PatchStoreMeta,
    labels: NDArray[np.int16],
    began: float,
    *,
    skipped: bool = False,
    relabelled: bool = False,
    same_patches: bool = False,
) -> TileResult:
    """The result of a job from the store's own words, so that a re-run says the same."""
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(meta.class_names))
    return TileResult(
        slide_id=job.slide_id,
        n_patches=len(labels),
        n_unreadable=meta.n_unreadable,
        n_labelled=int((labels != UNLABELLED).sum()),
        skipped=skipped,
        seconds=time.monotonic() - began,
        fingerprint=meta.fingerprint,
        reader=info.reader,
        mpp=meta.slide.mpp,
        mpp_source=meta.slide.mpp_source,
        notes=(*info.notes, *meta.label_notes, *meta.notes),
        warnings=meta.warnings,
        n_labelled_by_class=dict(zip(meta.class_names, counts.tolist(), strict=True)),
        relabelled=relabelled,
        same_patches=same_patches,
        n_cut=0 if skipped or relabelled or not job.keep_pixels else len(labels),
    )

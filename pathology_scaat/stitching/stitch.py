"""From the saliency of patches to a map of the slide."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.artifacts.fingerprint import fingerprint, versions
from pathology_scaat.errors import ConfigError, StoreError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.geometry import SizePx
from pathology_scaat.stitching.bands import IN_THIS_PROCESS, BandJob, fill_level0, fill_pyramid
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.ome_zarr import (
    BLOCK_PX,
    attributes_file,
    create_arrays,
    level_sizes,
    write_attributes,
)
from pathology_scaat.stitching.schema import SCHEMA_VERSION, SlideMapMeta, channel_names
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.source import SaliencySource
from pathology_scaat.stitching.statistics import Histogram

BANDS_A_JOB = 2
"""Rows of shards that one worker takes at a time."""


@dataclass(frozen=True)
class StitchResult:
    """What stitching a slide did.

    ``skipped`` means that the map was there already, made of the same input in the same way.
    """

    slide_id: str
    n_patches: int
    size_px: SizePx
    mpp: float
    skipped: bool
    seconds: float
    fingerprint: str
    notes: tuple[str, ...] = ()


def map_fingerprint(saliency_fingerprint: str, config: StitchConfig) -> str:
    """Fingerprint of the map of a saliency store under a configuration."""
    return fingerprint(
        {
            "schema_version": SCHEMA_VERSION,
            "saliency": saliency_fingerprint,
            "parameters": config.parameters(),
        }
    )


def _scale_px(source: SaliencySource, config: StitchConfig) -> float:
    """Level-0 pixels per map pixel; the saliency pixel unless a µm/px is asked for."""
    meta = source.meta
    if config.mpp is None:
        return meta.stride_px * meta.grid.scale
    scale = config.mpp / meta.slide.mpp
    if scale > meta.grid.patch_size_level0_px / 2:
        raise ConfigError(
            "--map-mpp",
            f"{config.mpp:g} µm/px makes map pixels larger than half a patch",
            f"give at most {meta.grid.patch_size_level0_px / 2 * meta.slide.mpp:g}",
        )
    return scale


def _existing(map_path: Path, wanted: str) -> SlideMapMeta | None:
    try:
        meta = SlideMap(map_path).meta
    except StoreError:
        return None
    return meta if meta.fingerprint == wanted else None


def stitch_slide(
    saliency_path: Path,
    map_path: Path,
    config: StitchConfig | None = None,
    overwrite: bool = False,
    *,
    engine: EngineConfig | None = None,
) -> StitchResult:
    """Blend a slide's patches into one map and write it as an OME-Zarr pyramid.

    Parameters
    ----------
    saliency_path : Path
        Saliency store of the slide.
    map_path : Path
        Folder to make, ``<id>.ome.zarr``; it appears whole or not at all.
    config : StitchConfig, optional
    overwrite : bool
        Make it again even if the same map is there.
    engine : EngineConfig, optional
        Where the bands of this one map are computed; in this process by default, since
        a cohort keeps its workers busy with one slide each. Never changes the result.

    Raises
    ------
    StoreError
        If the saliency store is missing or damaged.
    ConfigError
        If the asked-for µm/px cannot hold the patches.
    """
    config = config or StitchConfig()
    engine = engine or IN_THIS_PROCESS
    started = time.perf_counter()
    source = SaliencySource(Path(saliency_path))
    wanted = map_fingerprint(source.meta.fingerprint, config)
    map_path = Path(map_path)
    found = None if overwrite else _existing(map_path, wanted)
    if found is not None:
        return StitchResult(
            found.slide_id, found.n_patches, found.size_px, found.mpp, True,
            time.perf_counter() - started, wanted,
        )  # fmt: skip
    scale_px = _scale_px(source, config)
    frame = source.meta.slide.frame_px
    # a tolerance below the ceiling: rounding noise in the scale must not add a column
    size = SizePx(
        math.ceil(frame.width / scale_px - 1e-6), math.ceil(frame.height / scale_px - 1e-6)
    )
    with atomic_path(map_path) as partial:
        n_channels = len(_channels(source))
        create_arrays(partial, n_channels, size, config.ngff)
        jobs = [
            BandJob(Path(saliency_path), partial, config, scale_px, band_offsets)
            for band_offsets in _shares(size.height, engine)
        ]
        histograms = fill_level0(jobs, n_channels, engine)
        heights = [one.height for one in level_sizes(size)]
        fill_pyramid(partial, heights, config.ngff, engine)
        meta = _meta(source, config, wanted, scale_px, size, histograms)
        write_attributes(partial, meta, config.ngff)
        checksum_folder(partial, attributes_file(config.ngff))
    notes = () if len(source) else ("no patches: the map is empty",)
    return StitchResult(
        meta.slide_id, len(source), size, meta.mpp, False,
        time.perf_counter() - started, wanted, notes,
    )  # fmt: skip


def _shares(height: int, engine: EngineConfig) -> list[tuple[int, ...]]:
    """Rows of shards as jobs: all in one job here, or a few rows in each job for workers."""
    band_offsets = tuple(range(0, height, BLOCK_PX))
    alone = engine.scheduler is None and engine.cluster is None and (engine.workers or 0) <= 1
    share = len(band_offsets) if alone else BANDS_A_JOB
    return [band_offsets[i : i + share] for i in range(0, len(band_offsets), share)]


def _meta(
    source: SaliencySource, config: StitchConfig, wanted: str, scale_px: float, size: SizePx,
    histograms: list[Histogram],
) -> SlideMapMeta:  # fmt: skip
    given = source.meta
    names = _channels(source)
    return SlideMapMeta(
        slide_id=given.slide_id,
        slide_fingerprint=given.slide_fingerprint,
        fingerprint=wanted,
        saliency_fingerprint=given.fingerprint,
        model_fingerprint=given.model_fingerprint,
        slide=given.slide,
        scale_px=scale_px,
        # rounding noise off: 3.9999999999999996 µm/px in every file would look like a defect
        mpp=float(f"{given.slide.mpp * scale_px:.12g}"),
        size_px=size,
        n_levels=len(level_sizes(size)),
        class_names=given.class_names,
        target_class=given.target_class,
        method=given.method,
        formula=config.formula(),
        n_patches=len(source),
        statistics={n: h.summary() for n, h in zip(names, histograms, strict=True)},
        parameters=config.parameters(),
        versions=versions(),
        targets=given.targets,
        with_unlike=source.unlike is not None,
        explained=given.parameters,
        model=given.model,
    )


def _channels(source: SaliencySource) -> tuple[str, ...]:
    meta = source.meta
    return channel_names(
        meta.class_names, meta.targets, meta.target_class, source.unlike is not None
    )

"""Patches of one annotated slide, and composites of its tumour and its normal tissue.

The granular cell tumour scan has one large region drawn as tumour and three as normal. It is one
patient: train, validation and test are different regions of one slide, so what is learnt here
says nothing about other patients. Test images are *composites*: two patches joined along a
straight line, half of them tumour beside normal tissue (class tumour, mask on the tumour side),
half of them normal beside normal, so that a join tells nothing. Stain, scanner and patient are
the same on both sides: a map that finds the tumour side has found tissue, not a slide.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joined import joined
from numpy.typing import NDArray

from pathology_scaat.annotations import read_annotations
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide

STEM = "atlas_granular_cell_tumor_HE_20x"
BLOCK_PX = 1024
"""Level-0 side of the blocks of tissue that intervals are resampled over."""


@dataclass(frozen=True)
class Tissue:
    """``images`` (N, P, P, 3) uint8, ``labels`` (N,) 1 = tumour, ``blocks`` (N,) names,
    ``part`` (N,) 0 train, 1 validation, 2 test."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    blocks: NDArray[np.str_]
    part: NDArray[np.int64]


def read_tissue(slides: Path, side_px: int = 64, mpp: float = 1.0) -> Tissue:
    """Labelled patches of the scan, split by region.

    Normal tissue is split by fragment, the tumour by vertical bands; patches that touch a
    border between bands are left out.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "granular.zarr"
        config = TileConfig(
            mpp=mpp, patch_size_px=side_px, class_names=("Normal", "Tumor"),
            only_labelled=True, min_coverage=0.95, min_tissue=0.7,
        )  # fmt: skip
        tile_slide(
            TileJob(
                slide_path=slides / f"{STEM}.svs",
                slide_id="granular",
                store_path=path,
                annotation_path=slides / f"{STEM}.geojson",
                config=config,
            )
        )
        store = PatchStore(path)
        images = store.read(np.arange(len(store)))
        labels = np.asarray(store.labels, dtype=np.int64)
        origins = np.asarray(store.origins_px)
        side = store.meta.grid.patch_size_level0_px
    polygons = read_annotations(slides / f"{STEM}.geojson")
    fragments = [p.geometry.bounds for p in polygons if p.class_name == "Normal"]
    x0, _, x1, _ = next(p.geometry.bounds for p in polygons if p.class_name == "Tumor")
    cuts = np.array([x0 + 0.55 * (x1 - x0), x0 + 0.7 * (x1 - x0)])
    part = np.full(len(labels), -1, dtype=np.int64)
    left, right = origins[:, 0], origins[:, 0] + side
    band = np.searchsorted(cuts, left)
    part[(labels == 1) & (band == np.searchsorted(cuts, right))] = 0
    part = np.where(part == 0, band, part)
    # the largest fragment trains, the smallest validates
    order = np.argsort([-(b[2] - b[0]) * (b[3] - b[1]) for b in fragments])
    centre = origins + side / 2
    for fragment, role in zip(order, (0, 2, 1), strict=True):
        a, b, c, d = fragments[fragment]
        inside = (centre[:, 0] >= a) & (centre[:, 0] <= c)
        inside &= (centre[:, 1] >= b) & (centre[:, 1] <= d)
        part[inside & (labels == 0)] = role
    kept = part >= 0
    blocks = np.array([f"{int(x // BLOCK_PX)}-{int(y // BLOCK_PX)}" for x, y in origins])
    return Tissue(images[kept], labels[kept], blocks[kept], part[kept])


def composites(
    tissue: Tissue, n: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_], NDArray[np.bool_]]:
    """Images, labels, blocks and tumour masks of ``n`` joined test patches, half with tumour.

    An image belongs to the block of its first patch: the tumour's where there is tumour.
    """
    test = tissue.part == 2
    return joined(tissue.images[test], tissue.labels[test], tissue.blocks[test], n, seed)

"""Saliency stores made for tests, without slide or model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import skimage.io
import tifffile
import zarr
from numpy.typing import NDArray

from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.schema import ATTRIBUTES_KEY, SlideGeometry
from pathology_scaat.saliency import write_saliency_store
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
    model: dict[str, Any] | None = None,
    unlike: Any = None,
    of_slides: bool = False,
    mpp_source: str = "slide",
) -> Path:
    """Write a store; what is not given is drawn at random.

    ``of_slides`` is of a model of whole slides, which says what each patch contributes.
    """
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
        slide=SlideGeometry(size, mpp, mpp_source, bounds, "generic-tiff", "openslide"),
        grid=grid,
        effective_mpp=mpp * grid.scale,
        stride_px=stride_px,
        class_names=class_names,
        target_class=class_names[-1],
        method="gradient",
        parameters={"method": "gradient", "output": "margin", "stride_px": stride_px},
        model=model or {},
    )
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    columns = [
        ("saliency", values),
        ("probability", probability),
        ("origin_px", grid.origins_px(index)),
        ("grid_index", index),
    ]
    if unlike is not None:
        columns.append(("unlike", np.array(np.broadcast_to(unlike, n), np.float32)))
    if of_slides:
        columns.append(("contribution", np.log(probability) / max(n, 1)))
    for name, data in columns:
        array = group.create_array(
            name, shape=data.shape, dtype=data.dtype,
            chunks=tuple(max(min(s, 256), 1) for s in data.shape),
        )  # fmt: skip
        if data.size:
            array[:] = data
    group.attrs[ATTRIBUTES_KEY] = meta.to_attributes()
    return path


def darkness_store(patches: Path, path: Path, stride_px: int = 4) -> Path:
    """Saliency made of a patch store's own pixels: what is dark is salient.

    A map stitched from it must look like the slide, pixel for pixel, in its place.
    """
    store = PatchStore(patches)
    meta = store.meta
    side = meta.grid.patch_size_px // stride_px
    grey = 1 - store.read(slice(None)).astype(np.float32).mean(axis=3) / 255
    dark = grey.reshape(-1, side, stride_px, side, stride_px).mean(axis=(2, 4))
    mean = dark.mean(axis=(1, 2))
    write_saliency_store(
        path,
        SaliencyStoreMeta(
            slide_id=meta.slide_id,
            slide_fingerprint=meta.slide_fingerprint,
            fingerprint="b" * 64,
            patch_fingerprint=meta.fingerprint,
            model_fingerprint="d" * 64,
            slide=meta.slide,
            grid=meta.grid,
            effective_mpp=meta.effective_mpp,
            stride_px=stride_px,
            class_names=("normal", "tumour"),
            target_class="tumour",
            method="gradient",
        ),
        dark,
        np.stack([1 - mean, mean], axis=1),
        store.origins_px,
        store.grid_index,
    )
    return path


def write_marked_slide(path: Path, marks: list[BoxPx], size: SizePx, mpp: float) -> Path:
    """A white pyramidal TIFF that OpenSlide opens, with black marks at known places."""
    image = np.full((size.height, size.width, 3), 255, np.uint8)
    for mark in marks:
        image[mark.y : mark.bottom, mark.x : mark.right] = 0
    with tifffile.TiffWriter(path) as writer:
        level, scale = image, 1
        while True:
            per_cm = 1e4 / (mpp * scale)
            writer.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="deflate",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=0 if scale == 1 else 1,
                metadata=None,
            )
            if max(level.shape[:2]) < 800:
                return path
            height, width = (n // 2 * 2 for n in level.shape[:2])
            halves = level[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
            level, scale = halves.mean(axis=(1, 3)).astype(np.uint8), scale * 2


def run_with_maps(
    out: Path,
    slide_ids: tuple[str, ...],
    slides: dict[str, Path] | None = None,
    drawn: Literal["saliency", "evidence"] = "saliency",
    **stores: Any,
) -> Path:
    """An output folder with maps and overlays: of real slides where given, else of random values.

    The map of a real slide is its darkness, so that marks on the slide are regions on the map.
    ``stores`` are what random maps say of model and patches (:func:`make_saliency_store`).
    """
    from pathology_scaat.artifacts.status import StatusTable
    from pathology_scaat.export import ExportConfig, export_slide
    from pathology_scaat.patches import TileConfig, TileJob, tile_slide
    from pathology_scaat.stitching import StitchConfig, stitch_slide

    status = StatusTable(out)
    out.mkdir(parents=True, exist_ok=True)
    status.plan(slide_ids)
    for number, slide_id in enumerate(slide_ids):
        saliency = out / "saliency" / f"{slide_id}.zarr"
        saliency.parent.mkdir(exist_ok=True)
        slide = (slides or {}).get(slide_id)
        if slide is None:
            grid = PatchGrid(0.0, 0.0, 1.0, 64, 64, 6, 5)
            make_saliency_store(
                saliency,
                grid,
                slide_id=slide_id,
                seed=number,
                size=SizePx(768, 768),
                **stores,
            )
        else:
            config = TileConfig(mpp=0.5, patch_size_px=64, min_tissue=0)
            store = out / "patches" / f"{slide_id}.zarr"
            mask = out.parent / f"{slide_id}_mask.png"  # all of a white slide, which has no tissue
            skimage.io.imsave(mask, np.full((64, 64), 255, np.uint8), check_contrast=False)
            tile_slide(TileJob(slide, slide_id, store, config, mpp=0.5, mask_path=mask))
            darkness_store(store, saliency, stride_px=1)
        map_path = out / "maps" / f"{slide_id}.ome.zarr"
        stitch_slide(saliency, map_path, StitchConfig(weighting="none"))
        export = ExportConfig(
            formats=("geojson",),
            drawn=drawn,
            region_threshold=0.5,
            region_min_probability=0,
            region_mpp=0.5,
            min_region_um2=1,
        )
        export_slide(map_path, saliency, out / "overlays", export)
        for stage in ("tile", "explain", "stitch", "export"):
            status.update(slide_id, stage, "done")
    return out

"""OME-Zarr (NGFF 0.4 and 0.5) images: read by TensorStore, chunk by chunk.

tiatoolbox reads only files that carry one vendor's display settings, at 4 to 8 s of import.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx, snapped_downsample
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideBase, SlideInfo
from pathology_scaat.slides.channels import Channel, rgb_order
from pathology_scaat.slides.images import ImageEntry, RefusedError, choose_slide, remedy_of
from pathology_scaat.slides.ngff_metadata import (
    NgffImage,
    damaged,
    list_ngff_images,
    plane_numbers,
)
from pathology_scaat.slides.pyramid import alike_levels
from pathology_scaat.slides.spacing import with_override
from pathology_scaat.slides.tiles import TileCache, TileLattice, assemble, check_box

MAX_CHUNK_PX = 8192 * 8192
_SIGNED = "has signed 8-bit pixels (int8), where unsigned ones are needed"


@dataclass(frozen=True, eq=False)
class _Level:
    array: Any
    axes: tuple[str, ...]
    lattice: TileLattice


@dataclass(frozen=True, eq=False)
class _Image:
    """An image of the file: what it is, its levels, and the planes to read."""

    entry: ImageEntry
    levels: tuple[_Level, ...]
    planes: dict[str, int]
    order: tuple[int, int, int]
    source: NgffImage


def _open_array(path: Path, group: Path, name: str) -> Any:
    array_path = (group / name).resolve()
    # A dataset path may not lead out of the image.
    if not array_path.is_relative_to(path.resolve()):
        raise damaged(path, "a level lies outside of it")
    driver = "zarr3" if (array_path / "zarr.json").is_file() else "zarr"
    spec = {
        "driver": driver,
        "kvstore": {"driver": "file", "path": str(array_path)},
        # A missing chunk is distinguished from a black one.
        "fill_missing_data_reads": False,
    }
    try:
        return ts.open(spec, read=True, open=True).result()
    except ValueError:
        raise damaged(path, "a level cannot be opened") from None


def _level(path: Path, image: NgffImage, dataset: dict[str, Any]) -> _Level:
    array = _open_array(path, image.path, str(dataset["path"]))
    if len(array.shape) != len(image.axes):
        raise damaged(path, "its axes do not fit its arrays")
    size = dict(zip(image.axes, array.shape, strict=True))
    chunk = dict(zip(image.axes, array.chunk_layout.read_chunk.shape, strict=True))
    if min(size["x"], size["y"]) < 1 or chunk["x"] * chunk["y"] > MAX_CHUNK_PX:
        raise damaged(path, "its chunks are too large")
    lattice = TileLattice(SizePx(size["x"], size["y"]), SizePx(chunk["x"], chunk["y"]))
    return _Level(array, image.axes, lattice)


def _looked_at(path: Path, image: NgffImage) -> _Image:
    """An image with its levels opened, and why it is no slide where it is none."""
    try:
        levels = tuple(_level(path, image, dataset) for dataset in image.datasets)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise damaged(path, "its metadata is damaged") from None
    full = levels[0]
    sizes = dict(zip(image.axes, full.array.shape, strict=True))
    dtype, n_channels = full.array.dtype.name, sizes.get("c", 1)
    entry = ImageEntry(
        full.lattice.level_size_px, image.kind, f"{n_channels} channels, {dtype}", len(levels),
        image.spacing.mpp,
    )  # fmt: skip
    order, planes = (0, 1, 2), {"t": 0, "z": 0}
    notes: tuple[str, ...] = ()
    try:
        planes, notes = plane_numbers(sizes)
        if dtype != "uint8":
            bits = _SIGNED if dtype == "int8" else f"has {dtype} pixels, where uint8 is needed"
            raise RefusedError(bits)
        if n_channels == 1:
            raise RefusedError("is grey (one channel), not RGB")
        channels = image.channels
        if len(channels) != n_channels:
            channels = (Channel(),) * n_channels
        found = rgb_order(channels)
        order, notes = found.order, (*notes, *found.notes)
    except RefusedError as error:
        entry = replace(entry, problem=str(error))
    return _Image(replace(entry, notes=notes), levels, planes, order, image)


class NgffSlide(SlideBase):
    """An OME-Zarr image: of several, the one that is the slide.

    Raises
    ------
    SlideOpenError
        If it holds no picture that is a brightfield slide.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self._name = path.name
        self._cache = TileCache()
        images = [_looked_at(path, image) for image in list_ngff_images(path)]
        try:
            index, notes = choose_slide([image.entry for image in images])
        except RefusedError as error:
            raise SlideOpenError(path.name, str(error), remedy_of(str(error))) from None
        chosen = images[index]
        self._levels, self._planes, self._order = chosen.levels, chosen.planes, chosen.order
        spacing = chosen.source.spacing
        sizes = [level.lattice.level_size_px for level in self._levels]
        levels, squeezed = alike_levels(
            [
                LevelInfo(size, snapped_downsample(sizes[0], size), level.lattice.tile_size_px)
                for size, level in zip(sizes, self._levels, strict=True)
            ]
        )
        info = SlideInfo(
            reader="ngff",
            vendor="ome-zarr",
            levels=levels,
            mpp=spacing.mpp,
            mpp_source=spacing.source,
            notes=(*spacing.notes, *squeezed, *notes),
            images=tuple(str(i.entry) for i in images) if len(images) > 1 else (),
        )
        self._info = with_override(info, mpp, path.name)

    @property
    def info(self) -> SlideInfo:
        return self._info

    def lattice(self, level: int) -> TileLattice:
        return self._levels[level].lattice

    def read_tile(
        self, level: int, col: int, row: int, scratch: RgbImage | None = None
    ) -> RgbImage | None:
        """One chunk, (h, w, 3) uint8; None where it was never written.

        Raises
        ------
        SlideReadError
            If it cannot be decoded.
        """
        of = self._levels[level]
        box = of.lattice.box(col, row)
        parts = {"x": slice(box.x, box.right), "y": slice(box.y, box.bottom), "c": slice(None)}
        try:
            chosen = tuple(parts.get(a, self._planes.get(a, 0)) for a in of.axes)
            pixels = of.array[chosen].read().result()
        except ValueError as error:
            if str(error).startswith("NOT_FOUND"):
                return None
            raise SlideReadError(self._name, "a chunk cannot be decoded", "copy it again") from None
        kept = [a for a in of.axes if a in parts]
        image = np.asarray(pixels).transpose([kept.index(a) for a in "yxc"])
        if self._order != (0, 1, 2):
            image = image[..., list(self._order)]
        return np.ascontiguousarray(image)

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        check_box(box_px, self._name)
        return assemble(
            box_px,
            self._levels[level].lattice,
            lambda col, row: self._cache.get((level, col, row), self.read_tile),
        )

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None:
        self._cache.clear()

"""OME-Zarr (NGFF 0.4 and 0.5) images: read by TensorStore, chunk by chunk.

tiatoolbox reads only files that carry one vendor's display settings, at 4 to 8 s of import.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx, snapped_downsample
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideInfo
from pathology_scaat.slides.spacing import Spacing, spacing_from_file, with_override
from pathology_scaat.slides.tiles import TileCache, TileLattice, assemble, check_box
from pathology_scaat.system.closing import Closing

MAX_METADATA_BYTES = 8 << 20
MAX_CHUNK_PX = 8192 * 8192
_UNITS = {
    "micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Level:
    array: Any
    axes: tuple[str, ...]
    lattice: TileLattice


def _damaged(path: Path, what: str) -> SlideOpenError:
    return SlideOpenError(path.name, f"is no OME-Zarr image that can be read ({what})", "check it")


def _load(file: Path, path: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_METADATA_BYTES:
            raise _damaged(path, "its metadata is huge")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise _damaged(path, "its metadata is damaged") from None
    if not isinstance(value, dict):
        raise _damaged(path, "its metadata is damaged")
    return value


def _multiscale(path: Path) -> dict[str, Any]:
    """The first multiscale image of the group's attributes."""
    if (path / "zarr.json").is_file():
        attributes = _load(path / "zarr.json", path).get("attributes", {})
        attributes = attributes.get("ome", {}) if isinstance(attributes, dict) else {}
    elif (path / ".zattrs").is_file():
        attributes = _load(path / ".zattrs", path)
    else:
        raise _damaged(path, "it has no metadata")
    found = attributes.get("multiscales") if isinstance(attributes, dict) else None
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise _damaged(path, "it describes no image")
    return found[0]


def _open_array(path: Path, name: str) -> Any:
    place = (path / name).resolve()
    # A dataset path may not lead out of the image.
    if not place.is_relative_to(path.resolve()):
        raise _damaged(path, "a level lies outside of it")
    driver = "zarr3" if (place / "zarr.json").is_file() else "zarr"
    spec = {
        "driver": driver,
        "kvstore": {"driver": "file", "path": str(place)},
        # A chunk that is not there is told from one that is black.
        "fill_missing_data_reads": False,
    }
    try:
        return ts.open(spec, read=True, open=True).result()
    except ValueError:
        raise _damaged(path, "a level cannot be opened") from None


def _level(path: Path, dataset: dict[str, Any], axes: tuple[str, ...]) -> _Level:
    array = _open_array(path, str(dataset["path"]))
    if len(array.shape) != len(axes):
        raise _damaged(path, "its axes do not fit its arrays")
    if array.dtype != ts.uint8:
        raise SlideOpenError(
            path.name, f"has {array.dtype.name} pixels, where uint8 is needed", "convert it to RGB"
        )
    size = dict(zip(axes, array.shape, strict=True))
    chunk = dict(zip(axes, array.chunk_layout.read_chunk.shape, strict=True))
    if size.get("c", 1) not in (1, 3) or any(size.get(a, 1) != 1 for a in "tz"):
        raise SlideOpenError(path.name, "is not one plane of RGB or grey", "convert it to RGB")
    if min(size["x"], size["y"]) < 1 or chunk["x"] * chunk["y"] > MAX_CHUNK_PX:
        raise _damaged(path, "its chunks are too large")
    lattice = TileLattice(SizePx(size["x"], size["y"]), SizePx(chunk["x"], chunk["y"]))
    return _Level(array, axes, lattice)


def _spacing(multiscale: dict[str, Any], axes: list[dict[str, Any]]) -> Spacing:
    steps = multiscale["datasets"][0].get("coordinateTransformations", [])
    scale = next((s["scale"] for s in steps if s.get("type") == "scale"), None)
    whole = multiscale.get("coordinateTransformations") or []
    extra = next((s["scale"] for s in whole if s.get("type") == "scale"), None)
    sizes: dict[str, str | None] = {"x": None, "y": None}
    for position, axis in enumerate(axes):
        name, unit = axis["name"], axis.get("unit")
        if name in sizes and scale is not None and unit in _UNITS:
            value = float(scale[position]) * (float(extra[position]) if extra else 1.0)
            sizes[name] = repr(value * _UNITS[unit])
    return spacing_from_file(sizes["x"], sizes["y"])


class NgffSlide(Closing):
    """An OME-Zarr image."""

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self._name = path.name
        self._cache = TileCache()
        multiscale = _multiscale(path)
        try:
            axes = [a if isinstance(a, dict) else {"name": a} for a in multiscale["axes"]]
            names = tuple(str(a["name"]) for a in axes)
            if not {"x", "y"} <= set(names) <= set("tczyx"):
                raise _damaged(path, "it has other axes than t, c, z, y, x")
            self._levels = [_level(path, d, names) for d in multiscale["datasets"]]
            spacing = _spacing(multiscale, axes)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise _damaged(path, "its metadata is damaged") from None
        if not self._levels:
            raise _damaged(path, "it has no levels")
        sizes = [level.lattice.level_size_px for level in self._levels]
        info = SlideInfo(
            reader="ngff",
            vendor="ome-zarr",
            levels=tuple(
                LevelInfo(size, snapped_downsample(sizes[0], size), level.lattice.tile_size_px)
                for size, level in zip(sizes, self._levels, strict=True)
            ),
            mpp=spacing.mpp,
            mpp_source=spacing.source,
            notes=spacing.notes,
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
        """One chunk as RGB; None where it was never written."""
        of = self._levels[level]
        box = of.lattice.box(col, row)
        parts = {"x": slice(box.x, box.right), "y": slice(box.y, box.bottom), "c": slice(None)}
        try:
            pixels = of.array[tuple(parts.get(a, 0) for a in of.axes)].read().result()
        except ValueError as error:
            if str(error).startswith("NOT_FOUND"):
                return None
            raise SlideReadError(self._name, "a chunk cannot be decoded", "copy it again") from None
        kept = [a for a in of.axes if a in parts]
        image = np.asarray(pixels)
        if "c" not in kept:
            image, kept = image[..., None], [*kept, "c"]
        image = image.transpose([kept.index(a) for a in "yxc"])
        if image.shape[2] == 1:
            image = np.repeat(image, 3, axis=2)
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

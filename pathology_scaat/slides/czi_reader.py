"""Zeiss CZI, by Zeiss's own library where it is installed (the extra ``czi``).

Only full resolution is read: without stored pyramids the library decimates, which would make
patches of a coarser µm/px out of single pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.errors import SlideOpenError, SlideReadError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.slides.base import LevelInfo, RgbImage, SlideBase, SlideInfo
from pathology_scaat.slides.images import ImageEntry, RefusedError, choose_slide, remedy_of
from pathology_scaat.slides.spacing import Spacing, spacing_from_file, with_override
from pathology_scaat.slides.tiles import check_box

_RGB = "Bgr24"
_MICRONS_PER_METRE = 1e6


def has_czi_library() -> bool:
    """Whether pylibCZIrw is installed."""
    try:
        import pylibCZIrw  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class _Scene:
    """A scene: its number (None where the file has none) and its box in the file's pixels."""

    number: int | None
    box: BoxPx


class CziSlide(SlideBase):
    """The largest scene of a CZI; its first pixel is (0, 0).

    Raises
    ------
    SlideOpenError
        If it cannot be read, or holds no picture that is a brightfield slide.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        from pylibCZIrw import czi

        self._name = path.name
        self._lock = threading.Lock()
        try:
            self._opened = czi.open_czi(str(path))
            self._reader: Any = self._opened.__enter__()
            scenes = _scenes(self._reader)
            types = dict(self._reader.pixel_types)
            sizes = {
                axis: high - low for axis, (low, high) in self._reader.total_bounding_box.items()
            }
            spacing = _spacing(self._reader.metadata)
        except Exception:  # the library raises whatever its C++ parts raise, with paths in it
            raise SlideOpenError(
                path.name, "is a Zeiss CZI file that cannot be read", "copy it again"
            ) from None
        try:
            channel, planes, more_notes = _planes(types, sizes)
            problem = ""
        except RefusedError as error:
            channel, planes, more_notes, problem = 0, {}, (), str(error)
        words = ", ".join(dict.fromkeys(types.values()))
        entries = [ImageEntry(s.box.size, pixels=words, problem=problem) for s in scenes]
        try:
            index, notes = choose_slide(entries)
        except RefusedError as error:
            self.close()
            raise SlideOpenError(path.name, str(error), remedy_of(str(error))) from None
        self._scene, self._plane = scenes[index], {"C": channel, **planes}
        size = self._scene.box.size
        info = SlideInfo(
            reader="czi",
            vendor="zeiss",
            levels=(LevelInfo(size, 1.0),),
            mpp=spacing.mpp,
            mpp_source=spacing.source,
            notes=(*spacing.notes, *notes, *more_notes),
            images=tuple(str(entry) for entry in entries) if len(entries) > 1 else (),
        )
        self._info = with_override(info, mpp, path.name)

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_level(self, level: int, box_px: BoxPx) -> RgbImage:
        """A box of level pixels, (height, width, 3) uint8; white beyond the scene.

        Raises
        ------
        SlideReadError
            If it cannot be decoded, or the box has no pixel.
        """
        check_box(box_px, self._name)
        out = np.full((box_px.height, box_px.width, 3), 255, dtype=np.uint8)
        size: SizePx = self._info.levels[level].size_px
        inside = box_px.intersection(BoxPx(0, 0, size.width, size.height))
        if inside is None:
            return out
        absolute = inside.shifted(self._scene.box.x, self._scene.box.y)
        try:
            with self._lock:
                pixels = self._reader.read(
                    roi=(absolute.x, absolute.y, absolute.width, absolute.height),
                    plane=self._plane,
                    scene=self._scene.number,
                    background_pixel=(1.0, 1.0, 1.0),
                )
        except Exception:
            raise SlideReadError(self._name, "pixels cannot be decoded", "copy it again") from None
        x, y = inside.x - box_px.x, inside.y - box_px.y
        out[y : y + inside.height, x : x + inside.width] = pixels[..., ::-1]  # stored as BGR
        return out

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


def _scenes(reader: Any) -> list[_Scene]:
    found = [
        _Scene(number, BoxPx(r.x, r.y, r.w, r.h))
        for number, r in sorted(reader.scenes_bounding_rectangle.items())
    ]
    if found:
        return found
    r = reader.total_bounding_rectangle
    return [_Scene(None, BoxPx(r.x, r.y, r.w, r.h))]


def _planes(
    types: Mapping[int, str], sizes: Mapping[str, int]
) -> tuple[int, dict[str, int], tuple[str, ...]]:
    """The RGB channel, the planes of z and time to read, and notes about them.

    Raises
    ------
    RefusedError
        If no channel is 8-bit RGB, or there are several points in time.
    """
    rgb = [channel for channel, kind in types.items() if kind == _RGB]
    if not rgb:
        shown = ", ".join(f"{kind}" for kind in dict.fromkeys(types.values()))
        raise RefusedError(
            f"has {len(types)} channel(s) of type {shown}, not 8-bit RGB as brightfield has"
        )
    if sizes.get("T", 1) > 1:
        raise RefusedError(f"has {sizes['T']} points in time, not one picture")
    notes: tuple[str, ...] = ()
    if len(types) > 1:
        notes += (f"of {len(types)} channels the first in RGB is read",)
    n_z = sizes.get("Z", 1)
    if n_z > 1:
        z = (n_z - 1) // 2
        notes += (f"a stack of {n_z} focal planes: the middle one (number {z + 1}) is read",)
        return rgb[0], {"Z": z}, notes
    return rgb[0], {}, notes


def _spacing(metadata: Any) -> Spacing:
    """µm/px by the scaling of the document; nothing else of the metadata is looked at."""
    values: dict[str, str | None] = {}
    try:
        items = metadata["ImageDocument"]["Metadata"]["Scaling"]["Items"]["Distance"]
        for item in items:
            metres = float(item["Value"])
            values[item["@Id"]] = repr(metres * _MICRONS_PER_METRE) if metres > 0 else None
    except (KeyError, TypeError, ValueError):
        return spacing_from_file(None, None)
    return spacing_from_file(values.get("X"), values.get("Y"))

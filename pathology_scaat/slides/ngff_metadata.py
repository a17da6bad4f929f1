"""What the metadata of an OME-Zarr say: its images, their axes, channels and µm/px."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.slides.channels import Channel, hex_colour
from pathology_scaat.slides.images import ImageKind, RefusedError, kind_of_name
from pathology_scaat.slides.spacing import Spacing, spacing_from_file
from pathology_scaat.slides.units import microns_of

MAX_METADATA_BYTES = 8 << 20
MAX_IMAGES = 256
_LAYOUT = "bioformats2raw.layout"


@dataclass(frozen=True, eq=False)
class NgffImage:
    """One multiscale image: the group that holds it and its metadata, as stored."""

    path: Path
    multiscale: dict[str, Any]
    axes: tuple[str, ...]
    channels: tuple[Channel, ...]
    kind: ImageKind
    spacing: Spacing

    @property
    def datasets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.multiscale["datasets"]
        return found


def damaged(path: Path, what: str) -> SlideOpenError:
    """Make (not raise) the error that an OME-Zarr's metadata cannot be used.

    Parameters
    ----------
    path : Path
        The OME-Zarr, of which only the name is shown.
    what : str
        What is wrong with it, in a few words.
    """
    return SlideOpenError(path.name, f"is no OME-Zarr image that can be read ({what})", "check it")


def list_ngff_images(path: Path) -> tuple[NgffImage, ...]:
    """Every image of an OME-Zarr: its own, or those of its series (bioformats2raw's layout).

    Raises
    ------
    SlideOpenError
        If its metadata cannot be read or describe no image.
    """
    attributes = _attributes(path, path)
    found = _images(path, attributes, path)
    if not found and "plate" in attributes:
        raise SlideOpenError(
            path.name, "is a plate of wells (HCS), not a slide", "give the image of one field"
        )
    if not found:
        for series in _series(path, attributes):
            found += _images(series, _attributes(series, path), path)
    if not found:
        raise damaged(path, "it describes no image")
    return tuple(found)


def _load(file: Path, path: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_METADATA_BYTES:
            raise damaged(path, "its metadata is huge")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise damaged(path, "its metadata is damaged") from None
    if not isinstance(value, dict):
        raise damaged(path, "its metadata is damaged")
    return value


def _attributes(group: Path, path: Path) -> dict[str, Any]:
    """The OME attributes of a group, in zarr 3 (NGFF 0.5) or zarr 2 (0.4)."""
    if (group / "zarr.json").is_file():
        attributes = _load(group / "zarr.json", path).get("attributes", {})
        attributes = attributes.get("ome", {}) if isinstance(attributes, dict) else {}
    elif (group / ".zattrs").is_file():
        attributes = _load(group / ".zattrs", path)
    elif group == path:
        raise damaged(path, "it has no metadata")
    else:
        attributes = {}
    return attributes if isinstance(attributes, dict) else {}


def _series(path: Path, attributes: dict[str, Any]) -> list[Path]:
    """The groups of the images of bioformats2raw's layout, in order."""
    names: list[str] = []
    if (path / "OME").is_dir():
        listed = _attributes(path / "OME", path).get("series")
        names = [str(name) for name in listed] if isinstance(listed, list) else []
    if not names and attributes.get(_LAYOUT) is not None:
        number = 0
        while (path / str(number)).is_dir() and number < MAX_IMAGES:
            names.append(str(number))
            number += 1
    groups = [path / name for name in names[:MAX_IMAGES]]
    if any(not g.resolve().is_relative_to(path.resolve()) for g in groups):
        raise damaged(path, "an image lies outside of it")
    return [group for group in groups if group.is_dir()]


def _images(group: Path, attributes: dict[str, Any], path: Path) -> list[NgffImage]:
    listed = attributes.get("multiscales")
    if not isinstance(listed, list):
        return []
    try:
        channels = _channels(attributes.get("omero"))
        return [_image(group, m, channels, path) for m in listed if isinstance(m, dict)]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise damaged(path, "its metadata is damaged") from None


def _image(
    group: Path, multiscale: dict[str, Any], channels: tuple[Channel, ...], path: Path
) -> NgffImage:
    axes = [a if isinstance(a, dict) else {"name": a} for a in multiscale["axes"]]
    names = tuple(str(a["name"]) for a in axes)
    if not {"x", "y"} <= set(names) <= set("tczyx"):
        raise damaged(path, "it has other axes than t, c, z, y, x")
    if not multiscale["datasets"]:
        raise damaged(path, "it has no levels")
    kind = kind_of_name(str(multiscale.get("name") or ""))
    return NgffImage(group, multiscale, names, channels, kind, _spacing(multiscale, axes))


def _channels(omero: Any) -> tuple[Channel, ...]:
    listed = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(listed, list):
        return ()
    return tuple(
        Channel(str(c.get("label") or ""), hex_colour(c.get("color")))
        for c in listed
        if isinstance(c, dict)
    )


def _spacing(multiscale: dict[str, Any], axes: list[dict[str, Any]]) -> Spacing:
    steps = multiscale["datasets"][0].get("coordinateTransformations", [])
    scale = next((s["scale"] for s in steps if s.get("type") == "scale"), None)
    whole = multiscale.get("coordinateTransformations") or []
    extra = next((s["scale"] for s in whole if s.get("type") == "scale"), None)
    sizes: dict[str, str | None] = {"x": None, "y": None}
    for position, axis in enumerate(axes):
        name, microns = axis["name"], microns_of(axis.get("unit"))
        if name in sizes and scale is not None:
            if microns is None:
                what = "an unknown unit" if axis.get("unit") else "no unit"
                return Spacing(None, f"none: the file states its pixel size in {what}")
            value = float(scale[position]) * (float(extra[position]) if extra else 1.0)
            sizes[name] = repr(value * microns)
    return spacing_from_file(sizes["x"], sizes["y"])


def plane_numbers(sizes: dict[str, int]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Which plane of z is read, and a note about it.

    Raises
    ------
    RefusedError
        If there are several points in time.
    """
    if sizes.get("t", 1) > 1:
        raise RefusedError(f"has {sizes['t']} points in time, not one picture")
    n_z = sizes.get("z", 1)
    z = (n_z - 1) // 2
    if n_z == 1:
        return {"t": 0, "z": 0}, ()
    note = f"a stack of {n_z} focal planes: the middle one (number {z + 1}) is read"
    return {"t": 0, "z": z}, (note,)

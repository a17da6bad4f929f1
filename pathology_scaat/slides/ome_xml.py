"""OME-XML of OME-TIFF: its images, their channels, µm/px, and where their planes lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.channels import Channel
from pathology_scaat.slides.spacing import Spacing, spacing_from_file
from pathology_scaat.slides.units import microns_of

MAX_PLANES = 100_000
_FLUORESCENCE = ("epifluorescence", "fluorescence")

Plane = tuple[int, int, int]
"""Numbers of z, channel and time."""


class OmeError(ValueError):
    """OME-XML that cannot be used; why, in words."""


@dataclass(frozen=True)
class OmeImage:
    """One ``Image``; ``pages`` holds the number of the TIFF page of each plane."""

    name: str
    size_px: SizePx
    n_z: int
    n_t: int
    channels: tuple[Channel, ...]
    samples: int
    spacing: Spacing
    pages: dict[Plane, int]


def read_ome(text: str, file_name: str, n_pages: int) -> tuple[OmeImage, ...]:
    """The images of an OME-XML whose planes lie in this file.

    Parameters
    ----------
    text : str
        The XML.
    file_name : str
        Name of the file that holds it: files of one set carry the XML of all of them.
    n_pages : int
        Pages of the file.

    Raises
    ------
    OmeError
        If it cannot be read, or does not say which of its images lie in this file.
    """
    try:
        root: Element = ElementTree.fromstring(text)
    except (ElementTree.ParseError, DefusedXmlException, ValueError):
        raise OmeError("its OME-XML cannot be read") from None
    if next(_children(root, "BinaryOnly"), None) is not None:
        raise OmeError("its OME metadata are in another file")
    elements = list(_children(root, "Image"))
    own = _own_entries(root, elements, file_name)
    images, next_page = [], 0
    for element in elements:
        pixels = next(_children(element, "Pixels"), None)
        if pixels is None:
            continue
        try:
            image = _image(element, pixels, own, next_page, n_pages)
        except (TypeError, ValueError, OverflowError):
            raise OmeError("its OME-XML describes impossible images") from None
        if image.pages:
            images.append(image)
            next_page = max(image.pages.values()) + 1
    if not images:
        raise OmeError("its OME-XML describes no image of this file")
    return tuple(images)


def _children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if child.tag.rpartition("}")[2] == name)


def _own_entries(root: Element, images: list[Element], file_name: str) -> set[int] | None:
    """Ids of the ``TiffData`` of this file; None where the XML speaks of one file only."""
    entries = [
        (tiff_data, uuid)
        for image in images
        for pixels in _children(image, "Pixels")
        for tiff_data in _children(pixels, "TiffData")
        for uuid in _children(tiff_data, "UUID")
    ]
    if not entries:
        return None
    by_name = {id(data) for data, uuid in entries if uuid.get("FileName") == file_name}
    if by_name:
        return by_name
    root_uuid = root.get("UUID")
    by_uuid = {id(data) for data, uuid in entries if (uuid.text or "").strip() == root_uuid}
    if by_uuid and root_uuid is not None:
        return by_uuid
    if len({uuid.get("FileName") or uuid.text for _, uuid in entries}) == 1:
        return None  # one file, which was renamed
    raise OmeError("it is one of a set of files, and its OME-XML does not say which")


def _image(
    element: Element, pixels: Element, own: set[int] | None, next_page: int, n_pages: int
) -> OmeImage:
    n_c, n_z, n_t = (int(pixels.get(f"Size{axis}", "1")) for axis in "CZT")
    described = list(_children(pixels, "Channel"))
    samples = max((int(c.get("SamplesPerPixel", "1")) for c in described), default=1)
    channels = tuple(_channel(c) for c in described) or (Channel(),) * n_c
    planes = {"Z": n_z, "C": max(len(channels), n_c // samples), "T": n_t}
    if min(planes.values()) < 1 or n_z * n_t * planes["C"] > MAX_PLANES:
        raise ValueError("too many planes")
    return OmeImage(
        name=element.get("Name") or "",
        size_px=SizePx(int(pixels.get("SizeX", "0")), int(pixels.get("SizeY", "0"))),
        n_z=n_z,
        n_t=n_t,
        channels=channels,
        samples=samples,
        spacing=_spacing(pixels),
        pages=_pages(pixels, planes, own, next_page, n_pages),
    )


def _channel(element: Element) -> Channel:
    colour = None
    if element.get("Color") is not None:
        colour = (int(element.get("Color", "-1")) & 0xFFFFFFFF) >> 8  # a signed RGBA
    kinds = (element.get("IlluminationType", ""), element.get("ContrastMethod", ""))
    is_fluorescent = any(kind.casefold() in _FLUORESCENCE for kind in kinds)
    return Channel(
        element.get("Name") or "", colour, is_fluorescent or element.get("Fluor") is not None
    )


def _pages(
    pixels: Element, planes: dict[str, int], own: set[int] | None, next_page: int, n_pages: int
) -> dict[Plane, int]:
    """Page of each plane: planes follow each other in the order that the XML states."""
    order = [axis for axis in pixels.get("DimensionOrder", "XYCZT") if axis in "ZCT"]
    total = planes["Z"] * planes["C"] * planes["T"]
    found: dict[Plane, int] = {}
    entries = list(_children(pixels, "TiffData"))
    if not entries and own is None:
        entries = [Element("TiffData", {"IFD": str(next_page), "PlaneCount": str(total)})]
    for entry in entries:
        if own is not None and id(entry) not in own:
            continue
        first_page = int(entry.get("IFD", "0"))
        count = int(entry.get("PlaneCount", "1" if entry.get("IFD") is not None else str(total)))
        start, stride = 0, 1
        for axis in order:
            start += int(entry.get(f"First{axis}", "0")) * stride
            stride *= planes[axis]
        for number in range(min(count, total - start, n_pages - first_page)):
            at, rest = {}, start + number
            for axis in order:
                rest, at[axis] = divmod(rest, planes[axis])
            found[at["Z"], at["C"], at["T"]] = first_page + number
    return found


def _spacing(pixels: Element) -> Spacing:
    sizes: list[str | None] = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        microns = microns_of(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if text is None:
            sizes.append(None)
            continue
        if microns is None:
            return Spacing(None, "none: its OME-XML states the pixel size in an unknown unit")
        try:
            sizes.append(repr(float(text) * microns))
        except ValueError:
            sizes.append(text)
    return spacing_from_file(*sizes)

"""The images of a TIFF: which pages belong together, and what each of them is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tifffile

from pathology_scaat.geometry import SizePx
from pathology_scaat.slides.channels import Channel, rgb_order
from pathology_scaat.slides.images import ImageEntry, ImageKind, RefusedError, kind_of_name
from pathology_scaat.slides.ome_xml import OmeError, OmeImage, read_ome
from pathology_scaat.slides.pyramid import NOT_ALIKE, is_alike
from pathology_scaat.slides.spacing import Spacing, spacing_from_file
from pathology_scaat.slides.tiff_colours import colour_problem
from pathology_scaat.slides.units import microns_of

MAX_PAGES = 4096
"""Pages that are looked at; a slide has some ten."""

MIN_STEP = 1.5
"""Least factor between two levels of a pyramid."""

_QPI_KIND = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
_QPI_KINDS = {
    "Thumbnail": ImageKind.THUMBNAIL, "Overview": ImageKind.MACRO, "Label": ImageKind.LABEL,
}  # fmt: skip
_QPI_NAME = re.compile(r"<Name>\s*([^<]{0,40}?)\s*</Name>")
_REDUCED = 1

FAMILIES = {
    "is_scn": "a Leica SCN file",
    "is_bif": "a Ventana BIF file",
    "is_ndpi": "a Hamamatsu NDPI file",
    "is_philips": "a Philips TIFF",
}
"""Families whose pages mean what only OpenSlide knows: the first may be the macro."""

Planes = tuple[Any, ...]
"""Pages of one level: one of interleaved pixels, or three of red, green and blue."""


@dataclass(frozen=True, eq=False)
class TiffImage:
    """One image: what it is, the pages of its levels (finest first), and its µm/px."""

    entry: ImageEntry
    levels: tuple[Planes, ...]
    spacing: Spacing


def special_family(tiff: tifffile.TiffFile) -> str | None:
    """The family of a TIFF that must be read by OpenSlide, in words, or None."""
    for flag, words in FAMILIES.items():
        if getattr(tiff, flag, False):
            return words
    software = str(tiff.pages.first.software or "") if len(tiff.pages) else ""
    return "a Trestle TIFF" if software.startswith("MedScan") else None


def list_images(tiff: tifffile.TiffFile, file_name: str) -> tuple[TiffImage, ...]:
    """Every image of a TIFF, in the order of the file.

    Raises
    ------
    RefusedError
        If what it holds cannot be told apart.
    """
    if tiff.is_ome:
        try:
            found = read_ome(tiff.ome_metadata or "", file_name, len(tiff.pages))
        except OmeError as error:
            return _without_ome(tiff, str(error))
        return tuple(_ome_image(tiff, image) for image in found)
    return _page_images(tiff)


def _without_ome(tiff: tifffile.TiffFile, reason: str) -> tuple[TiffImage, ...]:
    """By the pages alone; the µm/px is unknown, since another image's might be taken."""
    unknown = Spacing(None, f"none: {reason}")
    return tuple(replace(image, spacing=unknown) for image in _page_images(tiff))


def _page(tiff: tifffile.TiffFile, number: int) -> Any:
    page = tiff.pages[number]
    return page.aspage() if isinstance(page, tifffile.TiffFrame) else page


def page_size(page: Any) -> SizePx:
    return SizePx(page.imagewidth, page.imagelength)


def _pixels(page: Any) -> str:
    samples, dtype = page.samplesperpixel, page.dtype
    colours = {1: "grey", 3: "RGB", 4: "RGBA"}.get(samples, f"{samples} channels")
    return f"{colours}, {dtype if dtype is not None else f'{page.bitspersample} bits'}"


# --- OME-TIFF ---------------------------------------------------------------------------


def _ome_image(tiff: tifffile.TiffFile, image: OmeImage) -> TiffImage:
    notes: list[str] = []
    kind = kind_of_name(image.name)
    z = (image.n_z - 1) // 2
    numbers = [image.pages.get((z, c, 0)) for c in range(len(image.channels))]
    present = [number for number in numbers if number is not None]
    if image.n_z > 1:
        notes.append(
            f"a stack of {image.n_z} focal planes: the middle one (number {z + 1}) is read"
        )
    if not present:
        number = min(image.pages.values())
        entry = ImageEntry(
            image.size_px, kind, _pixels(_page(tiff, number)),
            problem="keeps its planes in several files, which are not read together",
        )  # fmt: skip
        return TiffImage(entry, (), image.spacing)
    first = _page(tiff, present[0])
    problem, planes = "", (first,)
    if image.n_t > 1:
        problem = f"has {image.n_t} points in time, not one picture"
    elif len(present) < len(image.channels):
        problem = "keeps its channels in several files, which are not read together"
    elif first.samplesperpixel == 1 and len(present) > 1:
        planes = tuple(_page(tiff, number) for number in present)
        try:
            problem = _deep_problem(planes)
            if not problem:
                found = rgb_order(image.channels)
                planes = tuple(planes[i] for i in found.order)
                notes += [
                    "its red, green and blue are three grey planes, read together as RGB",
                    *found.notes,
                ]
        except RefusedError as error:
            problem = str(error)
    elif len(present) > 1:
        problem = f"has {len(present)} images as channels, not red, green and blue"
    else:
        problem = colour_problem(first)
        if any(channel.fluorescent for channel in image.channels):
            problem = "is fluorescence by its OME-XML, not brightfield"
    levels, squeezed = _sub_levels(planes) if not problem else ((), ())
    notes += squeezed
    spacing = image.spacing
    if spacing.mpp is None and spacing.source.endswith("states no µm/px"):
        spacing = resolution_spacing(first)
    pixels = _pixels(first) if len(present) == 1 else f"{len(present)} channels, {first.dtype}"
    entry = ImageEntry(
        page_size(first), kind, pixels, max(len(levels), 1), spacing.mpp, problem, tuple(notes)
    )
    return TiffImage(entry, levels, spacing)


def _deep_problem(planes: Planes) -> str:
    """Why planes of one channel each cannot be red, green and blue of 8 bits."""
    for page in planes:
        problem = colour_problem(page)
        if problem and not problem.startswith("is grey"):
            return problem
        if page_size(page) != page_size(planes[0]):
            return "has channels of different sizes"
    return ""


def _sub_levels(planes: Planes) -> tuple[tuple[Planes, ...], tuple[str, ...]]:
    """The level itself and those in its SubIFDs, as far as every plane has them; and notes."""
    lists = [[page, *_subs(page)] for page in planes]
    count = min(len(pages) for pages in lists)
    return _in_order([tuple(pages[i] for pages in lists) for i in range(count)])


def _subs(page: Any) -> list[Any]:
    if not page.subifds:
        return []
    found = [
        sub.aspage() if isinstance(sub, tifffile.TiffFrame) else sub for sub in page.pages or ()
    ]
    return [sub for sub in found if _alike(page, sub)]


def _in_order(levels: list[Planes]) -> tuple[tuple[Planes, ...], tuple[str, ...]]:
    """The levels that are a pyramid: each smaller than the one before, in the same shape."""
    full = page_size(levels[0][0])
    kept, notes = [levels[0]], []
    for level in sorted(levels[1:], key=lambda planes: -page_size(planes[0]).area):
        size = page_size(level[0])
        if _is_level(full, page_size(kept[-1][0]), size):
            kept.append(level)
        elif not is_alike(full, size):
            notes.append(
                f"a level of {size.width:,} x {size.height:,} px {NOT_ALIKE}: it is not read"
            )
    return tuple(kept), tuple(notes)


# --- other TIFFs ------------------------------------------------------------------------


def _page_images(tiff: tifffile.TiffFile) -> tuple[TiffImage, ...]:
    """Pages in a row: reduced ones are levels of the image before them."""
    groups: list[list[Any]] = []
    kinds: list[ImageKind] = []
    for number in range(min(len(tiff.pages), MAX_PAGES)):
        page = _page(tiff, number)
        kind = _kind(tiff, page)
        if kind is ImageKind.SLIDE:
            owner = next((g for g in groups if _continues(g, page)), None)
            if owner is not None:
                owner.append(page)
                continue
            if groups and int(page.subfiletype) & _REDUCED:
                kind = ImageKind.THUMBNAIL  # smaller, and no level of any image
        groups.append([page])
        kinds.append(kind)
    if not groups:
        raise ValueError("no page can be read")
    return tuple(_grouped(tiff, g, k, groups) for g, k in zip(groups, kinds, strict=True))


def _kind(tiff: tifffile.TiffFile, page: Any) -> ImageKind:
    text = page.description or ""
    if tiff.is_svs:
        second = text.partition("\n")[2].lstrip().lower()
        if second.startswith("label"):
            return ImageKind.LABEL
        if second.startswith("macro"):
            return ImageKind.MACRO
        return ImageKind.SLIDE if page.is_tiled else ImageKind.THUMBNAIL
    found = _QPI_KIND.search(text)
    return _QPI_KINDS.get(found.group(1), ImageKind.SLIDE) if found else ImageKind.SLIDE


def _alike(page: Any, other: Any) -> bool:
    """Whether two pages hold pixels of one type in one layout."""
    return bool(
        page.samplesperpixel == other.samplesperpixel
        and page.dtype == other.dtype
        and page.is_tiled == other.is_tiled
    )


def _is_level(full: SizePx, last: SizePx, size: SizePx) -> bool:
    return size.width * MIN_STEP <= last.width and is_alike(full, size)


def _continues(group: Sequence[Any], page: Any) -> bool:
    """Whether a page is the next level of an image."""
    if not _alike(group[0], page):
        return False
    if not (int(page.subfiletype) & _REDUCED or page.is_tiled):
        return False
    return _is_level(page_size(group[0]), page_size(group[-1]), page_size(page))


def _grouped(
    tiff: tifffile.TiffFile, pages: list[Any], kind: ImageKind, groups: Iterable[Sequence[Any]]
) -> TiffImage:
    first = pages[0]
    problem = _imagej_problem(tiff) or colour_problem(first)
    if problem.startswith("is grey") and kind is ImageKind.SLIDE:
        same_size = [g for g in groups if page_size(g[0]) == page_size(first)]
        if len(same_size) > 1:
            problem = (
                f"holds {len(same_size)} grey images of one size, as fluorescence does, not RGB"
            )
        names = [_QPI_NAME.search(g[0].description or "") for g in same_size]
        channels = [Channel(found.group(1)) for found in names if found]
        if len(same_size) > 1 and len(channels) == len(same_size):
            shown = ", ".join(c.name for c in channels[:5])
            problem = f"is fluorescence ({shown}), not brightfield RGB"
    levels: tuple[Planes, ...] = tuple((page,) for page in pages)
    notes: tuple[str, ...] = ()
    if len(pages) == 1 and not problem:
        levels, notes = _sub_levels((first,))
    spacing = _imagej_spacing(tiff, first) or resolution_spacing(first)
    entry = ImageEntry(
        page_size(first), kind, _pixels(first), len(levels), spacing.mpp, problem, notes
    )
    return TiffImage(entry, levels, spacing)


def _imagej_problem(tiff: tifffile.TiffFile) -> str:
    """ImageJ keeps a whole stack behind one page."""
    about = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    for axis, words in (("frames", "points in time"), ("slices", "focal planes")):
        if int(about.get(axis, 1) or 1) > 1:
            return f"is an ImageJ stack of {about[axis]} {words}, not one picture"
    n_channels = int(about.get("channels", 1) or 1)
    if n_channels > 1:
        return f"is an ImageJ stack of {n_channels} channels, not RGB"
    n_images = int(about.get("images", 1) or 1)
    return f"is an ImageJ stack of {n_images} images, not one picture" if n_images > 1 else ""


def _imagej_spacing(tiff: tifffile.TiffFile, page: Any) -> Spacing | None:
    """ImageJ states pixels per unit of its own, where TIFF knows inches and centimetres."""
    about = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    microns = microns_of(about.get("unit"))
    return None if microns is None else _by_resolution(page, microns)


def resolution_spacing(page: Any) -> Spacing:
    """µm/px by the tags XResolution, YResolution and ResolutionUnit."""
    microns = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof("ResolutionUnit", 1) or 1))
    return spacing_from_file(None, None) if microns is None else _by_resolution(page, microns)


def _by_resolution(page: Any, microns: float) -> Spacing:
    sizes = []
    for name in ("XResolution", "YResolution"):
        ratio = page.tags.valueof(name)
        usable = isinstance(ratio, tuple) and len(ratio) == 2 and ratio[0] and ratio[1]
        sizes.append(repr(microns * ratio[1] / ratio[0]) if usable else None)
    return spacing_from_file(*sizes)

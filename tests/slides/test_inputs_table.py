"""docs/inputs.md says what is read and what is refused, word for word: made and checked here.

To write the tables anew: SCAAT_WRITE_DOCS=1 pytest tests/slides/test_inputs_table.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn_scn import Area, write_scn
from test_which_image import about, ome, omero, picture, qpi, tczyx, write_attributes, write_ngff

from pathology_scaat.errors import ScaatError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.spacing import check_enlargement, require_mpp

DOCUMENT = Path(__file__).parents[2] / "docs" / "inputs.md"
TILED = {"tile": (64, 64), "metadata": None, "photometric": "rgb"}
RES = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """A kind of input: its words in the table, and how a file of it is made."""

    words: str
    make: Make


def tif(name: str = "slide.tif", data: np.ndarray | None = None, **options: object) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        image = picture(192, 128) if data is None else data
        tifffile.imwrite(path, image, **{**TILED, **RES, **options})  # type: ignore[arg-type]
        return path

    return make


def raw(name: str, head: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(head.ljust(400, b"\0") if head else b"")
        return path

    return make


def several(*images: tuple[np.ndarray, dict[str, object]], **options: object) -> Make:
    return lambda folder: ome(folder / "slide.ome.tif", *images, **options)


def channels(*names: str) -> Make:
    data = np.stack([picture(128, 96)[..., i % 3] for i in range(len(names))])
    metadata = {**about(0.5, axes="CYX"), "Channel": {"Name": list(names)}}
    return several((data, metadata), photometric="minisblack")


def ngff(data: np.ndarray, version: str = "0.4", colours: dict[str, object] | None = None) -> Make:
    def make(folder: Path) -> Path:
        write_ngff(folder / "slide.ome.zarr", data, version, omero=colours)
        return folder / "slide.ome.zarr"

    return make


def bioformats2raw(version: str) -> Make:
    def make(folder: Path) -> Path:
        root = folder / "slide.ome.zarr"
        write_attributes(root, {"bioformats2raw.layout": 3}, version)
        for number, side in enumerate((64, 192)):
            write_ngff(root / str(number), tczyx(picture(side, side)), version)
        return root

    return make


def scn(*areas: Area) -> Make:
    def make(folder: Path) -> Path:
        write_scn(folder / "slide.scn", *areas)
        return folder / "slide.scn"

    return make


def qptiff(*pages: tuple[str, str, int]) -> Make:
    """Pages of a QPTIFF: image type, channel name, side in pixels (grey where it is named)."""

    def make(folder: Path) -> Path:
        path = folder / "slide.qptiff"
        with tifffile.TiffWriter(path) as writer:
            for kind, name, side in pages:
                data = picture(side, side)
                writer.write(
                    data[..., 0] if name else data, description=qpi(kind, name), metadata=None,
                    photometric="minisblack" if name else "rgb", tile=(64, 64), **RES,
                )  # fmt: skip
        return path

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "slide").mkdir()
    return folder / "slide"


MACRO = (picture(96, 64), {"axes": "YXS", "Name": "macro image"})
SCENE = (picture(256, 192), about(0.5))
READ = (
    Case("Tiled TIFF, RGB", tif()),
    *(
        Case(f"Tiled TIFF, {name}", tif(compression=codec))
        for name, codec in (
            ("JPEG", "jpeg"), ("JPEG 2000", "jpeg2000"), ("LZW", "lzw"), ("deflate", "zlib"),
            ("PackBits", "packbits"), ("zstd", "zstd"), ("WebP", "webp"), ("JPEG XL", "jpegxl"),
            ("LZMA", "lzma"),
        )
    ),
    Case("YCbCr without JPEG", tif(photometric="ycbcr", compression="zlib", subsampling=(1, 1))),
    Case("TIFF of strips", tif(tile=None, rowsperstrip=16)),
    Case("TIFF of one strip", tif(tile=None, rowsperstrip=128)),
    Case("RGB with transparency",
         tif(data=np.dstack([picture(192, 128), np.full((128, 192), 255, np.uint8)]))),
    Case("RGB in separate planes",
         tif(data=np.moveaxis(picture(192, 128), -1, 0).copy(), planarconfig="separate")),
    Case("TIFF with an orientation", tif(extratags=[(274, 3, 1, 6, True)])),
    Case("ImageJ TIFF", tif(tile=None, imagej=True, resolution=(2, 2), resolutionunit=None,
                            metadata={"unit": "micron"})),
    Case("OME-TIFF", several(SCENE)),
    Case("OME-TIFF, macro first", several(MACRO, SCENE)),
    Case("OME-TIFF of several scenes", several((picture(160, 160), about(0.5)), SCENE)),
    Case("OME-TIFF, focal planes",
         several((np.stack([picture(128, 96)] * 5), about(0.5, axes="ZYXS")))),
    Case("OME-TIFF, grey planes named red, green, blue", channels("Red", "Green", "Blue")),
    Case("QPTIFF, brightfield",
         qptiff(("FullResolution", "", 256), ("Overview", "", 128), ("Label", "", 64))),
    Case("OME-Zarr 0.4", ngff(tczyx(picture(128, 96)), colours=omero(
        ("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF")))),
    Case("OME-Zarr 0.5, channels unnamed", ngff(tczyx(picture(128, 96)), "0.5")),
    Case("OME-Zarr of bioformats2raw", bioformats2raw("0.4")),
    Case("Leica SCN", scn(Area(40, 30))),
    Case("Leica SCN, two areas", scn(Area(40, 30), Area(700, 60))),
    Case("Leica SCN, area beside the canvas", scn(Area(-40, 30))),
)  # fmt: skip
REFUSED = (
    Case("16-bit TIFF", tif(data=picture(128, 96).astype(np.uint16))),
    Case("Signed 8-bit TIFF", tif(data=(picture(128, 96) // 2).astype(np.int8))),
    Case("Floating-point TIFF", tif(data=picture(128, 96).astype(np.float32))),
    Case("Grey TIFF", tif(data=picture(128, 96)[..., 0], photometric="minisblack")),
    Case("CMYK TIFF", tif(data=np.dstack([picture(128, 96)] * 2)[..., :4],
                          photometric="separated")),
    Case("Five channels", tif(data=np.dstack([picture(128, 96)] * 2)[..., :5])),
    Case("OME-TIFF, fluorescence", channels("DAPI", "CD3", "CD8", "PanCK")),
    Case("OME-TIFF, three stains", channels("DAPI", "CD3", "CD8")),
    Case("OME-TIFF, points in time",
         several((np.stack([picture(128, 96)] * 3), about(0.5, axes="TYXS")))),
    Case("QPTIFF, fluorescence",
         qptiff(("FullResolution", "DAPI", 256), ("FullResolution", "Opal 520", 256))),
    Case("OME-Zarr, fluorescence", ngff(tczyx(picture(128, 96)), colours=omero(
        ("DAPI", "0000FF"), ("CD3", "00FF00"), ("CD8", "FF0000")))),
    Case("OME-Zarr, 16 bits", ngff(tczyx(picture(128, 96)).astype(np.uint16))),
    Case("YCbCr said of JPEG XL",
         tif(photometric="ycbcr", compression="jpegxl", subsampling=(1, 1))),
    Case("Leica SCN, two objectives", scn(Area(40, 30), Area(700, 60, objective=40))),
    Case("Philips iSyntax", raw("slide.isyntax", b'<DataObject ObjectType="DPUfsImport">')),
    Case("Olympus VSI", raw("slide.vsi", b"II*\0\x08\0\0\0")),
    Case("Leica LIF", raw("slide.lif", b"\x70\0\0\0")),
    Case("DICOM that is no slide", raw("report.dcm", b"\0" * 128 + b"DICM")),
    Case("MIRAX without its folder", raw("slide.mrxs", b"\xff\xd8\xff")),
    Case("git-lfs pointer", raw("slide.svs", b"version https://git-lfs")),
    Case("Web page", raw("slide.svs", b"<!DOCTYPE html>")),
    Case("PNG", raw("slide.svs", b"\x89PNG")),
    Case("Empty file", raw("slide.svs", b"")),
    Case("Anything else", raw("slide.svs", b"something")),
    Case("Map that SCAAT exported (OME-TIFF, `rgb.tiff`)", tif(software="pathology_scaat")),
    Case("Folder without a slide", empty_folder),
)  # fmt: skip


def read_row(case: Case, folder: Path) -> str:
    with open_slide(case.make(folder)) as slide:
        info, box = slide.info, slide.info.frame_px
        slide.read_level(0, BoxPx(box.x, box.y, 64, 64))
        notes = "; ".join(note for note in info.notes) or "–"
        return f"| {case.words} | {info.reader} | {notes} |"


def refused_row(case: Case, folder: Path) -> str:
    path = case.make(folder)
    try:
        slide = open_slide(path)
    except ScaatError as error:
        return f"| {case.words} | {str(error).removeprefix(path.name + ': ')} |"
    slide.close()
    raise AssertionError(f"{case.words}: was read")


STATED = (
    ("0.25", 40_000.0), ("8 (coarser than scanners)", 1_250.0),
    ("0.06 (finer than scanners)", 10_000 / 0.06), ("84.7 (300 dpi)", 10_000 * 300 / 25_400),
    ("0.02", 500_000.0), ("none", 0.0),
)  # fmt: skip
"""µm/px in words, and the pixels per cm that the file states."""


def spacing_rows(folder: Path) -> list[str]:
    """What each of some stated µm/px comes to."""
    rows = []
    for number, (words, per_cm) in enumerate(STATED):
        own = folder / str(number)
        own.mkdir()
        options = {"resolution": (per_cm, per_cm)} if per_cm else {"resolution": None}
        if not per_cm:
            options["resolutionunit"] = None
        path = tif(**options)(own)
        with open_slide(path) as slide:
            try:
                require_mpp(slide.info, path.name)
                text = "believed" + "".join(f", with a note: {n}" for n in slide.info.notes)
            except ScaatError as error:
                text = str(error).removeprefix(f"{path.name}: ")
        rows.append(f"| {words} | {text} |")
    for words, asked in (("0.5, patches of 0.25", 0.25), ("0.5, patches of 0.1", 0.1)):
        try:
            text = "; ".join(check_enlargement(0.5, asked, 0.02, False, "slide.tif"))
        except ScaatError as error:
            text = str(error).removeprefix("slide.tif: ")
        rows.append(f"| {words} | {text} |")
    return rows


def tables(folder: Path) -> dict[str, str]:
    def folder_of(kind: str, number: int) -> Path:
        made = folder / f"{kind}{number}"
        made.mkdir()
        return made

    read = [read_row(case, folder_of("read", i)) for i, case in enumerate(READ)]
    refused = [refused_row(case, folder_of("refused", i)) for i, case in enumerate(REFUSED)]
    spacing = spacing_rows(folder_of("spacing", 0))
    return {
        "read": "\n".join(["| input | reader | notes |", "|---|---|---|", *read]),
        "refused": "\n".join(["| input | sentence |", "|---|---|", *refused]),
        "spacing": "\n".join(["| the file states, µm/px | what happens |", "|---|---|", *spacing]),
    }


def with_tables(text: str, made: dict[str, str]) -> str:
    for name, table in made.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def test_the_document_says_what_happens(tmp_path: Path) -> None:
    stored = DOCUMENT.read_text(encoding="utf-8")
    expected = with_tables(stored, tables(tmp_path))
    if os.environ.get("SCAAT_WRITE_DOCS"):
        DOCUMENT.write_text(expected, encoding="utf-8")
        pytest.skip("the tables were written")
    assert stored == expected

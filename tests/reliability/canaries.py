"""Slides that shout: a canary in every property, associated image, name and folder."""

from __future__ import annotations

import base64
import gzip
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import tifffile
from reliability_tools import DATA, draw_slide

CANARY = "KANARIENVOGEL"
"""Whatever holds this word came from a place that must not be read, or not be told."""

LABEL_RGB = (3, 251, 7)
"""Colour of label and macro images; no tissue has it."""


def canary(where: str) -> str:
    return f"{CANARY}-{where}"


def icc_profile() -> bytes:
    """sRGB with a canary for its description."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    words = CANARY.encode("utf-16-be")
    at = profile.find("sRGB built-in".encode("utf-16-be"))
    assert at > 0
    return profile[:at] + words + profile[at + len(words) :]


def aperio_slide(path: Path, seed: int) -> None:
    """An Aperio-like slide with canaries in all its texts and in label and macro images."""
    fields = {
        name: canary(name.replace(" ", ""))
        for name in (
            "Filename", "User", "Date", "Time", "ScanScope ID", "ImageID", "Title", "DSR ID",
            "Barcode", "Patient Name", "Parmset", "Time Zone",
        )
    }  # fmt: skip
    description = "Aperio Image Library v11.2.1 \r\n768x768 (128x128) JPEG/RGB Q=70" + "".join(
        f"|{name} = {value}" for name, value in {**fields, "MPP": "0.5", "AppMag": "20"}.items()
    )
    draw_slide(
        path,
        seed,
        description=description,
        software=canary("Software"),
        datetime="1999:12:31 23:59:59",
        extratags=[
            (315, "s", 0, canary("Artist"), True),
            (316, "s", 0, canary("HostComputer"), True),
            (269, "s", 0, canary("DocumentName"), True),
            (285, "s", 0, canary("PageName"), True),
            (33432, "s", 0, canary("Copyright"), True),
            (700, "B", None, canary("XMP").encode(), True),
            (34377, "B", None, canary("Photoshop").encode(), True),
            (37510, "B", None, b"ASCII\0\0\0" + canary("EXIF").encode(), True),
            (36867, "s", 0, "1999:12:31 23:59:59", True),
            (65427, "s", 0, canary("NDPI reference"), True),
            (34675, "B", None, icc_profile(), True),
        ],
    )
    picture = np.full((200, 200, 3), LABEL_RGB, dtype=np.uint8)
    with tifffile.TiffWriter(path, append=True) as writer:
        for kind in ("label", "macro"):
            writer.write(
                picture,
                photometric="rgb",
                compression="deflate",
                description=f"Aperio Image Library \r\n{kind} 200x200 {canary(kind)}",
                subfiletype=1 if kind == "label" else 9,
                metadata=None,
            )


def _patch_same_length(path: Path, old: bytes, new: str) -> bool:
    """Put a text in the place of every other of its length; the rest is filled up."""
    data = path.read_bytes()
    content = new.encode()[: len(old)].ljust(len(old), b"A")
    path.write_bytes(data.replace(old, content))
    # CANARY is cut off where the old text is shorter: enough of it must be left to be found.
    return old in data and len(old) >= 12


def _dicom(folder: Path) -> Path:
    import pydicom

    assert DATA is not None
    dicom_folder = folder / canary("dicom")
    dicom_folder.mkdir()
    for number, source in enumerate(sorted((DATA / "formats" / "dicom_wsi").glob("*.dcm"))):
        data = pydicom.dcmread(source)
        data.PatientName = canary("PatientName")
        data.PatientID = canary("PatientID")
        data.AccessionNumber = CANARY
        data.ReferringPhysicianName = canary("Physician")
        data.InstitutionName = canary("Institution")
        data.DeviceSerialNumber = canary("Serial")
        data.StudyDescription = canary("Study")
        data.OperatorsName = canary("Operator")
        data.ContainerIdentifier = canary("Container")
        data.save_as(dicom_folder / f"{canary('dcm')}-{number}.dcm")
    return dicom_folder


def format_slides(folder: Path) -> dict[str, Path]:
    """The formats of the data folder under canary names, with canaries where texts can be set."""
    if DATA is None:
        return {}
    made = {}
    for name in ("leica_like.scn", "philips_like.tiff", "hamamatsu_like.ndpi", "pyramid.ome.tiff"):
        path = folder / f"{canary('file')} {name}"
        shutil.copy(DATA / "formats" / name, path)
        made[name] = path
    # The texts of each format, in their length: offsets in these files must stay right.
    for name, old, new in (
        ("leica_like.scn", b"Leica SCN400;Leica SCN", CANARY),
        ("leica_like.scn", b"REVSSVZFRA==", CANARY),
        ("philips_like.tiff", b"Philips DP v1.0", CANARY),
        ("hamamatsu_like.ndpi", b"NDP.scan derived", CANARY),
        ("pyramid.ome.tiff", b"tifffile.py 2026.2.24", CANARY),
        ("pyramid.ome.tiff", b"urn:uuid:19831b36-e561-11f1-8fd7-02fc00000001", f"urn:{CANARY}"),
    ):
        assert _patch_same_length(made[name], old, new), (name, old)
    mirax = folder / f"{canary('mirax')}.mrxs"
    shutil.copy(DATA / "formats" / "mirax_like.mrxs", mirax)
    shutil.copytree(DATA / "formats" / "mirax_like", mirax.with_suffix(""))
    slidedat = mirax.with_suffix("") / "Slidedat.ini"
    text = slidedat.read_text(encoding="utf-8-sig")
    lines = [
        f"{line.split('=')[0].rstrip()} = {canary('mirax')}"
        if line.startswith(("SLIDE_NAME", "PROJECT_NAME", "SLIDE_CREATIONDATETIME", "COMPUTER"))
        else line
        for line in text.splitlines()
    ]
    slidedat.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    made["mirax"] = mirax
    zarr = folder / f"{canary('zarr')}.ome.zarr"
    shutil.copytree(DATA / "formats" / "multiscale.ome.zarr", zarr)
    attributes = zarr / ".zattrs"
    content = attributes.read_text(encoding="utf-8")
    attributes.write_text(
        content.replace("{", f'{{"patient": "{canary("zattrs")}", ', 1), encoding="utf-8"
    )
    made["ome-zarr"] = zarr
    made["dicom"] = _dicom(folder)
    return made


MIN_CODED = 10


def spellings(word: str) -> list[bytes]:
    """A word as files may hold it: UTF-8, UTF-16, base64 at all offsets."""
    found = [
        word.encode(),
        word.lower().encode(),
        word.encode("utf-16-le"),
        word.encode("utf-16-be"),
    ]
    for shift in range(3):
        coded = base64.b64encode(b"x" * shift + word.encode())
        if len(coded[4:-4]) >= MIN_CODED:  # a shorter run of letters occurs in any picture
            found.append(coded[4:-4])
    return found


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, and what is packed in it."""
    data = path.read_bytes()
    yield "", data
    if data[:2] == b"\x1f\x8b":
        yield "gunzipped", gzip.decompress(data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                yield f"{entry.filename}", entry.filename.encode() + archive.read(entry)
    if data[:4] in {b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"}:
        with tifffile.TiffFile(path) as tiff:
            for number, page in enumerate(tiff.pages):
                tags = "\n".join(f"{tag.name}={tag.value}" for tag in page.tags)  # type: ignore[union-attr]
                yield f"tags of page {number}", tags.encode(errors="replace")
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
            yield "texts", repr(image.info).encode()
    if data[:15] == b"SQLite format 3":
        # a connection's own "with" ends a transaction and leaves the file open
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
            yield "rows", "\n".join(store.iterdump()).encode()
    for start in range(min(len(data), 1 << 16)):
        if data[start : start + 2] == b"x\x9c":
            try:
                yield "inflated", zlib.decompressobj().decompress(data[start:], 1 << 20)
            except zlib.error:
                continue


def find_words(out: Path, words: list[str]) -> list[str]:
    """Every file below a folder whose name or content holds one of the words."""
    needles = [(word, spelled) for word in words for spelled in spellings(word)]
    found = set()
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        found |= {f"{name} (name)" for word in words if word.lower() in name.lower()}
        if path.is_file():
            for part, data in contents(path):
                found |= {f"{name} {part}: {word}" for word, needle in needles if needle in data}
    return sorted(found)


def has_label_colour(pixels: np.ndarray) -> bool:  # type: ignore[type-arg]
    return bool((np.abs(pixels[..., :3].astype(int) - LABEL_RGB).max(axis=-1) < 6).any())

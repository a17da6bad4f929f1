"""A slide opens no file outside its own folder, whatever it names and wherever links lead."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathology_scaat.errors import SlideOpenError, UsageError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.siblings import check_siblings
from pathology_scaat.tissue.given_mask import read_given_mask

OUTSIDE = "names or links to a file outside of its own folder"
BOX = BoxPx(0, 0, 64, 64)

_opened: list[str] | None = None


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_listen)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Names of all files that Python opens meanwhile."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def copied(source: Path, target: Path) -> Path:
    """A copy that may be changed (the originals are read-only)."""
    if source.is_dir():
        target.mkdir(parents=True)
        for entry in source.iterdir():
            copied(entry, target / entry.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    return target


def refused(path: Path) -> None:
    for reader in ("auto", "openslide"):
        with pytest.raises(SlideOpenError, match=OUTSIDE) as caught:
            open_slide(path, reader=reader)
        assert str(caught.value).startswith(f"{path.name}: ")
        assert str(path.parent) not in str(caught.value)


# --- MIRAX -----------------------------------------------------------------------------------


@pytest.fixture
def mirax(data_dir: Path, tmp_path: Path) -> Path:
    copied(data_dir / "formats/mirax_like", tmp_path / "own/slide")
    return copied(data_dir / "formats/mirax_like.mrxs", tmp_path / "own/slide.mrxs")


def edit(mirax: Path, old: str, new: str) -> None:
    file = mirax.with_suffix("") / "Slidedat.ini"
    text = file.read_text(encoding="utf-8-sig")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.real
def test_mirax_opens_what_is_its_own(mirax: Path, tmp_path: Path) -> None:
    with open_slide(mirax) as slide:
        expected = slide.read_level(0, BOX)
    # Links to a whole slide elsewhere are the user's own.
    (tmp_path / "links").mkdir()
    for path in (mirax, mirax.with_suffix("")):
        (tmp_path / "links" / path.name).symlink_to(path)
    with open_slide(tmp_path / "links" / mirax.name) as slide:
        assert np.array_equal(slide.read_level(0, BOX), expected)


@pytest.mark.real
@pytest.mark.parametrize("key", ["FILE_0 = Data0000.dat", "INDEXFILE = Index.dat"])
@pytest.mark.parametrize("form", ["../../other/{}", "..\\..\\other\\{}", "{folder}/{}", "C:\\{}"])
def test_mirax_names(mirax: Path, tmp_path: Path, key: str, form: str) -> None:
    name, value = key.split(" = ")
    other = tmp_path / "other"
    other.mkdir()
    (mirax.with_suffix("") / value).rename(other / value)
    edit(mirax, key, f"{name}={form.format(value, folder=other)}")
    refused(mirax)


@pytest.mark.real
@pytest.mark.parametrize("name", ["Data0000.dat", "Index.dat", "Slidedat.ini", ""])
def test_mirax_links(mirax: Path, tmp_path: Path, name: str) -> None:
    inside = mirax.with_suffix("") / name
    target = tmp_path / "elsewhere"
    inside.rename(target)
    inside.symlink_to(target)
    refused(mirax)


# --- Hamamatsu VMS and VMU -------------------------------------------------------------------

VMS = """[{group}]
NoLayers=1
ImageFile={image}
ImageFile(1,0)={second}
MapFile={map}
OptimisationFile={optimisation}
"""
OWN = {"image": "a.jpg", "second": "b.jpg", "map": "m.jpg", "optimisation": "o.opt"}


@pytest.mark.parametrize(
    "group", ["Virtual Microscope Specimen", "Uncompressed Virtual Microscope Specimen"]
)
@pytest.mark.parametrize("key", OWN)
@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "sub/../../secret.jpg", "link.jpg"]
)
def test_vms_names(tmp_path: Path, group: str, key: str, name: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    file = folder / "slide.vms"
    file.write_text(VMS.format(group=group, **OWN))
    check_siblings(file)
    file.write_text(VMS.format(group=group, **{**OWN, key: name}))
    refused(file)


def test_ndpis_opens_nothing(tmp_path: Path) -> None:
    """A set of NDPI files is no slide here, so that what it names is not looked for."""
    file = tmp_path / "set.ndpis"
    file.write_text("[NanoZoomer Digital Pathology Image Set]\nNoImages=1\nImage0=/etc/passwd\n")
    with opened_files() as opened, pytest.raises(SlideOpenError, match="not a slide"):
        open_slide(file)
    assert {name for name in opened if "passwd" in name} == set()


# --- DICOM -----------------------------------------------------------------------------------


@pytest.mark.real
def test_dicom_links(data_dir: Path, tmp_path: Path) -> None:
    folder = copied(data_dir / "formats/dicom_wsi", tmp_path / "own")
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, min(folder.iterdir()), tmp_path / "link"):
        with open_slide(path) as slide:
            assert slide.info.vendor == "dicom"
    files = sorted(folder.iterdir())
    (tmp_path / "links").mkdir()
    for file in files:
        (tmp_path / "links" / file.name).symlink_to(file)
    with open_slide(tmp_path / "links" / files[0].name) as slide:  # the user's own links
        assert slide.info.vendor == "dicom"
    files[-1].rename(tmp_path / "elsewhere.dcm")
    files[-1].symlink_to(tmp_path / "elsewhere.dcm")
    refused(folder)
    refused(files[0])
    pytest.importorskip("highdicom")
    from pathology_scaat.export.dicom.source import read_source

    with pytest.raises(SlideOpenError, match=OUTSIDE):
        read_source(folder, True)


# --- OME-TIFF --------------------------------------------------------------------------------

OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:own">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64"'
    ' SizeY="64" SizeC="3" SizeZ="2" SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="3"/>'
    '<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="{own}">urn:uuid:own</UUID>'
    "</TiffData>"
    '<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="{other}">urn:uuid:other</UUID>'
    "</TiffData></Pixels></Image></OME>"
)
BINARY_ONLY = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:own">'
    '<BinaryOnly MetadataFile="{other}" UUID="urn:uuid:other"/></OME>'
)


def write_tiff(path: Path, xml: str, value: int) -> Path:
    pixels = np.full((64, 64, 3), value, dtype=np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            pixels, tile=(64, 64), photometric="rgb", description=xml.encode(), metadata=None
        )
    return path


@pytest.mark.parametrize("xml", [OME, BINARY_ONLY])
@pytest.mark.parametrize("form", ["../secret.ome.tif", "{}/secret.ome.tif", "link.ome.tif"])
def test_ome_tiff_names(tmp_path: Path, xml: str, form: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    secret = write_tiff(tmp_path / "secret.ome.tif", "", 7)
    (folder / "link.ome.tif").symlink_to(secret)
    file = write_tiff(
        folder / "a.ome.tif", xml.format(own="a.ome.tif", other=form.format(tmp_path)), 200
    )
    with opened_files() as opened:
        refused(file)
        for reader in ("tiff", "tiatoolbox"):
            with pytest.raises(SlideOpenError, match=OUTSIDE):
                open_slide(file, reader=reader)
    assert not {Path(name).name for name in opened} & {"secret.ome.tif", "link.ome.tif"}


def test_ome_tiff_of_a_set_shows_its_own_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names were looked for where the command runs, and their pages read from this file."""
    folder, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    write_tiff(elsewhere / "b.ome.tif", "", 7)
    monkeypatch.chdir(elsewhere)
    file = write_tiff(
        folder / "a.ome.tif", OME.format(own="C:\\once\\a.ome.tif", other="b.ome.tif"), 200
    )
    with opened_files() as opened, open_slide(file) as slide:
        assert (slide.read_level(0, BOX) == 200).all()
    assert {name for name in opened if name.endswith("b.ome.tif")} == set()


def test_ome_xml_with_a_document_type(tmp_path: Path) -> None:
    text = OME.format(own="a.ome.tif", other="&n;")
    xml = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY n "../secret.ome.tif">]>{text}'
    file = write_tiff(tmp_path / "a.ome.tif", xml, 200)
    with pytest.raises(SlideOpenError, match="document type"):
        open_slide(file)


def test_trestle_companion(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    file = write_tiff(folder / "a.tif", "", 200)
    (folder / "a.Full").symlink_to("/etc/passwd")
    refused(file)


def test_a_single_file_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write_tiff(tmp_path / "real/C: odd..name.tif", "", 200)
    link = tmp_path / "a.tif"
    link.symlink_to(tmp_path / "real/C: odd..name.tif")
    for path in (link, tmp_path / "real/C: odd..name.tif"):
        with open_slide(path) as slide:
            assert (slide.read_level(0, BOX) == 200).all()


# --- OME-Zarr --------------------------------------------------------------------------------


@pytest.mark.real
def test_ome_zarr_links(data_dir: Path, tmp_path: Path) -> None:
    image = copied(data_dir / "formats/multiscale.ome.zarr", tmp_path / "own.ome.zarr")
    (tmp_path / "link.ome.zarr").symlink_to(image)
    with open_slide(tmp_path / "link.ome.zarr") as slide:
        assert slide.info.reader == "ngff"
    chunk = max((f for f in image.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    inside = image / "spare"
    chunk.rename(inside)
    chunk.symlink_to(inside)
    check_siblings(image)
    chunk.unlink()
    inside.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    refused(image)
    with pytest.raises(SlideOpenError, match=OUTSIDE):
        open_slide(image, reader="ngff")


@pytest.mark.real
@pytest.mark.parametrize("name", ["../other", "{}/other", "0/../../other"])
def test_ome_zarr_names(data_dir: Path, tmp_path: Path, name: str) -> None:
    image = copied(data_dir / "formats/multiscale.ome.zarr", tmp_path / "own.ome.zarr")
    shutil.copytree(image / "0", tmp_path / "other")
    for file in (image / ".zattrs", image / "zarr.json"):
        if file.exists():
            text = file.read_text()
            changed = text.replace('"path": "0"', f'"path": "{name.format(tmp_path)}"')
            assert changed != text
            file.write_text(changed)
    with pytest.raises(SlideOpenError, match="a level lies outside of it"):
        open_slide(image)


def test_deep_trees_and_loops(tmp_path: Path) -> None:
    image = tmp_path / "a.ome.zarr"
    image.mkdir()
    (image / ".zattrs").write_text("{}")
    (image / "loop").symlink_to(image / "loop")
    with pytest.raises(SlideOpenError):
        open_slide(image)
    (image / "loop").unlink()
    (image / "up").symlink_to(image)
    check_siblings(image)


# --- masks -----------------------------------------------------------------------------------


@pytest.mark.real
def test_a_mask_is_decoded_without_another_program(data_dir: Path, tmp_path: Path) -> None:
    """Pillow gives EPS to Ghostscript."""
    with open_slide(data_dir / "formats/aperio_like.svs") as slide:
        info = slide.info
    for suffix in ("png", "tif", "bmp", "jpg", "webp"):
        picture = tmp_path / f"mask.{suffix}"
        Image.new("L", (info.size_px.width // 16, info.size_px.height // 16), 255).save(picture)
        assert read_given_mask(picture, info).mask.all()
    picture = tmp_path / "mask.png"
    Image.new("RGB", (64, 64)).save(picture, format="EPS")
    with pytest.raises(UsageError, match="not a picture"):
        read_given_mask(picture, info)

"""Which image of a file is the slide: the largest brightfield RGB one, with its own µm/px."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.geometry import BoxPx, SizePx
from pathology_scaat.pipeline.info import info as slide_report
from pathology_scaat.slides import Slide, open_slide
from pathology_scaat.slides.channels import Channel, rgb_order
from pathology_scaat.slides.images import (
    MIN_SHARE,
    ImageEntry,
    ImageKind,
    RefusedError,
    choose_slide,
    kind_of_name,
)
from pathology_scaat.slides.ome_xml import OmeError, read_ome

TILE = 64


def picture(width: int, height: int, tint: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([200 - x % 90, 80 + y % 70 + tint, 150 + (x + y) % 60], axis=-1).astype(
        np.uint8
    )


def pixels(slide: Slide, level: int = 0) -> np.ndarray:
    size = slide.info.levels[level].size_px
    return slide.read_level(level, BoxPx(0, 0, size.width, size.height))


def ome(path: Path, *images: tuple[np.ndarray, dict[str, object]], **options: object) -> Path:
    """An OME-TIFF of several images, each with metadata of its own."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for data, metadata in images:
            writer.write(
                data, tile=(TILE, TILE), metadata=metadata, compression="zlib",
                **{"photometric": "rgb", **options},
            )  # fmt: skip
    return path


def about(mpp: float, name: str = "", axes: str = "YXS") -> dict[str, object]:
    spacing = {
        "PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm",
    }  # fmt: skip
    return {"axes": axes, **spacing, **({"Name": name} if name else {})}


# --- the rule ---------------------------------------------------------------------------

ENTRIES = st.builds(
    ImageEntry,
    size_px=st.builds(SizePx, st.integers(1, 5_000), st.integers(1, 5_000)),
    kind=st.sampled_from(list(ImageKind)),
    problem=st.sampled_from(["", "is grey (one channel), not RGB"]),
)


@given(st.lists(ENTRIES, min_size=1, max_size=8))
def test_the_rule(entries: list[ImageEntry]) -> None:
    """Never a macro or label beside others, never an unreadable image, never a small one."""
    slides = [e for e in entries if e.kind is ImageKind.SLIDE]
    try:
        index, notes = choose_slide(entries)
    except RefusedError:
        readable = [e for e in slides if not e.problem]
        largest = max((e.size_px.area for e in slides), default=0)
        assert all(e.size_px.area < MIN_SHARE * largest for e in readable)
        return
    chosen = entries[index]
    assert not chosen.problem
    if len(entries) > 1:
        assert chosen.kind is ImageKind.SLIDE
        assert any(f"of {len(entries)} images" in note for note in notes)
    assert all(e.size_px.area <= chosen.size_px.area for e in slides if not e.problem)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("macro image", ImageKind.MACRO), ("Label", ImageKind.LABEL),
        ("slide thumbnail", ImageKind.THUMBNAIL), ("macrophages, case 3", ImageKind.SLIDE),
        ("unlabelled", ImageKind.SLIDE), ("", ImageKind.SLIDE), ("barcode", ImageKind.LABEL),
    ],
)  # fmt: skip
def test_kinds_by_name(name: str, kind: ImageKind) -> None:
    assert kind_of_name(name) is kind


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("R", "G", "B"), (0, 1, 2)), (("blue", "Green", "RED"), (2, 1, 0)),
        (("Channel:0:0", "Channel:0:1", "Channel:0:2"), (0, 1, 2)), (("", "", ""), (0, 1, 2)),
    ],
)  # fmt: skip
def test_channels_that_are_rgb(names: tuple[str, ...], order: tuple[int, ...]) -> None:
    found = rgb_order([Channel(name) for name in names])
    assert found.order == order
    assert bool(found.notes) == ("red" not in "".join(names).lower() and names[0] != "R")


def test_channels_by_colour_and_what_is_none() -> None:
    bgr = [Channel("", 0x0000FF), Channel("", 0x00FF00), Channel("", 0xFF0000)]
    assert rgb_order(bgr).order == (2, 1, 0)
    stains = [Channel("DAPI", 0x0000FF), Channel("FITC", 0x00FF00), Channel("TRITC", 0xFF0000)]
    with pytest.raises(RefusedError, match="DAPI, FITC, TRITC"):
        rgb_order(stains)
    with pytest.raises(RefusedError, match="colours"):
        rgb_order([Channel("", 0xFF00FF), Channel("", 0x00FFFF), Channel("", 0xFFFFFF)])
    with pytest.raises(RefusedError, match="4 separate channels"):
        rgb_order([Channel("")] * 4)
    with pytest.raises(RefusedError, match="fluorescence"):
        rgb_order([Channel("R"), Channel("G"), Channel("B", fluorescent=True)])


# --- OME-TIFF ---------------------------------------------------------------------------


def test_macro_first(tmp_path: Path) -> None:
    main = picture(320, 200)
    path = ome(
        tmp_path / "a.ome.tif",
        (picture(96, 64, 40), {"axes": "YXS", "Name": "macro image"}),
        (main, about(0.25, "Scene 1")),
    )
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), main)
        assert slide.info.mpp == pytest.approx(0.25)
        assert any("a macro of 96 x 64 px" in note for note in slide.info.notes)
        assert len(slide.info.images) == 2
    rows = dict(slide_report(path).rows())
    assert rows["image 1"].startswith("macro")
    assert rows["image 2"].startswith("slide")
    assert "left out" in rows["note"]


def test_two_scenes_and_their_own_spacing(tmp_path: Path) -> None:
    large, small = picture(320, 256, 20), picture(192, 192)
    path = ome(tmp_path / "a.ome.tif", (small, about(1.0)), (large, about(0.5)))
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), large)
        assert slide.info.mpp == pytest.approx(0.5)
        assert any("an image of 192 x 192 px" in note for note in slide.info.notes)


def test_a_stack_gives_its_middle_plane(tmp_path: Path) -> None:
    planes = [picture(192, 128, tint) for tint in (0, 30, 60)]
    path = ome(tmp_path / "z.ome.tif", (np.stack(planes), about(0.5, axes="ZYXS")))
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), planes[1])
        assert any("3 focal planes" in n and "number 2" in n for n in slide.info.notes)


def test_time_is_refused(tmp_path: Path) -> None:
    data = np.stack([picture(128, 96)] * 4)
    path = ome(tmp_path / "t.ome.tif", (data, about(0.5, axes="TYXS")))
    with pytest.raises(SlideOpenError, match="4 points in time"):
        open_slide(path)


@pytest.mark.parametrize("names", [("Red", "Green", "Blue"), ("B", "G", "R"), None])
def test_three_grey_planes(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    rgb = picture(200, 130)
    order = [2, 1, 0] if names == ("B", "G", "R") else [0, 1, 2]
    data = np.ascontiguousarray(np.moveaxis(rgb[..., order], -1, 0))
    metadata = about(0.5, axes="CYX")
    if names:
        metadata["Channel"] = {"Name": list(names)}
    path = ome(tmp_path / "c.ome.tif", (data, metadata), photometric="minisblack")
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), rgb)
        assert slide.info.mpp == pytest.approx(0.5)
        assert any("three grey planes" in note for note in slide.info.notes)
        assert any("no names" in note for note in slide.info.notes) == (names is None)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("DAPI", "CD3", "CD8", "PanCK"), "4 separate channels"),
        (("DAPI", "CD3", "CD8"), "DAPI, CD3, CD8"),
        (("DAPI",), "grey"),
    ],
)
def test_fluorescence_is_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    data = np.stack([picture(128, 96)[..., 0]] * len(names))
    metadata = {**about(0.5, axes="CYX"), "Channel": {"Name": list(names)}}
    path = ome(tmp_path / "f.ome.tif", (data, metadata), photometric="minisblack")
    with pytest.raises(SlideOpenError, match=words) as caught:
        open_slide(path)
    assert "damaged" not in str(caught.value)


def test_separate_planes_keep_their_pyramid(tmp_path: Path) -> None:
    path = tmp_path / "p.ome.tif"
    full = np.ascontiguousarray(np.moveaxis(picture(512, 384), -1, 0))
    with tifffile.TiffWriter(path, ome=True) as writer:
        options = {"tile": (TILE, TILE), "photometric": "rgb", "planarconfig": "separate"}
        writer.write(full, subifds=2, metadata=about(0.5, axes="SYX"), **options)
        writer.write(full[:, ::2, ::2], subfiletype=1, metadata=None, **options)
        writer.write(full[:, ::4, ::4], subfiletype=1, metadata=None, **options)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.info.levels] == [1, 2, 4]
        for level, step in enumerate((1, 2, 4)):
            assert np.array_equal(pixels(slide, level), np.moveaxis(full, 0, -1)[::step, ::step])


SET = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"
 UUID="urn:uuid:{own}">{images}</OME>"""
IMAGE = """<Image ID="Image:{n}" Name="s{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT"
 Type="uint8" SizeX="128" SizeY="96" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="{mpp}"
 PhysicalSizeY="{mpp}"><Channel ID="Channel:{n}:0" SamplesPerPixel="3"/>
 <TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>
 </Pixels></Image>"""


def write_set(folder: Path, own: tuple[str, str]) -> None:
    """Two files that both carry the XML of both, of 0.25 and 0.5 µm/px."""
    images = "".join(
        IMAGE.format(n=n, mpp=mpp, name=f"s{n}.ome.tif", uuid=uuid)
        for n, (mpp, uuid) in enumerate(((0.25, "a"), (0.5, "b")))
    )
    for n in range(2):
        tifffile.imwrite(
            folder / f"s{n}.ome.tif", picture(128, 96), tile=(TILE, TILE), photometric="rgb",
            description=SET.format(own=own[n], images=images).encode(), metadata=None,
        )  # fmt: skip


def test_a_file_of_a_set_has_its_own_spacing(tmp_path: Path) -> None:
    write_set(tmp_path, ("a", "b"))
    for n, mpp in enumerate((0.25, 0.5)):
        with open_slide(tmp_path / f"s{n}.ome.tif") as slide:
            assert slide.info.mpp == pytest.approx(mpp)
            assert slide.info.images == ()
        renamed = (tmp_path / f"s{n}.ome.tif").rename(tmp_path / f"case{n}.ome.tif")
        with open_slide(renamed) as slide:
            assert slide.info.mpp == pytest.approx(mpp)


def test_a_set_that_does_not_say_which_file_is_which(tmp_path: Path) -> None:
    write_set(tmp_path, ("c", "c"))
    (tmp_path / "s1.ome.tif").rename(tmp_path / "other.ome.tif")
    with open_slide(tmp_path / "s0.ome.tif") as slide:
        assert slide.info.mpp == pytest.approx(0.25)  # by its name
    with open_slide(tmp_path / "other.ome.tif") as slide:
        assert slide.info.mpp is None
        assert "does not say which" in slide.info.mpp_source


@given(st.text(max_size=200))
def test_no_text_breaks_the_xml_reader(text: str) -> None:
    for candidate in (text, f"<OME>{text}</OME>", f'<OME><Image Name="{text}"/></OME>'):
        with pytest.raises(OmeError):
            read_ome(candidate, "a.ome.tif", 1)


def test_resolution_tags_serve_where_the_xml_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "tags.ome.tif"
    tifffile.imwrite(
        path, picture(128, 96), tile=(TILE, TILE), photometric="rgb", metadata={"axes": "YXS"},
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER", ome=True,
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx(0.5)


# --- other TIFFs ------------------------------------------------------------------------


def qpi(kind: str, name: str = "") -> str:
    tag = f"<Name>{name}</Name>" if name else ""
    return (
        '<?xml version="1.0"?><PerkinElmer-QPI-ImageDescription>'
        f"<ImageType>{kind}</ImageType>{tag}</PerkinElmer-QPI-ImageDescription>"
    )


def test_qptiff_brightfield(tmp_path: Path) -> None:
    path, main = tmp_path / "he.qptiff", picture(512, 384)
    with tifffile.TiffWriter(path) as writer:
        for data, kind, tiled in (
            (main, "FullResolution", True), (picture(100, 75), "Thumbnail", False),
            (main[::2, ::2], "ReducedResolution", True), (picture(700, 500), "Overview", False),
            (picture(120, 120), "Label", False),
        ):  # fmt: skip
            writer.write(
                np.ascontiguousarray(data), photometric="rgb", tile=(TILE, TILE) if tiled else None,
                description=qpi(kind), metadata=None, resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
            )  # fmt: skip
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), main)
        assert [level.downsample for level in slide.info.levels] == [1, 2]
        assert slide.info.mpp == pytest.approx(0.5)
        assert any("a macro of 700 x 500 px" in note for note in slide.info.notes)


@pytest.mark.parametrize("named", [True, False])
def test_qptiff_fluorescence(tmp_path: Path, named: bool) -> None:
    path = tmp_path / "fl.qptiff"
    with tifffile.TiffWriter(path) as writer:
        for name in ("DAPI", "Opal 520", "Opal 570"):
            writer.write(
                picture(256, 192)[..., 0], tile=(TILE, TILE), metadata=None,
                description=qpi("FullResolution", name if named else ""),
            )  # fmt: skip
        writer.write(
            picture(64, 48), photometric="rgb", metadata=None, description=qpi("Thumbnail")
        )
    with pytest.raises(SlideOpenError, match="DAPI, Opal 520" if named else "3 grey images"):
        open_slide(path)


def test_a_small_picture_of_fluorescence_is_no_slide(tmp_path: Path) -> None:
    path = tmp_path / "fl.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture(512, 512)[..., 0], tile=(TILE, TILE), metadata=None)
        writer.write(picture(64, 64), photometric="rgb", tile=(TILE, TILE), metadata=None)
    with pytest.raises(SlideOpenError, match="is grey"):
        open_slide(path)


def test_generic_pages_the_largest_is_the_slide(tmp_path: Path) -> None:
    path, main = tmp_path / "pages.tif", picture(512, 320)
    with tifffile.TiffWriter(path) as writer:
        for data, unit in ((picture(128, 128), 1_000), (main, 20_000)):
            writer.write(
                data, photometric="rgb", tile=(TILE, TILE), metadata=None,
                resolution=(unit, unit), resolutionunit="CENTIMETER",
            )  # fmt: skip
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), main)
        assert slide.info.mpp == pytest.approx(0.5)
        assert any("an image of 128 x 128 px" in note for note in slide.info.notes)


@pytest.mark.parametrize("unit", ["micron", "um", "\\u00B5m", "inch"])
def test_imagej_states_its_own_unit(tmp_path: Path, unit: str) -> None:
    per_unit = 2.0 if unit != "inch" else 25_400 * 2.0
    tifffile.imwrite(
        tmp_path / "ij.tif", picture(300, 200), imagej=True, photometric="rgb",
        resolution=(per_unit, per_unit), metadata={"unit": unit},
    )  # fmt: skip
    with open_slide(tmp_path / "ij.tif") as slide:
        assert slide.info.mpp == pytest.approx(0.5)
        assert np.array_equal(pixels(slide), picture(300, 200))


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (np.int8, "signed 8-bit"), (np.uint16, "16 bits per channel"),
        (np.float32, "floating-point"), (np.uint32, "32 bits per channel"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tiled", [True, False])
def test_other_numbers_are_named(
    tmp_path: Path, dtype: type[np.generic], words: str, tiled: bool
) -> None:
    path = tmp_path / "deep.tif"
    tifffile.imwrite(
        path, (picture(128, 96) // 2).astype(dtype), photometric="rgb", metadata=None,
        tile=(TILE, TILE) if tiled else None,
    )  # fmt: skip
    with pytest.raises(SlideOpenError, match=words):
        open_slide(path)


def test_orientation_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "turned.tif"
    tifffile.imwrite(
        path, picture(128, 96), photometric="rgb", tile=(TILE, TILE), metadata=None,
        extratags=[(274, 3, 1, 6, True)],
    )  # fmt: skip
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), picture(128, 96))
        assert any("orientation 6" in note for note in slide.info.notes)


# --- OME-Zarr ---------------------------------------------------------------------------


def write_ngff(
    group: Path, data: np.ndarray, version: str, unit: str = "micrometer",
    omero: dict[str, object] | None = None, name: str = "", mpp: float = 0.5,
) -> None:  # fmt: skip
    """One multiscale image of (t, c, z, y, x)."""
    zarr_format = 2 if version == "0.4" else 3
    array = zarr.create_array(
        group / "0", shape=data.shape, chunks=(1, data.shape[1], 1, 64, 64), dtype=data.dtype,
        zarr_format=zarr_format,
    )  # fmt: skip
    array[...] = data
    space = [{"name": a, "type": "space", "unit": unit} for a in "zyx"]
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *space]
    scale = [{"type": "scale", "scale": [1, 1, 1, mpp, mpp]}]
    multiscales = [
        {
            "name": name,
            "axes": axes,
            "datasets": [{"path": "0", "coordinateTransformations": scale}],
        }
    ]
    attributes: dict[str, object] = {"multiscales": multiscales}
    if omero:
        attributes["omero"] = omero
    write_attributes(group, attributes, version)


def write_attributes(group: Path, attributes: dict[str, object], version: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (group / ".zgroup").write_text('{"zarr_format": 2}')
        (group / ".zattrs").write_text(json.dumps(attributes))
        return
    body = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}}
    (group / "zarr.json").write_text(json.dumps(body))


def tczyx(rgb: np.ndarray) -> np.ndarray:
    return np.moveaxis(rgb, -1, 0)[None, :, None]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("listed", [True, False])
def test_bioformats2raw_layout(tmp_path: Path, version: str, listed: bool) -> None:
    """Several series, a label among them; the largest slide image with its own µm/px."""
    root, main = tmp_path / "slide.ome.zarr", picture(200, 150)
    write_attributes(root, {"bioformats2raw.layout": 3}, version)
    if listed:
        write_attributes(root / "OME", {"series": ["0", "1", "2"]}, version)
    write_ngff(root / "0", tczyx(picture(96, 64)), version, mpp=2.0)
    write_ngff(root / "1", tczyx(main), version, mpp=0.25)
    write_ngff(root / "2", tczyx(picture(300, 300)), version, name="label image")
    with open_slide(root) as slide:
        assert np.array_equal(pixels(slide), main)
        assert slide.info.mpp == pytest.approx(0.25)
        assert any("of 3 images" in note for note in slide.info.notes)
    with open_slide(root / "0") as slide:
        assert slide.info.mpp == pytest.approx(2.0)


def omero(*channels: tuple[str, str]) -> dict[str, object]:
    return {"channels": [{"label": label, "color": colour} for label, colour in channels]}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ngff_blue_first(tmp_path: Path, version: str) -> None:
    path, rgb = tmp_path / "bgr.ome.zarr", picture(130, 100)
    colours = omero(("", "0000FF"), ("", "00FF00"), ("", "FF0000"))
    write_ngff(path, tczyx(rgb[..., ::-1]), version, omero=colours)
    with open_slide(path) as slide:
        assert np.array_equal(pixels(slide), rgb)


def test_ngff_that_is_no_rgb(tmp_path: Path) -> None:
    stains = omero(("DAPI", "0000FF"), ("CD3", "00FF00"), ("CD8", "FF0000"))
    cases: list[tuple[np.ndarray, dict[str, object] | None, str]] = [
        (tczyx(picture(100, 80)), stains, "DAPI, CD3, CD8"),
        (tczyx(picture(100, 80))[:, :1], None, "grey"),
        (np.concatenate([tczyx(picture(100, 80))] * 2, axis=1), None, "6 separate channels"),
        (tczyx(picture(100, 80)).astype(np.uint16), None, "uint16"),
        ((tczyx(picture(100, 80)) // 2).astype(np.int8), None, "signed"),
        (np.concatenate([tczyx(picture(100, 80))] * 2), None, "2 points in time"),
    ]
    for number, (data, channels, words) in enumerate(cases):
        path = tmp_path / f"{number}.ome.zarr"
        write_ngff(path, data, "0.4", omero=channels)
        with pytest.raises(SlideOpenError, match=words):
            open_slide(path)


def test_ngff_stack_gives_its_middle_plane(tmp_path: Path) -> None:
    planes = [picture(100, 80, tint) for tint in (0, 20, 40, 60, 80)]
    data = np.concatenate([tczyx(plane) for plane in planes], axis=2)
    write_ngff(tmp_path / "z.ome.zarr", data, "0.4")
    with open_slide(tmp_path / "z.ome.zarr") as slide:
        assert np.array_equal(pixels(slide), planes[2])
        assert any("number 3" in note for note in slide.info.notes)


@pytest.mark.parametrize(
    ("unit", "size"),
    [("um", 0.5), ("micron", 0.5), ("nanometer", 500.0), ("inch", 0.5 / 25_400), ("angstrom", 5e3)],
)
def test_ngff_units(tmp_path: Path, unit: str, size: float) -> None:
    write_ngff(tmp_path / "u.ome.zarr", tczyx(picture(64, 64)), "0.4", unit=unit, mpp=size)
    with open_slide(tmp_path / "u.ome.zarr") as slide:
        assert slide.info.mpp == pytest.approx(0.5)


# --- files that are something else ------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("a.isyntax", b'<DataObject ObjectType="DPUfsImport">', "Philips iSyntax"),
        ("a.czi", b"PNG", "named as a Zeiss CZI file, but is none"),
        ("a.vsi", b"II*\0\x08\0\0\0", "Olympus VSI"),
        ("a.svs", b"PK\x03\x04", "ZIP archive"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, name: str, head: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(head.ljust(400, b"\0"))
    with pytest.raises(SlideOpenError, match=words) as caught:
        open_slide(path)
    assert "copy" not in str(caught.value)

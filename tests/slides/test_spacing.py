"""Which µm/px is believed, told, or refused; and how much a slide is enlarged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn_slides import draw_slide
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.errors import SpacingError
from pathology_scaat.geometry import SizePx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.pipeline.info import info
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.base import LevelInfo
from pathology_scaat.slides.pyramid import alike_levels
from pathology_scaat.slides.spacing import (
    BELIEVED_MPP,
    NOT_SQUARE,
    POSSIBLE_MPP,
    check_enlargement,
    distortion_warning,
    given_by,
    spacing_from_file,
    spacing_remedy,
)


def flat(path: Path, resolution: float, unit: str) -> Path:
    tifffile.imwrite(
        path, np.full((128, 192, 3), 180, dtype=np.uint8), tile=(64, 64), photometric="rgb",
        resolution=(resolution, resolution), resolutionunit=unit, metadata=None,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200, 2400])
def test_print_resolutions(tmp_path: Path, dpi: int) -> None:
    with open_slide(flat(tmp_path / "a.tif", dpi, "INCH")) as slide:
        assert slide.info.mpp is None
        assert f"print resolution ({dpi} dpi)" in slide.info.mpp_source


@given(st.floats(1e-4, 1e4))
def test_ranges(mpp: float) -> None:
    found = spacing_from_file(repr(mpp), repr(mpp))
    low, high = POSSIBLE_MPP
    if not low <= mpp <= high:
        assert found.mpp is None
        assert f"{mpp:.1f}" in found.source or f"{mpp:g}" in found.source
        return
    assert found.mpp == pytest.approx(mpp)
    loud = any("CHECK THE µm/px" in note for note in found.notes)
    assert loud == (not BELIEVED_MPP[0] <= found.mpp <= BELIEVED_MPP[1])


def test_the_manifests_value_silences_the_note_of_the_file(tmp_path: Path) -> None:
    path = flat(tmp_path / "a.tif", 2_000, "CENTIMETER")  # 5 µm/px, where 0.5 was meant
    with open_slide(path) as slide:
        assert any("CHECK" in note for note in slide.info.notes)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.mpp == 0.5
        assert not any("CHECK" in note for note in slide.info.notes)
    with open_slide(path, mpp=8.0) as slide:
        assert any("the manifest states 8" in note for note in slide.info.notes)


@given(st.floats(0.1, 8), st.floats(0.1, 8), st.floats(0, 0.1), st.booleans())
def test_enlargement(scan: float, asked: float, tolerance: float, allowed: bool) -> None:
    factor = scan / asked
    if factor > 2 * (1 + tolerance) and not allowed:
        with pytest.raises(SpacingError, match="times enlarged"):
            check_enlargement(scan, asked, tolerance, allowed, "s")
        return
    notes = check_enlargement(scan, asked, tolerance, allowed, "s")
    assert bool(notes) == (factor > 1 + tolerance)


@pytest.mark.parametrize(
    ("mpp", "allowed", "enlarged"), [(0.5, False, 1.0), (0.25, False, 2.0), (0.1, True, 5.0)]
)
def test_tiling_reports_enlarging(
    tmp_path: Path, mpp: float, allowed: bool, enlarged: float
) -> None:
    draw_slide(tmp_path / "s.tiff", seed=1, side_px=192)
    config = TileConfig(mpp=mpp, patch_size_px=64, allow_upsampling=allowed)
    result = tile_slide(TileJob(tmp_path / "s.tiff", "s", tmp_path / "s.zarr", config))
    notes = [note for note in result.notes if note.startswith("enlarged")]
    assert len(notes) == (enlarged > 1)
    assert all(f"enlarged {enlarged:g} times" in note for note in notes)


def test_more_than_twice_is_refused(tmp_path: Path) -> None:
    draw_slide(tmp_path / "s.tiff", seed=1, side_px=192)
    job = TileJob(tmp_path / "s.tiff", "s", tmp_path / "s.zarr", TileConfig(mpp=0.2))
    with pytest.raises(SpacingError, match=r"2\.5 times enlarged.*--allow-upsampling"):
        tile_slide(job)
    assert not (tmp_path / "s.zarr").exists()


def test_slide_mpp_serves_where_the_file_is_not_believed(tmp_path: Path) -> None:
    unknown = flat(tmp_path / "print.tif", 300, "INCH")
    known = flat(tmp_path / "known.tif", 40_000, "CENTIMETER")
    config = TileConfig(mpp=0.5, patch_size_px=64, min_tissue=0.0, slide_mpp=0.5)
    for path, mpp, source in ((unknown, 0.5, "--slide-mpp"), (known, 0.25, "slide")):
        result = tile_slide(TileJob(path, "s", tmp_path / f"{path.stem}.zarr", config))
        meta = PatchStore(tmp_path / f"{path.stem}.zarr").meta
        assert meta.slide.mpp == pytest.approx(mpp)
        assert meta.slide.mpp_source == source
        assert any("--slide-mpp" in note for note in result.notes) == (path == unknown)
    with pytest.raises(ValueError, match="plausible"):
        TileConfig(slide_mpp=math.inf)


def test_one_value_for_pixels_that_are_not_square_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path, np.full((128, 192, 3), 180, dtype=np.uint8), tile=(64, 64), photometric="rgb",
        resolution=(20_000, 40_000), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    config = TileConfig(mpp=0.5, patch_size_px=64, min_tissue=0.0)
    with pytest.raises(SpacingError, match="resample it to square pixels"):
        tile_slide(TileJob(path, "s", tmp_path / "s.zarr", config))
    by_hand = config.model_copy(update={"slide_mpp": 0.5})
    for number, how in enumerate(({"config": by_hand}, {"config": config, "mpp": 0.5})):
        result = tile_slide(TileJob(path, "s", tmp_path / f"{number}.zarr", **how))  # type: ignore[arg-type]
        assert sum(note.startswith("CHECK THE PIXELS") for note in result.notes) == 1
        source = PatchStore(tmp_path / f"{number}.zarr").meta.slide.mpp_source
        assert "the pixels are not square (0.5 µm/px along x, 0.25 along y)" in distortion_warning(
            source
        )
        assert given_by(source)[0] in ("the manifest", "--slide-mpp")  # type: ignore[index]


def test_a_patch_larger_than_the_slide_is_told(tmp_path: Path) -> None:
    """Its tissue is found, and nobody would look for the fault in the magnification."""
    picture = np.full((256, 256, 3), 242, dtype=np.uint8)
    picture[64:192, 64:192] = (190, 110, 170)
    picture[64:192:4, 64:192:4] = (120, 60, 140)
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path, picture, tile=(64, 64), photometric="rgb", resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    result = tile_slide(
        TileJob(path, "s", tmp_path / "s.zarr", TileConfig(mpp=20, patch_size_px=64))
    )
    assert result.n_patches == 0
    (said,) = [note for note in result.notes if note.startswith("NO PATCH")]
    assert "1,280 µm wide (64 px at 20 µm/px), and the slide 128 x 128 µm" in said


def test_pixels_of_which_one_side_is_stated_are_told() -> None:
    assert spacing_from_file("0.5", None).notes == (
        "the file states µm/px along x only: the pixels count as square",
    )
    assert not spacing_from_file("0.5", "0.5").notes


def test_two_sizes_of_a_pixel_that_count_as_one_are_told() -> None:
    (said,) = spacing_from_file("0.4953", "0.5").notes
    assert said.startswith("the file states 0.4953 and 0.5 µm/px along its two axes")
    assert said.endswith("off by 0.5%")


def test_which_axis_is_which_is_not_said_where_it_is_not_known() -> None:
    """OpenSlide takes a DICOM slide's first spacing, that of rows, for that along x."""
    said = spacing_from_file("1", "0.5", axes_known=False).source
    assert said == (f"none: {NOT_SQUARE} (0.5 µm/px along one axis, 1 along the other)")


@pytest.mark.real
def test_a_dicom_slide_of_oblong_pixels_is_refused_for_what_it_is(
    data_dir: Path, tmp_path: Path
) -> None:
    pydicom = pytest.importorskip("pydicom")
    for file in (data_dir / "formats/dicom_wsi").glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        for measures in dataset.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence", []):
            if "PixelSpacing" in measures:
                between_rows, between_columns = map(float, measures.PixelSpacing)
                measures.PixelSpacing = [between_rows * 2, between_columns]
        dataset.save_as(tmp_path / file.name)
    report = info(tmp_path)
    assert report.info.mpp_source == (
        f"none: {NOT_SQUARE} (0.499 µm/px along one axis, 0.998 along the other)"
    )
    assert ("suggested", spacing_remedy(report.info.mpp_source)) in report.rows()
    with pytest.raises(SpacingError, match="resample it to square pixels"):
        tile_slide(TileJob(tmp_path, "s", tmp_path / "s.zarr", TileConfig()))


def test_a_level_squeezed_along_one_axis_is_not_read(tmp_path: Path) -> None:
    """Its mean downsample would put its patches elsewhere, of distorted tissue."""
    picture = np.full((1536, 2048, 3), 200, dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "s.svs") as writer:
        for level in (picture, picture[::2, ::2], picture[::8, ::4]):
            writer.write(
                level, tile=(256, 256), photometric="rgb", compression="jpeg", metadata=None,
                description="Aperio Image Library v12\r\n2048x1536|AppMag = 20|MPP = 0.5",
                software=False,
            )  # fmt: skip
    for reader in ("auto", "openslide"):
        with open_slide(tmp_path / "s.svs", reader=reader) as slide:
            assert slide.info.level_downsamples == (1, 2)
            (said,) = slide.info.notes
            assert said.startswith("level 2 (512 x 192 px) is not the slide made smaller alike")


@pytest.mark.parametrize("squeezed", [(1024, 700), (1024, 1036)])
@pytest.mark.parametrize("ome", [True, False])
def test_one_rule_tells_a_squeezed_level_wherever_it_is_kept(
    tmp_path: Path, squeezed: tuple[int, int], ome: bool
) -> None:
    """In a SubIFD it was left out without a word; by OpenSlide one of 1 % was read."""
    path = tmp_path / ("s.ome.tiff" if ome else "s.tiff")
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for number, (height, width) in enumerate([(2048, 2048), squeezed, (512, 512)]):
            writer.write(
                np.full((height, width, 3), 200, np.uint8), tile=(256, 256), photometric="rgb",
                subifds=2 * (not number) * ome, subfiletype=min(number, 1),
                resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
            )  # fmt: skip
    width = squeezed[1]
    with open_slide(path) as slide:
        assert slide.info.level_downsamples == (1, 4)
        (said,) = slide.info.notes
    if ome:
        assert said == (
            f"a level of {width:,} x 1,024 px is not the slide made smaller alike along x and y: "
            "it is not read"
        )
        return
    assert f"left out: a thumbnail of {width} x 1024 px" in said
    with open_slide(path, reader="openslide") as slide:
        assert slide.info.level_downsamples == (1,)
        assert any("made smaller alike" in note for note in slide.info.notes)


@given(
    width=st.integers(1, 200_000), height=st.integers(1, 200_000),
    factor=st.sampled_from([2, 3, 4, 16, 64]), up=st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip
def test_no_rounding_of_a_whole_factor_counts_as_squeezed(
    width: int, height: int, factor: int, up: tuple[bool, bool]
) -> None:
    sides = [max(1, -(-n // factor) if high else n // factor)
             for n, high in zip((width, height), up, strict=True)]  # fmt: skip
    levels = [LevelInfo(SizePx(width, height), 1), LevelInfo(SizePx(*sides), factor)]
    assert alike_levels(levels) == (tuple(levels), ())

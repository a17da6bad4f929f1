"""What opens, what does not, and the one sentence that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.errors import SlideOpenError, SpacingError, UsageError
from pathology_scaat.geometry import BoxPx, is_plausible_mpp
from pathology_scaat.slides import Slide, open_slide
from pathology_scaat.slides.spacing import parse_mpp, spacing_from_file

REFUSED = {
    "empty.svs": "is empty",
    "truncated_half.svs": "cannot|not a slide",
    "truncated_header_only.svs": "not a slide",
    "lfs_pointer.svs": "git-lfs",
    "html_login_page.ndpi": "web page",
    "jpeg_renamed.svs": "not a slide",
    "rgb16.tiff": "16 bits per channel",
    "orphan.mrxs": "lacks its folder",
    "directory.svs": "folder that is no slide itself",
    "broken_zattrs.ome.zarr": "metadata is damaged",
    "truncated.png": "not a slide",
}


@pytest.mark.real
@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_give_one_sentence(data_dir: Path, name: str) -> None:
    with pytest.raises(SlideOpenError, match=REFUSED[name]) as caught:
        open_slide(data_dir / "broken" / name)
    sentence = str(caught.value)
    assert sentence.startswith(f"{name}: ")
    assert "\n" not in sentence
    assert str(data_dir) not in sentence


@pytest.mark.real
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("reader", ["tiff", "openslide", "ngff"])
def test_forced_readers_give_one_sentence_too(data_dir: Path, name: str, reader: str) -> None:
    if (reader, name) == ("openslide", "rgb16.tiff"):
        pytest.skip("whoever forces OpenSlide has its 8 of the 16 bits")
    with pytest.raises(SlideOpenError) as caught:
        open_slide(data_dir / "broken" / name, reader=reader)
    assert str(data_dir) not in str(caught.value)


def test_nothing_there_and_loops(tmp_path: Path) -> None:
    (tmp_path / "loop.svs").symlink_to(tmp_path / "loop.svs")
    for name in ("none.svs", "loop.svs", "a\x00b.svs"):
        with pytest.raises(SlideOpenError):
            open_slide(tmp_path / name)
    with pytest.raises(UsageError, match="is unknown; choose from"):
        open_slide(tmp_path / "none.svs", reader="magic")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "reason"),
    [("no_mpp.svs", "states no"), ("zero_mpp.svs", "states 0"), ("nan_mpp.svs", "states nan")],
)
def test_a_bad_spacing_is_none_with_its_reason(data_dir: Path, name: str, reason: str) -> None:
    with open_slide(data_dir / "broken" / name) as slide:
        assert slide.info.mpp is None
        assert reason in slide.info.mpp_source


@pytest.mark.real
def test_a_decimal_comma_is_read_and_noted(data_dir: Path) -> None:
    with open_slide(data_dir / "broken/comma_mpp.svs") as slide:
        assert slide.info.mpp == pytest.approx(0.499)
        assert any("decimal comma" in note for note in slide.info.notes)


@pytest.mark.real
def test_the_manifests_spacing_wins(data_dir: Path) -> None:
    with open_slide(data_dir / "formats/aperio_like.svs", mpp=0.25) as slide:
        assert slide.info.mpp == 0.25
        assert slide.info.mpp_source == "manifest"
        assert any("overrides" in note for note in slide.info.notes)
    for mpp in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(SpacingError):
            open_slide(data_dir / "formats/aperio_like.svs", mpp=mpp)


@pytest.mark.real
@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_slide_stays_usable_after_a_bad_tile(data_dir: Path, reader: str) -> None:
    from pathology_scaat.errors import SlideReadError

    with open_slide(data_dir / "broken/corrupt_tiles.svs", reader=reader) as slide:
        bad = 0
        for x in range(0, 2560, 256):
            for y in range(0, 2048, 256):
                try:
                    slide.read_level(0, BoxPx(x, y, 256, 256))
                except SlideReadError:
                    bad += 1
        assert bad == 6


@pytest.mark.real
def test_dicom_by_folder_and_by_file(data_dir: Path) -> None:
    folder = data_dir / "formats/dicom_wsi"
    with open_slide(folder) as one, open_slide(min(folder.iterdir())) as other:
        assert isinstance(one, Slide)
        assert one.info.levels == other.info.levels
        assert one.info.vendor == "dicom"


def test_spacing_is_judged() -> None:
    assert spacing_from_file("0.5", "0.5").mpp == 0.5
    assert spacing_from_file("0.5", None).mpp == 0.5
    assert spacing_from_file("0.5", "0.6").mpp is None
    assert "square" in spacing_from_file("0.5", "0.6").source
    assert spacing_from_file("352.8", "352.8").mpp is None
    assert spacing_from_file(None, None).source.startswith("none")
    assert parse_mpp("1,234.5")[0] is None


@given(st.one_of(st.text(max_size=12), st.floats(), st.none(), st.integers()))
def test_no_text_makes_an_impossible_spacing(value: object) -> None:
    mpp = spacing_from_file(value, value).mpp
    assert mpp is None or is_plausible_mpp(mpp)

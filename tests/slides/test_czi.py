"""Zeiss CZI, written by Zeiss's own library and read back."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathology_scaat.errors import SlideOpenError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.slides import open_slide

czi = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw is not installed")

Part = tuple[np.ndarray, tuple[int, int], int, dict[str, int]]


def picture(width: int, height: int, tint: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    planes = [210 - x % 100, 70 + y % 90 + tint, 150 + (x + y) % 60]
    return np.stack(planes, axis=-1).astype(np.uint8)


def write(
    path: Path, parts: Sequence[Part], mpp: float | None = 0.5, codec: str = "uncompressed:"
) -> Path:
    """Parts of RGB or grey pixels, their place, scene and plane."""
    with czi.create_czi(str(path), compression_options=codec) as document:
        for data, location, scene, plane in parts:
            stored = np.ascontiguousarray(data[..., ::-1])
            document.write(data=stored, location=location, scene=scene, plane={"C": 0, **plane})
        if mpp is not None:
            document.write_metadata("slide", scale_x=mpp * 1e-6, scale_y=mpp * 1e-6)
    return path


@pytest.mark.parametrize("codec", ["uncompressed:", "zstd1:ExplicitLevel=3"])
@pytest.mark.parametrize("corner", [(0, 0), (7_000, -3_000)])
def test_one_scene_anywhere(tmp_path: Path, codec: str, corner: tuple[int, int]) -> None:
    rgb = picture(300, 200)
    path = write(tmp_path / "a.czi", [(rgb, corner, 0, {})], codec=codec)
    with open_slide(path) as slide:
        assert slide.info.reader == "czi"
        assert slide.info.mpp == pytest.approx(0.5)
        whole = slide.read_level(0, BoxPx(-10, -5, 320, 210))
    assert np.array_equal(whole[5:205, 10:310], rgb)
    whole[5:205, 10:310] = 255
    assert (whole == 255).all()


def test_two_scenes_the_largest_and_a_note(tmp_path: Path) -> None:
    small, large = picture(128, 96), picture(320, 256, 20)
    path = write(tmp_path / "a.czi", [(small, (0, 0), 0, {}), (large, (5_000, 2_000), 1, {})])
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_level(0, BoxPx(0, 0, 320, 256)), large)
        assert any("an image of 128 x 96 px" in note for note in slide.info.notes)


def test_a_stack_gives_its_middle_plane(tmp_path: Path) -> None:
    planes = [picture(128, 96, tint) for tint in (0, 20, 40)]
    path = write(tmp_path / "z.czi", [(p, (0, 0), 0, {"Z": z}) for z, p in enumerate(planes)])
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_level(0, BoxPx(0, 0, 128, 96)), planes[1])
        assert any("number 2" in note for note in slide.info.notes)


def test_without_a_scale_the_spacing_is_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.czi", [(picture(64, 64), (0, 0), 0, {})], mpp=None)
    with open_slide(path) as slide:
        assert slide.info.mpp is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_fluorescence_is_refused(tmp_path: Path, dtype: type[np.generic]) -> None:
    grey = picture(64, 64)[..., :1].astype(dtype)
    path = write(tmp_path / "f.czi", [(grey, (0, 0), 0, {"C": c}) for c in range(2)])
    with pytest.raises(SlideOpenError, match="not 8-bit RGB"):
        open_slide(path)


def test_it_is_tiled(tmp_path: Path) -> None:
    rgb = picture(320, 256)
    path = write(tmp_path / "a.czi", [(rgb, (900, 300), 0, {})])
    config = TileConfig(mpp=0.5, patch_size_px=64, min_tissue=0.0)
    tile_slide(TileJob(path, "a", tmp_path / "a.zarr", config))
    store = PatchStore(tmp_path / "a.zarr")
    for patch, (col, row) in zip(store.read(slice(None)), store.grid_index, strict=True):
        assert np.array_equal(patch, rgb[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64])


def test_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.czi", [(picture(64, 64), (0, 0), 0, {})])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SlideOpenError, match="Zeiss CZI") as caught:
        open_slide(path)
    assert str(tmp_path) not in str(caught.value)


def test_without_the_library_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.czi", [(picture(64, 64), (0, 0), 0, {})])
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("pylibCZIrw"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SlideOpenError, match=r"Zeiss CZI.*pylibCZIrw.*convert it"):
        open_slide(path)


@pytest.mark.real
def test_the_field_case(data_dir: Path) -> None:
    path = data_dir / "field/czi_called_empty/slide.czi"
    if not path.is_file():
        pytest.skip("the files of the field cases are not here")
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx(0.5)
        assert (slide.info.size_px.width, slide.info.size_px.height) == (1024, 768)

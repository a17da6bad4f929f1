"""A map lies on its slide to the pixel, in each format: what the page draws over the tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.io
from map_stores import darkness_store
from test_slide_tiles import best_shift

from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.review.slide_tiles import TileServer
from pathology_scaat.slides import open_slide
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide

FORMATS = [
    "aperio_like.svs", "leica_like.scn", "mirax_like.mrxs", "hamamatsu_like.ndpi", "dicom_wsi",
]  # fmt: skip
MPP, PATCH_PX, WINDOW_PX = 0.5, 128, 256


@pytest.mark.real
@pytest.mark.parametrize("name", FORMATS)
def test_a_map_of_darkness_lies_on_what_is_dark(data_dir: Path, tmp_path: Path, name: str) -> None:
    """Within half a level-0 pixel (0.5 µm): one screen pixel at 40x."""
    slide_path = data_dir / "formats" / name
    mask = tmp_path / "all.png"
    with open_slide(slide_path) as slide:
        mpp, frame = slide.info.mpp or MPP, slide.info.frame_px
    whole = np.full((frame.height // 32, frame.width // 32), 255, np.uint8)
    skimage.io.imsave(mask, whole, check_contrast=False)
    config = TileConfig(mpp=mpp, patch_size_px=PATCH_PX, min_tissue=0)
    tile_slide(TileJob(slide_path, "s", tmp_path / "p.zarr", config, mpp=mpp, mask_path=mask))
    assert len(PatchStore(tmp_path / "p.zarr"))
    darkness_store(tmp_path / "p.zarr", tmp_path / "s.zarr", stride_px=1)
    stitch_slide(tmp_path / "s.zarr", tmp_path / "m.ome.zarr", StitchConfig(weighting="none"))
    slide_map = SlideMap(tmp_path / "m.ome.zarr")
    with open_slide(slide_path) as slide:
        frame, box = TileServer(slide).frame_px, slide_map.frame_px
        assert slide_map.scale_px == pytest.approx(1)
        # where the page puts the map, in the viewer's pixels
        left, top = box.x - frame.x, box.y - frame.y
        values = slide_map.read("saliency")
        x, y = _busiest(values)
        shown = slide.read_level(0, BoxPx(frame.x + left + x, frame.y + top + y,
                                          WINDOW_PX, WINDOW_PX))  # fmt: skip
    dark = 1 - shown.astype(float).mean(axis=2) / 255
    part = np.nan_to_num(values[y : y + WINDOW_PX, x : x + WINDOW_PX].astype(float))
    assert part.std() > 0.01  # there is something to find
    assert best_shift(part, dark) == (0, 0)


def _busiest(values: np.ndarray) -> tuple[int, int]:
    """Corner of the window with the most contrast, without places that hold no value."""
    best, place = -1.0, (0, 0)
    height, width = values.shape
    for y in range(0, height - WINDOW_PX, WINDOW_PX):
        for x in range(0, width - WINDOW_PX, WINDOW_PX):
            part = values[y : y + WINDOW_PX, x : x + WINDOW_PX]
            spread = float(part.std())  # NaN where a place has none
            if spread > best:
                best, place = spread, (x, y)
    return place

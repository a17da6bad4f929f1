"""A map lies on its slide to the pixel, in each format: what the page draws over the tiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.io
from browser import Browser
from map_stores import darkness_store
from test_slide_tiles import best_shift

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES
from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.review.slide_tiles import TileServer
from pathology_scaat.slides import open_slide
from pathology_scaat.stitching import SlideMap, StitchConfig, stitch_slide

FORMATS = [
    "aperio_like.svs", "leica_like.scn", "mirax_like.mrxs", "hamamatsu_like.ndpi", "dicom_wsi",
]  # fmt: skip
MPP, PATCH_PX, WINDOW_PX = 0.5, 128, 256


@dataclass(frozen=True)
class Formats:
    """An output folder with a map of darkness for each format, and the table of the slides."""

    out: Path
    manifest: Path


@pytest.fixture(scope="module")
def formats(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Formats:
    folder = tmp_path_factory.mktemp("formats")
    out, mask = folder / "out", folder / "all.png"
    status = StatusTable(out)
    out.mkdir()
    status.plan(FORMATS)
    lines = ["slide_path,slide_id,mpp"]
    for name in FORMATS:
        path = data_dir / "formats" / name
        with open_slide(path) as slide:
            mpp, frame = slide.info.mpp or MPP, slide.info.frame_px
        lines.append(f"{path},{name},{mpp}")
        whole = np.full((frame.height // 32, frame.width // 32), 255, np.uint8)
        skimage.io.imsave(mask, whole, check_contrast=False)
        config = TileConfig(mpp=mpp, patch_size_px=PATCH_PX, min_tissue=0)
        patches, saliency = out / "patches" / f"{name}.zarr", out / "saliency" / f"{name}.zarr"
        tile_slide(TileJob(path, name, patches, config, mpp=mpp, mask_path=mask))
        assert len(PatchStore(patches))
        saliency.parent.mkdir(exist_ok=True)
        darkness_store(patches, saliency, stride_px=1)
        stitch_slide(saliency, out / "maps" / f"{name}.ome.zarr", StitchConfig(weighting="none"))
        for stage in STAGES:
            status.update(name, stage, "done")
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return Formats(out, manifest)


@pytest.mark.real
@pytest.mark.parametrize("name", FORMATS)
def test_a_map_of_darkness_lies_on_what_is_dark(
    data_dir: Path, formats: Formats, name: str
) -> None:
    """Within half a level-0 pixel (0.5 µm): one screen pixel at 40x."""
    slide_map = SlideMap(formats.out / "maps" / f"{name}.ome.zarr")
    with open_slide(data_dir / "formats" / name) as slide:
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


@pytest.fixture(scope="module")
def pages(formats: Formats) -> Iterator[tuple[Browser, str]]:
    """A browser at the review of all formats, and the server's address."""
    browser = Browser()
    process = subprocess.Popen(
        [sys.executable, "-m", "pathology_scaat", "review", str(formats.out), "--no-browser",
         "--manifest", str(formats.manifest)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # whoever runs the tests in the background may ignore Ctrl-C for all that is started
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    browser.open(line[line.index("http") :].strip())
    yield browser, line[line.index("http") :].partition("?")[0]
    browser.close()
    process.send_signal(signal.SIGINT)
    process.communicate()


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_the_browser_draws_it_there_at_40x(
    pages: tuple[Browser, str], formats: Formats, name: str
) -> None:
    """Both views show the same place: slide and map within one screen pixel (0.25 µm)."""
    browser, root = pages
    slide_map = SlideMap(formats.out / "maps" / f"{name}.ome.zarr")
    x, y = _busiest(slide_map.read("saliency"))
    browser.open(f"{root}slide/{name}")
    browser.wait("document.body.dataset.ready === 'yes' && document.body.dataset.map")
    browser.js(
        f"""(async () => {{
        await loadMap(state.details.channels.indexOf('saliency'));
        byId('colours').value = 'grey'; byId('low').value = 0.0001; byId('high').value = 1;
        byId('opacity').value = 1;
        state.map.glass.fill(0); // the map of darkness is asked of glass as well
        colourMap();
        const box = state.details.map_box, item = state.viewers[0].world.getItemAt(0);
        const view = state.viewers[0].viewport;
        view.zoomTo(view.imageToViewportZoom(state.details.slide_mpp / 0.25), null, true);
        view.panTo(item.imageToViewportCoordinates(box.x + {x + WINDOW_PX / 2},
                                                   box.y + {y + WINDOW_PX / 2}), true);
        }})()"""
    )
    browser.wait(
        "state.viewers.every(v => v.world.getItemAt(0).getFullyLoaded()) && "
        "state.layers.length === 1 && state.layers[0].getFullyLoaded() && "
        "document.getElementById('scale-text').textContent.includes('40x')"
    )
    browser.js("state.outlinesOn = false; drawLines(); new Promise(d => setTimeout(d, 500))")
    picture = browser.screenshot().astype(float).mean(axis=2)
    middles = browser.js(
        """state.viewers.map((v) => { const r = v.element.getBoundingClientRect();
        return [Math.round(r.left + r.width / 2), Math.round(r.top + r.height / 2)]; })"""
    )
    half = 150
    bare, mapped = (picture[y - half : y + half, x - half : x + half] for x, y in middles)
    dark, shown = 255 - bare, mapped
    assert dark.std() > 2
    assert max(map(abs, _best_match(shown, dark))) <= 1


def _best_match(shown: np.ndarray, expected: np.ndarray, reach: int = 4) -> tuple[int, int]:
    """The shift, in screen pixels, at which two pictures are most alike, by correlation."""
    inner = slice(reach, -reach)
    found = {
        (dy, dx): np.corrcoef(
            np.roll(shown, (dy, dx), (0, 1))[inner, inner].ravel(), expected[inner, inner].ravel()
        )[0, 1]
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    }
    best = max(found, key=lambda shift: found[shift])
    assert found[best] > 0.8, found[best]
    return best


def _busiest(values: np.ndarray) -> tuple[int, int]:
    """Corner of the window with the most contrast, without places that hold no value."""
    best, position = -1.0, (0, 0)
    height, width = values.shape
    for y in range(0, height - WINDOW_PX, WINDOW_PX):
        for x in range(0, width - WINDOW_PX, WINDOW_PX):
            part = values[y : y + WINDOW_PX, x : x + WINDOW_PX]
            spread = float(part.std())  # NaN where a place has none
            if spread > best:
                best, position = spread, (x, y)
    return position

"""Exports judged by programs that others wrote; each is skipped where its program is not at hand.

Programs are found on the PATH (``dciodvfy``, ``dcmdump``, ``ome-zarr-models``, ``ome_zarr``,
``groovyc``, ``java``); Bio-Formats by the variable SCAAT_BIOFORMATS_JAR.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import shutil
import sqlite3
import subprocess
import threading
import urllib.request
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from map_stores import darkness_store, make_saliency_store, write_marked_slide
from PIL import Image

from pathology_scaat.export import ExportConfig, export_slide
from pathology_scaat.geometry import BoxPx, PatchGrid, SizePx
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
from pathology_scaat.stitching import StitchConfig, stitch_slide

GRID = PatchGrid(100.0, 50.0, 2.0, 64, 32, 81, 60)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def said(*command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=240,
        env={**os.environ, **more},
    )  # fmt: skip


@pytest.fixture
def stitched(tmp_path: Path) -> tuple[Path, Path]:
    size = SizePx(5500, 4111)
    store = make_saliency_store(tmp_path / "s.zarr", GRID, mpp=0.2527, size=size)
    stitch_slide(store, tmp_path / "m.ome.zarr")
    return tmp_path / "m.ome.zarr", store


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_ome_zarr_models_and_ome_zarr_py_accept_the_map(tmp_path: Path, ngff: str) -> None:
    models = program("ome-zarr-models")
    store = make_saliency_store(tmp_path / "s.zarr", GRID, mpp=0.2527)
    stitch_slide(store, tmp_path / "m.ome.zarr", StitchConfig(ngff=ngff))
    image = tmp_path / "m.ome.zarr" / ("0" if ngff == "0.4" else "")
    done = said(models, "validate", image)
    assert done.returncode == 0, done.stdout + done.stderr
    done = said(program("ome_zarr"), "info", image)
    assert done.returncode == 0, done.stderr
    assert "(4, " in done.stdout
    # a copied map must be found wanting, else the judge judges nothing
    marked = image / (".zattrs" if ngff == "0.4" else "zarr.json")
    marked.write_text(marked.read_text().replace('"scale"', '"stretch"'))
    assert said(models, "validate", image).returncode != 0


def test_bio_formats_reads_names_spacing_and_pyramid(
    stitched: tuple[Path, Path], tmp_path: Path
) -> None:
    jar = os.environ.get("SCAAT_BIOFORMATS_JAR", "")
    if not Path(jar).is_file():
        pytest.skip("SCAAT_BIOFORMATS_JAR names no bioformats_package.jar")
    export_slide(*stitched, tmp_path / "o", ExportConfig(formats=("ome-tiff", "rgb-tiff")))
    tool = ("-cp", jar, "loci.formats.tools.ImageInfo", "-no-upgrade")
    java = program("java")
    found = said(java, *tool, "-noflat", tmp_path / "o" / "S1.ome.tiff").stdout
    assert "Read 4/4 planes (100%)" in found
    found = said(java, *tool, "-nopix", "-noflat", "-omexml", tmp_path / "o" / "S1.ome.tiff").stdout
    assert "Pixel type = float" in found
    assert "Resolutions = 2" in found
    assert "SizeC = 4" in found
    for name in ("probability: normal", "probability: tumour", "saliency", "patches"):
        assert f'Name="{name}"' in found
    stated = re.search(r'PhysicalSizeX="([0-9.]+)"', found)
    assert stated is not None
    assert float(stated[1]) == pytest.approx(0.2527 * 8, rel=1e-6)
    found = said(java, *tool, "-nopix", tmp_path / "o" / "S1.rgb.tiff").stdout
    assert "RGB = true" in found


@pytest.mark.real
def test_dicom_validators_find_no_error(tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    check, dump = program("dciodvfy"), program("dcmdump")
    slide = data_dir / "formats" / "dicom_wsi"
    tile_slide(TileJob(slide, "D", tmp_path / "p.zarr", TileConfig(mpp=2.0, patch_size_px=64)))
    darkness_store(tmp_path / "p.zarr", tmp_path / "s.zarr", 4)
    stitch_slide(tmp_path / "s.zarr", tmp_path / "m.ome.zarr")
    config = ExportConfig(formats=("dicom",), identified=True)
    export_slide(tmp_path / "m.ome.zarr", tmp_path / "s.zarr", tmp_path / "o", config,
                 slide_path=slide)  # fmt: skip
    for name in ("D.ann.dcm", "D.seg.dcm"):
        done = said(check, "-new", tmp_path / "o" / name)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        header = pydicom.dcmread(tmp_path / "o" / name)
        if "ann" in name and "CommonZCoordinateValue" not in header.AnnotationGroupSequence[0]:
            # the dciodvfy of 2022 forbids it in every 2D file, whether it is there or not
            errors = [line for line in errors if "CommonZCoordinateValue" not in line]
        assert errors == [], name
        assert said(dump, "-q", tmp_path / "o" / name).returncode == 0


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wsidicom_reads_slide_and_annotations_together(tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("highdicom")
    wsidicom = pytest.importorskip("wsidicom")
    slide = data_dir / "formats" / "dicom_wsi"
    tile_slide(TileJob(slide, "D", tmp_path / "p.zarr", TileConfig(mpp=2.0, patch_size_px=64)))
    darkness_store(tmp_path / "p.zarr", tmp_path / "s.zarr", 4)
    stitch_slide(tmp_path / "s.zarr", tmp_path / "m.ome.zarr")
    config = ExportConfig(formats=("dicom", "csv"), identified=True)
    result = export_slide(tmp_path / "m.ome.zarr", tmp_path / "s.zarr", tmp_path / "o", config,
                          slide_path=slide)  # fmt: skip
    assert "D.ann.dcm" in result.files
    together = tmp_path / "together"
    shutil.copytree(slide, together)
    shutil.copy(tmp_path / "o" / "D.ann.dcm", together)
    rows = np.loadtxt(tmp_path / "o" / "D.csv", delimiter=",", skiprows=1)
    with wsidicom.WsiDicom.open(together) as opened:
        (instance,) = opened.annotations
        (group,) = instance.groups
        assert len(group.annotations) == len(rows)
        corner = group.annotations[0].geometry.points[0]
        assert (corner.x, corner.y) == tuple(rows[0, :2])


def tile_server(slide: Path, store: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """TIAToolbox's tile server, which TIAViz shows, with a slide and a store; its address."""
    storage = importlib.import_module("tiatoolbox.annotation.storage")
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        # only its check of sqlite's options needs this; reading does not
        monkeypatch.setattr(
            storage.SQLiteStore, "compile_options", staticmethod(lambda: ["ENABLE_RTREE"])
        )
    module = importlib.import_module("tiatoolbox.visualization.tileserver")
    serving = importlib.import_module("werkzeug.serving")
    app = module.TileServer("maps", {"slide": str(slide), "overlay": str(store)})
    return serving.make_server("127.0.0.1", 0, app, threaded=False)


@pytest.mark.timeout(900)  # its imports alone take minutes on a busy machine
@pytest.mark.filterwarnings("ignore")
def test_tiaviz_draws_the_tiles_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tiatoolbox")
    pytest.importorskip("flask")
    slide = write_marked_slide(tmp_path / "slide.tiff", [], SizePx(2048, 1536), 0.25)
    grid = PatchGrid(0.0, 0.0, 2.0, 64, 64, 16, 12)
    kept = np.zeros((12, 16), bool)
    kept[3:6, 4:9] = True
    store = make_saliency_store(
        tmp_path / "s.zarr", grid, kept=kept, mpp=0.25, size=SizePx(2048, 1536)
    )
    stitch_slide(store, tmp_path / "m.ome.zarr")
    config = ExportConfig(formats=("annotation-store",))
    export_slide(tmp_path / "m.ome.zarr", store, tmp_path / "o", config)
    server = tile_server(slide, tmp_path / "o" / "S1.db", monkeypatch)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/tileserver"
    try:
        # 2048 x 1536 px in tiles of 256: level 3 is the full size, level 2 half of it
        level = f"{address}/layer/overlay/default/zoomify/TileGroup0"
        drawn = np.zeros((768, 1024), bool)
        for y in range(3):
            for x in range(4):
                with urllib.request.urlopen(f"{level}/2-{x}-{y}@1x.jpg", timeout=60) as answer:
                    tile = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGBA"))
                drawn[256 * y : 256 * (y + 1), 256 * x : 256 * (x + 1)] = tile[..., 3] > 0
        with urllib.request.urlopen(f"{address}/tap_query/700/500", timeout=60) as answer:
            tapped = answer.read().decode()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    rows, columns = np.nonzero(drawn)
    box = BoxPx(4 * 64, 3 * 64, 5 * 64, 3 * 64)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(found, (box.x, box.y, box.right, box.bottom))).max() <= 1
    assert drawn[box.y + 4 : box.bottom - 4, box.x + 4 : box.right - 4].mean() > 0.99
    assert "saliency mean" in tapped
    assert "Tumor probability" in tapped


def test_groovy_compiles_the_scripts(tmp_path: Path) -> None:
    """To syntax only, with empty classes where QuPath's stand."""
    groovy = program("groovyc")
    home = {"JAVA_HOME": str(Path(program("java")).resolve().parents[1])}
    folder = resources.files("pathology_scaat.export") / "scripts"
    scripts = [Path(str(f)) for f in folder.iterdir() if f.name.endswith(".groovy")]
    needed = {
        name
        for script in scripts
        for name in re.findall(r"^import ((?:qupath|javafx)\.\S+)", script.read_text(), re.M)
    }
    stubs = []
    for name in sorted(needed):
        package, _, short = name.rpartition(".")
        stub = tmp_path / "stubs" / Path(*package.split(".")) / f"{short}.groovy"
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(f"package {package}\nclass {short} {{ static def FILTER_ALL_FILES }}\n")
        stubs.append(stub)
    done = said(groovy, "-d", tmp_path / "classes", *stubs, *scripts, **home)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "classes").glob("scaat_*.class"))) >= len(scripts)
    broken = tmp_path / "broken.groovy"
    broken.write_text(scripts[0].read_text() + "\n}\n")
    assert said(groovy, "-d", tmp_path / "classes", *stubs, broken, **home).returncode != 0

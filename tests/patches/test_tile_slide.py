"""A slide into a store: right pixels, one spelling in bytes, whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathology_scaat.errors import SlideError, SlideReadError, SpacingError, UsageError
from pathology_scaat.geometry import BoxPx
from pathology_scaat.patches import PatchStore, TileConfig, TileJob, tile_slide
from pathology_scaat.patches.extractor import ExtractorLimits
from pathology_scaat.slides import open_slide

pytestmark = pytest.mark.real

SMALL = "formats/aperio_like.svs"


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def job(data_dir: Path, out: Path, name: str = SMALL, **options: object) -> TileJob:
    config = options.pop("config", None) or TileConfig(mpp=0.499, patch_size_px=128)
    return TileJob(data_dir / name, "s1", out / "s1.zarr", config, **options)  # type: ignore[arg-type]


def test_patches_are_the_slides_pixels(data_dir: Path, tmp_path: Path) -> None:
    result = tile_slide(job(data_dir, tmp_path, tissue_path=tmp_path / "s1.png"))
    store = PatchStore(tmp_path / "s1.zarr")
    assert len(store) == result.n_patches > 20
    assert result.reader == "tiff"
    assert (store.tissue_fraction >= 0.5).all()
    assert (tmp_path / "s1.png").is_file()
    with open_slide(data_dir / SMALL, reader="openslide") as slide:
        for number in (0, len(store) // 2, len(store) - 1):
            x, y = store.origins_px[number].tolist()
            expected = slide.read_level(0, BoxPx(x, y, 128, 128)).astype(int)
            assert np.abs(store.read([number])[0] - expected).max() <= 2


@pytest.mark.parametrize("config", [
    {"mpp": 1.3, "patch_size_px": 96, "overlap": "0.5"},
    {"mpp": 0.8, "patch_size_px": 100, "overlap": "30px"},
    {"mpp": 2.4, "patch_size_px": 64},
    {"mpp": 0.3, "patch_size_px": 64},
])  # fmt: skip
def test_readers_agree_when_the_slide_is_resampled(
    data_dir: Path, tmp_path: Path, config: dict[str, object]
) -> None:
    stores = []
    for reader in ("tiff", "openslide"):
        settings = TileConfig(**config, reader=reader, min_tissue=0.2)
        tile_slide(job(data_dir, tmp_path / reader, config=settings))
        stores.append(PatchStore(tmp_path / reader / "s1.zarr"))
    assert np.array_equal(stores[0].grid_index, stores[1].grid_index)
    assert len(stores[0]) > 0
    pixels = [store.read(slice(None)).astype(int) for store in stores]
    assert np.abs(pixels[0] - pixels[1]).max() <= 2
    assert stores[0].meta.effective_mpp == pytest.approx(config["mpp"])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "limits", [ExtractorLimits(0, 1, 40), ExtractorLimits(1 << 20, 1 << 18, 200)]
)
def test_threads_and_limits_leave_no_trace(
    data_dir: Path, tmp_path: Path, threads: int, limits: ExtractorLimits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = TileConfig(mpp=0.9, patch_size_px=96, overlap="0.25", shard_bytes=1 << 18)
    tile_slide(job(data_dir, tmp_path / "a", config=config))
    monkeypatch.setattr("pathology_scaat.patches.tiling.job_threads", lambda: threads)
    tile_slide(job(data_dir, tmp_path / "b", config=config), limits=limits)
    assert content(tmp_path / "a/s1.zarr") == content(tmp_path / "b/s1.zarr")


def test_right_store_is_left_and_changed_settings_make_it_anew(
    data_dir: Path, tmp_path: Path
) -> None:
    first = tile_slide(job(data_dir, tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = tile_slide(job(data_dir, tmp_path))
    assert again.skipped
    assert not first.skipped
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert again.fingerprint == first.fingerprint
    other = tile_slide(job(data_dir, tmp_path, config=TileConfig(mpp=0.499, patch_size_px=64)))
    assert not other.skipped
    assert PatchStore(tmp_path / "s1.zarr").patch_size_px == 64


def test_a_missing_overlay_is_made_without_tiling_again(data_dir: Path, tmp_path: Path) -> None:
    tile_slide(job(data_dir, tmp_path))
    result = tile_slide(job(data_dir, tmp_path, tissue_path=tmp_path / "s1.png"))
    assert result.skipped
    assert (tmp_path / "s1.png").is_file()


KILLED = """
import sys
from pathlib import Path
from pathology_scaat.patches import TileConfig, TileJob, tile_slide
slide, store = map(Path, sys.argv[1:])
print("begin", flush=True)
tile_slide(TileJob(slide, "s1", store, TileConfig(mpp=0.499, patch_size_px=64, overlap="0.75")))
"""


def test_killed_and_run_again(data_dir: Path, tmp_path: Path) -> None:
    slide = data_dir / "slides/CMU-1-Small-Region.svs"
    config = TileConfig(mpp=0.499, patch_size_px=64, overlap="0.75")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, slide, tmp_path / "s1.zarr"], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not list(tmp_path.glob("s1.zarr*/blocks/c/*")):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "s1.zarr").exists()
    tile_slide(TileJob(slide, "s1", tmp_path / "s1.zarr", config))
    tile_slide(TileJob(slide, "s1", tmp_path / "clean/s1.zarr", config))
    assert content(tmp_path / "s1.zarr") == content(tmp_path / "clean/s1.zarr")


@pytest.mark.parametrize("settings", [{"patch_size_px": 128}, {"patch_size_px": 200, "mpp": 1.0}])
def test_undecodable_tiles_leave_their_patches_out(
    data_dir: Path, tmp_path: Path, settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "broken/corrupt_tiles.svs"
    config = TileConfig(**{"mpp": 0.499, "min_tissue": 0, "max_unreadable_share": 1, **settings})
    kept = []
    for reader, threads in (("tiff", 1), ("openslide", 1), ("openslide", 3)):
        monkeypatch.setattr("pathology_scaat.patches.tiling.job_threads", lambda n=threads: n)
        out = tmp_path / f"{reader}{threads}"
        chosen = config.model_copy(update={"reader": reader})
        result = tile_slide(job(data_dir, out, name, config=chosen))
        store = PatchStore(out / "s1.zarr")
        assert result.n_unreadable == store.meta.n_unreadable > 0
        kept.append(set(map(tuple, store.grid_index.tolist())))
    # OpenSlide is asked for blocks that are larger than the file's tiles: where one cannot be
    # decoded its patches are read one by one, and no more is lost than must be.
    assert kept[0] == kept[1] == kept[2]
    strict = config.model_copy(update={"max_unreadable_share": 0.0})
    with pytest.raises(SlideReadError):
        tile_slide(job(data_dir, tmp_path / "strict", name, config=strict))
    assert not (tmp_path / "strict/s1.zarr").exists()


@pytest.mark.parametrize("name", ["broken/blank_white.tiff", "broken/blank_black.tiff"])
def test_blank_slides_have_no_patches(data_dir: Path, tmp_path: Path, name: str) -> None:
    result = tile_slide(job(data_dir, tmp_path, name))
    assert result.n_patches == 0
    assert len(PatchStore(tmp_path / "s1.zarr")) == 0
    assert PatchStore(tmp_path / "s1.zarr").read(slice(None)).shape == (0, 128, 128, 3)


@pytest.mark.parametrize("name", ["no_mpp.svs", "zero_mpp.svs", "nan_mpp.svs"])
def test_unknown_spacing_is_never_guessed(data_dir: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpacingError, match="mpp column"):
        tile_slide(job(data_dir, tmp_path, f"broken/{name}"))
    config = TileConfig(mpp=0.5, patch_size_px=64, min_tissue=0.0)
    tile_slide(job(data_dir, tmp_path, f"broken/{name}", mpp=0.5, config=config))
    meta = PatchStore(tmp_path / "s1.zarr").meta
    assert meta.slide.mpp == 0.5
    assert meta.slide.mpp_source == "manifest"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_huge_sparse_slide_stays_small(data_dir: Path, tmp_path: Path) -> None:
    script = (
        "import re, sys; from pathlib import Path\n"
        "from pathology_scaat.patches import TileConfig, TileJob, tile_slide\n"
        "r = tile_slide(TileJob(Path(sys.argv[1]), 's', Path(sys.argv[2]),"
        " TileConfig(mpp=0.5), mpp=0.5))\n"
        # Not ru_maxrss: a child starts with that of its parent.
        "status = Path('/proc/self/status').read_text()\n"
        "print(r.n_patches, int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, data_dir / "broken/giant_sparse.tif", tmp_path / "s.zarr"],
        capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    n_patches, peak_mib = map(int, done.stdout.split())
    assert n_patches == 0
    assert peak_mib < 1024


def test_cost_follows_the_scanned_area(data_dir: Path, tmp_path: Path) -> None:
    began = time.process_time()
    result = tile_slide(job(data_dir, tmp_path, "formats/leica_like.scn"))
    assert time.process_time() - began < 30
    assert result.n_patches > 20
    store = PatchStore(tmp_path / "s1.zarr")
    bounds = store.meta.slide.bounds_px
    assert bounds is not None
    assert (store.origins_px >= [bounds.x, bounds.y]).all()
    assert (store.origins_px < [bounds.right, bounds.bottom]).all()


def test_a_given_mask_decides(data_dir: Path, tmp_path: Path) -> None:
    mask = np.zeros((20, 25), np.uint8)
    mask[:10, :10] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    tile_slide(job(data_dir, tmp_path, mask_path=tmp_path / "mask.png"))
    store = PatchStore(tmp_path / "s1.zarr")
    assert len(store) == 64
    assert (store.grid_index < 8).all()
    Image.fromarray(mask[:, :4]).save(tmp_path / "other.png")
    with pytest.raises(UsageError, match="frame"):
        tile_slide(job(data_dir, tmp_path, mask_path=tmp_path / "other.png"))


def test_a_slides_label_is_that_of_its_patches(data_dir: Path, tmp_path: Path) -> None:
    config = TileConfig(mpp=0.499, patch_size_px=128, class_names=("normal", "tumour"))
    result = tile_slide(job(data_dir, tmp_path, config=config, label="tumour"))
    store = PatchStore(tmp_path / "s1.zarr")
    assert (store.labels == 1).all()
    assert result.n_labelled == len(store)
    assert (store.label_coverage == [0, 1]).all()


def test_annotations_label_patches(data_dir: Path, tmp_path: Path) -> None:
    name = "slides/atlas_granular_cell_tumor_HE_10x"
    config = TileConfig(
        mpp=4.0, patch_size_px=64, class_names=("Normal", "Tumor"), only_labelled=True
    )
    slide, geojson = f"{name}.tiff", data_dir / f"{name}.geojson"
    result = tile_slide(job(data_dir, tmp_path, slide, config=config, annotation_path=geojson))
    store = PatchStore(tmp_path / "s1.zarr")
    assert result.n_labelled == len(store) > 0
    assert set(store.labels.tolist()) == {0, 1}
    share = store.label_coverage[np.arange(len(store)), store.labels]
    assert (share >= config.min_coverage).all()


def test_names_of_files_and_folders_stay_out(data_dir: Path, tmp_path: Path) -> None:
    secret = tmp_path / "Ørsted; $(echo no) 'x'"
    secret.mkdir()
    slide = secret / "Müller_Hans_1970.svs"
    shutil.copy(data_dir / SMALL, slide)
    tile_slide(TileJob(slide, "s1", tmp_path / "s1.zarr", TileConfig(patch_size_px=128)))
    for name, data in content(tmp_path / "s1.zarr").items():
        for word in (b"ller_Hans", b"rsted", str(tmp_path).encode()):
            assert word not in data, name
    slide.write_bytes(b"II*\x00" + b"\x00" * 100)
    with pytest.raises(SlideError) as caught:
        tile_slide(TileJob(slide, "s1", tmp_path / "s2.zarr", TileConfig()))
    assert str(tmp_path) not in str(caught.value)

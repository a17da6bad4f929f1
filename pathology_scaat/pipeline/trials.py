"""What ``scaat doctor`` tries: that a kernel compiles, a slide is tiled, a picture is drawn."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathology_scaat.artifacts.redaction import redact
from pathology_scaat.errors import ScaatError


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report; ``tried`` where something was done, not looked up."""

    name: str
    ok: bool
    detail: str
    needed: bool = True
    tried: bool = False


def _tried(name: str, trial: Callable[[], str]) -> Check:
    try:
        return Check(name, True, trial(), tried=True)
    except ScaatError as error:
        return Check(name, False, redact(str(error)), tried=True)
    except Exception as error:  # whatever is wrong with an installation
        return Check(
            name, False, redact(f"does not work ({type(error).__name__}: {error})"), tried=True
        )


def try_out(out: Path | None = None) -> tuple[Check, ...]:
    """Run the parts that fail on odd machines, on a slide drawn for it.

    Parameters
    ----------
    out : Path, optional
        An existing folder to write in; the temporary folder by default.
    """
    checks = [_tried("compiled kernels", _kernels)]
    there = out is not None and out.is_dir()
    try:
        with tempfile.TemporaryDirectory(
            prefix="scaat-doctor-", dir=out if there else None, ignore_cleanup_errors=True
        ) as made:
            folder = Path(made)
            checks.append(_tried("a slide, tiled", lambda: _tile(folder)))
            checks.append(_tried("a map, written", lambda: _map(folder)))
            checks.append(_tried("disk of --out" if there else "temporary disk",
                                 lambda: _disk(folder)))  # fmt: skip
    except OSError as error:
        where = "--out" if there else "the temporary folder"
        words = f"{where} cannot be written ({error.strerror})"
        checks.append(Check("a slide, tiled", False, words, tried=True))
    checks.append(_tried("pictures", _picture))
    checks.append(_tried("a network", _network))
    return tuple(checks)


def _kernels() -> str:
    from pathology_scaat.patches import resample
    from pathology_scaat.slides import block_mean
    from pathology_scaat.system.compiled import cache_location
    from pathology_scaat.tissue import kernels, segmentation

    pixels = np.full((60, 60, 3), 240, dtype=np.uint8)
    pixels[10:30, 10:30] = (150, 80, 150)
    for factor in (3, 4):
        block_mean.block_mean(pixels, factor)
    segmentation.classify_pixels(pixels, np.ones((60, 60), dtype=np.bool_))
    weights = resample.axis_weights(0.0, 1.7, 0, 30)
    resample.average(pixels, weights, weights)
    return cache_location(kernels.measure_pixels)


def _draw(path: Path) -> None:
    import tifffile

    pixels = np.full((512, 512, 3), 243, dtype=np.uint8)
    grain = np.random.default_rng(0).integers(-25, 26, (384, 384, 1))
    pixels[64:448, 64:448] = np.clip(np.array((170, 90, 150)) + grain, 0, 255)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="zlib",
        resolution=(20000, 20000), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip


def _tile(folder: Path) -> str:
    from pathology_scaat.patches import TileConfig, TileJob, tile_slide

    _draw(folder / "drawn.tiff")
    config = TileConfig(mpp=0.85, patch_size_px=32)
    job = TileJob(folder / "drawn.tiff", "drawn", folder / "drawn.zarr", config)
    result = tile_slide(job)
    if result.n_patches == 0:
        raise RuntimeError("no patch was found on a drawn slide")
    return f"{result.n_patches} patches by the {result.reader} reader"


def _map(folder: Path) -> str:
    from pathology_scaat.geometry import SizePx
    from pathology_scaat.stitching.ome_zarr import create_arrays, level_array

    path = folder / "map.ome.zarr"
    create_arrays(path, 1, SizePx(300, 300), "0.5")
    array = level_array(path, 0, "0.5", write=True)
    array[0, :8, :8].write(np.ones((8, 8), dtype=np.float32)).result()
    return "OME-Zarr"


def _disk(folder: Path) -> str:
    from pathology_scaat.artifacts.disk_probe import probe_disk

    found = probe_disk(folder)
    if found is None:
        raise RuntimeError("nothing can be written")
    absent = [
        words
        for has, words in (
            (found.hard_links, "no hard links"),
            (found.folder_sync, "no syncing of folders: a power failure may lose the newest files"),
            (found.exchange, "no exchange of names: a crash may leave an old artifact aside"),
        )
        if not has
    ]
    return "; ".join(["works", *absent])


def _picture() -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().set_title("x")
    FigureCanvasAgg(figure)
    figure.savefig(io.BytesIO(), format="png")
    return "drawn"


def _network() -> str:
    import torch

    from pathology_scaat.training.backbones import create_backbone

    network = create_backbone("resnet18", 2, 64)
    with torch.no_grad():
        network(torch.zeros(2, 3, 64, 64))
    return "resnet18, built and run"

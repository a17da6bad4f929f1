"""``scaat doctor``: what this machine has, and whether it works; offline, in seconds."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path

from pathology_scaat.pipeline.trials import Check, try_out

REQUIRED = (
    "torch", "timm", "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "zarr",
    "tensorstore", "dask", "distributed", "scikit-image", "shapely", "tiatoolbox", "captum",
    "torchmetrics", "safetensors",
)  # fmt: skip
OPTIONAL = {
    "dask-jobqueue": "cluster job queues (extra: cluster)",
    "s3fs": "slides and stores on S3 (extra: cloud)",
    "highdicom": "DICOM results (extra: dicom)",
}
LOW_DISK_BYTES = 20 << 30


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torch_checks() -> list[Check]:
    if util.find_spec("torch") is None:
        return []
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        return [Check("GPU", True, detail, needed=False)]
    return [Check("GPU", False, "none that torch can use: work runs on the CPU", needed=False)]


def _reader_checks() -> list[Check]:
    checks = []
    try:
        import openslide

        checks.append(Check("OpenSlide library", True, openslide.__library_version__))
    except (ImportError, OSError) as error:
        checks.append(Check("OpenSlide library", False, str(error)))
    try:
        import imagecodecs

        codecs = [n for n in ("JPEG8", "JPEG2K", "ZSTD") if getattr(imagecodecs, n).available]
        checks.append(Check("fast TIFF codecs", len(codecs) == 3, ", ".join(codecs).lower()))
    except ImportError as error:
        checks.append(Check("fast TIFF codecs", False, str(error)))
    return checks


def doctor(out: Path | None = None) -> tuple[Check, ...]:
    """Report what is installed and try it: kernels, a slide, a picture, the disk.

    Parameters
    ----------
    out : Path, optional
        Folder whose disk is looked at, and written to where it exists; by default the free
        space of the working directory is reported, and the temporary folder is written to.
    """
    checks = [Check("Python", True, platform.python_version())]
    for name in REQUIRED:
        version = _version(name)
        checks.append(Check(name, version is not None, version or "not installed"))
    for name, purpose in OPTIONAL.items():
        version = _version(name)
        detail = version or f"not installed; only for {purpose}"
        checks.append(Check(name, version is not None, detail, needed=False))
    checks.extend(_reader_checks())
    checks.extend(_torch_checks())
    checks.append(Check("processors", True, str(os.cpu_count() or 1)))
    checks.extend(try_out(out))
    folder = out or Path.cwd()
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB"
    if free < LOW_DISK_BYTES:
        detail += " (a gigapixel slide needs about 5 GiB of patches)"
    checks.append(Check("free disk", free >= LOW_DISK_BYTES, detail, needed=False))
    return tuple(checks)

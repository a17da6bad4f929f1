"""The whole of hs2p (tissue, grid, cuCIM, TurboJPEG into a tar), for ``tiling.py`` to stand beside.

Run by the Python that ``SCAAT_HS2P_PYTHON`` names, in an environment of its own:

    pip install "hs2p[openslide,turbojpeg,cucim]"     # and the system's libturbojpeg

Its tar of JPEG files is its nearest product to a store of patches; it is lossy, ours is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path

from hs2p import SegmentationConfig, SlideSpec, TilingConfig, tile_slide
from hs2p.tiling.tar import extract_tiles_to_tar
from tiling import peak_mib


def once(slide: Path, mpp: float, side_px: int, overlap: float, backend: str, cores: int) -> int:
    tiling = TilingConfig(
        requested_spacing_um=mpp, requested_tile_size_px=side_px, tolerance=0.02, overlap=overlap,
        backend=backend,
    )  # fmt: skip
    result = tile_slide(
        SlideSpec(sample_id="s", image_path=slide), tiling=tiling,
        segmentation=SegmentationConfig(method="hsv"), num_workers=cores,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        extract_tiles_to_tar(result, Path(folder), jpeg_backend="turbojpeg", num_workers=cores)
    return len(result.x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--overlap", type=float, default=0.0)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-given.cores :])
    backend = "cucim" if importlib.util.find_spec("cucim") else "openslide"
    runs = []
    for _ in range(given.repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        patches = once(given.slide, given.mpp, given.side, given.overlap, backend, given.cores)
        runs.append(
            {"patches": patches, "wall_s": time.perf_counter() - wall,
             "cpu_s": time.process_time() - cpu}
        )  # fmt: skip
    print(json.dumps({"runs": runs[1:], "peak_mib": round(peak_mib()), "backend": backend}))


if __name__ == "__main__":
    main()

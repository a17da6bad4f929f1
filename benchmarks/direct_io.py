"""What writing shards past the page cache (O_DIRECT) saves, alone: CPU and wall time of a slide.

``python benchmarks/direct_io.py SLIDE [--rounds 4]`` tiles one slide with and without it in
turns, in the folder of ``--scratch`` (a real disk, not a memory file system).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from pathology_scaat.patches import TileConfig, TileJob, tile_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--scratch", type=Path, default=Path())
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.scratch))
    flag = os.O_DIRECT
    seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    try:
        for number in range(2 * arguments.rounds + 1):
            direct = bool(number % 2)
            if direct:
                os.O_DIRECT = flag  # type: ignore[misc]
            elif hasattr(os, "O_DIRECT"):
                del os.O_DIRECT
            store = folder / str(number) / "s.zarr"
            cpu, wall = time.process_time(), time.perf_counter()
            tile_slide(TileJob(arguments.slide, "s", store, TileConfig(mpp=0.5, patch_size_px=256)))
            if number:  # the first one compiles and warms up
                times = time.process_time() - cpu, time.perf_counter() - wall
                seconds[direct].append(times)
    finally:
        shutil.rmtree(folder)
    for direct, times in seconds.items():
        cpu, wall = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{'O_DIRECT' if direct else 'page cache':>10}: CPU {cpu:.3f} s, wall {wall:.2f} s")


if __name__ == "__main__":
    main()

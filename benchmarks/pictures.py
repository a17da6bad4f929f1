"""CPU seconds of the pictures of one slide: overlay PNGs and figure, slide and map at hand.

::

    python benchmarks/pictures.py RUN --repeats 5 --out benchmarks/results/pictures.json

RUN is the output folder of a ``scaat run``, with its manifest's slides named by ``--slides
ID=PATH``. Seconds are of the process (all threads), the first repeat left out: it loads fonts,
colour tables and compiled kernels, once for a whole cohort.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from pathology_scaat.export import ExportConfig, export_slide


def measured(run: Path, slide_id: str, slide: Path, kind: str, repeats: int) -> float:
    """Median CPU seconds of one format of one slide."""
    seconds = []
    for _ in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            tissue = run / "tissue" / f"{slide_id}.png"
            before = time.process_time()
            export_slide(
                run / "maps" / f"{slide_id}.ome.zarr", run / "saliency" / f"{slide_id}.zarr",
                Path(folder), ExportConfig(formats=tuple(kind.split("+"))), slide_path=slide,
                tissue_path=tissue if tissue.exists() else None,
            )  # fmt: skip
            seconds.append(time.process_time() - before)
    return round(float(np.median(seconds[1:])), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--slides", nargs="+", required=True, metavar="ID=PATH")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--label", default="now")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = {}
    for text in given.slides:
        slide_id, _, path = text.partition("=")
        rows[slide_id] = {
            kind: measured(given.run, slide_id, Path(path), kind, given.repeats)
            for kind in ("png", "figure", "png+figure")
        }
        print(slide_id, rows[slide_id], flush=True)
    if given.out:
        value = json.loads(given.out.read_text()) if given.out.is_file() else {}
        value[given.label] = {"cpu_seconds": rows, "machine": platform.machine()}
        given.out.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Explaining in one process and in two, in turn: how much faster, and whether they fight.

    python benchmarks/explain_processes.py --slide SLIDE.svs --out FILE

Copies of a slide are tiled once; then ``scaat explain`` does them with ``--workers 1`` and
``--workers 2``, several times in turn. Processes that fight for cores (spinning threads, more
threads than cores) show in the CPU time of a patch, also on a busy machine; the ratio of wall
times speaks of two free cores only. Each run pays for the start of its processes (importing
PyTorch), which is told apart by a run over slides that are explained already.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from everyday import rounded, write_model, write_slides
from precision import machine


def cpu_s() -> float:
    return sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from pathology_scaat.execution.engine import EngineConfig
    from pathology_scaat.patches import TileConfig
    from pathology_scaat.pipeline.explain import explain
    from pathology_scaat.pipeline.tile import tile
    from pathology_scaat.saliency import SaliencyStore

    (folder / "slides").mkdir()
    write_slides(folder / "slides", given.slides, 1, given.slide)
    model, out = write_model(folder / "model", given.network), folder / "out"
    config = TileConfig(mpp=0.5, patch_size_px=256, overlap="0.5")
    tile(folder / "slides", out, config=config, engine=EngineConfig(workers=1))

    def once(workers: int, overwrite: bool) -> dict[str, float]:
        begin, before = time.perf_counter(), cpu_s()
        report = explain(
            out, model=model, device="cpu", engine=EngineConfig(workers=workers),
            overwrite=overwrite,
        )  # fmt: skip
        assert not report.failed, report.failed
        return {"wall_s": time.perf_counter() - begin, "cpu_s": cpu_s() - before}

    runs: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
    for _ in range(given.repeats):
        for workers in (1, 2):
            runs[str(workers)].append(once(workers, overwrite=True))
    start = {str(workers): once(workers, overwrite=False) for workers in (1, 2)}
    n = sum(len(SaliencyStore(path)) for path in (out / "saliency").glob("*.zarr"))

    def least(workers: str, what: str) -> float:
        return min(run[what] for run in runs[workers]) - start[workers][what]

    return {
        "patches": n,
        "runs": runs,
        "nothing to do": start,
        "cpu_ms_per_patch": {w: 1000 * least(w, "cpu_s") / n for w in runs},
        "cpu_of_two_by_one": least("2", "cpu_s") / least("1", "cpu_s"),
        "wall_of_one_by_two": least("1", "wall_s") / least("2", "wall_s"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--network", default="scaat-small")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCAAT_CACHE_DIR"] = f"{folder}/cache"
        result = {"machine": machine(), **rounded(measure(given, Path(folder)))}
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

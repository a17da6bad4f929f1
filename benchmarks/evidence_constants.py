r"""Whether the constants of the evidence map hold for maps by class activation as well.

They were chosen on maps by the gradient (``evidence_map.py``); most networks are explained by
``fused-cam`` now. No model is trained: the maps of ``explained_slide.py`` are read from its
folders. The primary measure is pixel average precision against the constants as shipped, by seed
(mean of halves or of slides), corrected over the pairs of constants that were tried.

::

    python benchmarks/evidence_constants.py --slide D1 --demo D2 \
        --out benchmarks/results/evidence-constants.json

``D1`` and ``D2`` are scratch folders of ``explained_slide.py``, without and with its ``--demo``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from evidence_map import CANDIDATES, scores, share, stitched

from pathology_scaat.annotations import read_annotations
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.evaluation.ground_truth import polygon_mask
from pathology_scaat.metrics.functional.statistics import holm
from pathology_scaat.saliency import SaliencyStore
from pathology_scaat.stitching import SlideMap

METHOD = "fused-cam"
SHIPPED = "shipped"
PAIRS = (*((f, g) for f in (0, 0.1) for g in (0.75, 1.0, 1.5)), (0.25, 1.0), (0.25, 1.5))
"""Floor and power; those shipped are .25 and .75."""

TRIED = {f"floor {f:g}, power {g:g}": share(1, f, g) for f, g in PAIRS}
NAMES = (SHIPPED, *TRIED, "probability")
Row = dict[str, Any]


def on_the_slide(scratch: Path) -> list[Row]:
    """Each half and seed of the annotated scan: its measures by constants."""
    rows = []
    for folder in sorted(scratch.glob("fold-*-seed-*")):
        _, fold, _, seed = folder.name.split("-")
        slide_map = SlideMap(Workspace(folder / "out").map("granular"))
        held = read_annotations(folder / "test.geojson")
        tumour, normal = (
            polygon_mask([p for p in held if p.class_name == name], slide_map)
            for name in ("Tumor", "Normal")
        )
        store = folder / f"{METHOD}.zarr"
        found = {name: scores(stitched(store, name, folder), tumour, normal) for name in NAMES}
        rows.append({"seed": int(seed), "part": f"half {fold}", "maps": found})
        print(folder.name, flush=True)
    return rows


def on_the_demo(scratch: Path) -> list[Row]:
    """Each test slide of each demo that has planted tumour."""
    rows = []
    for folder in sorted(scratch.glob("demo-*")):
        space = Workspace(folder / "results")
        for row in StatusTable(folder / "results").rows():
            truth = folder / "slides" / "truth" / f"{row['slide_id']}.geojson"
            if row["split"] != "test" or not truth.is_file():
                continue
            store = space.saliency(row["slide_id"])
            if SaliencyStore(store).meta.method != METHOD:
                raise SystemExit(f"{store} holds maps by another method than {METHOD}")
            slide_map = SlideMap(space.map(row["slide_id"]))
            tumour = polygon_mask(
                [p for p in read_annotations(truth) if p.class_name == "Tumor"], slide_map
            )
            if tumour.any():
                found = {n: scores(stitched(store, n, folder), tumour, ~tumour) for n in NAMES}
                seed = int(folder.name.split("-")[1])
                rows.append({"seed": seed, "part": row["slide_id"], "maps": found})
        print(folder.name, flush=True)
    return rows


def against_shipped(rows: list[Row]) -> dict[str, Any]:
    """Means, and each pair's gain over the constants as shipped: by seed, Student's interval."""
    from scipy import stats

    seeds = sorted({row["seed"] for row in rows})

    def by_seed(name: str, measure: str) -> np.ndarray:
        return np.array(
            [np.mean([r["maps"][name][measure] for r in rows if r["seed"] == s]) for s in seeds]
        )

    measures = ("pixel_ap", "covered_at_3_percent")
    result: dict[str, Any] = {
        name: {m: round(float(by_seed(name, m).mean()), 4) for m in measures} for name in NAMES
    }
    gains = {name: by_seed(name, "pixel_ap") - by_seed(SHIPPED, "pixel_ap") for name in TRIED}
    corrected = holm([float(stats.ttest_1samp(g, 0.0).pvalue) for g in gains.values()])
    for (name, gain), p in zip(gains.items(), corrected, strict=True):
        half = float(stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(gain))
        mean = float(gain.mean())
        result[name] |= {
            "gain": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4),
            "p_holm": float(f"{p:.2g}"), "by_seed": [round(float(g), 4) for g in gain],
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    CANDIDATES.update(TRIED)
    parts = {"granular": on_the_slide(given.slide), "demo": on_the_demo(given.demo)}
    report: dict[str, dict[str, Any]] = {
        name: {"summary": against_shipped(rows), "each": rows} for name, rows in parts.items()
    }
    given.out.write_text(json.dumps({"method": METHOD, **report}, indent=1) + "\n")
    for name, part in report.items():
        for constants, row in part["summary"].items():
            print(f"{name:9s}{constants:24s}", row)


if __name__ == "__main__":
    main()

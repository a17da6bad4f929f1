"""``scaat demo``: the whole job on a synthetic cohort whose answer is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.atomic import write_json
from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.demo import DemoCohort, make_demo_cohort
from pathology_scaat.evaluation.ground_truth import MapScore, PatchScore, patch_score
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.demo_scores import (
    TRUTH_CLASS,
    score_maps,
    score_rows,
    scores_as_json,
)
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.pipeline.run import RunReport, run
from pathology_scaat.system.rounding import decimals

N_SLIDES = 6

DEMO_SETTINGS = {
    "tile": {
        "mpp": 1.0,
        "patch_size_px": 128,
        "overlap": "0.5",
        "class_names": ["Normal", "Tumor"],
    },
    "train": {"epochs": 8, "patience": 4, "positive_class": TRUTH_CLASS},
    "explain": {"target": TRUTH_CLASS},
}
"""Half the usual resolution, so that two cores do the whole job in minutes."""


@dataclass(frozen=True)
class DemoReport:
    """The run, and how it did where the truth is known (held-out patients)."""

    cohort: DemoCohort
    run: RunReport
    held_out: PatchScore
    maps: tuple[MapScore, ...]

    def tables(self) -> list[tuple[str, list[list[str]]]]:
        """Title and rows (the first is the head) of the closing tables."""
        status = StatusTable(self.run.out).rows()
        stages = ("tile", "explain", "stitch", "export")
        slides = [["slide", "split", "patches", *stages]]
        slides += [
            [r["slide_id"], r["split"], r["n_patches"], *(r[stage] for stage in stages)]
            for r in status
        ]
        patch_rows = [
            [
                "labelled patches of unseen patients",
                "of them tumour",
                "slides",
                "AUC (no interval)",
            ],
            [
                str(self.held_out.n_patches),
                str(self.held_out.n_positive),
                str(self.held_out.n_slides),
                decimals(self.held_out.auc) if self.held_out.n_patches else "not measured",
            ],
        ]
        files = [
            ["what", "where"],
            [
                "drag onto the open slide in QuPath",
                f"{self.run.out / 'overlays'}/<slide>.geojson.gz",
            ],
            ["the slides", str(self.cohort.manifest_path.parent)],
            ["pictures", f"{self.run.out / 'overlays'}/<slide>.png"],
            ["the model", str(self.run.out / "model")],
        ]
        return [
            ("Slides", slides),
            ("Held-out patches", patch_rows),
            (
                "Pixel average precision on the planted tumour, held-out slides",
                score_rows(self.maps),
            ),
            ("Files", files),
        ]


def demo(
    out: Path,
    *,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> DemoReport:
    """Make the cohort, run every stage on it, and score the result on unseen patients.

    Parameters
    ----------
    out : Path
        Folder to make; the slides go to ``out/slides``, the results to ``out/results``.
    workers : int, optional
        Local worker processes.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    seed : int
        Seed of the cohort and of the training.
    overwrite : bool
        Make everything anew.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    DemoReport
        The run's report, held-out patch AUC and map scores; also in ``results/demo.json``.
    """
    listener = reporter or Silent()
    claim_output(out, folders=("slides", "results"))
    listener.begin("slides", N_SLIDES)
    cohort = make_demo_cohort(
        out / "slides",
        seed=seed,
        n_slides=N_SLIDES,
        progress=lambda done, total, slide_id: listener.update("slides", done, slide_id),
    )
    listener.end("slides")
    config = load_run_config(
        None,
        {
            **DEMO_SETTINGS,
            "manifest": cohort.manifest_path,
            "out": out / "results",
            "seed": seed,
            "device": device,
            "engine": {"workers": workers},
        },
    )
    report = run(config, overwrite=overwrite, reporter=listener)
    held_out = [
        s for s in cohort.slides if s.split == "test" and s.slide_id in set(report.completed)
    ]
    result = DemoReport(
        cohort=cohort,
        run=report,
        held_out=patch_score(report.out, [s.slide_id for s in held_out]),
        maps=score_maps(report.out, held_out),
    )
    write_json(
        report.out / "demo.json",
        {
            "painted": True,
            "held_out_auc": result.held_out.auc if math.isfinite(result.held_out.auc) else None,
            "held_out_patches": result.held_out.n_patches,
            "maps": scores_as_json(result.maps),
        },
    )
    return result

"""``scaat demo --labels slide``: one diagnosis per slide, no annotation, and a known answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.atomic import write_json
from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.demo.cohort import DemoCohort
from pathology_scaat.demo.slide_labels import N_LABELLED_SLIDES, make_labelled_cohort
from pathology_scaat.evaluation.ground_truth import MapScore
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.demo_scores import (
    TRUTH_CLASS,
    mean_precision,
    score_maps,
    score_rows,
    scores_as_json,
)
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.pipeline.run import RunReport, run
from pathology_scaat.system.rounding import decimals

LABELLED_SETTINGS: dict[str, Any] = {
    "tile": {
        "mpp": 1.0,
        "patch_size_px": 64,
        "overlap": "0.5",
        "class_names": ["Normal", "Tumor"],
    },
    "train": {
        "labels": "slide",
        "epochs": 14,
        "patience": 14,
        "learning_rate": 3e-3,
        "bag": {"patches_per_bag": 12, "draws_per_epoch": 12},
        "positive_class": TRUTH_CLASS,
    },
    "explain": {"target": TRUTH_CLASS},
}
"""Half the usual resolution and small patches, so that two cores do the whole job in minutes."""


@dataclass(frozen=True)
class LabelledDemoReport:
    """The run, and its maps against the planted tumour of the positive test slides."""

    cohort: DemoCohort
    run: RunReport
    maps: tuple[MapScore, ...]

    def tables(self) -> list[tuple[str, list[list[str]]]]:
        """Title and rows (the first is the head) of the closing tables."""
        tables = []
        found = self.run.predicted.performance if self.run.predicted else None
        if found is not None:
            rows = [["measure", "test patients (95 % interval)"]]
            rows += [[name, e.text()] for name, e in found.patient.estimates.items()]
            tables.append(("Slides told apart that the model never saw", rows))
        if self.maps:
            rows = score_rows(self.maps)
            rows.append(
                ["mean", *(decimals(value) for value in mean_precision(self.maps).values())]
            )
            tables.append(
                ("Pixel average precision on the planted tumour, positive test slides", rows)
            )
        files = [
            ["what", "where"],
            ["predictions", str(self.run.out / "predictions.csv")],
            ["performance", str(self.run.out / "performance.md")],
            [
                "drag onto the open slide in QuPath",
                f"{self.run.out / 'overlays'}/<slide>.geojson.gz",
            ],
            ["the slides and their labels", str(self.cohort.manifest_path)],
        ]
        return [*tables, ("Files", files)]


def labelled_demo(
    out: Path,
    *,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> LabelledDemoReport:
    """Make the cohort, run every stage on it, and score maps on unseen patients.

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
    """
    listener = reporter or Silent()
    claim_output(out, folders=("slides", "results"))
    listener.begin("slides", sum(N_LABELLED_SLIDES.values()))
    cohort = make_labelled_cohort(
        out / "slides",
        seed=seed,
        workers=workers,
        progress=lambda done, total, slide_id: listener.update("slides", done, slide_id),
    )
    listener.end("slides")
    config = load_run_config(
        None,
        {
            **LABELLED_SETTINGS,
            "manifest": cohort.manifest_path,
            "out": out / "results",
            "seed": seed,
            "device": device,
            "engine": {"workers": workers},
        },
    )
    report = run(config, overwrite=overwrite, reporter=listener)
    done = set(report.completed)
    held_out = [
        s
        for s in cohort.slides
        if s.split == "test" and s.slide_id in done and s.truth_path.stat().st_size
    ]
    scored = score_maps(report.out, held_out)
    result = LabelledDemoReport(
        cohort, report, tuple(s for s in scored if s.saliency.n_positive_px > 0)
    )
    performance = report.predicted.performance if report.predicted else None
    write_json(
        report.out / "demo.json",
        {
            "labels": "slide",
            "painted": True,
            "held_out_slide_auc": performance.slide.estimates["auroc"].value
            if performance
            else None,
            "mean_pixel_ap": mean_precision(result.maps) if result.maps else None,
            "maps": scores_as_json(result.maps),
        },
    )
    return result

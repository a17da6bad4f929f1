r"""What is learnt from labels of slides: slides told apart, and maps against the planted tumour.

The cohort of ``scaat demo --labels slide`` (seed 0) is made and tiled once. Each arm is trained
with each seed on its training slides and judged on its test patients:

``bag-scaat``        labels of slides, bags; half plain, half SCAAT (what ``--labels slide`` does)
``bag-plain``        labels of slides, bags; plain throughout
``copy-scaat``       labels of slides copied onto every patch (``--labels copy``); SCAAT
``annotated-scaat``  regions that a pathologist would draw, as in ``scaat demo``; SCAAT

All arms look at the same number of patches in training; the CPU time of each is kept. The demo
trains 14 epochs; here it is 6 (``--epochs``), so that five seeds of all arms fit into an hour
of one core. Seeds are
crossed with patients in all intervals (``metrics/functional/statistics.py``). Maps are scored on
the test slides that hold tumour, the planted nests being the truth.

``--cohort sparse`` makes the same cohort with tumour in 3 to 10 % of a positive slide's tissue
instead of 30 to 60 %, so that a copied label is wrong for nearly every patch of a positive slide.
Its scratch folder and file of results are to be others.

Results are written after each run and runs that are there already are left out, so that the
benchmark can be stopped and goes on. ``--table`` prints what the file says.

::

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/slide_labels.py --scratch D \
        --out benchmarks/results/slide-labels.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import Manifest, read_manifest
from pathology_scaat.demo.cohort import DemoCohort, DemoSlide
from pathology_scaat.demo.slide_labels import TUMOR_SHARES, make_labelled_cohort
from pathology_scaat.evaluation.ground_truth import map_score
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.metrics.functional.statistics import Interval, clustered_auc, clustered_mean
from pathology_scaat.patches import PatchStore, TileConfig
from pathology_scaat.pipeline.demo_labels import LABELLED_SETTINGS, TRUTH_CLASS
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.predict import predict
from pathology_scaat.pipeline.stitch import stitch
from pathology_scaat.pipeline.tile import tile
from pathology_scaat.pipeline.train import train
from pathology_scaat.saliency import ExplainConfig
from pathology_scaat.training import TrainConfig

ARMS: dict[str, tuple[str, str]] = {
    "bag-scaat": ("slide", "scaat"),
    "bag-plain": ("slide", "plain"),
    "copy-scaat": ("copy", "scaat"),
    "annotated-scaat": ("patch", "scaat"),
}
"""What each arm learns from, and by which method."""
COHORTS = {"demo": TUMOR_SHARES, "sparse": (0.03, 0.1)}
"""Share of a positive slide's tissue that tumour grows in; about half of it are nests."""
SEEDS = (0, 1, 2, 3, 4)
MAPS = ("evidence", "saliency", "probability")
GOAL_AUC, GOAL_TO_COPY, GOAL_TO_ANNOTATED, GOAL_LOSS = 0.95, 2.0, 0.65, 0.01
ONE_PROCESS = EngineConfig(workers=1)


def the_cohort(folder: Path, kind: str) -> DemoCohort:
    """A cohort, made once; an earlier call's is taken as it is."""
    if not (folder / "cohort.csv").is_file():
        return make_labelled_cohort(folder, seed=0, workers=1, tumor_shares=COHORTS[kind])
    rows = read_manifest(folder / "cohort.csv").rows
    slides = tuple(
        DemoSlide(
            row.slide_id, row.patient_id, row.split or "", 0.0, Path(str(row.slide_path)),
            folder / "annotations" / f"{row.slide_id}.geojson",
            folder / "truth" / f"{row.slide_id}.geojson",
        )
        for row in rows
    )  # fmt: skip
    return DemoCohort(folder / "cohort.csv", slides)


def cohort_for(labels: str, cohort: DemoCohort) -> Manifest:
    """The manifest that an arm is told of: only the annotated one sees annotations."""
    manifest = read_manifest(cohort.manifest_path)
    if labels != "patch":
        return manifest
    drawn = {s.slide_id: s.annotation_path for s in cohort.slides}
    return replace(
        manifest,
        rows=tuple(replace(r, annotation_path=drawn[r.slide_id]) for r in manifest.rows),
    )


def settings_for(labels: str, method: str, n_train: int, epochs: int) -> TrainConfig:
    """The demo's settings; where patches are learnt from, as many of them an epoch."""
    changed = {"labels": labels, "method": method, "epochs": epochs, "patience": epochs}
    settings = TrainConfig(**{**LABELLED_SETTINGS["train"], **changed})
    bag = settings.bag
    seen = n_train * bag.draws_per_epoch * bag.patches_per_bag
    return settings.model_copy(update={"max_steps_per_epoch": seen // settings.batch_size}
                               if labels != "slide" else {})  # fmt: skip


def run_arm(arm: str, seed: int, cohort: DemoCohort, scratch: Path, epochs: int) -> dict[str, Any]:
    """Train one arm with one seed, predict all test slides, explain those with tumour."""
    labels, method = ARMS[arm]
    out = scratch / labels
    manifest = cohort_for(labels, cohort)
    tile(
        manifest, out, config=TileConfig(**LABELLED_SETTINGS["tile"]), labels=labels,
        engine=ONE_PROCESS,
    )  # fmt: skip
    n_train = sum(s.split == "train" for s in cohort.slides)
    settings = settings_for(labels, method, n_train, epochs)
    begin = process_time()
    trained = train(manifest, out, config=settings, device="cpu", seed=seed, overwrite=True)
    seconds = process_time() - begin
    test = [s for s in cohort.slides if s.split == "test"]
    truth = {row.slide_id: row.label == TRUTH_CLASS for row in manifest.rows}
    positive = [s for s in test if truth[s.slide_id]]
    begin = process_time()
    ids = [s.slide_id for s in positive]
    explain(
        out, config=ExplainConfig(method="gradient", target=TRUTH_CLASS), device="cpu",
        engine=ONE_PROCESS, slide_ids=ids, overwrite=True,
    )  # fmt: skip
    explaining = process_time() - begin
    stitch(out, engine=ONE_PROCESS, slide_ids=ids, overwrite=True)
    maps = {}
    for s in positive:
        score = map_score(out, s.slide_id, s.truth_path, TRUTH_CLASS, s.slide_path)
        maps[s.slide_id] = {
            **{name: round(getattr(score, name).pixel_ap, 5) for name in MAPS},
            "nuclear_stain": round(score.nuclear_stain.pixel_ap, 5),
            "chance": round(score.saliency.chance, 5),
        }
    judged = tuple(r for r in manifest.rows if r.split != "train")
    found = predict(out, manifest=replace(manifest, rows=judged), device="cpu")
    at = list(trained_classes(out)).index(TRUTH_CLASS)
    said = {p.slide_id: float(p.probability[at]) for p in found.predictions}
    kept = scratch / "models" / f"{arm}-{seed}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(Workspace(out).model, kept)
    n_patches = sum(len(PatchStore(Workspace(out).patches(i))) for i in ids)
    return {
        "arm": arm,
        "seed": seed,
        "epochs": epochs,
        "chosen_epoch": trained.best_epoch,
        "train_cpu_s": round(seconds, 1),
        "explain_ms_a_patch": round(1000 * explaining / n_patches, 2),
        "probability": {s.slide_id: round(said[s.slide_id], 6) for s in test},
        "maps": maps,
    }


def trained_classes(out: Path) -> tuple[str, ...]:
    """The classes of a folder's model, in the order of its probabilities."""
    from pathology_scaat.training.bundle import read_bundle_config

    return read_bundle_config(Workspace(out).model).class_names


# -- what the runs say together
def _scores(runs: Sequence[dict[str, Any]], arm: str) -> dict[int, dict[str, Any]]:
    return {r["seed"]: r for r in runs if r["arm"] == arm}


def _shared(runs: Sequence[dict[str, Any]], *arms: str) -> list[int]:
    return sorted(set.intersection(*(set(_scores(runs, arm)) for arm in arms)))


def _precision(runs: Sequence[dict[str, Any]], arm: str, seeds: Sequence[int], name: str):
    mine = _scores(runs, arm)
    return np.array([[m[name] for m in mine[s]["maps"].values()] for s in seeds])


def summary(runs: Sequence[dict[str, Any]], truth: dict[str, bool]) -> dict[str, Any]:
    """Means over seeds, intervals over seeds and patients, and whether each goal is met."""
    result: dict[str, Any] = {"arms": {}, "contrasts": {}}
    slides = list(truth)
    positive = np.array([truth[s] for s in slides])

    def probabilities(arm: str, seeds: Sequence[int]) -> np.ndarray:
        return np.array([[_scores(runs, arm)[s]["probability"][i] for i in slides] for s in seeds])

    def as_json(interval: Interval, **more: Any) -> dict[str, Any]:
        parts = {k: round(v, 4) if isinstance(v, float) else v
                 for k, v in interval.as_dict().items()}  # fmt: skip
        return {**parts, **more}

    for arm in ARMS:
        seeds = _shared(runs, arm)
        if not seeds:
            continue
        scores = probabilities(arm, seeds)
        by_seed = [clustered_auc(row, positive, slides).value for row in scores]
        row = {"auroc": as_json(clustered_auc(scores, positive, slides),
                             by_seed=[round(v, 4) for v in by_seed])}  # fmt: skip
        for name in (*MAPS, "nuclear_stain", "chance"):
            table = _precision(runs, arm, seeds, name)
            row[name] = as_json(
                clustered_mean(table, np.arange(table.shape[1])),
                by_seed=[round(float(v), 4) for v in table.mean(axis=1)],
            )
        mine = list(_scores(runs, arm).values())
        row["train_cpu_s"] = round(float(np.mean([r["train_cpu_s"] for r in mine])), 1)
        row["explain_ms_a_patch"] = round(
            float(np.mean([r["explain_ms_a_patch"] for r in mine])), 2
        )
        result["arms"][arm] = row

    def contrast(
        name: str, arm: str, other: str, factor: float, goal: str, maps: Sequence[str] = MAPS[:2]
    ) -> None:
        """Whether one arm's maps are ``factor`` times another's: mean of A - factor * B."""
        seeds = _shared(runs, arm, other)
        for which in maps if seeds else ():
            a, b = (_precision(runs, one, seeds, which) for one in (arm, other))
            ratios = a.mean(axis=1) / b.mean(axis=1)
            result["contrasts"][f"{name}: {which}"] = as_json(
                clustered_mean(a - factor * b, np.arange(a.shape[1])),
                ratio=round(float(a.mean() / b.mean()), 3),
                ratio_by_seed=[round(float(r), 3) for r in ratios],
                seeds_at_goal=int((ratios >= factor).sum()),
                goal=goal,
            )

    contrast("bag-scaat against copying", "bag-scaat", "copy-scaat", GOAL_TO_COPY,
             "at least 2 times: the interval of A - 2 B lies above 0")  # fmt: skip
    contrast("bag-scaat minus copying", "bag-scaat", "copy-scaat", 1.0,
             "the interval of A - B lies above 0", MAPS)  # fmt: skip
    contrast("bag-plain against copying", "bag-plain", "copy-scaat", GOAL_TO_COPY,
             "at least 2 times")  # fmt: skip
    contrast("bag-scaat against annotated", "bag-scaat", "annotated-scaat", GOAL_TO_ANNOTATED,
             "at least .65 times: the interval of A - .65 B lies above 0")  # fmt: skip
    contrast("bag-scaat against bag-plain", "bag-scaat", "bag-plain", 1.0,
             "the interval of A - B lies above 0")  # fmt: skip
    for other in ("bag-plain", "copy-scaat"):
        seeds = _shared(runs, "bag-scaat", other)
        if seeds:
            a, b = probabilities("bag-scaat", seeds), probabilities(other, seeds)
            result["contrasts"][f"AUROC, bag-scaat - {other}"] = as_json(
                clustered_auc(a, positive, slides, minus=b),
                goal="loses at most .01: the interval lies above -.01",
            )
    return result


def table(found: dict[str, Any]) -> str:
    """The summary as Markdown."""

    def text(value: dict[str, Any]) -> str:
        if value["low"] is None:
            return f"{value['value']:.3f}"
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

    heads = ("auroc", *MAPS, "nuclear_stain", "chance")
    lines = [
        "| arm | " + " | ".join(heads) + " | training, CPU s | explaining, ms a patch |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for arm, row in found["arms"].items():
        cells = " | ".join(text(row[h]) for h in heads)
        lines.append(f"| {arm} | {cells} | {row['train_cpu_s']} | {row['explain_ms_a_patch']} |")
    lines += ["", "| contrast | value (95 %) | ratio | by seed |", "|---|---|---|---|"]
    for name, value in found["contrasts"].items():
        lines.append(
            f"| {name} | {text(value)} | {value.get('ratio', '')} | "
            f"{', '.join(map(str, value.get('ratio_by_seed', [])))} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/slide-labels.json"))
    parser.add_argument("--cohort", choices=list(COHORTS), default="demo")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--table", action="store_true", help="print the file, run nothing")
    given = parser.parse_args()
    report: dict[str, Any] = {"runs": []}
    if given.out.is_file():
        report = json.loads(given.out.read_text())
        if report["cohort"].get("kind", "demo") != given.cohort:
            parser.error(f"{given.out} is of another cohort: give another --out")
    if not given.table:
        torch.set_num_threads(1)
        given.scratch.mkdir(parents=True, exist_ok=True)
        cohort = the_cohort(given.scratch / "slides", given.cohort)
        for seed in given.seeds:
            for arm in given.arms:
                done = {(row["arm"], row["seed"]) for row in report["runs"]}
                if (arm, seed) in done:
                    continue
                report["runs"].append(run_arm(arm, seed, cohort, given.scratch, given.epochs))
                rows = read_manifest(cohort.manifest_path).rows
                truth = {r.slide_id: r.label == TRUTH_CLASS for r in rows if r.split == "test"}
                report |= {
                    "cohort": {
                        "kind": given.cohort,
                        "tumor_shares": COHORTS[given.cohort],
                        "seed": 0,
                        "test_slides": truth,
                    },
                    "processor": platform.processor() or platform.machine(),
                    "torch": torch.__version__,
                    "summary": summary(report["runs"], truth),
                }
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(report, indent=1) + "\n")
                last = report["runs"][-1]
                print(arm, seed, last["train_cpu_s"], flush=True)
    print(table(summary(report["runs"], report["cohort"]["test_slides"])))


if __name__ == "__main__":
    main()

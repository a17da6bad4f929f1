r"""Do verdicts make the next model better? A simulated reader, two rounds of thirty verdicts.

Slides of ``scaat demo --labels slide`` (``demo/slide_labels.py``): four training and two
validation slides are annotated, as in ``scaat demo``; of a pool of 28 nothing is known; the ten
test slides are of other patients, are never reviewed, and serve for measuring alone. A
round is

1. explain the pool, cut regions from the maps (``scaat export``);
2. judge thirty of them as the page offers them: slides in the order of the cohort table sorted by
   uncertainty, on each up to ``PER_SLIDE`` regions, the most uncertain first; places that were
   judged before come last;
3. the answer is the planted truth's: yes where at least two thirds of the region's tissue lies in
   what a pathologist would outline as tumour, no where at most one third does, else unsure;
4. ``scaat import-review`` makes labels, which become ``annotation_path`` of the pool's slides (in
   training), and a model is trained anew with the same seed.

``regions`` judges regions alone. ``slides`` says of each slide first whether there is any tumour on
it (keys 1 and 2; one of the thirty verdicts), and then judges its regions. Verdicts are written
by the table that the server writes. All models look at the same number of patches in training, so
that more labels do not mean longer training. Where the maps offer fewer regions than thirty, fewer
are judged; how many is in the results.

Measured on the test slides after each round: AUC of patches that the annotations label, and mean
pixel average precision of the evidence and of the probability on the planted nests of the slides
that hold tumour. Intervals are over seeds crossed with slides.

Results are written after each run, and runs that are there are left out.

::

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/review_loop.py --scratch D \
        --out benchmarks/results/review-loop.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import shapely
import torch

from pathology_scaat.annotations import read_annotations
from pathology_scaat.cohort.manifest import Manifest, read_manifest
from pathology_scaat.demo.cohort import DemoCohort, DemoSlide
from pathology_scaat.demo.slide_labels import make_labelled_cohort
from pathology_scaat.evaluation.ground_truth import map_score, patch_score
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.export import ExportConfig
from pathology_scaat.metrics.functional.statistics import clustered_mean
from pathology_scaat.patches import TileConfig
from pathology_scaat.pipeline.demo_labels import LABELLED_SETTINGS, TRUTH_CLASS
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.export import export
from pathology_scaat.pipeline.predict import predict
from pathology_scaat.pipeline.review import import_review
from pathology_scaat.pipeline.stitch import stitch
from pathology_scaat.pipeline.tile import tile
from pathology_scaat.pipeline.train import train
from pathology_scaat.review.cohort import cohort_rows, slide_details
from pathology_scaat.review.judged_regions import JudgedRegion, JudgedRegions
from pathology_scaat.review.regions import ReviewRegion, Rings
from pathology_scaat.review.verdicts import WHOLE_SLIDE, Verdict, VerdictTable
from pathology_scaat.saliency import ExplainConfig
from pathology_scaat.training import TrainConfig

COUNTS = {"train": 4, "val": 2, "pool": 28, "test": 10}
"""Every other slide of each holds tumour."""
ROUNDS, VERDICTS, PER_SLIDE = 2, 30, 3
CHOICES = ("regions", "slides")
SEEDS = (0, 1, 2, 3, 4)
EPOCHS, STEPS = 5, 60
"""Of every training: epochs, and steps of each."""
ONE_PROCESS = EngineConfig(workers=1)
CHECKS = ("patch_auc", "evidence", "probability")


def the_cohort(folder: Path, seed: int) -> DemoCohort:
    """The slides, made once a seed; an earlier call's are taken as they are."""
    if not (folder / "cohort.csv").is_file():
        return make_labelled_cohort(folder, seed=seed, counts=COUNTS, workers=1)
    rows = read_manifest(_readable(folder / "cohort.csv")).rows
    slides = tuple(
        DemoSlide(
            row.slide_id, row.patient_id, row.split or "", 0.0, Path(str(row.slide_path)),
            folder / "annotations" / f"{row.slide_id}.geojson",
            folder / "truth" / f"{row.slide_id}.geojson",
        )
        for row in rows
    )  # fmt: skip
    return DemoCohort(folder / "cohort.csv", slides)


def parts(cohort: DemoCohort) -> dict[str, list[DemoSlide]]:
    """Slides of each part, by the order in which they were made."""
    found, start = {}, 0
    for name, count in COUNTS.items():
        found[name] = list(cohort.slides[start : start + count])
        start += count
    return found


def manifest_of(cohort: DemoCohort, labels: dict[str, Path]) -> Manifest:
    """The cohort as the engineer knows it: annotated but for the pool, which has its labels."""
    annotated = {
        s.slide_id: s.annotation_path
        for part, slides in parts(cohort).items()
        if part != "pool"
        for s in slides
    } | labels
    split = {s.slide_id: "train" if part == "pool" else part
             for part, slides in parts(cohort).items() for s in slides}  # fmt: skip
    manifest = read_manifest(_readable(cohort.manifest_path))
    rows = tuple(
        replace(r, annotation_path=annotated.get(r.slide_id), label=None, split=split[r.slide_id])
        for r in manifest.rows
    )
    return replace(manifest, rows=rows)


def _readable(made: Path) -> Path:
    """The cohort's table with splits that manifests know: the pool is no split of its own."""
    path = made.with_name("readable.csv")
    path.write_text(made.read_text().replace(",pool", ",train"))
    return path


def settings() -> TrainConfig:
    """The demo's network and rate on patches; as many steps whatever the labels."""
    changed = {"labels": "patch", "method": "scaat", "epochs": EPOCHS, "patience": EPOCHS}
    made = TrainConfig(**{**LABELLED_SETTINGS["train"], **changed})
    return made.model_copy(update={"max_steps_per_epoch": STEPS})


def train_and_map(cohort: DemoCohort, out: Path, labels: dict[str, Path], seed: int) -> None:
    """Tile with the labels there are, train, and make maps and regions of pool and test."""
    manifest = manifest_of(cohort, labels)
    tile(manifest, out, config=TileConfig(**LABELLED_SETTINGS["tile"]), engine=ONE_PROCESS)
    train(manifest, out, config=settings(), device="cpu", seed=seed, overwrite=True)
    ids = [s.slide_id for part in ("pool", "test") for s in parts(cohort)[part]]
    explain(out, config=ExplainConfig(target=TRUTH_CLASS), device="cpu", engine=ONE_PROCESS,
            slide_ids=ids, overwrite=True)  # fmt: skip
    stitch(out, engine=ONE_PROCESS, slide_ids=ids, overwrite=True)
    export(out, config=ExportConfig(formats=("geojson",)), engine=ONE_PROCESS, slide_ids=ids,
           overwrite=True)  # fmt: skip
    predict(out, manifest=manifest, device="cpu")


def measured(cohort: DemoCohort, out: Path) -> dict[str, Any]:
    """Quality on the test slides, which no reader saw."""
    test = parts(cohort)["test"]
    maps = {}
    for slide in test[1::2]:  # those with tumour
        score = map_score(out, slide.slide_id, slide.truth_path, TRUTH_CLASS, slide.slide_path)
        maps[slide.slide_id] = {
            name: round(getattr(score, name).pixel_ap, 5) for name in CHECKS[1:]
        } | {"chance": round(score.saliency.chance, 5)}
    return {
        "patch_auc": round(patch_score(out, [s.slide_id for s in test]).auc, 5),
        "maps": maps,
    }


def outline(rings: Rings) -> shapely.Geometry:
    """A region's shape."""
    return shapely.make_valid(shapely.Polygon(rings[0], rings[1:]))


def answer_of(region: ReviewRegion, tumour: shapely.Geometry, tissue: shapely.Geometry) -> str:
    """What the planted truth says of a region."""
    shape = outline(region.rings)
    inside = shape.intersection(tissue).area
    if inside <= 0:
        return "no"
    share = shape.intersection(tumour).area / inside
    return "yes" if share >= 2 / 3 else "no" if share <= 1 / 3 else "unsure"


def chosen(out: Path, pool: Sequence[str], how: str) -> list[tuple[str, ReviewRegion | None]]:
    """What is judged in a round: regions, and slides where it is None."""
    judged = {(v.slide_id, v.region_id) for v in VerdictTable(out).rows()}
    seen: dict[str, list[shapely.Geometry]] = {}
    for (slide_id, _), region in JudgedRegions(out).current().items():
        seen.setdefault(slide_id, []).append(outline(region.rings))
    rows = [r for r in cohort_rows(out, VerdictTable(out)) if r["slide_id"] in set(pool)]
    rows.sort(key=lambda r: -(r["uncertainty"] or 0.0))
    offered: list[list[tuple[str, ReviewRegion | None]]] = []
    again: list[tuple[str, ReviewRegion | None]] = []
    for row in rows:
        slide_id = str(row["slide_id"])
        before = shapely.union_all(seen.get(slide_id, []))
        fresh: list[tuple[str, ReviewRegion | None]] = []
        for region in slide_details(out, slide_id, "uncertainty").regions:
            shape = outline(region.rings)
            known = shape.intersection(before).area > shape.area / 2
            (again if known else fresh).append((slide_id, region))
        if how == "slides" and (slide_id, WHOLE_SLIDE) not in judged:
            fresh = [(slide_id, None), *fresh]
        offered.append(fresh)
    most = PER_SLIDE + (how == "slides")
    first = [one for slide in offered for one in slide[:most]]
    rest = [one for slide in offered for one in slide[most:]]
    return (first + rest + again)[:VERDICTS]


def judge(cohort: DemoCohort, out: Path, how: str) -> Counter[str]:
    """One round at the page."""
    pool = {s.slide_id: s for s in parts(cohort)["pool"]}
    answers: Counter[str] = Counter()
    for slide_id, region in chosen(out, list(pool), how):
        drawn = read_annotations(pool[slide_id].annotation_path)
        tumour = shapely.union_all([p.geometry for p in drawn if p.class_name == TRUTH_CLASS])
        if region is None:
            name, answer = WHOLE_SLIDE, "no" if tumour.is_empty else "yes"
        else:
            name = region.region_id
            answer = answer_of(region, tumour, shapely.union_all([p.geometry for p in drawn]))
            JudgedRegions(out).keep(JudgedRegion(slide_id, name, region.name, region.rings))
        VerdictTable(out).append(Verdict("simulated", slide_id, name, TRUTH_CLASS, answer))
        answers[f"slide: {answer}" if region is None else answer] += 1
    return answers


def run_arm(how: str, seed: int, scratch: Path) -> dict[str, Any]:
    """Two rounds of one seed; what was measured before and after each."""
    cohort = the_cohort(scratch / f"slides-{seed}", seed)
    begin = process_time()
    first, out = scratch / f"first-{seed}", scratch / f"out-{how}-{seed}"
    if not (first / "done").exists():  # the model before any verdict is the same for all
        shutil.rmtree(first, ignore_errors=True)
        train_and_map(cohort, first, {}, seed)
        (first / "done").touch()
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(first, out)
    rounds = [{"verdicts": {}, "labels": {}, **measured(cohort, out)}]
    for _ in range(ROUNDS):
        answers = judge(cohort, out, how)
        labels = import_review(out).labels
        train_and_map(cohort, out, dict(labels.files), seed)
        rounds.append({"verdicts": dict(answers), "labels": labels.counts,
                       "contradicted": labels.contradicted, **measured(cohort, out)})  # fmt: skip
    return {"how": how, "seed": seed, "rounds": rounds, "cpu_s": round(process_time() - begin)}


def _value(round_: dict[str, Any], check: str) -> list[float]:
    """One value, or one for each test slide."""
    if check == "patch_auc":
        return [round_[check]]
    return [m[check] for m in round_["maps"].values()]


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means by round and the change over both rounds, with intervals over seeds and slides."""
    found: dict[str, Any] = {}
    for how in CHOICES:
        mine = sorted((r for r in runs if r["how"] == how), key=lambda r: r["seed"])
        if not mine:
            continue
        found[how] = {"seeds": [r["seed"] for r in mine]}
        for check in CHECKS:
            values = np.array([[_value(r, check) for r in run["rounds"]] for run in mine])
            change = values[:, -1] - values[:, 0]
            # slides of a seed are its own: each of them counts once
            estimate = clustered_mean(change.mean(axis=1), np.arange(len(mine)))
            found[how][check] = {
                "by_round": [round(float(v), 4) for v in values.mean(axis=(0, 2))],
                "change": {k: round(v, 4) if isinstance(v, float) else v
                           for k, v in estimate.as_dict().items()},
                "change_by_seed": [round(float(v), 4) for v in change.mean(axis=1)],
            }  # fmt: skip
    return found


def table(found: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = ["| regions | held-out | before | after one round | after two | change (95 %) | rose |",
             "|---" * 7 + "|"]  # fmt: skip
    for how, row in found.items():
        for check in CHECKS:
            value = row[check]
            change = value["change"]
            bounds = (
                "" if change["low"] is None else f" ({change['low']:+.3f} to {change['high']:+.3f})"
            )
            rose = sum(v > 0 for v in value["change_by_seed"])
            cells = " | ".join(f"{v:.3f}" for v in value["by_round"])
            lines.append(f"| {how} | {check} | {cells} | {change['value']:+.3f}{bounds} | "
                         f"{rose} of {len(row['seeds'])} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/review-loop.json"))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    parser.add_argument("--table", action="store_true", help="print the file, run nothing")
    given = parser.parse_args()
    report: dict[str, Any] = {"runs": []}
    if given.out.is_file():
        report = json.loads(given.out.read_text())
    if not given.table:
        torch.set_num_threads(1)
        given.scratch.mkdir(parents=True, exist_ok=True)
        for how in given.choices:
            for seed in given.seeds:
                if any((r["how"], r["seed"]) == (how, seed) for r in report["runs"]):
                    continue
                report["runs"].append(run_arm(how, seed, given.scratch))
                report |= {
                    "counts": COUNTS, "verdicts_a_round": VERDICTS,
                    "processor": platform.processor() or platform.machine(),
                    "torch": torch.__version__, "summary": summary(report["runs"]),
                }  # fmt: skip
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(report, indent=1) + "\n")
                last = report["runs"][-1]
                print(how, seed, last["cpu_s"], [r["patch_auc"] for r in last["rounds"]],
                      [r["verdicts"] for r in last["rounds"]], flush=True)  # fmt: skip
    print(table(summary(report["runs"])))


if __name__ == "__main__":
    main()

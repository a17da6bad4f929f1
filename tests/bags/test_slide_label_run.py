"""A cohort with a label a slide and no annotations, through the real pipeline and command."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from forked_command import run_forked

from pathology_scaat.cohort.manifest import read_manifest
from pathology_scaat.errors import ManifestError
from pathology_scaat.patches import PatchStore, TileConfig
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.label_source import copies_labels, label_notes, label_source
from pathology_scaat.pipeline.predict import predict
from pathology_scaat.pipeline.run import run
from pathology_scaat.pipeline.tile import tile
from pathology_scaat.pipeline.train import train
from pathology_scaat.saliency import SaliencyStore
from pathology_scaat.training import TrainConfig

SMALL = {
    "tile": {"mpp": 0.5, "patch_size_px": 32, "overlap": "0"},
    "train": {
        "epochs": 4, "patience": 4, "learning_rate": 1e-2, "backbone_options": {"widths": (8, 16)},
        "bag": {"patches_per_bag": 16, "draws_per_epoch": 3, "attention_width": 8},
    },
    "export": {"formats": ["geojson"]},
    "engine": {"workers": 0},
}  # fmt: skip


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
        load_run_config(None, {**SMALL, "manifest": cohort, "out": out}), reporter=listener
    )
    assert not report.failed
    return out, listener


def test_labels_of_slides_are_learnt_from_without_being_asked(whole: tuple[Path, Notes]) -> None:
    out, listener = whole
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["bag"]["pooling"] == "gated"
    assert any("one label a slide" in note for note in listener.notes)
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


def test_performance_is_that_of_the_test_slides(whole: tuple[Path, Notes]) -> None:
    out, _ = whole
    found = json.loads((out / "performance.json").read_text())
    assert found["evaluated_on"] == "test slides"
    assert found["n"] == 8
    assert found["auroc"] == 1.0
    assert found["intervals_95"]["auroc"] is None  # four patients of a class
    keys = {"auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv",
            "brier", "ece", "confusion"}  # fmt: skip
    assert keys <= set(found)
    assert found["thresholds"]["slide"]["values"][0]["chosen_on"] == "validation cases"
    assert "sum of its patches' contributions" in found["prediction"]["rule"]
    text = (out / "performance.md").read_text()
    assert "prevalence of 0.5" in text
    assert "no interval" in text
    assert (out / "performance_patients.svg").read_text().startswith("<?xml")
    assert {row["unit"] for row in table(out / "performance.csv")} == {"patient", "slide"}


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
    tile(cohort, tmp_path, config=config, labels="copy", reporter=listener)
    assert any("copied onto every patch" in told for told in listener.notes)
    assert (PatchStore(tmp_path / "patches" / "s01.zarr").labels == 1).all()
    settings = TrainConfig(labels="copy", epochs=2, backbone_options={"widths": (8, 16)})
    result = train(cohort, tmp_path, config=settings, device="cpu", reporter=listener)
    report = predict(tmp_path, manifest=cohort, device="cpu")
    assert "val_auc" in result.metrics
    assert report.performance is not None
    how = report.performance.how
    assert "5% of the patches" in how["rule"]
    assert how["calibration"] == "calibrated on 6 validation slides (Platt)"


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
    overlap = base / "overlap.csv"
    overlap.write_text("\n".join([lines[0], lines[3]]) + "\n")
    with pytest.raises(ManifestError, match="shares the slide 's02'"):
        run(
            load_run_config(
                None,
                {**SMALL, "manifest": own, "test_manifest": overlap, "out": tmp_path / "b"},
            )
        )

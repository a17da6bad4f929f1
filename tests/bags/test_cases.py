"""Bags of cases: all slides of a patient are learnt from, explained and predicted together."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_command import run_forked

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import PatchStore
from pathology_scaat.pipeline.evaluate import evaluate
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.predict import predict
from pathology_scaat.pipeline.train import learn, train
from pathology_scaat.saliency import ExplainConfig, SaliencyStore
from pathology_scaat.saliency.bags import BagExplainer
from pathology_scaat.scaat.target import target_score
from pathology_scaat.training import TrainConfig, TrainingSlide, load_bundle
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.data import make_bags
from pathology_scaat.training.bags.model import tall_image
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config

CLASSES = ("normal", "tumour")
SMALL = ExplainConfig(batch_size=7)
HERE: dict[str, Any] = {"device": "cpu", "engine": EngineConfig(workers=0)}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def patient_of(slide: TrainingSlide) -> str:
    """Two slides of a class are one patient."""
    split, number = slide.slide_id.split("-")
    return f"{split}-case-{2 * (int(number) // 4) + int(number) % 2}"


@pytest.fixture(scope="module")
def cohort(
    bag_slides: tuple[TrainingSlide, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cases")
    space = Workspace(folder / "out")
    lines = ["slide_path,slide_id,patient_id,label,split"]
    for slide in bag_slides:
        store = space.patches(slide.slide_id)
        store.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(slide.store, store)
        (folder / f"{slide.slide_id}.tiff").touch()
        lines.append(f"{slide.slide_id}.tiff,{slide.slide_id},{patient_of(slide)},"
                     f"{slide.label},{slide.split}")  # fmt: skip
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "cohort.csv", folder / "out"


@pytest.fixture(scope="module")
def trained(cohort: tuple[Path, Path]) -> Path:
    """The output folder with a model of cases, predicted before anything is explained."""
    table, out = cohort
    config = TrainConfig.model_validate(
        {
            "labels": "slide", "method": "plain", "backbone_options": {"widths": (8, 16)},
            "epochs": 4, "learning_rate": 1e-2,
            "bag": {"of": "patient", "patches_per_bag": 16, "draws_per_epoch": 4,
                    "attention_width": 16, "attention_steps": 20},
        }
    )  # fmt: skip
    result = train(table, out, config=config, device="cpu")
    told = " ".join(result.notes)
    assert "all slides of a patient (6 bags to train on, 4 to validate)" in told
    assert "6 slides of 4 patients" in told
    assert result.metrics["n_train_slides"] == 12
    predict(out, manifest=table, device="cpu")
    return out


def test_a_case_is_one_bag_of_the_patches_of_all_its_slides(
    bag_slides: tuple[TrainingSlide, ...],
) -> None:
    slides = [
        TrainingSlide(s.store, s.slide_id, patient_of(s), s.split, s.label)
        for s in bag_slides if s.split == "train"
    ]  # fmt: skip
    table = make_bags(slides, CLASSES, "patient")
    assert table.patient_ids == tuple(dict.fromkeys(s.patient_id for s in slides))
    assert len(table) == 6
    assert len(table.slide_ids) == len(table.patches.stores) == 12
    for bag, patient in enumerate(table.patient_ids):
        mine = [s for s in slides if s.patient_id == patient]
        pixels = np.concatenate([PatchStore(s.store).read(slice(None)) for s in mine])
        assert np.array_equal(table.patches.read(table.members(bag)), pixels)
        assert CLASSES[table.labels[bag]] == mine[0].label
    assert [table.store_patients[k] for k in range(12)] == [
        next(s.patient_id for s in slides if s.slide_id == i) for i in table.slide_ids
    ]
    other = TrainingSlide(slides[0].store, "x", slides[0].patient_id, "train", CLASSES[1])
    with pytest.raises(TrainingError, match="has slides with different labels"):
        make_bags([slides[0], other], CLASSES, "patient")


def test_a_case_is_explained_as_one_pass_over_all_its_slides_would(trained: Path) -> None:
    """Exact to 1e-5 of the largest value, for each of its slides."""
    bundle = load_bundle(trained / "model")
    space = Workspace(trained)
    first = PatchStore(space.patches("test-0")).read(slice(None))
    second = PatchStore(space.patches("test-2")).read(slice(None))
    images = to_float(torch.from_numpy(np.concatenate([first, second]))).requires_grad_(True)
    score = target_score(bundle.model(tall_image(images, 1)), torch.tensor([1]), "margin").sum()
    (gradient,) = torch.autograd.grad(score, [images])
    whole = gradient.abs().sum(dim=1).numpy() * len(images)
    for own, other, part in ((first, second, whole[: len(first)]),
                             (second, first, whole[len(first) :])):  # fmt: skip
        it = BagExplainer(bundle.model, 1, ExplainConfig(stride_px=1), torch.device("cpu"))  # type: ignore[arg-type]
        it.look([own], [other])
        assert np.abs(it(own, 0)[0] - part).max() <= 1e-5 * whole.max()


def test_slides_of_a_case_have_its_prediction_explained_or_not(
    trained: Path, cohort: tuple[Path, Path], tmp_path: Path
) -> None:
    table, out = cohort
    before = rows_of(out / "predictions.csv")
    patient = {r["slide_id"]: r["patient_id"] for r in rows_of(table)}
    assert {r["slide_id"] for r in before} == set(patient)
    said: dict[str, set[str]] = {}
    for row in before:
        said.setdefault(row["patient_id"], set()).add(row["p_tumour"])
    assert {len(found) for found in said.values()} == {1}
    patients = {r["patient_id"]: r["p_tumour"] for r in rows_of(out / "predictions_patients.csv")}
    assert patients == {p: found.copy().pop() for p, found in said.items()}
    record = json.loads((out / "performance.json").read_text())
    assert "every slide of the patient has its case's prediction" in record["prediction"]["rule"]
    assert any("count a case once a slide" in note for note in record["notes"])
    bundle = load_bundle(out / "model")
    explain(out, config=SMALL, **HERE)
    stores = [SaliencyStore(Workspace(out).saliency(s)) for s in ("test-0", "test-2")]
    pixels = [PatchStore(Workspace(out).patches(s)).read(slice(None)) for s in ("test-0", "test-2")]
    images = to_float(torch.from_numpy(np.concatenate(pixels)))
    with torch.no_grad():
        logits = bundle.model(tall_image(images, 1))[0].numpy()
    total = sum(s.contribution.sum(axis=0) for s in stores if s.contribution is not None)
    assert np.allclose(total, logits, atol=1e-5)
    assert stores[0].meta.parameters["case"] == [stores[1].meta.patch_fingerprint]
    assert "the case's score" in stores[0].meta.parameters["unit"]
    predict(out, manifest=table, device="cpu")
    for old, new in zip(before, rows_of(out / "predictions.csv"), strict=True):
        assert float(new["p_tumour"]) == pytest.approx(float(old["p_tumour"]), abs=1e-5)
    again = explain(out, config=SMALL, **HERE)
    assert not again.done
    # a case that has lost a slide is another case: it is explained anew
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(Workspace(tmp_path / "out").patches("test-2"))
    fewer = explain(tmp_path / "out", config=SMALL, **HERE,
                    slide_ids=["test-0", "test-1"])  # fmt: skip
    assert (fewer.done, fewer.skipped) == (["test-0"], ["test-1"])


def test_what_cases_are_of_is_refused_where_nothing_learns_from_them(
    cohort: tuple[Path, Path], tmp_path: Path
) -> None:
    table, out = cohort
    config = TrainConfig.model_validate({"labels": "patch", "bag": {"of": "patient"}})
    with pytest.raises(UsageError, match="patient is for labels of slides"):
        learn((), tmp_path / "model", config, False, "cpu", 0, overwrite=False, progress=None)
    refused = run_forked(["train", "--manifest", table, "--out", out, "--bags-of", "ward"])
    assert refused.returncode == 2
    assert "'ward' is unknown; choose from slide, patient" in refused.stderr


def test_what_measures_slides_one_by_one_refuses_a_model_of_cases(trained: Path) -> None:
    with pytest.raises(UsageError, match="tells of cases"):
        evaluate(trained, device="cpu")


def test_models_of_slides_keep_their_fingerprints(trained: Path) -> None:
    config = read_bundle_config(trained / "model")
    assert config.bag_of == "patient"
    slide = config.model_copy(update={"bag_of": None})
    assert "bag_of" not in slide.facts("")
    assert model_fingerprint(slide) != model_fingerprint(config)

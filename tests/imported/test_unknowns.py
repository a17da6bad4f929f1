"""An imported model through the whole job: nothing that is not known is claimed anywhere."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from drawn_slides import make_cohort
from forked_command import run_forked
from safetensors.torch import save_file

from pathology_scaat.evaluation.evaluate import evaluate_run
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.pipeline.config import load_run_config
from pathology_scaat.pipeline.import_model import ModelMeaning, ModelSource, import_model
from pathology_scaat.pipeline.run import run
from pathology_scaat.stitching import SlideMap
from pathology_scaat.training import load_bundle
from pathology_scaat.training.bundle import read_bundle_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SIDE = 32
SAID = ModelMeaning(
    "resnet10t", {}, ("Normal", "Tumor"), 1.0, SIDE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
)
OPTIONS = ("--backbone", "resnet10t", "--classes", "Normal,Tumor", "--mpp", "1.0", "--patch-size",
           "32", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")  # fmt: skip
CLAIMS = re.compile(
    r"took no part in training|held out \(test|held-out patches|[^t] calibrated|\(calibrated"
    r"|is calibrated|AUC 0|AUC 1|trained on \d|trained with (scaat|plain)",
    re.IGNORECASE,
)
"""What none of these models can say of itself."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two bundles of one network, without and with reference patches, and a run of each."""
    folder = tmp_path_factory.mktemp("imported")
    cohort = make_cohort(folder, 352)
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=2).train()
    with torch.no_grad():
        network(torch.rand(8, 3, SIDE, SIDE))
    save_file(network.state_dict(), folder / "weights.safetensors")
    found: dict[str, Any] = {"folder": folder}
    for name, reference in (("bare", ()), ("scaled", (folder / "bare",))):
        source = ModelSource(weights=folder / "weights.safetensors")
        bundle = folder / f"model-{name}"
        found[name] = import_model(source, bundle, SAID, reference=reference)
        settings = {
            "manifest": cohort, "out": folder / name, "model": bundle, "engine": {"workers": 0},
            "keep_patches": True,  # the first one's are the reference of the second
            "export": {"formats": ["geojson", "png", "csv"]},
        }  # fmt: skip
        run(load_run_config(None, settings))
    return found


def test_the_command_says_what_it_does_not_know_and_what_comes_next(
    made: dict[str, Any], tmp_path: Path
) -> None:
    weights = made["folder"] / "weights.safetensors"
    done = run_forked(["import-model", weights, *OPTIONS, "--out", tmp_path / "b"])
    assert done.returncode == 0, done.stderr
    assert "Not calibrated" in done.stderr
    assert "No slide counts as held out" in done.stderr
    assert "Not known: what its training patches look like" in done.stderr
    assert "No scale of saliency" in done.stderr
    assert "random patches" in done.stdout
    assert "scaat finetune" in done.stdout
    assert "scaat run" in done.stdout
    assert any("reference patches" in note for note in made["scaled"].notes)


@pytest.mark.parametrize("name", ["bare", "scaled"])
def test_no_text_that_a_run_writes_claims_what_is_not_known(
    made: dict[str, Any], name: str
) -> None:
    out = made["folder"] / name
    texts = {"notes": " ".join(made[name].notes)}
    for path in sorted((out / "overlays").rglob("*")):
        if path.suffix in (".html", ".json", ".csv"):
            texts[path.name] = path.read_text(encoding="utf-8")
        elif path.name.endswith(".geojson.gz"):
            texts[path.name] = gzip.decompress(path.read_bytes()).decode()
    for path in (made["folder"] / f"model-{name}").rglob("README.md"):
        texts[f"wsinfer {path.name}"] = path.read_text(encoding="utf-8")
    assert len(texts) > 5
    for where, text in texts.items():
        # pictures within the page are no words, and how to read any is no claim of this one
        words = re.sub(r"data:image[^\"]+|<details>.*?</details>", "", text)
        found = CLAIMS.search(words)
        around = "" if found is None else words[max(0, found.start() - 80) : found.end() + 80]
        assert found is None, f"{where}: {around}"


@pytest.mark.parametrize("name", ["bare", "scaled"])
def test_maps_and_page_show_it(made: dict[str, Any], name: str) -> None:
    out = made["folder"] / name
    page = (out / "overlays" / "index.html").read_text(encoding="utf-8")
    assert "trained elsewhere" in page
    assert "not calibrated" in page
    assert "not known whether the model was trained on it" in page
    assert "quality not known" in page
    slide_map = SlideMap(next((out / "maps").glob("*.ome.zarr")))
    facts = ModelFacts.of(slide_map.meta)
    assert (facts.role, facts.calibration, facts.held_out) == ("unknown", "not calibrated", None)
    record = json.loads((out / "overlays" / "slide-0.json").read_text())
    assert record["slide_summary"]["unlike_share"] is None
    source = record["colour_scale"]["source"]
    assert ("reference patches given" in source) == (name == "scaled")
    assert {row["unlike_training"] for row in rows_of(out / "slides.csv")} == {""}


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_predictions_take_no_split_for_this_models_own(made: dict[str, Any]) -> None:
    for name in ("bare", "scaled"):
        rows = rows_of(made["folder"] / name / "predictions.csv")
        assert rows
        assert {row["split"] for row in rows} <= {""}


def test_a_bundle_put_into_the_place_of_a_trained_one_inherits_no_split(
    made: dict[str, Any],
) -> None:
    """``slides.csv`` names splits; they are of another model than the one that lies there now."""
    from pathology_scaat.artifacts.output_folder import Workspace
    from pathology_scaat.pipeline.predict import _trained_here

    out = made["folder"] / "bare"
    os.symlink(made["folder"] / "model-bare", out / "model")
    try:
        assert _trained_here(Workspace(out), {"slide-0": "test"}).splits is None
    finally:
        (out / "model").unlink()


def test_the_trust_card_shows_it(made: dict[str, Any]) -> None:
    evaluate_run(
        made["folder"] / "scaled",
        model=made["folder"] / "model-scaled",
        config=ProtocolConfig(max_images=8, n_occluded=2, n_perturbed=2, n_mosaics=0),
    )  # fmt: skip
    card = (made["folder"] / "scaled" / "evaluation" / "trust_card.md").read_text(encoding="utf-8")
    assert "trained by *unknown: imported, trained elsewhere*" in card
    assert "may have been seen in training" in card
    assert "not calibrated" in card
    assert "Held out: unknown" in card


def test_the_bundle_itself(made: dict[str, Any]) -> None:
    bare = read_bundle_config(made["folder"] / "model-bare")
    scaled = read_bundle_config(made["folder"] / "model-scaled")
    for config in (bare, scaled):
        assert config.imported is not None
        assert not config.is_calibrated
        assert (config.held_out, config.slides, config.metrics) == (None, None, {})
        assert config.role_of("f" * 64) == "unknown"
        assert config.feature_reference_sha256 is None
        assert config.method == "unknown"
    assert bare.saliency_reference is None
    assert scaled.reference_settings is not None
    assert scaled.reference_settings.source == "reference patches"
    assert scaled.imported is not None
    assert scaled.imported.n_reference_patches > 10
    assert load_bundle(made["folder"] / "model-scaled").features is None

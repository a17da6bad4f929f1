"""What the pages say of model and slide: nothing that is not known, and the worst first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from map_stores import run_with_maps
from saliency_fixtures import RunFolder

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.export.model_facts import NOTHING_LEARNT, ModelFacts
from pathology_scaat.review.cohort import cohort_rows, slide_details
from pathology_scaat.review.model_card import model_card
from pathology_scaat.review.verdicts import VerdictTable
from pathology_scaat.training.bundle import read_bundle_config
from pathology_scaat.training.bundle_config import MapReference, model_fingerprint
from pathology_scaat.training.bundle_quality import Estimate, HeldOut


def held_out(accuracy: Estimate, auc: Estimate) -> HeldOut:
    return HeldOut(
        source="test slides", n_patches=200, n_slides=6, n_patients=6, unit="patient", n_units=6,
        class_counts={"normal": 100, "tumour": 100}, auc=auc, balanced_accuracy=accuracy,
        chance=0.5, probability_span=0.8,
    )  # fmt: skip


GOOD = held_out(Estimate(value=0.9, low=0.8, high=0.97), Estimate(value=0.95, low=0.9, high=0.99))
CHANCE = held_out(Estimate(value=0.5, low=0.4, high=0.6), Estimate(value=0.5, low=0.4, high=0.6))


def facts(quality: HeldOut) -> dict[str, Any]:
    reference = MapReference(p50=0.01, p90=0.2, p99=0.7, p995=0.8, others_p99=0.3)
    return {
        "held_out": quality.model_dump(mode="json"),
        "evidence_reference": {"tumour": reference.model_dump()},
        "slide_role": "train",
        "n_slides": {"train": 3, "val": 1, "test": 2},
    }


def facts_of(card: dict[str, Any]) -> dict[str, str]:
    return dict(card["facts"])


def test_auc_comes_with_its_interval_or_is_unknown(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    card = facts_of(model_card(folder.out))
    assert card["quality of patches"].startswith("quality not known")
    assert card["quality of slides"].startswith("not known")
    folder.save_model(folder.model, 0, held_out=GOOD)
    card = facts_of(model_card(folder.out))
    assert "AUC 0.95 (0.90 to 0.99)" in card["quality of patches"]
    assert "another seed gives another model" in card["spread over seeds"]
    assert card["age of its data"].startswith("not recorded")
    performance = {
        "evaluated_on": "test slides",
        "levels": {
            "slide": {"n": 12, "auroc": 0.9, "intervals_95": {"auroc": [0.7, 1.0]}},
            "patient": {"n": 4, "auroc": 1.0, "intervals_95": {"auroc": None}},
        },
    }
    (folder.out / "performance.json").write_text(json.dumps(performance))
    card = facts_of(model_card(folder.out))
    assert "AUROC 0.90 (95 % interval 0.70 to 1.00); 12 slides" in card["quality of slides"]
    assert card["quality of patients"] == (
        "AUROC 1.00 (no interval: bootstrap samples of the patients do not differ, or most have "
        "one class only); 4 patients, test slides"
    )
    few = "fewer than 5 patients of a class (2 Normal)"
    performance["levels"]["patient"]["no_intervals"] = few  # type: ignore[index]
    (folder.out / "performance.json").write_text(json.dumps(performance))
    card = facts_of(model_card(folder.out))
    assert (
        card["quality of patients"] == f"AUROC 1.00 (no interval: {few}); 4 patients, test slides"
    )


def test_what_another_model_predicted_is_no_quality_of_this_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    mine = model_fingerprint(read_bundle_config(folder.model))

    def write(fingerprint: str) -> dict[str, str]:
        models = [{"fingerprint": fingerprint, "calibration": "fitted"}]
        level = {"n": 12, "auroc": 0.9, "intervals_95": {"auroc": [0.7, 0.95]}}
        performance = {
            "read_first": ["THE MODEL HAS LEARNT NOTHING"], "levels": {"slide": level},
            "evaluated_on": "test slides", "prediction": {"models": models},
        }  # fmt: skip
        (folder.out / "performance.json").write_text(json.dumps(performance))
        how = {"calibration": "fitted", "models": models}
        (folder.out / "predictions.json").write_text(json.dumps(how))
        return facts_of(model_card(folder.out))

    card = write(mine)
    assert "AUROC 0.90" in card["quality of slides"]
    assert card["probabilities of slides"] == "fitted"
    assert "THE MODEL HAS LEARNT NOTHING" in model_card(folder.out)["warnings"]
    card = write("f" * 64)
    assert "another model than this one" in card["quality of slides"]
    assert "another model than this one" in card["probabilities of slides"]
    assert "THE MODEL HAS LEARNT NOTHING" not in model_card(folder.out)["warnings"]


def test_a_trust_card_of_another_model_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    (folder.out / "evaluation").mkdir()
    card = folder.out / "evaluation" / "trust_card.json"
    card.write_text(json.dumps({"model_fingerprint": "f" * 64, "entries": [], "held_out": True}))
    assert "another model" in facts_of(model_card(folder.out))["faithfulness of maps"]
    mine = model_fingerprint(read_bundle_config(folder.model))
    entries = [{"verdict": "good"}, {"verdict": "poor"}, {"verdict": "described"}]
    card.write_text(json.dumps({"model_fingerprint": mine, "entries": entries, "held_out": False}))
    words = facts_of(model_card(folder.out))["faithfulness of maps"]
    assert "1 good, 1 poor" in words
    assert "has seen: too good" in words


def test_a_model_that_learnt_nothing_says_so_first_and_draws_no_evidence(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",), drawn="evidence", model=facts(CHANCE))
    folder = RunFolder(out)
    folder.save_model(folder.model, 0, held_out=CHANCE)
    assert NOTHING_LEARNT in model_card(out)["warnings"][0]
    details = slide_details(out, "s1", "uncertainty")
    assert NOTHING_LEARNT in details.warnings[0]
    hidden = {s.channel: s.not_drawn for s in details.scales}
    assert hidden["evidence: tumour"]
    assert hidden["saliency"]
    assert not hidden["probability: tumour"]


def test_maps_are_shown_on_the_models_scale(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1", "s2"), drawn="evidence", model=facts(GOOD))
    for slide_id in ("s1", "s2"):  # of other values each
        scales = {s.channel: s for s in slide_details(out, slide_id, "area").scales}
        evidence = scales["evidence: tumour"]
        assert (evidence.floor, evidence.top, evidence.is_shared) == (0.3, 0.8, True)
        assert scales["probability: tumour"].top == 1
        assert not scales["saliency"].is_shared  # the model holds no reference of it
        assert "this slide alone" in scales["saliency"].source
    assert [s.channel for s in slide_details(out, "s1", "area").scales] == list(
        slide_details(out, "s1", "area").channels
    )


@pytest.mark.parametrize(("percentile", "share"), [(100.0, 1.0), (50.0, 0.0)])
def test_a_foreign_slide_is_reported_on_both_pages(
    tmp_path: Path, percentile: float, share: float
) -> None:
    out = run_with_maps(
        tmp_path / "out", ("s1",), drawn="evidence", model=facts(GOOD), unlike=percentile
    )
    details = slide_details(out, "s1", "area")
    assert any("Unlike the training data: 100%" in w for w in details.warnings) == bool(share)
    assert details.role.startswith("training slide")
    (row,) = cohort_rows(out, VerdictTable(out))
    assert row["unlike_training"] == share
    assert row["role"] == "training slide"  # by the model's record; the run's table says nothing


def test_what_is_not_known_is_no_number(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    (row,) = cohort_rows(out, VerdictTable(out))
    assert row["unlike_training"] is None
    assert row["uncertainty"] is None
    assert row["role"] == "not known"


def test_of_several_predictions_that_of_an_unseen_slide_is_shown(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    lines = [
        "patient_id,slide_id,fold,split,label,p_normal,p_tumour",
        "p,s1,0,train,,0.01,0.99",
        "p,s1,1,test,,0.4,0.6",
        "p,s1,2,val,,0.02,0.98",
    ]
    (out / "predictions.csv").write_text("\n".join(lines) + "\n")
    (row,) = cohort_rows(out, VerdictTable(out))
    assert row["probabilities"] == {"normal": 0.4, "tumour": 0.6}
    assert 0.9 < row["uncertainty"] < 1


def test_the_spread_over_several_models_is_reported_and_none_is_made_up(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1", "s2"))
    (out / "predictions.csv").write_text(
        "patient_id,slide_id,fold,split,label,p_normal,p_tumour,disagreement\n"
        "p,s1,,test,,0.4,0.6,0.12\np,s2,,test,,0.4,0.6,\n"
    )
    spread = {r["slide_id"]: r["disagreement"] for r in cohort_rows(out, VerdictTable(out))}
    assert spread == {"s1": 0.12, "s2": None}


def test_maps_of_another_model_than_the_one_described_are_marked(tmp_path: Path) -> None:
    out = run_with_maps(tmp_path / "out", ("s1",))
    folder = RunFolder(out)
    (row,) = cohort_rows(out, VerdictTable(out))
    assert row["model"] == "d" * 64
    assert model_card(folder.out)["fingerprint"] != row["model"]
    assert Workspace(out).model.is_dir()


@pytest.mark.parametrize(
    ("of_slides", "known", "parts"),
    [(False, True, "parts of them"), (True, True, "none"), (False, False, "none")],
)
def test_what_a_model_was_not_validated_on_is_not_said(
    of_slides: bool, known: bool, parts: str
) -> None:
    """Parts of training slides are held out of patches alone, and not of slides too small."""
    value = {**facts(GOOD), "n_slides": {"train": 3}, "of_slides": of_slides}
    if not known:
        value["held_out"] = None
    said = ModelFacts.of_json(value, "f").slides
    assert said == f"trained on 3 slides, validated on {parts}, tested on none"


def test_the_list_of_slides_refers_whom_the_prediction_refers(tmp_path: Path) -> None:
    """A foreign slide stood there as "Tumor 0.999999", and nothing else."""
    out = run_with_maps(tmp_path / "out", ("s1", "s2"))
    (out / "predictions.csv").write_text(
        "patient_id,slide_id,fold,split,label,p_normal,p_tumour,refer,refer_reason\n"
        "p,s1,,test,,0.1,0.9,yes,unlike the training data\nq,s2,,test,,0.4,0.6,no,\n"
    )
    rows = {row["slide_id"]: row for row in cohort_rows(out, VerdictTable(out))}
    assert rows["s1"]["refer"] == "unlike the training data"
    assert rows["s2"]["refer"] == ""


def test_of_a_model_that_is_elsewhere_the_review_says_how_to_name_it(tmp_path: Path) -> None:
    assert "start the review with --model" in model_card(tmp_path)["problem"]
    (tmp_path / "model").mkdir()
    assert "cannot be read: is not a model bundle" in model_card(tmp_path)["problem"]
    assert "cannot be read" in model_card(tmp_path, tmp_path / "gone")["problem"]

"""Why a region was marked: neighbours of other patients, and the slide without the region."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from saliency_fixtures import CLASSES, RunFolder

from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.metrics.functional.calibration import softmax
from pathology_scaat.metrics.functional.slide_score import top_mean
from pathology_scaat.patches import PatchStore
from pathology_scaat.review.ensemble import agreement_words, members_of
from pathology_scaat.review.regions import ReviewRegion
from pathology_scaat.review.why import RegionExplainer, _vote_quality_text
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.saliency.explain import explain_slide
from pathology_scaat.saliency.store import SaliencyStore
from pathology_scaat.training.bags.config import BagHeadConfig
from pathology_scaat.training.bags.model import build_bag_model
from pathology_scaat.training.bags.train import train_on_slides
from pathology_scaat.training.bundle import load_bundle, load_neighbours, save_bundle
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.results import TrainingSlide
from pathology_scaat.training.train import train_model

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def explain(folder: RunFolder, slide_id: str) -> None:
    explain_slide(
        folder.out / "patches" / f"{slide_id}.zarr", folder.model,
        folder.out / "saliency" / f"{slide_id}.zarr", ExplainConfig(), device="cpu",
    )  # fmt: skip


def box_region(left: float, top: float, right: float, bottom: float) -> ReviewRegion:
    ring = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    return ReviewRegion("r1", "Region 1", (ring,), 1.0, 0.5, 0.7)


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two patients trained on (one has two slides), one for validation; all explained."""
    folder = RunFolder(tmp_path_factory.mktemp("why") / "out")
    plan = [("a", "p1", "train"), ("b", "p1", "train"), ("c", "p2", "train"), ("d", "p3", "val")]
    slides = [
        TrainingSlide(folder.add_slide(name, 60, seed=number), name, patient, split)
        for number, (name, patient, split) in enumerate(plan)
    ]
    config = TrainConfig(epochs=1, backbone="scaat-small", method="plain", batch_size=16)
    train_model(slides, folder.model, config, device="cpu", overwrite=True)
    for name, _, _ in plan:
        explain(folder, name)
    return folder


REGION = box_region(20, 20, 70, 40)
"""Of patches of 32 px without overlap: reaches into rows 0 and 1, columns 0 to 2."""


def test_where_nobody_knows_whose_patches_these_are_none_are_shown(
    reviewed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BundleConfig, "role_of", lambda _self, _print: "unknown")
    found = RegionExplainer(reviewed.out).about("d", REGION)["neighbours"]
    assert "is not known" in found["problem"]
    assert "groups" not in found


def test_without_the_region_is_the_rule_on_the_other_patches(reviewed: RunFolder) -> None:
    found = RegionExplainer(reviewed.out).about("d", REGION)
    assert found["n_patches"] == 6
    store = SaliencyStore(reviewed.out / "saliency" / "d.zarr")
    column, row = store.grid_index[:, 0], store.grid_index[:, 1]
    kept = ~((column <= 2) & (row <= 1))
    with_it, without = top_mean(store.probability, 1), top_mean(store.probability[kept], 1)
    classes = {name: (before, after) for name, before, after in found["without"]["classes"]}
    assert classes["tumour"] == (pytest.approx(with_it[1]), pytest.approx(without[1]))
    assert "mean probability" in found["without"]["rule"]


@pytest.mark.parametrize(
    ("slide", "allowed"), [("d", {"a", "b", "c"}), ("a", {"c"}), ("c", {"a", "b"})]
)
def test_neighbours_are_of_other_patients(
    reviewed: RunFolder, slide: str, allowed: set[str]
) -> None:
    found = RegionExplainer(reviewed.out).about(slide, REGION)["neighbours"]
    assert found["problem"] == ""
    assert [len(g["items"]) for g in found["groups"]] == [3, 3]
    assert {g["title"] for g in found["groups"]} == {f"Nearest of {c}" for c in CLASSES}
    items = [item for g in found["groups"] for item in g["items"]]
    assert {item["slide_id"] for item in items} <= allowed
    for group in found["groups"]:
        distances = [item["distance"] for item in group["items"]]
        assert distances == sorted(distances)
    assert all(0 <= item["percentile"] <= 100 for item in items)
    assert sum(share for _, share in found["vote"]) == pytest.approx(1)
    assert "AUC" in found["worth"]
    assert "held out in training" in found["worth"]  # the page has another, of test slides


@pytest.mark.parametrize(
    ("value", "words"), [(1, "by the label of their slide, copied"), (-1, "does not hold"), (0, "")]
)
def test_neighbours_with_their_slides_label_say_so(
    reviewed: RunFolder, monkeypatch: pytest.MonkeyPatch, value: int, words: str
) -> None:
    index = load_neighbours(reviewed.model)
    assert index is not None
    assert not index.copied.any()
    known = replace(index, copied=np.full(len(index), value))
    monkeypatch.setattr("pathology_scaat.review.why.load_neighbours", lambda _path: known)
    found = RegionExplainer(reviewed.out).about("d", REGION)["neighbours"]
    items = [item for group in found["groups"] for item in group["items"]]
    assert {item["label_copied"] for item in items} == {value == 1}
    assert words in found["voters"]
    assert ("(" in found["voters"]) == bool(words)


def test_pictures_come_from_the_very_store_or_not_at_all(
    reviewed: RunFolder, tmp_path: Path
) -> None:
    explainer = RegionExplainer(reviewed.out)
    item = explainer.about("d", REGION)["neighbours"]["groups"][0]["items"][0]
    picture = explainer.picture("d", item["number"])
    pixels = PatchStore(reviewed.out / "patches" / f"{item['slide_id']}.zarr").read(slice(None))
    assert any(np.array_equal(picture, patch) for patch in pixels)
    with pytest.raises(UsageError, match="does not exist"):
        explainer.picture("d", 10**6)
    away = tmp_path / "out"
    shutil.copytree(reviewed.out, away)
    for name in "abc":  # the bundle went to another hospital
        shutil.rmtree(away / "patches" / f"{name}.zarr")
    other = RunFolder.__new__(RunFolder)
    other.out, other.patch_px = away, 32
    other.add_slide("a", 60, seed=77)  # another slide of this name is no stand-in
    explainer = RegionExplainer(away)
    items = [i for g in explainer.about("d", REGION)["neighbours"]["groups"] for i in g["items"]]
    assert {i["slide_id"] for i in items} == {None}
    with pytest.raises(StoreError, match="not at hand"):
        explainer.picture("d", items[0]["number"])


def test_a_region_smaller_than_a_patch_and_one_that_is_everything(reviewed: RunFolder) -> None:
    explainer = RegionExplainer(reviewed.out)
    small = explainer.about("d", box_region(1, 1, 3, 3))
    assert small["n_patches"] == 1
    assert small["neighbours"]["problem"] == ""
    whole = explainer.about("d", box_region(-10, -10, 1000, 1000))
    assert "nothing is left" in whole["without"]["problem"]


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")  # a bundle without features of its training
    folder.add_slide("s", 30)
    explain(folder, "s")
    found = RegionExplainer(folder.out).about("s", REGION)
    assert "does not hold" in found["neighbours"]["problem"]
    assert found["without"]["problem"] == ""
    assert "one model" in found["ensemble"]["problem"]
    folder.save_model(folder.model, 5)  # another model took its place
    found = RegionExplainer(folder.out).about("s", REGION)
    assert "not at hand" in found["neighbours"]["problem"]


@pytest.mark.parametrize("pooling", ["gated", "mean", "top"])
def test_of_a_model_for_bags_it_is_exact(tmp_path: Path, pooling: str) -> None:
    folder = RunFolder(tmp_path / "out")
    path = folder.add_slide("s", 30)
    head = BagHeadConfig(pooling=pooling)
    torch.manual_seed(1)
    model = build_bag_model("scaat-small", {}, 32, 2, head, MEAN, STD).eval()
    torch.nn.init.normal_(model.head.score.weight)
    if pooling == "gated":
        torch.nn.init.normal_(model.head.attention_out.weight)
    config = BundleConfig(
        class_names=CLASSES, positive_class="tumour", patch_size_px=32, mpp=0.5,
        backbone="scaat-small", mean=MEAN, std=STD, bag=head, temperature=2.0,
    )  # fmt: skip
    save_bundle(folder.model, model, config, wsinfer=False)
    explain(folder, "s")
    explainer = RegionExplainer(folder.out)
    found = explainer.about("s", REGION)["without"]
    pixels = PatchStore(path).read(slice(None))
    index = PatchStore(path).grid_index
    kept = ~((index[:, 0] <= 2) & (index[:, 1] <= 1))
    images = torch.from_numpy(pixels[kept]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = model(images.permute(1, 0, 2, 3).reshape(1, 3, -1, 32)).numpy()
    expected = softmax(logits / 2.0)[0]
    assert [after for _, _, after in found["classes"]] == pytest.approx(expected, abs=1e-5)
    shutil.rmtree(path)
    folder.add_slide("s", 31)  # tiled anew: other patches than the map was made of
    tiled = RegionExplainer(folder.out).about("s", REGION)["without"]
    assert tiled["problem"] == "the slide was tiled anew since its map was made"
    explain(folder, "s")  # and now what was kept of the former ones is of no slide
    again = explainer.about("s", REGION)["without"]
    assert again["classes"] != found["classes"]
    assert again == RegionExplainer(folder.out).about("s", REGION)["without"]


def test_the_models_of_the_folds_are_reported_with_what_the_slide_was_to_them(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path / "out")
    path = folder.add_slide("s", 30)
    explain(folder, "s")
    explainer, region = RegionExplainer(folder.out), box_region(0, 0, 70, 40)
    assert "one model" in explainer.about("s", region)["ensemble"]["problem"]
    with pytest.raises(UsageError, match="one model"):
        explainer.differences("s", [region])
    for fold in (0, 1, 2):
        folder.save_model(folder.out / "folds" / str(fold) / "model", fold)
    found = explainer.about("s", region)["ensemble"]
    assert [m["name"] for m in found["members"]] == ["fold 0", "fold 1", "fold 2"]
    assert [m["explained"] for m in found["members"]] == [True, False, False]
    assert {m["role"] for m in found["members"]} == {"unknown"}
    assert "say little" in found["agreement"]
    pixels = PatchStore(path).read(slice(None))
    index = PatchStore(path).grid_index
    inside = (index[:, 0] <= 1) & (index[:, 1] == 0)
    images = torch.from_numpy(pixels[inside]).permute(0, 3, 1, 2).float() / 255
    for fold, member in enumerate(found["members"]):
        bundle = load_bundle(folder.out / "folds" / str(fold) / "model")
        with torch.no_grad():
            logits = bundle.model(images).numpy() / bundle.config.temperature
        assert member["probability"] == pytest.approx(softmax(logits)[:, 1].mean(), abs=1e-5)
    values = [m["probability"] for m in found["members"]]
    apart = explainer.differences("s", [region])
    assert apart == {"r1": pytest.approx(max(values) - min(values), abs=1e-5)}


def test_models_of_one_label_are_asked_for_that_label(tmp_path: Path) -> None:
    """A second class with the logit 0 would have each of them say 0.5, whatever it sees."""
    folder = RunFolder(tmp_path / "out")
    label = {"multi_label": True, "class_names": ("tumour",)}
    path = folder.add_slide("s", 30)
    folds = [folder.out / "folds" / str(k) / "model" for k in (0, 1)]
    for seed, model in enumerate([folder.model, *folds]):
        folder.save_model(model, seed, **label)
    explain(folder, "s")
    found = RegionExplainer(folder.out).about("s", box_region(0, 0, 70, 40))["ensemble"]
    index = PatchStore(path).grid_index
    pixels = PatchStore(path).read(np.flatnonzero((index[:, 0] <= 1) & (index[:, 1] == 0)))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    for model, member in zip(folds, found["members"], strict=True):
        bundle = load_bundle(model)
        with torch.no_grad():
            wanted = (bundle.model(images) / bundle.config.temperature).sigmoid().mean()
        assert member["probability"] == pytest.approx(float(wanted), abs=1e-5)
        assert abs(float(wanted) - 0.5) > 1e-3


def test_a_model_of_other_classes_is_no_member(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.add_slide("s", 30)
    explain(folder, "s")
    for fold in (0, 1):
        folder.save_model(folder.out / "folds" / str(fold) / "model", fold)
    meta = SaliencyStore(folder.out / "saliency" / "s.zarr").meta
    assert len(members_of(folder.out, meta)) == 2
    assert members_of(folder.out, replace(meta, class_names=("a", "b"))) == ()
    assert members_of(folder.out, replace(meta, effective_mpp=4.0)) == ()


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["held out"] * 3, "2 of 3 models see tumour here (probability at least 0.5); they differ "
         "by 0.70 at most; none of them has seen this slide"),
        (["test", "train", "train"], "of those that never saw this slide: 1 of 1"),
        (["train", "val", "unknown"], "they say little"),
    ],
)  # fmt: skip
def test_agreement_counts_apart_who_never_saw_the_slide(roles: list[str], words: str) -> None:
    members = [
        {"role": role, "probability": p} for role, p in zip(roles, (0.9, 0.6, 0.2), strict=True)
    ]
    assert words in agreement_words(members, "tumour")


def trained_folder(out: Path, kind: str) -> RunFolder:
    """Three training slides of three patients and one for validation, all explained."""
    folder = RunFolder(out)
    plan = [("a", "p1", "train", "tumour"), ("b", "p2", "train", "normal"),
            ("c", "p3", "train", "tumour"), ("d", "p4", "val", "normal")]  # fmt: skip
    slides = [
        TrainingSlide(folder.add_slide(name, 60, seed=n), name, patient, split, label)
        for n, (name, patient, split, label) in enumerate(plan)
    ]
    shared = {"epochs": 1, "backbone": "scaat-small", "method": "plain"}
    if kind == "bags":
        bag = {"patches_per_bag": 8, "draws_per_epoch": 1}
        train_on_slides(slides, folder.model, TrainConfig(bag=bag, **shared), device="cpu",
                        overwrite=True)  # fmt: skip
    else:
        config = TrainConfig(multi_label=True, batch_size=16, **shared)
        train_model(slides, folder.model, config, device="cpu", overwrite=True)
    explain(folder, "d")
    return folder


def test_neighbours_of_a_model_for_bags_are_shown_by_their_slides_label(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "out", "bags")
    found = RegionExplainer(folder.out).about("d", REGION)["neighbours"]
    assert found["problem"] == ""
    groups = {g["title"]: {i["slide_id"] for i in g["items"]} for g in found["groups"]}
    assert groups["Nearest from slides of normal"] == {"b"}
    assert groups["Nearest from slides of tumour"] <= {"a", "c"}
    assert found["voters"] == "The nearest 15 are of slides of"
    index = load_neighbours(folder.model)
    assert index is not None
    assert set(index.label[index.store == 1]) == {0}
    assert set(index.label[index.store == 0]) == {1}


def test_neighbours_of_a_model_for_several_labels_are_those_with_and_without(
    tmp_path: Path,
) -> None:
    folder = trained_folder(tmp_path / "out", "labels")
    found = RegionExplainer(folder.out).about("d", REGION)["neighbours"]
    assert found["problem"] == ""
    assert [g["title"] for g in found["groups"]] == [
        "Nearest with tumour", "Nearest without tumour",
    ]  # fmt: skip
    index = load_neighbours(folder.model)
    assert index is not None
    assert index.label.shape == (len(index), 2)
    for group, wanted in zip(found["groups"], (1, 0), strict=True):
        assert len(group["items"]) == 3
        assert {int(index.label[i["number"], 1]) for i in group["items"]} == {wanted}
    assert found["voters"] == "Of the nearest 15 have"
    assert all(0 <= share <= 1 for _, share in found["vote"])


def test_of_bags_the_worth_of_a_vote_is_about_slides(tmp_path: Path) -> None:
    index = load_neighbours(trained_folder(tmp_path / "out", "bags").model)
    assert index is not None
    voted = replace(index, voted_auc=np.array([0.7], np.float32))
    assert "slide's label with AUC 0.70" in _vote_quality_text(voted, True)
    # held-out patches of one label cannot show how often a vote is right
    assert "not known" in _vote_quality_text(index, True)

"""Bag learning end to end on tiny slides: it learns, repeats itself, resumes; heads add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.writer import write_patch_store
from pathology_scaat.saliency import ExplainConfig, SaliencyStore, explain_slide
from pathology_scaat.scaat.evidence import patch_evidence
from pathology_scaat.scaat.methods import make_method
from pathology_scaat.scaat.overfitting_monitor import OverfittingCheck
from pathology_scaat.training import TrainConfig, TrainingSlide, TrainProgress, load_bundle
from pathology_scaat.training import loop as loop_module
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.backbones import create_backbone
from pathology_scaat.training.bags import POOLINGS, BagHeadConfig
from pathology_scaat.training.bags.batch_norm import estimate_statistics
from pathology_scaat.training.bags.config import LABEL_SOURCES, LabelSource
from pathology_scaat.training.bags.data import epoch_of_bags, make_bags
from pathology_scaat.training.bags.head import BagHead
from pathology_scaat.training.bags.model import build_bag_model, tall_image
from pathology_scaat.training.bags.train import train_on_slides
from pathology_scaat.training.bundle import ModelBundle
from pathology_scaat.training.train import train_model

Slides = tuple[TrainingSlide, ...]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_contributions_add_up_to_the_logits(pooling: str) -> None:
    torch.manual_seed(0)
    head = BagHead(12, 3, BagHeadConfig(pooling=pooling, top_share=0.2))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(4, 37, 12)
    parts = head.contributions(features)
    assert parts.shape == (4, 37, 3)
    assert torch.equal(parts.sum(dim=1), head(features))
    assert torch.allclose(head.weights(features).sum(dim=1), torch.ones(4, 3), atol=1e-6)
    alone = head(features[:, :1])
    assert torch.allclose(alone, head.score(features[:, 0]), atol=1e-6)


def test_every_source_of_labels_is_described() -> None:
    assert tuple(LABEL_SOURCES) == get_args(LabelSource)


def test_a_bag_is_a_tall_image_and_comes_apart_again() -> None:
    patches = torch.rand(6, 3, 8, 8)
    tall = tall_image(patches, 2)
    assert tall.shape == (2, 3, 24, 8)
    assert torch.equal(tall[1, :, 8:16], patches[4])
    model = build_bag_model(
        "scaat-small", {"widths": (8, 8)}, 8, 2, BagHeadConfig(), (0.5,) * 3, (0.25,) * 3
    ).eval()
    together = model.features(tall)
    assert torch.allclose(together[1, 1], model.encoder(patches[4:5])[0], atol=1e-6)
    with pytest.raises(UsageError, match="multiple"):
        model(torch.rand(1, 3, 12, 8))


def test_it_learns_from_labels_of_slides(
    bag_slides: Slides, quick_bags: TrainConfig, tmp_path: Path
) -> None:
    seen: list[TrainProgress] = []
    result = train_on_slides(
        bag_slides, tmp_path / "model", quick_bags, device="cpu", progress=seen.append
    )
    assert result.metrics["val_slide_auc"] == 1.0
    assert not any(name.startswith("test") for name in result.metrics)
    assert any("one label per slide" in note for note in result.notes)
    bundle = load_bundle(result.bundle_path)
    assert bundle.fingerprint == result.model_fingerprint
    assert bundle.config.bag == quick_bags.bag.head()
    assert bundle.config.class_names == ("normal", "tumour")
    assert bundle.config.method == "scaat"
    rows = [progress.metrics for progress in seen if progress.metrics]
    assert rows[0]["eps"] == 0
    assert rows[-1]["eps"] > 0
    scores = {}
    for slide in (s for s in bag_slides if s.split == "test"):
        store = PatchStore(slide.store)
        images = to_float(torch.from_numpy(store.read(slice(None))))
        scores[slide.slide_id] = float(np.diff(bundle.model(tall_image(images, 1))[0].numpy())[0])
    positive = [scores[s.slide_id] for s in bag_slides if s.split == "test" and s.label == "tumour"]
    negative = [scores[s.slide_id] for s in bag_slides if s.split == "test" and s.label == "normal"]
    assert min(positive) > max(negative)
    _says_what_a_patch_model_says(bundle, bag_slides)
    again = train_on_slides(bag_slides, tmp_path / "model", quick_bags, device="cpu")
    assert again.skipped
    assert again.model_fingerprint == result.model_fingerprint


def _says_what_a_patch_model_says(bundle: ModelBundle, slides: Slides) -> None:
    """The bundle's record of itself: quality, slides, colours, references, unlike tissue."""
    config = bundle.config
    prints = {s.slide_id: PatchStore(s.store).meta.slide_fingerprint for s in slides}
    roles = {s.slide_id: config.role_of(prints[s.slide_id]) for s in slides}
    assert roles == {s.slide_id: s.split for s in slides}
    assert config.role_of("9" * 64) == "held out"
    held = config.held_out
    assert held is not None
    assert (held.source, held.judged, held.n_slides, held.unit) == (
        "validation slides", "slides", 6, "patient",
    )  # fmt: skip
    assert held.class_counts == {"normal": 3, "tumour": 3}
    assert "6 slides of 6 patients" in held.text()
    assert "whole slides" in held.text()
    assert any(note.startswith("Quality on validation slides") for note in config.notes)
    assert config.nothing_learnt == ""
    assert config.training_counts == {"normal": 6, "tumour": 6}
    assert config.class_colours is not None
    assert set(config.class_colours) == {"normal", "tumour"}
    assert config.reference_settings is not None
    assert config.reference_settings.n_patches == 6 * 24
    assert config.saliency_reference is not None
    assert config.evidence_reference is not None
    assert config.evidence_reference["tumour"].p995 > config.evidence_reference["tumour"].p50
    assert bundle.features is not None
    assert bundle.features.quantiles[-1] > bundle.features.quantiles[0]


def test_references_are_of_maps_as_explaining_makes_them(
    bag_slides: Slides, quick_bags: TrainConfig, tmp_path: Path
) -> None:
    config = quick_bags.model_copy(update={"epochs": 1})
    result = train_on_slides(bag_slides, tmp_path / "model", config, device="cpu")
    bundle = load_bundle(result.bundle_path)
    values, others = [], []
    for slide in (s for s in bag_slides if s.split == "val"):
        out = tmp_path / f"{slide.slide_id}.zarr"
        result_of_slide = explain_slide(
            slide.store, result.bundle_path, out, ExplainConfig(), device="cpu"
        )
        assert result_of_slide.unlike_share is not None
        assert result_of_slide.unlike_share < 0.2  # of patches like those that were learnt from
        store = SaliencyStore(out)
        assert store.unlike is not None
        chance = store.probability[:, 1].astype(np.float64)
        evidence = patch_evidence(store.read_saliency(slice(None)), chance)
        values.append(evidence.ravel())
        if slide.label == "normal":
            others.append(evidence.ravel())
    found = bundle.config.evidence_reference
    assert found is not None
    assert found["tumour"].p995 == pytest.approx(np.quantile(np.concatenate(values), 0.995), 1e-2)
    assert found["tumour"].others_p99 == pytest.approx(
        np.quantile(np.concatenate(others), 0.99), 1e-2
    )


def test_foreign_tissue_is_unlike_the_training_data(
    bag_slides: Slides, make_bag: object, quick_bags: TrainConfig, tmp_path: Path
) -> None:
    result = train_on_slides(bag_slides, tmp_path / "model", quick_bags, device="cpu")
    green = make_bag("green", "test", "normal", seed=400, stain=(90.0, 200.0, 60.0))  # type: ignore[operator]
    result_of_slide = explain_slide(
        green.store, result.bundle_path, tmp_path / "green.zarr", ExplainConfig(), device="cpu"
    )
    assert result_of_slide.unlike_share is not None
    assert result_of_slide.unlike_share > 0.9
    assert any("unlike the model's training data" in note for note in result_of_slide.notes)


def test_what_learnt_nothing_says_so(
    bag_slides: Slides, quick_bags: TrainConfig, tmp_path: Path
) -> None:
    config = quick_bags.model_copy(update={"epochs": 1, "learning_rate": 1e-9, "ema_decay": 0.5})
    result = train_on_slides(bag_slides, tmp_path / "model", config, device="cpu")
    assert result.nothing_learnt
    assert any("LEARNT NOTHING" in note for note in result.notes)
    assert any("--labels mixed" in note for note in result.notes)  # and says what may help
    again = train_on_slides(bag_slides, tmp_path / "model", config, device="cpu")
    assert (again.skipped, again.nothing_learnt) == (True, result.nothing_learnt)


def test_guards_of_patch_training_hold_for_bags(
    bag_slides: Slides,
    quick_bags: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A class without training slides, settings without effect, the overfitting monitor, logs."""

    def check(*args: object, **kwargs: object) -> OverfittingCheck:
        return OverfittingCheck(step_gap=0.01, pgd_gap=2.0)

    monkeypatch.setattr(loop_module, "check_overfitting", check)
    update = {"epochs": 2, "tensorboard": True, "compile": True, "class_balance": "sampling"}
    # as a run.json names them, which holds every setting
    update |= {"multi_label": TrainConfig().multi_label, "batch_size": TrainConfig().batch_size}
    config = TrainConfig(**{**quick_bags.model_dump(exclude_unset=True), **update})  # type: ignore[arg-type]
    result = train_on_slides(
        bag_slides, tmp_path / "model", config, class_names=("normal", "tumour", "necrosis"),
        device="cpu",
    )  # fmt: skip
    notes = "\n".join(result.notes)
    assert "No training slide of: necrosis." in notes
    assert "Settings without effect on labels of slides: compile." in notes
    assert notes.count("catastrophic overfitting") == 1
    assert list((tmp_path / "model.training" / "tensorboard").glob("events*"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="devices"):
        train_on_slides(bag_slides, tmp_path / "model", config, device="cpu")


def test_classes_are_drawn_evenly_where_asked(make_bag: object) -> None:
    slides = [make_bag(f"e{k}", "train", "tumour" if k < 2 else "normal", seed=500 + k)  # type: ignore[operator]
              for k in range(10)]  # fmt: skip
    bags = make_bags(slides, ("normal", "tumour"))
    drawn = [
        bags.labels[bag]
        for seed in range(20)
        for step in epoch_of_bags(bags, 2, 4, 4, np.random.default_rng(seed), balanced=True)
        for bag in step.bags
    ]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.05)
    plain = [
        bags.labels[bag]
        for step in epoch_of_bags(bags, 2, 4, 4, np.random.default_rng(0))
        for bag in step.bags
    ]
    assert np.mean(plain) == pytest.approx(0.2)


def test_a_stopped_training_goes_on_to_the_same_bytes(
    bag_slides: Slides, quick_bags: TrainConfig, tmp_path: Path
) -> None:
    config = quick_bags.model_copy(
        update={"epochs": 3, "bag": quick_bags.bag.model_copy(update={"draws_per_epoch": 1})}
    )

    class StopError(Exception):
        pass

    def stop(progress: TrainProgress) -> None:
        if progress.epochs_done == 2 and progress.epoch_fraction == 0:
            raise StopError

    whole = train_on_slides(bag_slides, tmp_path / "whole", config, device="cpu", seed=3)
    with pytest.raises(StopError):
        train_on_slides(bag_slides, tmp_path / "again", config, device="cpu", seed=3, progress=stop)
    resumed = train_on_slides(bag_slides, tmp_path / "again", config, device="cpu", seed=3)
    for name in ("model.safetensors", "config.json", "training_log.csv"):
        assert (whole.bundle_path / name).read_bytes() == (resumed.bundle_path / name).read_bytes()


def test_a_bag_of_one_stain_moves_no_statistics(make_bag: object, tmp_path: Path) -> None:
    """Each slide has a stain of its own; two bags a step. Judged by all stains, it still learns."""
    stains = [
        (228.0, 170.0, 205.0), (200.0, 150.0, 215.0), (240.0, 200.0, 220.0), (215.0, 140.0, 180.0),
    ]  # fmt: skip
    slides = tuple(
        make_bag(  # type: ignore[operator]
            f"stain-{split}-{number}", split, ("normal", "tumour")[number % 2],
            seed=300 + 20 * k + number, stain=stains[(number // 2 + k) % 4],
        )
        for k, (split, count) in enumerate((("train", 16), ("val", 8), ("test", 8)))
        for number in range(count)
    )  # fmt: skip
    config = TrainConfig(
        labels="slide", method="plain", backbone_options={"widths": (8, 16)},
        epochs=14, patience=14,
        learning_rate=1e-2,
        bag={"patches_per_bag": 16, "bags_per_step": 2, "draws_per_epoch": 4, "attention_steps": 0},
    )  # fmt: skip
    result = train_on_slides(slides, tmp_path / "model", config, device="cpu")
    assert result.metrics["val_slide_auc"] >= 0.9
    model = load_bundle(result.bundle_path).model
    bags = [
        tall_image(to_float(torch.from_numpy(PatchStore(s.store).read(slice(None)))), 1)
        for s in slides[-2:]
    ]
    together = model(torch.cat(bags))
    for one, bag in zip(together, bags, strict=True):
        assert torch.allclose(one, model(bag)[0], atol=1e-5)


def test_statistics_are_those_of_all_patches() -> None:
    torch.manual_seed(0)
    model = build_bag_model(
        "scaat-small", {"widths": (8, 8)}, 16, 2, BagHeadConfig(), (0.0,) * 3, (1.0,) * 3
    )
    model.train()
    batches = [torch.rand(8, 3, 16, 16) * (1 + k) for k in range(3)]
    estimate_statistics(model.encoder, batches)
    first = model.encoder.backbone.stem
    outputs = [first[0](batch) for batch in batches]
    mean = torch.stack([o.mean(dim=(0, 2, 3)) for o in outputs]).mean(dim=0)
    variance = torch.stack([o.var(dim=(0, 2, 3)) for o in outputs]).mean(dim=0)
    assert torch.allclose(first[1].running_mean, mean, atol=1e-5)
    assert torch.allclose(first[1].running_var, variance, atol=1e-5)
    assert model.training
    assert first[1].momentum == 0.1


def test_the_method_begins_late_with_a_schedule_of_its_own() -> None:
    model = build_bag_model(
        "scaat-small", {"widths": (8, 8)}, 8, 2, BagHeadConfig(), (0.5,) * 3, (0.25,) * 3
    )
    staged = make_method("scaat", model, eps=0.1, warmup=0.5, start=0.5)
    found = []
    for fraction in (0.25, 0.5, 0.625, 0.75, 1.0):
        staged.set_progress(fraction)
        found.append(round(staged.eps_now, 6))  # type: ignore[attr-defined]
    assert found == [0.0, 0.0, 0.05, 0.1, 0.1]
    staged.set_progress(1.0)
    bags, labels = torch.rand(2, 3, 32, 8), torch.tensor([0, 1])
    losses = staged.training_step(bags, labels)
    assert losses.perturbed is not None
    # half of the bag's pixels may change at most, wherever in the bag they lie
    changed = (losses.perturbed - bags).abs().amax(dim=1).flatten(1) > 0
    assert bool((changed.float().mean(dim=1) <= 0.51).all())
    shares = changed.reshape(2, 4, 64).float().mean(dim=2)
    assert float(shares.std()) > 0.01  # the quantile is the bag's, not each patch's


def test_what_cannot_be_learnt_from_is_refused(
    bag_slides: Slides, make_bag: object, quick_bags: TrainConfig, tmp_path: Path
) -> None:
    normal = [s for s in bag_slides if s.label == "normal"]
    with pytest.raises(TrainingError, match="fewer than two classes"):
        train_on_slides(normal, tmp_path / "a", quick_bags, class_names=("normal", "tumour"))
    unlabelled = make_bag("none", "train", None, seed=77)  # type: ignore[operator]
    with pytest.raises(TrainingError, match="has no label"):
        train_on_slides([*bag_slides, unlabelled], tmp_path / "b", quick_bags)
    with pytest.raises(UsageError, match="set bag: start"):
        train_on_slides(
            bag_slides, tmp_path / "d",
            quick_bags.model_copy(update={"method_options": {"start": 0.2}}),
        )  # fmt: skip
    with pytest.raises(UsageError, match="scaat-amortised"):
        train_on_slides(
            bag_slides, tmp_path / "c", quick_bags.model_copy(update={"method": "scaat-amortised"})
        )


@pytest.mark.parametrize("of_patches", [False, True], ids=["slides", "patches"])
def test_a_network_whose_features_are_all_the_same_is_said_to_be_destroyed(
    of_patches: bool, bag_slides: Slides, quick_bags: TrainConfig, tmp_path: Path
) -> None:
    network = create_backbone("resnet18", 2, 32)
    state = network.state_dict()
    state["layer4.1.bn2.bias"].fill_(-1e3)  # nothing passes its last ReLU
    torch.save(state, tmp_path / "dead.pt")
    settings = {
        "backbone": "resnet18", "backbone_options": {}, "method": "plain",
        "backbone_weights": tmp_path / "dead.pt",
        "epochs": 1, "max_steps_per_epoch": 2, "learning_rate": 1e-4,
        "labels": "copy" if of_patches else "slide",
    }  # fmt: skip
    config = quick_bags.model_copy(update=settings)
    if of_patches:
        slides = tuple(
            replace(slide, store=labelled(slide, tmp_path / f"{slide.slide_id}.zarr"))
            for slide in bag_slides
        )
        made = train_model(slides, tmp_path / "model", config, device="cpu")
    else:
        made = train_on_slides(bag_slides, tmp_path / "model", config, device="cpu")
    said = " ".join(made.notes)
    assert "Training has destroyed the network" in said
    assert "learning_rate in the pipeline file lower (now 0.0001)" in said
    assert "What may help where a class fills little" not in said
    assert load_bundle(made.bundle_path).features is None  # nothing is unlike it
    explained = explain_slide(
        bag_slides[0].store, made.bundle_path, tmp_path / "s.zarr", ExplainConfig(), "cpu"
    )
    assert not any("unlike" in note for note in explained.notes)


def labelled(slide: TrainingSlide, path: Path) -> Path:
    """A copy of a slide's patches that are all of its class."""
    store = PatchStore(slide.store)
    write_patch_store(
        path,
        store.meta,
        store.read(slice(None)),
        grid_index=store.grid_index,
        label=np.full(len(store), store.meta.class_names.index(str(slide.label)), np.int16),
    )
    return path

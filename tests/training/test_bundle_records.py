"""What a bundle records: quality with intervals, its slides, scales; and that it says so when
the model has learnt nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pathology_scaat.errors import BundleError
from pathology_scaat.metrics.functional.calibration import (
    balanced_loss,
    calibrated_loss,
    fit_temperature,
    mean_loss,
    softmax,
)
from pathology_scaat.metrics.functional.roc import roc_auc
from pathology_scaat.pipeline.members import FoldModel, silent_models
from pathology_scaat.slides.fingerprint import keyed
from pathology_scaat.training import TrainConfig, TrainingSlide, load_bundle, train_model
from pathology_scaat.training.bundle import read_bundle_config
from pathology_scaat.training.bundle_config import (
    ADDED_LATER,
    BundleConfig,
    model_fingerprint,
    slide_mark,
)
from pathology_scaat.training.bundle_quality import NOTHING_LEARNT, Estimate, HeldOut
from pathology_scaat.training.description import _of_painted
from pathology_scaat.training.feature_reference import FeatureReference
from pathology_scaat.training.job import TrainingState
from pathology_scaat.training.looks import look_statistics
from pathology_scaat.training.trainer import Trainer

Slides = tuple[TrainingSlide, ...]
StoreMaker = Callable[..., TrainingSlide]


@pytest.fixture(scope="module")
def learnt(
    make_slide: StoreMaker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BundleConfig]:
    slides = [make_slide(f"t{k}", "train", 64, k) for k in range(2)]
    slides += [make_slide(f"v{k}", "val", 40, 10 + k) for k in range(6)]
    config = TrainConfig(
        backbone_options={"widths": (8, 16)}, epochs=8, batch_size=16, learning_rate=5e-3,
        monitor_images=0,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("learnt") / "model"
    train_model(slides, out, config, device="cpu")
    return out, read_bundle_config(out)


def test_held_out_quality_comes_with_intervals_over_patients(
    learnt: tuple[Path, BundleConfig],
) -> None:
    held = learnt[1].held_out
    assert held is not None
    assert (held.source, held.unit, held.n_units) == ("validation slides", "patient", 6)
    assert held.class_counts == {"normal": 120, "tumour": 120}
    for measure in (held.auc, held.balanced_accuracy):
        assert measure is not None
        # where nobody is wrong every resample agrees: "1.00 to 1.00" would be untrue
        assert (measure.low is None) == (measure.value == 1)
        if measure.low is not None and measure.high is not None:
            assert measure.low <= measure.value <= measure.high
    assert held.auc is not None
    assert held.auc.value > 0.95
    assert held.nothing_learnt == ""
    assert "6 patients" in held.text()


def test_a_model_that_was_trained_on_nothing_useful_says_so(
    make_slide: StoreMaker, tmp_path: Path, quick: TrainConfig
) -> None:
    rng = np.random.default_rng(0)
    slides = [
        make_slide(f"chance{k}", split, 64, 50 + k, labels=rng.permutation(np.arange(64) % 2))
        for k, split in enumerate(["train", "train", *["val"] * 5])
    ]
    config = quick.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    result = train_model(slides, tmp_path / "model", config, device="cpu")
    assert result.nothing_learnt
    assert any("LEARNT NOTHING" in note for note in result.notes)
    bundle = read_bundle_config(tmp_path / "model")
    assert bundle.nothing_learnt == result.nothing_learnt
    (said,) = silent_models([FoldModel(2, tmp_path / "model", None)])
    assert said == f"fold 2: {NOTHING_LEARNT}: {result.nothing_learnt}."
    path = tmp_path / "model"
    (alone,) = silent_models([FoldModel(None, path, None)])
    assert alone == f"{NOTHING_LEARNT}: {result.nothing_learnt}."
    told = silent_models([FoldModel(None, path, None)] * 2)  # of two it is said which
    assert [text.split(":")[0] for text in told] == ["model 1 of 2", "model 2 of 2"]
    again = train_model(slides, tmp_path / "model", config, device="cpu")
    assert again.skipped
    assert again.nothing_learnt == result.nothing_learnt


@pytest.mark.parametrize(
    ("accuracy", "span", "learnt"),
    [
        (Estimate(value=0.5, low=0.5, high=0.5), 0.4, False),
        (Estimate(value=0.6, low=0.45, high=0.7), 0.4, False),
        (Estimate(value=0.6, low=0.52, high=0.7), 0.4, True),
        (Estimate(value=0.9, low=0.8, high=1.0), 0.01, False),
        (None, 0.4, True),
    ],
)
def test_when_a_model_counts_as_having_learnt_nothing(
    accuracy: Estimate | None, span: float, learnt: bool
) -> None:
    held = HeldOut(
        source="test slides", n_patches=100, n_slides=9, n_patients=9, unit="patient", n_units=9,
        class_counts={"a": 50, "b": 50}, balanced_accuracy=accuracy, chance=0.5,
        probability_span=span,
    )  # fmt: skip
    assert (held.nothing_learnt == "") == learnt


@pytest.mark.parametrize(
    ("judged", "fingerprint"),
    [
        (None, "be2b1e292cd50357e03189979cffdac42bb87444307f91d01ba24a08984d5d69"),
        ("slides", "5ffdc182608fb8bc055e55692e270f2ee18efa2a58d4892533a6118daae8724e"),
    ],
)
def test_a_bundle_of_before_is_not_said_to_be_altered(judged: Any, fingerprint: str) -> None:
    """Fields that came later, in the record of quality too, do not enter where they say nothing.

    The fingerprints are what the version before these fields wrote.
    """
    held = HeldOut(
        source="test slides", n_patches=100, n_slides=9, n_patients=9, unit="patient", n_units=9,
        class_counts={"a": 50, "b": 50}, chance=0.5, probability_span=0.5, judged=judged,
        balanced_accuracy=Estimate(value=0.9, low=0.8, high=0.95),
    )  # fmt: skip
    config = BundleConfig(
        class_names=("a", "b"), positive_class="b", patch_size_px=32, mpp=0.5,
        backbone="scaat-small", mean=(0.8, 0.7, 0.8), std=(0.15, 0.2, 0.15), held_out=held,
    )  # fmt: skip
    assert model_fingerprint(config) == fingerprint
    with_copied = config.model_copy(update={"held_out": held.model_copy(update={"n_copied": 7})})
    assert model_fingerprint(with_copied) != fingerprint


@pytest.mark.parametrize("judged", [None, "slides"])
def test_a_class_of_which_nothing_was_held_out_is_named(judged: Any) -> None:
    """Means over the classes that occur say nothing of the others, and must not seem to."""
    estimate = Estimate(value=0.9, low=0.8, high=0.95)
    held = HeldOut(
        source="test slides", n_patches=100, n_slides=9, n_patients=9, unit="patient", n_units=9,
        class_counts={"a": 50, "b": 50, "c": 0, "d": 0}, auc=estimate,
        balanced_accuracy=estimate, chance=0.5, probability_span=0.4, judged=judged,
    )  # fmt: skip
    kind = "slide" if judged else "patch"
    assert held.text().endswith(f"(over the other classes: no held-out {kind} is of c, d)")
    whole = held.model_copy(update={"class_counts": {"a": 50, "b": 50}})
    assert "other classes" not in whole.text()


def test_a_constant_prediction_wins_no_epoch(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    """AUC 1 with every patch called tumour loses to AUC 0.97 that tells the classes apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    constant = np.zeros((400, 2))
    constant[:, 1] = 2 + 0.001 * labels  # perfectly ranked, all the same
    good = np.zeros((400, 2))
    good[:, 1] = 4 * (labels - 0.5) + rng.normal(size=400)
    assert roc_auc(softmax(constant)[:, 1], labels == 1) == 1.0
    assert roc_auc(softmax(good)[:, 1], labels == 1) < 1.0
    assert calibrated_loss(good, labels) < calibrated_loss(constant, labels) - 0.1
    assert calibrated_loss(constant, labels) >= np.log(2) - 0.01
    train_model(slides, tmp_path / "model", quick.model_copy(update={"epochs": 1}), device="cpu")

    from pathology_scaat.training.job import Job

    job = Job(tuple(slides), tmp_path / "m", quick, ("normal", "tumour"), "f", "cpu", 0)
    trainer = Trainer(job, None)
    trainer._prepare()
    trainer.method.options = trainer.method.options.__class__(start=0.0, warmup=0.0)  # type: ignore[attr-defined]
    state = TrainingState(rows=[])
    for epoch, (auc, logits) in enumerate(((0.97, good), (1.0, constant)), start=1):
        state.epoch = epoch
        row: dict[str, Any] = {"val_auc": auc, "loss": 1.0}
        row["val_calibrated_loss"] = calibrated_loss(logits, labels)
        trainer._choose(state, row)
    assert state.chosen_epoch == 1


def test_the_bundle_knows_its_slides(learnt: tuple[Path, BundleConfig]) -> None:
    config = learnt[1]
    assert config.slides is not None
    prints = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("t0", "t1", "v5")}
    assert [config.role_of(p) for p in prints.values()] == ["train", "train", "val"]
    assert config.role_of("f" * 64) == "held out"
    assert prints["t0"] not in json.dumps(config.model_dump(mode="json")["slides"])
    older = config.model_copy(update={"slides": None})
    assert older.role_of(prints["t0"]) == "unknown"


@pytest.mark.parametrize(
    ("own", "before", "painted"),
    [("aperio", False, False), ("aperio, painted by scaat demo", False, True),
     ("aperio", True, True)],
)  # fmt: skip
def test_what_learnt_from_painted_slides_says_so_wherever_its_quality_is_read(
    learnt: tuple[Path, BundleConfig], own: str, before: bool, painted: bool
) -> None:
    config = learnt[1]
    assert config.held_out is not None
    parent = config.model_copy(
        update={"held_out": config.held_out.model_copy(update={"painted": before})}
    )
    stores = [SimpleNamespace(meta=SimpleNamespace(slide=SimpleNamespace(vendor=own)))]
    made: Any = SimpleNamespace(held_out=config.held_out, parent=parent, stores=stores)
    found = _of_painted(made)
    assert found is not None
    said = "learnt from painted slides (scaat demo), not from patients' tissue; on validation"
    assert found.text().startswith(said) == painted
    same = config.model_copy(update={"held_out": found})
    assert (model_fingerprint(same) == model_fingerprint(config)) == (not painted)


def test_slides_under_other_pseudonyms_are_not_called_held_out(
    learnt: tuple[Path, BundleConfig],
) -> None:
    """A slide that was trained on has another hash under a salt: that shows nothing."""
    config = learnt[1]
    print_ = hashlib.sha256(b"t0").hexdigest()
    assert config.role_of(print_) == "train"
    assert config.role_of(keyed(print_, b"one salt")) == "unknown"
    marks = (slide_mark(keyed(print_, b"one salt"), config.training_fingerprint),)
    hidden = config.model_copy(update={"slides": {"train": marks, "val": (), "test": ()}})
    assert hidden.role_of(keyed(print_, b"one salt")) == "train"
    assert hidden.role_of(keyed("f" * 64, b"one salt")) == "held out"
    assert hidden.role_of(keyed(print_, b"another salt")) == "unknown"
    assert hidden.role_of(print_) == "unknown"


def test_map_references_are_ordered_and_evidence_is_a_share(
    learnt: tuple[Path, BundleConfig],
) -> None:
    config = learnt[1]
    for found in (config.saliency_reference, config.evidence_reference):
        assert found is not None
        assert set(found) == set(config.class_names)
        for one in found.values():
            assert 0 <= one.p50 <= one.p90 <= one.p99 <= one.p995
            assert one.others_p99 is not None
    assert config.evidence_reference is not None
    tumour = config.evidence_reference["tumour"]
    assert tumour.p995 <= 1
    assert tumour.others_p99 is not None
    assert tumour.others_p99 < tumour.p99  # what normal patches reach is below


def test_bundles_of_before_still_load(learnt: tuple[Path, BundleConfig], tmp_path: Path) -> None:
    import shutil

    path = tmp_path / "old"
    shutil.copytree(learnt[0], path)
    value = json.loads((path / "config.json").read_text())
    for name in ADDED_LATER:
        value.pop(name)
    old = BundleConfig.model_validate(
        {k: v for k, v in value.items() if k in BundleConfig.model_fields}
    )
    value["fingerprint"] = model_fingerprint(old)
    (path / "config.json").write_text(json.dumps(value))
    bundle = load_bundle(path)
    assert bundle.features is None
    assert bundle.config.held_out is None
    assert bundle.config.nothing_learnt == ""


def test_an_altered_record_is_refused(learnt: tuple[Path, BundleConfig], tmp_path: Path) -> None:
    import shutil

    path = tmp_path / "model"
    shutil.copytree(learnt[0], path)
    value = json.loads((path / "config.json").read_text())
    value["held_out"]["auc"]["value"] = 0.999
    (path / "config.json").write_text(json.dumps(value))
    with pytest.raises(BundleError, match="altered"):
        load_bundle(path)
    shutil.copy(learnt[0] / "config.json", path / "config.json")
    data = bytearray((path / "features.safetensors").read_bytes())
    data[-3] ^= 1
    (path / "features.safetensors").write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"features\.safetensors"):
        load_bundle(path)


def test_the_exported_script_gives_calibrated_logits(learnt: tuple[Path, BundleConfig]) -> None:
    import warnings

    bundle = load_bundle(learnt[0])
    assert bundle.config.temperature != 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        (folder,) = (learnt[0] / "wsinfer").iterdir()
        script = torch.jit.load(folder / "torchscript_model.pt")  # type: ignore[no-untyped-call]
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = bundle.model(x) / bundle.config.temperature
        torch.testing.assert_close(script(x), expected, rtol=1e-4, atol=1e-5)


def test_few_patches_that_are_all_right_are_not_certain() -> None:
    labels = np.arange(20) % 2
    logits = np.stack([-3.0 * labels, 3.0 * labels], axis=1)
    sharp, careful = (fit_temperature(logits, labels, smoothed=s) for s in (False, True))
    assert softmax(logits / sharp).max() > 0.9999
    assert softmax(logits / careful).max() < 0.99
    assert balanced_loss(logits, labels) == pytest.approx(mean_loss(logits, labels))


def test_foreign_tissue_is_unlike_the_training_patches(
    learnt: tuple[Path, BundleConfig], make_slide: StoreMaker
) -> None:
    """Planted foreign tissue: another colour and another texture than any training patch has."""
    from pathology_scaat.patches import PatchStore
    from pathology_scaat.training.data import make_table
    from pathology_scaat.training.references import features_of

    bundle = load_bundle(learnt[0])
    assert bundle.features is not None
    own = features_of(
        bundle.model, make_table([make_slide("own", "test", 96, 77)], False, 0.5),
        torch.device("cpu"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    patches = PatchStore(make_slide("own", "test", 96, 77).store).read(slice(None))
    stripes = (np.arange(32) // 2 % 2)[None, :, None, None] * 70
    foreign = np.clip(patches[..., [1, 2, 0]] - stripes + rng.normal(0, 8, patches.shape), 0, 255)
    from pathology_scaat.training.feature_reference import penultimate

    images, odd = (
        torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255 for part in (patches, foreign)
    )
    with torch.no_grad(), penultimate(bundle.model) as kept:
        bundle.model(odd)
    mine = bundle.features.percentile(own, look_statistics(images).numpy())
    scores = np.concatenate(
        [mine, bundle.features.percentile(kept[0].numpy(), look_statistics(odd).numpy())]
    )
    assert roc_auc(scores, np.arange(len(scores)) >= len(own)) >= 0.9
    assert (scores[len(own) :] >= 99).mean() > 0.9  # flagged, and not only ranked
    assert (mine < 99).mean() > 0.8


def test_a_gaussian_is_recovered_and_few_patches_give_none() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 3
    fitted = FeatureReference.fit(data, rng.normal(size=(10, 6)))
    assert fitted is not None
    centre = data.mean(axis=0, keepdims=True)
    assert fitted.distance(centre)[0] < 0.1
    assert fitted.percentile(data).mean() == pytest.approx(50, abs=1)
    assert fitted.percentile(centre + 100)[0] == 100
    assert FeatureReference.fit(data[:10], data) is None
    assert FeatureReference.fit(np.zeros((100, 0)), data) is None

"""Training end to end on tiny stores: it learns, repeats itself, resumes and skips."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_command import start_forked
from stopping import InterruptedTestError, files, stop_after

from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.execution.devices import process_device
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.scaat import METHODS
from pathology_scaat.training import (
    TrainConfig,
    TrainingSlide,
    TrainProgress,
    load_bundle,
    train_model,
)
from pathology_scaat.training.job import Job, work_folder
from pathology_scaat.training.loop import TrainingLoop
from pathology_scaat.training.train import check_slides
from pathology_scaat.training.wsinfer import NOT_OF_LABELS

Slides = tuple[TrainingSlide, ...]
StoreMaker = Callable[..., TrainingSlide]


def test_it_learns_and_reports(slides: Slides, tmp_path: Path, quick: TrainConfig) -> None:
    seen: list[TrainProgress] = []
    config = quick.model_copy(update={"epochs": 10})
    result = train_model(slides, tmp_path / "model", config, device="cpu", progress=seen.append)
    assert result.metrics["val_auc"] > 0.95
    assert result.metrics["test_auc"] > 0.95
    assert seen[-1].epochs_done == result.n_epochs
    assert "val AUC" in seen[-1].text
    bundle = load_bundle(result.bundle_path)
    assert bundle.fingerprint == result.model_fingerprint
    assert bundle.config.positive_class == "tumour"
    assert bundle.config.method == "scaat"
    assert bundle.config.method_options["eps"] == pytest.approx(16 / 255)
    assert not bundle.model.training
    log = (result.bundle_path / "training_log.csv").read_text()
    rows = list(csv.DictReader(log.splitlines()))
    assert len(rows) == result.n_epochs
    assert float(rows[-1]["masked_pgd_gap"]) >= 0
    assert not (work_folder(result.bundle_path) / "checkpoint.pt").exists()


def test_the_end_of_a_training_opens_no_store_to_see_if_it_is_painted(
    slides: Slides, tmp_path: Path, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read, note = PatchStore.__init__, TrainingLoop._note_quality

    def noted(loop: TrainingLoop, *found: Any) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                PatchStore, "__init__", lambda s, path: opened.append(path) or read(s, path)
            )
            note(loop, *found)

    monkeypatch.setattr(TrainingLoop, "_note_quality", noted)
    result = train_model(
        slides, tmp_path / "model", quick.model_copy(update={"epochs": 1}), device="cpu"
    )
    assert any(text.startswith("Quality") for text in result.notes)
    assert opened == []


@pytest.mark.slow
def test_same_seed_same_bytes_and_resume_is_exact(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    whole = train_model(slides, tmp_path / "whole" / "model", quick, device="cpu", seed=3)
    again = tmp_path / "again" / "model"
    for epoch in (1, 3):
        with pytest.raises(InterruptedTestError):
            train_model(slides, again, quick, device="cpu", seed=3, progress=stop_after(epoch))
        assert not again.exists()
    resumed = train_model(slides, again, quick, device="cpu", seed=3)
    assert files(resumed.bundle_path) == files(whole.bundle_path)
    other = train_model(slides, tmp_path / "other" / "model", quick, device="cpu", seed=4)
    assert other.model_fingerprint != whole.model_fingerprint


@pytest.mark.parametrize("method", ["scaat-amortised", "free"])
def test_methods_with_memory_resume_exactly(
    slides: Slides, tmp_path: Path, quick: TrainConfig, method: str
) -> None:
    config = quick.model_copy(update={"method": method, "ema_decay": 0.9, "epochs": 3})
    whole = train_model(slides, tmp_path / "whole" / "model", config, device="cpu")
    with pytest.raises(InterruptedTestError):
        train_model(slides, tmp_path / "b" / "model", config, device="cpu", progress=stop_after(2))
    resumed = train_model(slides, tmp_path / "b" / "model", config, device="cpu")
    assert files(resumed.bundle_path) == files(whole.bundle_path)


@pytest.mark.parametrize("stopped_after", [1, 3])  # in the plain stage, and past its end
def test_staged_training_resumes_exactly(
    slides: Slides, tmp_path: Path, quick: TrainConfig, stopped_after: int
) -> None:
    options = {"start": 0.5, "warmup": 0.5, "every": 2}
    config = quick.model_copy(update={"method_options": options, "epochs": 5})
    whole = train_model(slides, tmp_path / "whole" / "model", config, device="cpu")
    out = tmp_path / "b" / "model"
    with pytest.raises(InterruptedTestError):
        train_model(slides, out, config, device="cpu", progress=stop_after(stopped_after))
    resumed = train_model(slides, out, config, device="cpu")
    assert files(resumed.bundle_path) == files(whole.bundle_path)
    rows = list(csv.DictReader(io.StringIO((out / "training_log.csv").read_text())))
    eps = [float(row["eps"]) for row in rows]
    assert eps[:2] == [0.0, 0.0]
    assert 0 < eps[2] < eps[3] <= 16 / 255 + 1e-9
    assert eps[-1] == pytest.approx(16 / 255)
    assert [float(row["robust_loss"]) for row in rows[:2]] == [0.0, 0.0]
    assert resumed.best_epoch > 3  # of the epochs at full strength


def test_checkpoint_of_another_training_is_not_used(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    out = tmp_path / "model"
    with pytest.raises(InterruptedTestError):
        train_model(slides, out, quick, device="cpu", progress=stop_after(1))
    changed = quick.model_copy(update={"learning_rate": 1e-3})
    result = train_model(slides, out, changed, device="cpu")
    alone = train_model(slides, tmp_path / "alone" / "model", changed, device="cpu")
    assert result.model_fingerprint == alone.model_fingerprint


def test_damaged_checkpoint_starts_anew(slides: Slides, tmp_path: Path, quick: TrainConfig) -> None:
    out = tmp_path / "model"
    with pytest.raises(InterruptedTestError):
        train_model(slides, out, quick, device="cpu", progress=stop_after(1))
    checkpoint = work_folder(out) / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert train_model(slides, out, quick, device="cpu").n_epochs == quick.epochs


def test_checkpoint_never_unpickles_code(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    out = tmp_path / "model"
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trap,)

    work_folder(out).mkdir(parents=True)
    torch.save({"version": 1, "fingerprint": Trap()}, work_folder(out) / "checkpoint.pt")
    train_model(slides, out, quick.model_copy(update={"epochs": 1}), device="cpu")
    assert not trap.exists()


def test_finished_training_is_skipped(slides: Slides, tmp_path: Path, quick: TrainConfig) -> None:
    first = train_model(slides, tmp_path / "model", quick, device="cpu")
    second = train_model(slides, tmp_path / "model", quick, device="cpu")
    assert second.skipped
    assert second.metrics == first.metrics
    assert second.model_fingerprint == first.model_fingerprint
    assert not train_model(slides, tmp_path / "model", quick, device="cpu", overwrite=True).skipped


@pytest.mark.parametrize("method", METHODS.names)
def test_every_method_trains(
    slides: Slides, tmp_path: Path, quick: TrainConfig, method: str
) -> None:
    config = quick.model_copy(
        update={"method": method, "epochs": 1, "max_steps_per_epoch": 3, "monitor_images": 8}
    )
    result = train_model(slides, tmp_path / "model", config, device="cpu")
    assert json.loads((result.bundle_path / "config.json").read_text())["method"] == method


@pytest.mark.parametrize(
    "change",
    [
        {"class_balance": "sampling"},
        {"label_smoothing": 0.1},
        {"noise_tolerance": 0.5},
        {"precision": "bf16"},
        {"normalisation": "imagenet"},
        {"channels_last": False, "cache_bytes": 0},
        {"ema_decay": 0.9},
        {"trainable": "last-1"},
        {"backbone_options": {"widths": (8, 16), "norm": "group"}},
    ],
    ids=str,
)
def test_settings_train(
    slides: Slides, tmp_path: Path, quick: TrainConfig, change: dict[str, Any]
) -> None:
    config = quick.model_copy(update={"epochs": 2, **change})
    result = train_model(slides, tmp_path / "model", config, device="cpu")
    assert np.isfinite(result.metrics["val_loss"])


def test_tensorboard_files_name_no_host(slides: Slides, tmp_path: Path, quick: TrainConfig) -> None:
    config = quick.model_copy(update={"tensorboard": True, "epochs": 2})
    train_model(slides, tmp_path / "model", config, device="cpu")
    names = sorted(p.name for p in (tmp_path / "model.training" / "tensorboard").iterdir())
    assert names == ["events.out.tfevents.000001", "events.out.tfevents.000002"]


def test_frozen_parts_do_not_move(slides: Slides, tmp_path: Path, quick: TrainConfig) -> None:
    config = quick.model_copy(update={"trainable": "head"})
    models = [
        load_bundle(
            train_model(
                slides, tmp_path / str(n) / "model", config.model_copy(update={"epochs": n}),
                device="cpu",
            ).bundle_path
        ).model.state_dict()
        for n in (1, 3)
    ]  # fmt: skip
    for key, value in models[0].items():
        moved = not torch.equal(value, models[1][key])
        assert moved == ("head" in key), key


def test_several_labels(make_slide: StoreMaker, tmp_path: Path, quick: TrainConfig) -> None:
    rng = np.random.default_rng(0)
    coverage = (rng.random((64, 2)) * [1, 0.6]).astype(np.float32)
    labels = (coverage[:, 1] >= 0.25).astype(np.int64)
    made = [
        make_slide(f"m-{split}", split, 64, 9, labels=labels, coverage=coverage)
        for split in ("train", "val")
    ]
    config = quick.model_copy(update={"multi_label": True, "epochs": 3})
    result = train_model(made, tmp_path / "model", config, device="cpu")
    config_of_bundle = load_bundle(result.bundle_path).config
    assert config_of_bundle.multi_label
    assert result.metrics["val_auc"] > 0.5
    # QuPath's extension would take the softmax of what are probabilities of their own
    assert not (result.bundle_path / "wsinfer").exists()
    assert NOT_OF_LABELS in result.notes
    assert NOT_OF_LABELS in config_of_bundle.notes
    tolerant = config.model_copy(update={"noise_tolerance": 0.5})
    with pytest.raises(UsageError, match="one class per patch"):
        train_model(made, tmp_path / "other", tolerant, device="cpu")


def test_three_classes(make_slide: StoreMaker, tmp_path: Path, quick: TrainConfig) -> None:
    names = ("stroma", "tumor", "vessel")
    made = [make_slide(f"k-{s}", s, 60, 5, class_names=names) for s in ("train", "val")]
    result = train_model(made, tmp_path / "model", quick, device="cpu")
    assert load_bundle(result.bundle_path).config.positive_class == "tumor"


def test_one_slide_is_split_by_blocks(
    make_slide: StoreMaker, tmp_path: Path, quick: TrainConfig
) -> None:
    only = make_slide("lonely", "train", 256, 6)
    result = train_model([only], tmp_path / "model", quick, device="cpu")
    assert any("optimistic" in note for note in result.notes)
    held = result.metrics["n_val_patches"]
    assert 0 < held < 128
    assert held + result.metrics["n_train_patches"] <= 256


def test_what_cannot_be_trained_is_said(
    make_slide: StoreMaker, slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    out = tmp_path / "model"
    with pytest.raises(TrainingError, match="no slide"):
        train_model([], out, quick)
    twice = TrainingSlide(slides[2].store, "x", slides[0].patient_id, "val")
    with pytest.raises(TrainingError, match="both 'train' and 'val'"):
        train_model([*slides, twice], out, quick)
    one_class = make_slide("flat", "train", 32, 7, labels=np.zeros(32, np.int64))
    with pytest.raises(TrainingError, match="fewer than two classes"):
        train_model([one_class], out, quick)
    unlabelled = make_slide("none", "train", 32, 8, labels=np.full(32, -1))
    with pytest.raises(TrainingError, match="fewer than two classes"):
        train_model([unlabelled], out, quick)
    other = make_slide("other", "val", 32, 9, class_names=("a", "b", "c"))
    with pytest.raises(TrainingError, match="differ"):
        train_model([slides[0], other], out, quick)
    with pytest.raises(UsageError, match="unknown"):
        train_model(slides, out, quick.model_copy(update={"backbone": "no-such-net"}))
    with pytest.raises(UsageError, match="unknown"):
        train_model(slides, out, quick.model_copy(update={"method_options": {"epsilon": 1}}))
    with pytest.raises(UsageError, match="device"):
        train_model(slides, out, quick, device="toaster")
    with pytest.raises(TrainingError, match="no class"):
        train_model(slides, out, quick.model_copy(update={"positive_class": "x", "epochs": 1}))
    assert not out.exists()


@pytest.mark.slow
def test_two_processes_equal_one(slides: Slides, tmp_path: Path) -> None:
    """Half a batch each, gradients averaged: the same weights as one process on the whole."""
    config = TrainConfig(
        backbone_options={"widths": (8, 16), "norm": "group"},
        epochs=2,
        batch_size=16,
        method_options={"random_start": "none"},
    )
    one = train_model(slides, tmp_path / "one" / "model", config, device="cpu")
    config = config.model_copy(update={"devices": 2})
    two = train_model(slides, tmp_path / "two" / "model", config, device="cpu")
    mine, theirs = (load_bundle(r.bundle_path).model.state_dict() for r in (one, two))
    for key, value in mine.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-4)
    assert two.metrics["val_auc"] == pytest.approx(one.metrics["val_auc"], abs=0.01)


def test_a_gpu_without_enough_memory_is_one_sentence(
    slides: Slides, tmp_path: Path, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("pathology_scaat.scaat.SCAAT.training_step", full)
    with pytest.raises(TrainingError) as raised:
        train_model(slides, tmp_path / "model", quick, device="cpu")
    assert str(raised.value) == (
        "the GPU: has too little memory free for batches of 16 patches of 32 px; set a smaller "
        "train: batch_size in the pipeline file, or use --device cpu."
    )
    assert not (tmp_path / "model").exists()


def test_one_gpu_by_its_number_is_not_for_several_processes(
    slides: Slides, tmp_path: Path, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathology_scaat.training.train.device_name", lambda name: name)
    two = quick.model_copy(update={"devices": 2})
    with pytest.raises(UsageError, match="'cuda:0' is one device, and 2 are asked for; use cuda"):
        train_model(slides, tmp_path / "model", two, device="cuda:0")


def test_each_process_has_the_gpu_of_its_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert process_device("cuda", 3) == torch.device("cuda", 3)
    assert process_device("cuda", 0) == torch.device("cuda", 0)
    assert process_device("cuda:1", 0) == torch.device("cuda", 1)
    assert process_device("cpu", 2) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "1")  # the sixth process of all, the second of its machine
    assert process_device("cuda", 5) == torch.device("cuda", 1)


@pytest.mark.slow
def test_averaged_statistics_are_the_same_in_all_processes(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    """BatchNorm's statistics of the slow copy are averaged as those of the model are."""
    config = quick.model_copy(
        update={"ema_decay": 0.9, "epochs": 1, "backbone_options": {"widths": (8, 16)}}
    )
    job = Job(tuple(slides), tmp_path / "model", config, check_slides(slides), "f" * 64, "cpu", 0)
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    processes = [
        start_forked(
            "rank_of_two",
            ["average", str(tmp_path / "job"), f"file://{tmp_path}/meeting", str(rank),
             str(tmp_path / f"{rank}.pt")],
            output=tmp_path / f"{rank}.txt", folder=Path(__file__).parent, environment={},
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(processes):
        assert process.wait(200) == 0, (tmp_path / f"{rank}.txt").read_text()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert any("running_mean" in name for name in first)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name])


def test_the_bundle_records_the_slides_it_was_trained_on(
    make_slide: StoreMaker, tmp_path: Path, quick: TrainConfig
) -> None:
    made = [
        make_slide(f"b-{split}", split, 64, k) for k, split in enumerate(("train", "val", "test"))
    ]
    result = train_model(made, tmp_path / "model", quick.model_copy(update={"epochs": 1}))
    prints = {s.split: PatchStore(s.store).meta.slide_fingerprint for s in made}
    config = load_bundle(result.bundle_path).config
    assert {split: config.role_of(found) for split, found in prints.items()} == {
        "train": "train", "val": "val", "test": "test",
    }  # fmt: skip
    assert config.role_of("f" * 64) == "held out"
    assert prints["train"] not in (result.bundle_path / "config.json").read_text()

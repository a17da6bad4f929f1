"""What the loop promises beyond learning: when it stops, what it clips, averages, sends, says."""

from __future__ import annotations

import csv
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forked_command import start_forked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_train_model import InterruptedTestError, Slides, StoreMaker, files, stop_after
from torch import nn

from pathology_scaat.cli import app
from pathology_scaat.errors import NothingLearntError, ScaatError
from pathology_scaat.scaat.overfitting_monitor import OverfittingCheck
from pathology_scaat.training import TrainConfig, load_bundle, train_model
from pathology_scaat.training import loop as trainer_module
from pathology_scaat.training.bundle import read_bundle_config
from pathology_scaat.training.gradient_averaging import GradientAverager
from pathology_scaat.training.job import Job
from pathology_scaat.training.trainer import Trainer


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    return config.model_copy(update=values)


def test_it_stops_when_nothing_improves(slides: Slides, tmp_path: Path, quick: TrainConfig) -> None:
    """A learning rate that moves nothing: the first epoch after warm-up stays the best."""
    config = changed(quick, epochs=40, patience=2, learning_rate=1e-12, weight_decay=0.0)
    config = changed(config, method_options={"start": 0.0, "warmup": 0.0})
    # statistics of a batch norm would move without any step
    config = changed(config, backbone_options={"widths": (8, 16), "norm": "group"})
    result = train_model(slides, tmp_path / "model", config, device="cpu")
    assert result.n_epochs == 3
    assert result.best_epoch == 3  # of equals the latest


@pytest.mark.parametrize("limit", [0.01, None])
def test_gradients_are_clipped_before_the_step(
    slides: Slides, tmp_path: Path, quick: TrainConfig, limit: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    config = changed(quick, epochs=1, grad_clip=limit)
    train_model(slides, tmp_path / "model", config, device="cpu")
    assert len(norms) == 104 // 16
    if limit is None:
        assert max(norms) > 0.1
    else:
        assert max(norms) == pytest.approx(limit, rel=1e-3)


def log_rows(bundle: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((bundle / "training_log.csv").read_text().splitlines()))


def prepared(slides: Slides, folder: Path, config: TrainConfig) -> Trainer:
    trainer = Trainer(
        Job(slides, folder / "model", config, ("normal", "tumour"), "0" * 64, "cpu", 0), None
    )
    torch.manual_seed(0)
    trainer._prepare()
    return trainer


def test_the_average_follows_the_weights(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    trainer = prepared(slides, tmp_path, changed(quick, ema_decay=0.99))
    assert trainer.average is not None
    slow, fast = trainer.average.backbone.head.weight, trainer.model.backbone.head.weight
    expected = slow.clone()
    for step, decay in ((0, 0.1), (8, 0.5), (100_000, 0.99)):
        with torch.no_grad():
            fast.add_(1.0)
        trainer._follow(step)
        expected = decay * expected + (1 - decay) * fast.detach()
        torch.testing.assert_close(slow.detach(), expected)


def test_memory_of_a_teacher_resumes_exactly(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    options = {"saliency": "ema-teacher", "teacher_decay": 0.9, "warmup": 0.0}
    config = changed(quick, method_options=options, epochs=3)
    whole = train_model(slides, tmp_path / "whole" / "model", config, device="cpu")
    with pytest.raises(InterruptedTestError):
        train_model(slides, tmp_path / "b" / "model", config, device="cpu", progress=stop_after(2))
    resumed = train_model(slides, tmp_path / "b" / "model", config, device="cpu")
    assert files(resumed.bundle_path) == files(whole.bundle_path)
    log = log_rows(whole.bundle_path)
    assert len({row["loss"] for row in log}) == 3


def test_an_overfitting_step_is_reported(
    slides: Slides, tmp_path: Path, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*args: Any, **kwargs: Any) -> OverfittingCheck:
        return OverfittingCheck(step_gap=0.01, pgd_gap=2.0)

    monkeypatch.setattr(trainer_module, "check_overfitting", check)
    result = train_model(slides, tmp_path / "model", changed(quick, epochs=2), device="cpu")
    assert sum("catastrophic overfitting" in note for note in result.notes) == 1
    assert [row["masked_pgd_gap"] for row in log_rows(result.bundle_path)] == ["2", "2"]
    config = changed(quick, epochs=1, method="plain")
    plain = train_model(slides, tmp_path / "plain", config, device="cpu")
    assert not any("catastrophic" in note for note in plain.notes)


def test_tensorboard_holds_what_the_log_holds(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    config = changed(quick, tensorboard=True, epochs=2)
    result = train_model(slides, tmp_path / "model", config, device="cpu")
    rows = log_rows(result.bundle_path)
    events = EventAccumulator(str(tmp_path / "model.training" / "tensorboard"))
    events.Reload()
    for name in ("loss", "clean_loss", "val_auc", "masked_pgd_gap"):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        assert [step for step, _ in found] == [1, 2]
        assert [v for _, v in found] == pytest.approx([float(r[name]) for r in rows], rel=1e-5)


@pytest.mark.parametrize(
    ("backbone", "trainable"),
    [
        ("resnet18", "head"),
        ("resnet18", "all"),
        ("convnext_atto", "last-1"),
        ("vit_tiny_patch16_224", "all"),
    ],
)
def test_scaat_trains_other_backbones(
    slides: Slides, tmp_path: Path, quick: TrainConfig, backbone: str, trainable: str
) -> None:
    # with its last normalisations at 0, an untrained ResNet sees a corner of such a patch
    options = {"zero_init_last": False} if backbone == "resnet18" else {}
    config = changed(
        quick, backbone=backbone, backbone_options=options, trainable=trainable, epochs=1,
        batch_size=8, max_steps_per_epoch=2, monitor_images=4, learning_rate=1e-3,
        method_options={"warmup": 0.0},
    )  # fmt: skip
    trainer = prepared(slides, tmp_path / "before", config)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    result = train_model(slides, tmp_path / "model", config, device="cpu")
    row = log_rows(result.bundle_path)[0]
    assert float(row["robust_loss"]) > 0
    after = load_bundle(result.bundle_path).model.state_dict()
    trained = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    still = {k for k, v in after.items() if torch.equal(v, before[k])}
    if trainable == "head":
        assert after.keys() - still == trained  # frozen BatchNorm statistics too
    else:
        assert not still & trained


def test_only_the_last_backward_sends_and_each_gradient_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clean backward of a step stays at home (no_sync); what is sent is the sum of both."""
    sent: list[torch.Tensor] = []

    class Work:
        def wait(self) -> None: ...

    def all_reduce(tensor: torch.Tensor, async_op: bool = False) -> Work:
        sent.append(tensor.clone())
        tensor.mul_(2)  # the other process sends the same
        return Work()

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "broadcast", lambda tensor, src: None)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    averager = GradientAverager(model)
    x = torch.ones(2, 4)
    for _ in range(2):  # the second step finds everything reset
        sent.clear()
        model.zero_grad(set_to_none=True)
        averager.backward(model(x).sum(), False)
        assert not sent
        first = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        averager.backward(model(x).square().sum(), True)
        assert sum(t.numel() for t in sent) == sum(p.numel() for p in model.parameters())
        averager.finish()
        assert len(sent) == 1
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad(set_to_none=True)
        (model(x).sum() + model(x).square().sum()).backward()
        for mine, parameter in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad)
        assert not torch.equal(first, torch.cat([g.reshape(-1) for g in grads]))


@pytest.mark.slow
def test_processes_that_a_launcher_starts_share_the_training(
    slides: Slides, tmp_path: Path, quick: TrainConfig
) -> None:
    """As torchrun does: the same script in each process, who is who in the environment."""
    config = changed(
        quick, backbone_options={"widths": (8, 16), "norm": "group"}, epochs=1,
        method_options={"random_start": "none"},
    )  # fmt: skip
    named = json.dumps([(str(s.store), s.slide_id, s.patient_id, s.split) for s in slides])
    out = tmp_path / "two" / "model"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = ["train", named, str(out), config.model_dump_json()]
    processes = [
        start_forked(
            "rank_of_two", words, output=tmp_path / rank, folder=Path(__file__).parent,
            environment={**where, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    codes = [process.wait(120) for process in processes]
    texts = [(tmp_path / rank).read_text() for rank in ("0", "1")]
    assert codes == [0, 0], texts
    said = [text.split()[-1:] for text in texts]
    bundle = load_bundle(out)
    assert said == [[bundle.fingerprint]] * 2
    one = train_model(slides, tmp_path / "one" / "model", config, device="cpu")
    alone = load_bundle(one.bundle_path).model.state_dict()
    for key, value in bundle.model.state_dict().items():
        torch.testing.assert_close(value, alone[key], rtol=1e-3, atol=1e-4)


def test_command_trains_by_the_method_named(make_slide: StoreMaker, tmp_path: Path) -> None:
    """``scaat train --method``: a neighbour by its name, and what to choose from else."""
    out = tmp_path / "out"
    (out / "patches").mkdir(parents=True)
    lines = ["slide_path,slide_id,patient_id,split"]
    for name, split in (("a", "train"), ("c", "val")):
        store = make_slide(name, split, 48, 11).store
        (out / "patches" / f"{name}.zarr").symlink_to(store)
        (tmp_path / f"{name}.svs").write_bytes(b"not read by training")
        lines.append(f"{tmp_path / name}.svs,{name},patient-{name},{split}")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")

    def scaat(method: str) -> None:
        arguments = ["train", "--manifest", manifest, "--out", out, "--method", method]
        arguments += ["--epochs", "1", "--device", "cpu", "--quiet"]
        app([str(a) for a in arguments], standalone_mode=False)

    with pytest.raises(ScaatError, match=r"choose from .*scaat-amortised"):
        scaat("magic")
    with suppress(NothingLearntError):  # one epoch on 48 patches need not learn anything
        scaat("fgsm")
    trained = read_bundle_config(out / "model")
    assert trained.method == "fgsm"
    assert 0 <= trained.metrics["val_auc"] <= 1

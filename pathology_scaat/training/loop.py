"""The training loop: what learning from patches and learning from slides have in common.

Epochs, checkpoints, the choice of the epoch and the guards against what goes wrong are here once;
:mod:`.trainer` and :mod:`.bags.trainer` say what a step shows and how a model is judged.

Plain torch rather than Lightning Fabric: a step has several backward passes and methods
differentiate by the input, which the wrappers of distributed training do not allow for (see
:mod:`.gradient_averaging`); what is left of Fabric's work, device and autocast, is four lines.
"""

from __future__ import annotations

import copy
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pathology_scaat.errors import TrainingError
from pathology_scaat.execution.devices import process_device
from pathology_scaat.metrics.functional.calibration import temperature_problem
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.scaat.method import Method
from pathology_scaat.scaat.objective import Objective
from pathology_scaat.scaat.overfitting_monitor import check_overfitting
from pathology_scaat.system.own_files import replace_file
from pathology_scaat.training import builders as setup
from pathology_scaat.training.backbones import train_mode
from pathology_scaat.training.bundle_quality import (
    LEARNT_FROM_PAINTED,
    HeldOut,
    nothing_learnt_warning,
)
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.data import BatchLoader
from pathology_scaat.training.description import learnt_from_painted
from pathology_scaat.training.gradient_averaging import GradientAverager
from pathology_scaat.training.job import LoopJob, StepBatch, TrainingState, work_folder
from pathology_scaat.training.logs import log_text, write_tensorboard
from pathology_scaat.training.lora import merge_lora
from pathology_scaat.training.results import TrainProgress, TrainResult

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5
MONITOR_SIGN = "Sign of catastrophic overfitting"


class TrainingLoop(ABC):
    """One training in one process (of several, where ``torch.distributed`` is set up).

    Parameters
    ----------
    job : LoopJob
        What is trained, and to where.
    progress : callable, optional
        Called after each epoch, and within long ones.
    """

    job: LoopJob
    model: nn.Module
    method: Method
    objective: Objective
    optimizer: torch.optim.Optimizer
    loader: BatchLoader
    averager: GradientAverager
    average: nn.Module | None
    steps_per_epoch: int
    n_steps: int

    def __init__(self, job: LoopJob, progress: Callable[[TrainProgress], None] | None) -> None:
        self.job = job
        self.config = job.config
        self.progress = progress
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.device = process_device(job.device, self.rank)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.folder = work_folder(job.out)
        self.notes: list[str] = []

    # -- what each kind of training says for itself
    @abstractmethod
    def _make(self) -> nn.Module:
        """The network on the device; sets the loaders, the objective and ``steps_per_epoch``."""

    @abstractmethod
    def _step_batches(self, epoch: int) -> Iterator[StepBatch]:
        """The steps of an epoch, in order."""

    @abstractmethod
    def _judge(self, row: dict[str, Any]) -> None:
        """Add validation measures to an epoch's row."""

    @abstractmethod
    def _value(self, row: dict[str, Any]) -> float:
        """What an epoch is worth by its row, the larger the better."""

    @abstractmethod
    def _finish(self, state: TrainingState, seconds: float) -> TrainResult:
        """Judge the chosen epoch and write the bundle."""

    @abstractmethod
    def _watched(self, most: int) -> tuple[Tensor, Tensor]:
        """Some training images (or bags) of about ``most`` patches, always the same, and labels."""

    @property
    @abstractmethod
    def _too_much(self) -> tuple[str, str]:
        """What the GPU's memory did not hold, and what to do, in words."""

    @abstractmethod
    def _after_steps(self, epoch: int) -> None:
        """What is due after an epoch's steps, before judging."""

    def _network(self) -> nn.Module:
        """What the training method differentiates."""
        return self.model

    def _method_settings(self) -> TrainConfig:
        """The settings that the method is made by."""
        return self.config

    # -- the whole training
    def run(self) -> TrainResult:
        """Train, choose the best epoch, score it, write the bundle.

        Raises
        ------
        TrainingError
            If the loss is not finite any more, or a GPU's memory is too small.
        """
        begin = perf_counter()
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), self._determinism():
                torch.manual_seed(self.job.seed)
                self._prepare()
                state = self._resume()
                while state.epoch < self.config.epochs and not self._should_stop(state):
                    self._epoch(state)
                return self._finish(state, perf_counter() - begin)
        except torch.cuda.OutOfMemoryError:
            what, remedy = self._too_much
            raise TrainingError(
                "the GPU", f"has too little memory free for {what}", remedy
            ) from None

    def _determinism(self) -> AbstractContextManager[None]:
        if self.device.type != "cuda":
            return nullcontext()
        fixed = self.config.deterministic
        return torch.backends.cudnn.flags(enabled=True, benchmark=not fixed, deterministic=fixed)

    def _prepare(self) -> None:
        config = self.config
        self.model = self._make()
        self.averager = GradientAverager(self.model)
        self.method = setup.make_training_method(
            self._method_settings(), self._network(), self.objective, self.device, self.job.seed
        )
        self.method.keep_perturbed = False
        self.optimizer = setup.make_optimizer(self.model, config)
        self.average = copy.deepcopy(self.model).eval() if config.ema_decay > 0 else None
        self.n_steps = self.steps_per_epoch * config.epochs
        self.monitor = setup.monitor_options(self.method) if config.monitor_images else None

    @property
    def judged(self) -> nn.Module:
        """The weights that are kept: the averaged ones where there are such."""
        return self.average if self.average is not None else self.model

    # -- checkpoints
    def _resume(self) -> TrainingState:
        state = TrainingState(rows=[])
        saved = load_checkpoint(self.folder, self.job.fingerprint)
        if saved is None:
            return state
        self.model.load_state_dict(saved["model"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.method.load_state_dict(saved["method"])
        for name in ("epoch", "best", "best_at", "chosen_epoch", "chosen", "rows"):
            setattr(state, name, saved[name])
        logger.info("going on after epoch %d", state.epoch)
        return state

    def _checkpoint(self, state: TrainingState) -> None:
        if self.rank != 0:
            return
        save_checkpoint(
            self.folder,
            self.job.fingerprint,
            {
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "method": self.method.state_dict(),
                **vars(state),
            },
        )
        rows = state.rows or []
        replace_file(self.folder / "epochs.csv", log_text(rows, times=True).encode())
        if self.config.tensorboard:
            write_tensorboard(self.folder / "tensorboard", rows[-1:])

    # -- one epoch
    def _epoch(self, state: TrainingState) -> None:
        begin = perf_counter()
        entropy = [self.job.seed, state.epoch, 2]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        torch.manual_seed(seed)
        self.method.start_epoch(seed + self.rank)
        train_mode(self.model)
        totals: list[Tensor] = []
        last_report_s = perf_counter()
        n_images = 0
        for number, shown in enumerate(self._step_batches(state.epoch)):
            totals.append(self._step(shown, state.epoch * self.steps_per_epoch + number))
            n_images += shown.n_patches
            if self.progress is not None and perf_counter() - last_report_s > REPORT_INTERVAL_S:
                last_report_s = perf_counter()
                self._report_progress(state, (number + 1) / self.steps_per_epoch)
        self._after_steps(state.epoch)
        # waits for the device; only here
        mean = torch.stack(totals).mean(dim=0).tolist()
        seconds = perf_counter() - begin
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            **dict(zip(("loss", "clean_loss", "robust_loss"), mean, strict=True)),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "eps": float(getattr(self.method, "eps_now", 0.0)),
            "seconds": seconds,
            "images_per_s": n_images / seconds,
            "wait_share": self.loader.waited_s() / seconds,
        }
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                "the training", "diverged (the loss is not finite)", "lower learning_rate or eps"
            )
        row.update(self._watch(state))
        self._judge(row)
        state.epoch += 1
        state.rows = [*(state.rows or []), row]
        self._choose(state, row)
        self._checkpoint(state)
        self._report_progress(state, 0.0)

    def _step(self, shown: StepBatch, step: int) -> Tensor:
        rate = setup.learning_rate(self.config, step, self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.method.set_progress((step + 1) / self.n_steps)
        losses = self.method.training_step(
            shown.images, shown.labels, visit=shown.visit, backward=self.averager.backward
        )
        self.averager.finish()
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.method.after_update()
        if self.average is not None:
            self._follow(step)
        return torch.stack([losses.total, losses.clean, losses.robust])

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the averaged weights; fast at first, so that the start is forgotten."""
        assert self.average is not None  # noqa: S101  (for the type checker)
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for slow, fast in zip(
            self.average.state_dict().values(), self.model.state_dict().values(), strict=True
        ):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - decay)
            else:
                slow.copy_(fast)

    def _watch(self, state: TrainingState) -> dict[str, float]:
        """The overfitting monitor on a few training patches, always the same."""
        if self.monitor is None:
            return {}
        images, labels = self._watched(self.config.monitor_images)
        check = check_overfitting(
            self.model, self.objective, images, labels, self.monitor, seed=self.job.seed
        )
        # What counts is how training ends: early epochs often show the sign and lose it again.
        self.notes = [note for note in self.notes if MONITOR_SIGN not in note]
        if check.is_suspicious:
            note = (
                f"{MONITOR_SIGN}: at the end several masked steps raise the loss by "
                f"{check.pgd_gap:.2f} where one raises it by {check.step_gap:.2f}; look at the "
                "maps with 'scaat evaluate', or train with more steps or a smaller eps."
            )
            logger.info("Epoch %d: %s", state.epoch + 1, note)
            self.notes.append(note)
        return {"masked_step_gap": check.step_gap, "masked_pgd_gap": check.pgd_gap}

    # -- choosing
    def _choose(self, state: TrainingState, row: dict[str, Any]) -> None:
        """Keep the latest epoch that is as good as the best, once the method is in full force.

        Saliency goes on improving while the loss stands still, so of equals the latest is kept.
        Epochs before the method is at its full strength are no candidates: they are of another
        method.
        """
        over = state.epoch * self.steps_per_epoch / self.n_steps
        if over < self.method.schedule.settled_at and state.epoch < self.config.epochs:
            state.best_at = state.epoch
            return
        value = self._value(row)
        if value > state.best + self.config.min_improvement:
            state.best_at = state.epoch
        if value >= state.best - self.config.choice_tolerance or state.chosen is None:
            kept = self.judged.state_dict()
            state.chosen = {k: v.detach().cpu().clone() for k, v in kept.items()}
            state.chosen_epoch = state.epoch
        state.best = max(state.best, value)

    def _should_stop(self, state: TrainingState) -> bool:
        return state.epoch > 0 and state.epoch - state.best_at >= self.config.patience

    def _report_progress(self, state: TrainingState, fraction: float) -> None:
        if self.progress is None:
            return
        metrics = dict(state.rows[-1]) if state.rows else None
        self.progress(TrainProgress(state.epoch, self.config.epochs, fraction, metrics))

    # -- the end
    def _restore(self, state: TrainingState) -> None:
        """Take the chosen epoch's weights."""
        if state.chosen is None:
            raise TrainingError("the training", "ended before its first epoch", "give more epochs")
        self.average = None
        self.model.load_state_dict(state.chosen)
        merge_lora(self.model)  # what is measured is what is saved

    def _note_quality(
        self, temperature: float, held_out: HeldOut | None, stores: Iterable[PatchStore]
    ) -> None:
        """Note what is to be known of the model; ``stores``: what trained or chose it."""
        if (problem := temperature_problem(temperature)) is not None:
            self.notes.append(problem)
        parent: Path | None = getattr(self.job, "parent", None)
        if learnt_from_painted(stores, read_bundle_config(parent) if parent else None):
            self.notes.append(LEARNT_FROM_PAINTED)
        if held_out is not None:
            text = held_out.text()
            self.notes.append(
                f"{text[0].upper()}{text[1:]}."
                if text.startswith("quality")
                else f"Quality {text}."
            )
            if held_out.nothing_learnt:
                self.notes.append(nothing_learnt_warning(held_out.nothing_learnt))

    def _result(
        self,
        state: TrainingState,
        found: dict[str, float],
        identity: str,
        seconds: float,
        held_out: HeldOut | None,
    ) -> TrainResult:
        if self.rank == 0:
            (self.folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        return TrainResult(
            bundle_path=self.job.out,
            fingerprint=self.job.fingerprint,
            model_fingerprint=identity,
            metrics=found,
            n_epochs=state.epoch,
            best_epoch=state.chosen_epoch,
            seconds=seconds,
            notes=tuple(self.notes),
            nothing_learnt=held_out.nothing_learnt if held_out is not None else "",
        )

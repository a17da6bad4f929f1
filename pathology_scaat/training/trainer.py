"""The training loop: epochs, validation, checkpoints, and the bundle at the end.

Plain torch rather than Lightning Fabric: a step has several backward passes and methods
differentiate by the input, which the wrappers of distributed training do not allow for (see
:mod:`.averaging`); what is left of Fabric's work, device and autocast, is four lines.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.errors import TrainingError
from pathology_scaat.execution.devices import process_device
from pathology_scaat.metrics.classification import scores
from pathology_scaat.metrics.functional.calibration import (
    calibrated_loss,
    fit_temperature,
    temperature_problem,
)
from pathology_scaat.scaat.method import Visit
from pathology_scaat.scaat.overfitting_monitor import check_overfitting
from pathology_scaat.system.own_files import replace_file
from pathology_scaat.training import builders as setup
from pathology_scaat.training.augment import apply, draw, to_float
from pathology_scaat.training.backbones import train_mode
from pathology_scaat.training.bundle import bundle_config, load_bundle, save_bundle
from pathology_scaat.training.bundle_config import HeldOut, model_fingerprint
from pathology_scaat.training.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from pathology_scaat.training.data import BatchLoader, PatchTable
from pathology_scaat.training.gradient_averaging import GradientAverager, average_buffers
from pathology_scaat.training.held_out import measure_held_out
from pathology_scaat.training.job import Job, TrainingState, work_folder
from pathology_scaat.training.logs import log_text, write_tensorboard
from pathology_scaat.training.parent import parent_model
from pathology_scaat.training.references import measure_references
from pathology_scaat.training.results import TrainProgress, TrainResult
from pathology_scaat.training.sampling import class_counts, epoch_batches

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5
MONITOR_SIGN = "Sign of catastrophic overfitting"
NOTHING_LEARNT = "THIS MODEL HAS LEARNT NOTHING THAT CAN BE RELIED ON"
_WORDS = {"val": "validation", "test": "test"}


class Trainer:
    """One training in one process (of several, where ``torch.distributed`` is set up)."""

    def __init__(self, job: Job, progress: Callable[[TrainProgress], None] | None) -> None:
        self.job = job
        self.config = config = job.config
        self.progress = progress
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.device = process_device(job.device, self.rank)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if config.batch_size % self.world_size:
            raise TrainingError(
                "batch_size",
                f"{config.batch_size} cannot be shared by {self.world_size} processes",
                "give a multiple",
            )
        self.tables = setup.make_tables(job.slides, config, job.class_names, job.seed)
        self.n_classes = len(job.class_names)
        self.folder = work_folder(job.out)
        self.notes = list(self.tables.notes)

    # -- the whole training
    def run(self) -> TrainResult:
        """Train, choose the best epoch, score it, write the bundle."""
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
            side = self.tables.train.stores[0].patch_size_px
            raise TrainingError(
                "the GPU",
                f"has too little memory free for batches of {self.config.batch_size} patches "
                f"of {side} px",
                "set a smaller train: batch_size in the pipeline file, or use --device cpu",
            ) from None

    def _determinism(self) -> AbstractContextManager[None]:
        if self.device.type != "cuda":
            return nullcontext()
        fixed = self.config.deterministic
        return torch.backends.cudnn.flags(enabled=True, benchmark=not fixed, deterministic=fixed)

    def _prepare(self) -> None:
        config, table = self.config, self.tables.train
        size = table.stores[0].patch_size_px
        if self.job.parent is None:
            model, notes = setup.make_model(config, self.n_classes, size, table)
        else:
            model, notes = parent_model(self.job.parent, config)
        self.notes.extend(notes)
        self.model = model.to(self.device)
        if config.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averager = GradientAverager(self.model)
        self.objective = setup.make_objective(config, table, self.n_classes)
        network: nn.Module = self.model
        if config.compile:
            network = torch.compile(self.model)  # type: ignore[assignment]
        self.method = setup.make_training_method(
            config, network, self.objective, self.device, self.job.seed
        )
        self.method.keep_perturbed = False
        self.optimizer = setup.make_optimizer(self.model, config)
        self.average = copy.deepcopy(self.model).eval() if config.ema_decay > 0 else None
        self.loader = BatchLoader(table, config.cache_bytes, self.device)
        self.val_loader = BatchLoader(
            self._share(self.tables.val), config.cache_bytes // 4, self.device
        )
        self.labels = torch.from_numpy(table.labels)
        self.steps_per_epoch = len(self._batches(0))
        self.n_steps = self.steps_per_epoch * config.epochs
        self.monitor = setup.monitor_options(self.method) if config.monitor_images else None

    def _share(self, table: PatchTable) -> PatchTable:
        """This process's part of an evaluation."""
        return table.select(np.arange(self.rank, len(table), self.world_size))

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        return epoch_batches(
            self.tables.train.labels,
            self.n_classes,
            self.config.batch_size,
            np.random.default_rng([self.job.seed, epoch, 1]),
            balanced=self.config.class_balance == "sampling",
            max_steps=self.config.max_steps_per_epoch,
        )

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
        seed = int(np.random.SeedSequence([self.job.seed, state.epoch, 2]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.method.start_epoch(seed + self.rank)
        rng = np.random.default_rng([self.job.seed, state.epoch, 3])
        train_mode(self.model)
        batches = self._batches(state.epoch)
        mine = slice(self.rank, None, self.world_size)
        totals: list[Tensor] = []
        told = perf_counter()
        n_images = 0
        for number, (index, patches) in enumerate(self.loader([b[mine] for b in batches])):
            drawn = draw(len(batches[number]), self.config.augment, rng).part(mine)
            images = apply(patches, drawn)
            labels = self.labels[index].to(self.device, non_blocking=True)
            visit = Visit(torch.from_numpy(index), drawn.orientation)
            step = state.epoch * self.steps_per_epoch + number
            totals.append(self._step(images, labels, visit, step))
            n_images += len(batches[number])
            if self.progress is not None and perf_counter() - told > REPORT_INTERVAL_S:
                told = perf_counter()
                self._tell(state, (number + 1) / len(batches))
        average_buffers(self.model)
        if self.average is not None:  # each process followed its own statistics
            average_buffers(self.average)
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
        row.update(self._watch(state, index_limit=self.config.monitor_images))
        found, logits, truth = self._evaluate(self.val_loader)
        row.update({f"val_{k}": v for k, v in found.items()})
        if len(logits):
            row["val_calibrated_loss"] = calibrated_loss(logits, truth)
        state.epoch += 1
        assert state.rows is not None  # noqa: S101  (for the type checker)
        state.rows.append(row)
        self._choose(state, row)
        self._checkpoint(state)
        self._tell(state, 0.0)

    def _step(self, images: Tensor, labels: Tensor, visit: Visit, step: int) -> Tensor:
        rate = setup.learning_rate(self.config, step, self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.method.set_progress((step + 1) / self.n_steps)
        losses = self.method.training_step(
            images, labels, visit=visit, backward=self.averager.backward
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

    def _watch(self, state: TrainingState, index_limit: int) -> dict[str, float]:
        """The overfitting monitor on a few training patches, always the same."""
        if self.monitor is None:
            return {}
        n = min(index_limit, len(self.tables.train))
        index = np.linspace(0, len(self.tables.train) - 1, n).astype(np.int64)
        images = to_float(torch.from_numpy(self.tables.train.read(index)).to(self.device))
        labels = self.labels[index].to(self.device)
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

    # -- judging
    @torch.no_grad()
    def _evaluate(
        self, loader: BatchLoader, other: nn.Module | None = None
    ) -> tuple[dict[str, float], NDArray[np.float32], NDArray[Any]]:
        """Scores, logits and labels over a table, gathered from all processes."""
        model = other or (self.average if self.average is not None else self.model)
        model.eval()
        table = loader.table
        numbers = np.arange(len(table))
        size = 2 * self.config.batch_size
        parts = []
        for _, patches in loader([numbers[i : i + size] for i in range(0, len(numbers), size)]):
            parts.append(model(to_float(patches)).float().cpu())
        logits = torch.cat(parts).numpy() if parts else np.zeros((0, self.n_classes), np.float32)
        labels = table.labels
        if self.world_size > 1:
            gathered: list[Any] = [None] * self.world_size
            dist.all_gather_object(gathered, (logits, labels))
            logits = np.concatenate([g[0] for g in gathered])
            labels = np.concatenate([g[1] for g in gathered if len(g[1])])
        return (scores(logits, labels) if len(logits) else {}), logits, labels

    def _choose(self, state: TrainingState, row: dict[str, Any]) -> None:
        """Keep the latest epoch that is as good as the best, warm-up left out.

        Good is a small class-balanced loss of calibrated probabilities on the validation
        patches: an AUC may be perfect where every patch is given one class. Saliency goes on
        improving while the loss stands still, so of equals the latest is kept. Epochs before the
        method is at its full strength are no candidates: they are of another method.
        """
        value = -row.get("val_calibrated_loss", row["loss"])
        over = state.epoch * self.steps_per_epoch / self.n_steps
        if over < self.method.schedule.settled_at and state.epoch < self.config.epochs:
            state.best_at = state.epoch
            return
        if value > state.best + self.config.min_improvement:
            state.best_at = state.epoch
        if value >= state.best - self.config.choice_tolerance or state.chosen is None:
            model = self.average if self.average is not None else self.model
            state.chosen = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            state.chosen_epoch = state.epoch
        state.best = max(state.best, value)

    def _should_stop(self, state: TrainingState) -> bool:
        return state.epoch > 0 and state.epoch - state.best_at >= self.config.patience

    def _tell(self, state: TrainingState, fraction: float) -> None:
        if self.progress is None:
            return
        metrics = dict(state.rows[-1]) if state.rows else None
        self.progress(TrainProgress(state.epoch, self.config.epochs, fraction, metrics))

    # -- the end
    def _finish(self, state: TrainingState, seconds: float) -> TrainResult:
        if state.chosen is None:
            raise TrainingError("the training", "ended before its first epoch", "give more epochs")
        self.average = None
        self.model.load_state_dict(state.chosen)
        metrics, logits, labels = self._evaluate(self.val_loader)
        found = {f"val_{k}": v for k, v in metrics.items()}
        one_label = labels.ndim == 1 and len(np.unique(labels)) > 1
        temperature = fit_temperature(logits, labels, smoothed=True) if one_label else 1.0
        if (problem := temperature_problem(temperature)) is not None:
            self.notes.append(problem)
        test_logits: NDArray[np.float32] | None = None
        test = None
        if len(self.tables.test):
            test = BatchLoader(self._share(self.tables.test), 0, self.device)
            metrics, test_logits, _ = self._evaluate(test)
            found.update({f"test_{k}": v for k, v in metrics.items()})
        if self.job.parent is not None:  # on the same patches: what fine-tuning gained or lost
            parent = load_bundle(self.job.parent, str(self.device)).model
            for split, loader in (("val", self.val_loader), ("test", test)):
                if loader is not None:
                    before, _, _ = self._evaluate(loader, parent)
                    found.update({f"parent_{split}_{k}": v for k, v in before.items()})
        held_out = self._held_out(logits, test_logits, temperature)
        found.update(
            {
                "n_epochs": float(state.epoch),
                "best_epoch": float(state.chosen_epoch),
                "n_train_patches": float(len(self.tables.train)),
                "n_val_patches": float(len(self.tables.val)),
                "n_test_patches": float(len(self.tables.test)),
            }
        )
        if held_out is not None:
            self.notes.append(f"Quality {held_out.text()}.")
            if held_out.nothing_learnt:
                self.notes.append(f"{NOTHING_LEARNT}: {held_out.nothing_learnt}.")
        config = bundle_config(
            self.job, self.model, self.method, self.tables, found, temperature, held_out
        ).model_copy(update={"notes": tuple(self.notes)})
        if self.rank == 0:
            self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            references = measure_references(
                self.model, self.tables.train, self.tables.val, self.job.class_names, temperature,
                self.device, multi_label=self.config.multi_label,
            )  # fmt: skip
            config = bundle_config(
                self.job, self.model, self.method, self.tables, found, temperature, held_out,
                references,
            ).model_copy(update={"notes": tuple(self.notes)})  # fmt: skip
            config = save_bundle(
                self.job.out,
                self.model,
                config,
                training_log=log_text(state.rows or [], times=False),
                features=references.features,
            )
            (self.folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        identity = [model_fingerprint(config)]
        if dist.is_initialized():
            dist.broadcast_object_list(identity, src=0)  # the first process alone knows the weights
            dist.barrier()
        return TrainResult(
            bundle_path=self.job.out,
            fingerprint=self.job.fingerprint,
            model_fingerprint=identity[0],
            metrics=found,
            n_epochs=state.epoch,
            best_epoch=state.chosen_epoch,
            seconds=seconds,
            notes=tuple(self.notes),
            nothing_learnt=held_out.nothing_learnt if held_out is not None else "",
        )

    def _held_out(
        self,
        val_logits: NDArray[np.float32],
        test_logits: NDArray[np.float32] | None,
        temperature: float,
    ) -> HeldOut | None:
        """Quality on the test patches where they can tell it, else on the validation patches."""
        tables, slides = self.tables, self.job.slides
        if (
            test_logits is not None
            and (class_counts(tables.test.labels, self.n_classes) > 0).sum() > 1
        ):
            logits, table, split = test_logits, tables.test, "test"
        else:
            logits, table, split = val_logits, tables.val, "val"
        if not len(logits):
            return None
        blocks = split == "val" and not any(s.split == "val" for s in slides)
        mine = [s for s in slides if s.split == ("train" if blocks else split)]
        source = "blocks of the training slides" if blocks else f"{_WORDS[split]} slides"
        # several processes gather their shares one after the other
        order = np.concatenate(
            [np.arange(r, len(table), self.world_size) for r in range(self.world_size)]
        )
        return measure_held_out(
            logits, temperature, table.select(order), mine, self.job.class_names,
            source, seed=self.job.seed,  # type: ignore[arg-type]
        )  # fmt: skip

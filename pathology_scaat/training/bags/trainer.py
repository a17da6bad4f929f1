"""The loop of bag learning: the same steps as for patches, over bags of one label each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.errors import TrainingError
from pathology_scaat.execution.devices import process_device
from pathology_scaat.metrics.classification import scores
from pathology_scaat.metrics.functional.calibration import mean_loss
from pathology_scaat.scaat.method import Visit
from pathology_scaat.scaat.objective import SingleLabelObjective
from pathology_scaat.training import builders
from pathology_scaat.training.augment import apply, draw, to_float
from pathology_scaat.training.backbones import (
    Classifier,
    create_backbone,
    normalisation_of,
    set_trainable,
    train_mode,
)
from pathology_scaat.training.bags.batch_norm import estimate_statistics, freeze_batch_norm
from pathology_scaat.training.bags.calibration import slide_temperature, smoothed_loss
from pathology_scaat.training.bags.data import BagBatch, BagTable, epoch_of_bags, mixed_patches
from pathology_scaat.training.bags.job import BagJob, save_bag_bundle
from pathology_scaat.training.bags.model import BagModel, tall_image, with_head
from pathology_scaat.training.bags.predict import bag_logits, encode
from pathology_scaat.training.bags.staging import Staged
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from pathology_scaat.training.data import BatchLoader
from pathology_scaat.training.job import TrainingState, work_folder
from pathology_scaat.training.logs import log_text
from pathology_scaat.training.lora import merge_lora
from pathology_scaat.training.results import TrainProgress, TrainResult
from pathology_scaat.training.sampling import class_weights

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5
EVALUATION_BATCH = 256
"""Patches at once where nothing is differentiated."""


class BagTrainer:
    """One training on bags, in one process.

    Parameters
    ----------
    job : BagJob
        What is trained, from which bags, to where.
    progress : callable, optional
        Told after each epoch, and within long ones.
    """

    def __init__(self, job: BagJob, progress: Callable[[TrainProgress], None] | None) -> None:
        self.job = job
        self.config = job.config
        self.bags = job.config.bag
        self.progress = progress
        self.device = process_device(job.device, 0)
        self.train: BagTable = job.train
        self.val: BagTable = job.val
        self.folder = work_folder(job.out)
        self.notes = list(job.notes)

    def run(self) -> TrainResult:
        """Train, choose the epoch, calibrate on the validation slides, write the bundle."""
        begin = perf_counter()
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                torch.manual_seed(self.job.seed)
                self._prepare()
                state = self._resume()
                while state.epoch < self.config.epochs and not self._should_stop(state):
                    self._epoch(state)
                return self._finish(state, perf_counter() - begin)
        except torch.cuda.OutOfMemoryError:
            n = self.bags.bags_per_step * self.bags.patches_per_bag
            raise TrainingError(
                "the GPU",
                f"has too little memory free for {n} patches of {self.patch_size_px} px at once",
                "set a smaller train: bag: patches_per_bag in the pipeline file",
            ) from None

    @property
    def patch_size_px(self) -> int:
        return self.train.patches.stores[0].patch_size_px

    # -- before the first step
    def _prepare(self) -> None:
        config = self.config
        self.model = self._make_model().to(self.device)
        weights = None
        if config.class_balance == "weights":
            weights = torch.from_numpy(class_weights(self.train.labels, self.job.n_classes))
        self.objective = SingleLabelObjective(
            weights, config.label_smoothing, config.noise_tolerance
        )
        inner = builders.make_training_method(
            config, self.model, self.objective, self.device, self.job.seed
        )
        inner.keep_perturbed = False
        self.method = Staged(inner, self.bags.start if config.method != "plain" else 1.0)
        self.optimizer = builders.make_optimizer(self.model, config)
        self.loader = BatchLoader(self.train.patches, config.cache_bytes, self.device)
        self.val_loader = BatchLoader(self.val.patches, config.cache_bytes // 4, self.device)
        self.labels = torch.from_numpy(self.train.labels)
        self.steps_per_epoch = len(self._steps(0))
        self.n_steps = self.steps_per_epoch * config.epochs

    def _make_model(self) -> BagModel:
        config, side = self.config, self.patch_size_px
        backbone = create_backbone(config.backbone, 0, side, config.backbone_options)
        given = config.backbone_weights
        self.notes.extend(builders.fill_backbone(backbone, config))
        set_trainable(backbone, config.trainable)
        measured = None
        if config.normalisation in ("auto", "dataset") and given is None:
            measured = builders.patch_statistics(self.train.patches)
        mean, std = normalisation_of(config.normalisation, backbone, given is not None, measured)
        encoder = Classifier(backbone, mean, std)
        return with_head(encoder, side, self.job.n_classes, self.bags.head())

    @property
    def _frozen_statistics(self) -> bool:
        policy = self.bags.batch_norm
        return policy == "frozen" or (policy == "auto" and self.config.backbone_weights is not None)

    def _steps(self, epoch: int) -> list[BagBatch]:
        return epoch_of_bags(
            self.train,
            self.bags.bags_per_step,
            self.bags.patches_per_bag,
            self.bags.draws_per_epoch,
            np.random.default_rng([self.job.seed, epoch, 1]),
            max_steps=self.config.max_steps_per_epoch,
        )

    # -- checkpoints
    def _resume(self) -> TrainingState:
        state = TrainingState(rows=[])
        saved = load_checkpoint(self.folder, self.job.fingerprint)
        if saved is None:
            return state
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.method.load_state_dict(saved["method"])
        for name in ("epoch", "best", "best_at", "chosen_epoch", "chosen", "rows"):
            setattr(state, name, saved[name])
        logger.info("going on after epoch %d", state.epoch)
        return state

    def _checkpoint(self, state: TrainingState) -> None:
        save_checkpoint(
            self.folder,
            self.job.fingerprint,
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "method": self.method.state_dict(),
                **vars(state),
            },
        )
        text = log_text(state.rows or [], times=True)
        (self.folder / "epochs.csv").write_text(text, encoding="utf-8")

    # -- one epoch
    def _epoch(self, state: TrainingState) -> None:
        begin = perf_counter()
        seed = int(np.random.SeedSequence([self.job.seed, state.epoch, 2]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.method.start_epoch(seed)
        rng = np.random.default_rng([self.job.seed, state.epoch, 3])
        train_mode(self.model)
        if self._frozen_statistics:
            freeze_batch_norm(self.model)
        steps = self._steps(state.epoch)
        totals: list[Tensor] = []
        told = perf_counter()
        n_images = 0
        batches = self.loader([step.patches for step in steps])
        for number, (step, (index, patches)) in enumerate(zip(steps, batches, strict=True)):
            drawn = draw(len(index), self.config.augment, rng)
            images = tall_image(apply(patches, drawn), len(step.bags))
            labels = self.labels[step.bags].to(self.device, non_blocking=True)
            visit = Visit(torch.from_numpy(index), drawn.orientation)
            at = state.epoch * self.steps_per_epoch + number
            totals.append(self._step(images, labels, visit, at))
            n_images += len(index)
            if self.progress is not None and perf_counter() - told > REPORT_INTERVAL_S:
                told = perf_counter()
                self._tell(state, (number + 1) / len(steps))
        if not self._frozen_statistics:
            self._estimate_statistics(state.epoch)
        mean = torch.stack(totals).mean(dim=0).tolist()
        seconds = perf_counter() - begin
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            **dict(zip(("loss", "clean_loss", "robust_loss"), mean, strict=True)),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "eps": self.method.eps_now,
            "seconds": seconds,
            "images_per_s": n_images / seconds,
            "wait_share": self.loader.waited_s() / seconds,
        }
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                "the training", "diverged (the loss is not finite)", "lower learning_rate or eps"
            )
        logits = self._logits(self.val, self.val_loader, self.bags.validation_patches)
        if len(logits):
            row.update({f"val_{k}": v for k, v in scores(logits, self.val.labels).items()})
            row["value"] = -_calibrated_loss(logits, self.val.labels)
        state.epoch += 1
        state.rows = [*(state.rows or []), row]
        self._choose(state, row)
        self._checkpoint(state)
        self._tell(state, 0.0)

    def _step(self, images: Tensor, labels: Tensor, visit: Visit, step: int) -> Tensor:
        rate = builders.learning_rate(self.config, step, self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.method.set_progress((step + 1) / self.n_steps)
        losses = self.method.training_step(images, labels, visit=visit)
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.method.after_update()
        return torch.stack([losses.total, losses.clean, losses.robust])

    def _estimate_statistics(self, epoch: int) -> None:
        """BatchNorm's statistics from patches of all training slides, not of the last few bags."""
        rng = np.random.default_rng([self.job.seed, epoch, 4])
        chosen = mixed_patches(self.train, self.bags.statistics_patches, rng)
        parts = [chosen[i : i + EVALUATION_BATCH] for i in range(0, len(chosen), EVALUATION_BATCH)]
        train_mode(self.model)
        estimate_statistics(self.model.encoder, (to_float(p) for _, p in self.loader(parts)))

    # -- judging
    def _logits(
        self, table: BagTable, loader: BatchLoader, most: int | None = None
    ) -> NDArray[np.float32]:
        """Logits (n, K) of the bags of a table, from ``most`` of their patches or from all."""
        self.model.eval()
        found = []
        for bag in range(len(table)):
            chosen = table.members(bag) if most is None else table.spread(bag, most)
            parts = [
                chosen[i : i + EVALUATION_BATCH] for i in range(0, len(chosen), EVALUATION_BATCH)
            ]
            features = encode(self.model, (patches for _, patches in loader(parts)))
            found.append(bag_logits(self.model, features))
        return np.stack(found) if found else np.zeros((0, self.job.n_classes), np.float32)

    def _choose(self, state: TrainingState, row: dict[str, Any]) -> None:
        """Keep the latest epoch that is as good as the best, once the method is in full force.

        Good is a small validation loss after calibration; without validation slides the last
        epoch is kept.
        """
        over = state.epoch * self.steps_per_epoch / self.n_steps
        if over < self._full_force and state.epoch < self.config.epochs:
            state.best_at = state.epoch
            return
        value = row.get("value", float(state.epoch))
        if value > state.best + self.config.min_improvement:
            state.best_at = state.epoch
        if value >= state.best - self.config.choice_tolerance or state.chosen is None:
            state.chosen = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            state.chosen_epoch = state.epoch
        state.best = max(state.best, value)

    @property
    def _full_force(self) -> float:
        """Share of training after which the method is past its start and its own warm-up."""
        if self.config.method == "plain":
            return 0.0
        inner = self.method.method
        warmup = getattr(getattr(inner, "options", inner), "warmup", 0.0)
        return float(self.method.start + warmup * (1 - self.method.start))

    def _should_stop(self, state: TrainingState) -> bool:
        return state.epoch > 0 and state.epoch - state.best_at >= self.config.patience

    def _tell(self, state: TrainingState, fraction: float) -> None:
        if self.progress is not None:
            metrics = dict(state.rows[-1]) if state.rows else None
            self.progress(TrainProgress(state.epoch, self.config.epochs, fraction, metrics))

    # -- the end
    def _finish(self, state: TrainingState, seconds: float) -> TrainResult:
        if state.chosen is None:
            raise TrainingError("the training", "ended before its first epoch", "give more epochs")
        self.model.load_state_dict(state.chosen)
        merge_lora(self.model)  # what is measured is what is saved
        logits, labels = self._logits(self.val, self.val_loader), self.val.labels
        temperature = 1.0
        found: dict[str, float] = {}
        if len(labels):
            found = {f"val_slide_{k}": v for k, v in scores(logits, labels).items()}
        if len(np.unique(labels)) > 1:
            temperature = slide_temperature(logits, labels)
        else:
            self.notes.append(
                "The validation slides do not hold two classes: the probabilities are not "
                "calibrated, and the last epoch is kept."
                if len(labels) == 0
                else "The validation slides hold one class only: the probabilities are not "
                "calibrated."
            )
        found.update(
            {
                "n_epochs": float(state.epoch),
                "best_epoch": float(state.chosen_epoch),
                "n_train_slides": float(len(self.train)),
                "n_val_slides": float(len(self.val)),
                "n_train_patches": float(len(self.train.patches)),
                "n_val_patches": float(len(self.val.patches)),
            }
        )
        log = log_text(state.rows or [], times=False)
        bundle = save_bag_bundle(
            self.job, self.model, self.method.method, found, temperature, log, tuple(self.notes)
        )
        (self.folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        return TrainResult(
            bundle_path=self.job.out,
            fingerprint=self.job.fingerprint,
            model_fingerprint=model_fingerprint(bundle),
            metrics=found,
            n_epochs=state.epoch,
            best_epoch=state.chosen_epoch,
            seconds=seconds,
            notes=tuple(self.notes),
        )


def _calibrated_loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Cross-entropy at the temperature that suits it best, in nats."""
    if len(np.unique(labels)) < 2:
        return mean_loss(logits, labels)
    return smoothed_loss(logits / slide_temperature(logits, labels), labels)

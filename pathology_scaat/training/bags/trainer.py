"""Learning from bags: what a step shows, how slides are judged, and the bundle at the end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.metrics.classification import scores
from pathology_scaat.metrics.functional.calibration import (
    fit_temperature,
    mean_loss,
)
from pathology_scaat.scaat.method import Visit
from pathology_scaat.scaat.objective import SingleLabelObjective
from pathology_scaat.system.rounding import percent
from pathology_scaat.training import builders
from pathology_scaat.training.augment import apply, draw, to_float
from pathology_scaat.training.backbones import (
    Classifier,
    create_backbone,
    normalisation_of,
    set_trainable,
    train_mode,
)
from pathology_scaat.training.bags.attention import losses_of_slides
from pathology_scaat.training.bags.batch_norm import estimate_statistics, freeze_batch_norm
from pathology_scaat.training.bags.data import (
    BagBatch,
    BagTable,
    PatchBatch,
    annotated_patches,
    annotated_steps,
    epoch_of_bags,
    mixed_patches,
)
from pathology_scaat.training.bags.finishing import Finished, finished, later_unless_worse
from pathology_scaat.training.bags.job import BagJob, bag_bundle_config
from pathology_scaat.training.bags.model import BagModel, tall_image, with_head
from pathology_scaat.training.bags.predict import bag_logits, encode
from pathology_scaat.training.bags.references import measure_bag_references
from pathology_scaat.training.bundle import save_bundle
from pathology_scaat.training.bundle_config import GIVEN_WEIGHTS, model_fingerprint
from pathology_scaat.training.bundle_quality import HeldOut
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.data import BatchLoader
from pathology_scaat.training.held_out import measure_held_out_slides
from pathology_scaat.training.job import StepBatch, TrainingState
from pathology_scaat.training.logs import log_text
from pathology_scaat.training.loop import TrainingLoop
from pathology_scaat.training.lora import merge_lora
from pathology_scaat.training.neighbours import NeighbourIndex, build_index
from pathology_scaat.training.references import References
from pathology_scaat.training.results import TrainProgress, TrainResult
from pathology_scaat.training.sampling import class_weights

WHAT_MAY_HELP = (
    "What may help where a class fills little of its slides: more slides, more of them in a step "
    "(train: bag: bags_per_step), or annotations of a few (--labels mixed); what was measured "
    "stands in docs/slide-labels.md."
)
EVALUATION_BATCH = 256
"""Patches at once where nothing is differentiated."""


def staged(config: TrainConfig) -> TrainConfig:
    """The settings with the start that bags have of their own among the method's options."""
    if config.method == "plain":
        return config
    options = {**config.method_options, "start": config.bag.start}
    return config.model_copy(update={"method_options": options})


class BagTrainer(TrainingLoop):
    """One training on bags, in one process.

    Parameters
    ----------
    job : BagJob
        What is trained, from which bags, to where.
    progress : callable, optional
        Called after each epoch, and within long ones.
    """

    job: BagJob
    model: BagModel

    def __init__(self, job: BagJob, progress: Callable[[TrainProgress], None] | None) -> None:
        super().__init__(job, progress)
        self.bags = job.config.bag
        self.train: BagTable = job.train
        self.val: BagTable = job.val
        self.notes = list(job.notes)

    @property
    def patch_size_px(self) -> int:
        return self.train.patches.stores[0].patch_size_px

    @property
    def _too_much(self) -> tuple[str, str]:
        n = self.bags.bags_per_step * self.bags.patches_per_bag
        return (
            f"{n} patches of {self.patch_size_px} px at once",
            "set a smaller train: bag: patches_per_bag in the pipeline file",
        )

    # -- before the first step
    def _make(self) -> nn.Module:
        config = self.config
        weights = None
        if config.class_balance == "weights":
            weights = torch.from_numpy(class_weights(self.train.labels, self.job.n_classes))
        self.objective = SingleLabelObjective(
            weights, config.label_smoothing, config.noise_tolerance
        )
        self.loader = BatchLoader(self.train.patches, config.cache_bytes, self.device)
        self.val_loader = BatchLoader(self.val.patches, config.cache_bytes // 4, self.device)
        self.labels = torch.from_numpy(self.train.labels)
        self.annotated = None
        if config.labels == "mixed":
            self.annotated = annotated_patches(self.train, self.job.class_names)
            self.notes.extend(self._annotation_notes(self.annotated))
        self.steps_per_epoch = len(self._steps(0))
        return self._new_model().to(self.device)

    def _new_model(self) -> BagModel:
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
        if config.channels_last:
            encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return with_head(encoder, side, self.job.n_classes, self.bags.head())

    def _method_settings(self) -> TrainConfig:
        return staged(self.config)

    @property
    def _frozen_statistics(self) -> bool:
        policy = self.bags.batch_norm
        return policy == "frozen" or (policy == "auto" and self.config.backbone_weights is not None)

    def _annotation_notes(self, annotated: NDArray[np.int64]) -> list[str]:
        """How many patches are learnt from one by one, beside the bags."""
        counts = np.bincount(annotated[annotated >= 0], minlength=self.job.n_classes)
        if not counts.any():
            return ["No training patch is annotated with a class of the slides: labels of slides "
                    "alone are learnt from."]  # fmt: skip
        slides = sum(
            bool((annotated[a:b] >= 0).any())
            for a, b in zip(self.train.starts[:-1], self.train.starts[1:], strict=True)
        )
        shown_counts = ", ".join(
            f"{n} {c}" for n, c in zip(self.job.class_names, counts, strict=True)
        )
        return [
            f"Mixed labels: annotated patches of {slides} of {len(self.train)} training slides "
            f"({shown_counts}) are learnt from one by one beside the bags, "
            f"{percent(self.bags.annotated_share)} of an epoch's patches."
        ]

    def _steps(self, epoch: int) -> list[BagBatch | PatchBatch]:
        """An epoch's steps: bags, and annotated patches among them where labels are mixed."""
        bags = self._bag_steps(epoch)
        if self.annotated is None:
            return list(bags)
        share = self.bags.annotated_share
        step_size = self.bags.bags_per_step * self.bags.patches_per_bag
        n_shown = sum(len(step.patches) for step in bags)
        # the loss weighs classes by the slides: drawn as slides are, patches weigh the same
        even = np.bincount(self.train.labels, minlength=self.job.n_classes) > 0
        shares = even.astype(np.float64)
        if self.config.class_balance == "weights":
            shares = np.bincount(self.train.labels, minlength=len(even)).astype(np.float64)
        rng = np.random.default_rng([self.job.seed, epoch, 5])
        patches = annotated_steps(
            self.annotated, shares, round(n_shown * share / (1 - share)), step_size, rng
        )
        steps: list[BagBatch | PatchBatch] = [*bags, *patches]
        return [steps[i] for i in rng.permutation(len(steps))]

    def _bag_steps(self, epoch: int) -> list[BagBatch]:
        return epoch_of_bags(
            self.train,
            self.bags.bags_per_step,
            self.bags.patches_per_bag,
            self.bags.draws_per_epoch,
            np.random.default_rng([self.job.seed, epoch, 1]),
            balanced=self.config.class_balance == "sampling",
            max_steps=self.config.max_steps_per_epoch,
        )

    # -- one epoch
    def _step_batches(self, epoch: int) -> Iterator[StepBatch]:
        if self._frozen_statistics:
            freeze_batch_norm(self.model)
        rng = np.random.default_rng([self.job.seed, epoch, 3])
        steps = self._steps(epoch)
        read = self.loader([step.patches for step in steps])
        for step, (index, patches) in zip(steps, read, strict=True):
            drawn = draw(len(index), self.config.augment, rng)
            images = apply(patches, drawn)
            if isinstance(step, BagBatch):
                images, labels = tall_image(images, len(step.bags)), self.labels[step.bags]
            else:  # one patch is a bag of one
                labels = torch.from_numpy(step.labels)
            yield StepBatch(
                images,
                labels.to(self.device, non_blocking=True),
                Visit(torch.from_numpy(index), drawn.orientation),
                len(index),
            )

    def _after_steps(self, epoch: int) -> None:
        """BatchNorm's statistics from patches of all training slides, not of the last few bags."""
        if self._frozen_statistics:
            return
        rng = np.random.default_rng([self.job.seed, epoch, 4])
        chosen = mixed_patches(self.train, self.bags.statistics_patches, rng)
        parts = [chosen[i : i + EVALUATION_BATCH] for i in range(0, len(chosen), EVALUATION_BATCH)]
        for model in (self.model, *([self.average] if self.average is not None else [])):
            train_mode(model)
            estimate_statistics(
                model.encoder,  # type: ignore[arg-type]
                (to_float(p) for _, p in self.loader(parts)),
            )

    def _watched(self, most: int) -> tuple[Tensor, Tensor]:
        size = self.bags.patches_per_bag
        count = min(len(self.train), max(2, most // size))
        bags = np.unique(np.linspace(0, len(self.train) - 1, count).astype(np.int64))
        index = np.concatenate([np.resize(self.train.spread(int(b), size), size) for b in bags])
        patches = torch.from_numpy(self.train.patches.read(index)).to(self.device)
        return tall_image(to_float(patches), len(bags)), self.labels[bags].to(self.device)

    def _watch(self, state: TrainingState) -> dict[str, float]:
        return {} if self.method.is_plain else super()._watch(state)

    # -- judging
    def _judge(self, row: dict[str, Any]) -> None:
        logits, labels = self._logits(self.bags.validation_patches), self.val.labels
        if len(logits):
            row.update({f"val_{k}": v for k, v in scores(logits, labels).items()})
            row["val_calibrated_loss"] = _calibrated_loss(logits, labels)

    def _value(self, row: dict[str, Any]) -> float:
        """Good is a small loss of calibrated probabilities on the validation slides; without any
        the last epoch is kept."""
        if "val_calibrated_loss" in row:
            return -float(row["val_calibrated_loss"])
        return float(row["epoch"])

    def _logits(self, most: int | None = None) -> NDArray[np.float32]:
        """Logits (n, K) of the validation bags, from ``most`` of their patches or from all."""
        model = self.judged
        assert isinstance(model, BagModel)  # noqa: S101  (for the type checker)
        model.eval()
        return self._logits_of(model, most)

    def _logits_of(self, model: BagModel, most: int | None = None) -> NDArray[np.float32]:
        features = self._features_of(model, self.val, self.val_loader, most)
        found = [bag_logits(model, one) for one in features]
        return np.stack(found) if found else np.zeros((0, self.job.n_classes), np.float32)

    # -- the end
    def _features_of(
        self, model: BagModel, table: BagTable, loader: BatchLoader, most: int | None
    ) -> Iterator[Tensor]:
        """Features (n, F) of each bag, of ``most`` of its patches or of all."""
        for bag in range(len(table)):
            chosen = table.members(bag) if most is None else table.spread(bag, most)
            parts = [
                chosen[i : i + EVALUATION_BATCH] for i in range(0, len(chosen), EVALUATION_BATCH)
            ]
            yield encode(model, (patches for _, patches in loader(parts)))

    def _finished(self, model: BagModel, epoch: int) -> Finished:
        return finished(
            model, epoch, self.job, self.objective, self._logits_of,
            lambda m: self._features_of(m, self.train, self.loader, self.bags.attention_patches),
        )  # fmt: skip

    def _choose_and_finish(self, state: TrainingState) -> Finished:
        """The best epoch's weights only where the last epoch's are surely worse, both finished."""
        last: BagModel | None = None
        if state.chosen is not None and state.chosen_epoch != state.epoch:
            judged = self.judged
            assert isinstance(judged, BagModel)  # noqa: S101  (for the type checker)
            last = copy.deepcopy(judged)
            merge_lora(last)
        self._restore(state)
        best = self._finished(self.model, state.chosen_epoch)
        if last is None:
            return best
        return later_unless_worse(best, self._finished(last, state.epoch), self.val.labels)

    def _finish(self, state: TrainingState, seconds: float) -> TrainResult:
        chosen = self._choose_and_finish(state)
        self.model, state.chosen_epoch, logits = chosen.model, chosen.epoch, chosen.logits
        self.notes.extend(chosen.notes)
        labels = self.val.labels
        temperature = 1.0
        held_out: HeldOut | None = None
        found: dict[str, float] = {}
        if len(labels):
            found = {f"val_slide_{k}": v for k, v in scores(logits, labels).items()}
        if len(np.unique(labels)) > 1:
            temperature = fit_temperature(logits, labels, smoothed=True)
        else:
            self.notes.append(
                "There are no validation slides: the probabilities are not calibrated, and the "
                "last epoch is kept."
                if len(labels) == 0
                else "The validation slides hold one class only: the probabilities are not "
                "calibrated."
            )
        if len(labels):
            held_out = measure_held_out_slides(
                logits, labels, temperature, self.val.patient_ids, len(self.val.patches),
                self.job.class_names, seed=self.job.seed,
            ).model_copy(update={"n_slides": len(self.val.slide_ids)})  # fmt: skip
        stores = [*self.train.patches.stores, *self.val.patches.stores]
        self._note_quality(temperature, held_out, stores)
        found.update(
            {
                "n_epochs": float(state.epoch),
                "best_epoch": float(state.chosen_epoch),
                "n_train_slides": float(len(self.train.slide_ids)),
                "n_val_slides": float(len(self.val.slide_ids)),
                "n_train_patches": float(len(self.train.patches)),
                "n_val_patches": float(len(self.val.patches)),
            }
        )
        references = measure_bag_references(
            self.model, self.train, self.val, self.job.class_names, temperature, self.device,
            given_weights=any(note.startswith(GIVEN_WEIGHTS) for note in self.notes),
        )  # fmt: skip
        if destroyed := references.destroyed(self.config.learning_rate):
            self.notes.append(f"{destroyed}.")
        elif held_out is not None and held_out.nothing_learnt:
            self.notes.append(WHAT_MAY_HELP)
        config = bag_bundle_config(
            self.job, self.model, self.method, found, temperature, held_out, references,
            tuple(self.notes),
        )  # fmt: skip
        # WSInfer's programs classify patches one by one: this is no model of that kind
        config = save_bundle(
            self.job.out,
            self.model,
            config,
            training_log=log_text(state.rows or [], times=False),
            wsinfer=False,
            features=references.features,
            neighbours=self._neighbours(references),
        )
        return self._result(state, found, model_fingerprint(config), seconds, held_out)

    def _neighbours(self, references: References) -> NeighbourIndex | None:
        """Where the training patches lie among each other; their class is that of their slide."""
        if references.training is None or references.held_out is None:
            return None
        return build_index(
            references.training, references.held_out, self.train.store_patients,
            self.val.store_patients, None, self.job.fingerprint, self.job.n_classes,
        )  # fmt: skip


def _calibrated_loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Cross-entropy at the temperature that suits it best, in nats."""
    if len(np.unique(labels)) < 2:
        return mean_loss(logits, labels)
    return float(losses_of_slides(logits, labels).mean())

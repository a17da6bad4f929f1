"""Learning from patches: what a step shows, how a model is judged, and the bundle at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.errors import TrainingError
from pathology_scaat.metrics.classification import scores
from pathology_scaat.metrics.functional.calibration import calibrated_loss, fit_temperature
from pathology_scaat.scaat.method import Visit
from pathology_scaat.training import builders as setup
from pathology_scaat.training.augment import apply, draw, to_float
from pathology_scaat.training.backbones import Classifier
from pathology_scaat.training.bundle import load_bundle, save_bundle
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.bundle_quality import COPIED_LABELS, HeldOut
from pathology_scaat.training.data import BatchLoader, PatchTable
from pathology_scaat.training.description import patch_bundle_config
from pathology_scaat.training.gradient_averaging import average_buffers
from pathology_scaat.training.held_out import measure_held_out
from pathology_scaat.training.job import Job, StepBatch, TrainingState
from pathology_scaat.training.logs import log_text
from pathology_scaat.training.loop import TrainingLoop
from pathology_scaat.training.neighbours import NeighbourIndex, build_index
from pathology_scaat.training.parent import parent_model
from pathology_scaat.training.references import References, measure_references
from pathology_scaat.training.results import TrainProgress, TrainResult
from pathology_scaat.training.sampling import class_counts, epoch_batches
from pathology_scaat.training.wsinfer import NOT_OF_LABELS

_WORDS = {"val": "validation", "test": "test"}


class Trainer(TrainingLoop):
    """One training on labelled patches in one process (of several).

    Raises
    ------
    TrainingError
        If the batch size cannot be shared by the processes, or there is too little to learn from.
    """

    job: Job
    model: Classifier

    def __init__(self, job: Job, progress: Callable[[TrainProgress], None] | None) -> None:
        super().__init__(job, progress)
        if job.config.batch_size % self.world_size:
            raise TrainingError(
                "batch_size",
                f"{job.config.batch_size} cannot be shared by {self.world_size} processes",
                "give a multiple",
            )
        self.tables = setup.make_tables(job.slides, job.config, job.class_names, job.seed)
        self.n_classes = len(job.class_names)
        self.notes = list(self.tables.notes)

    @property
    def _too_much(self) -> tuple[str, str]:
        side = self.tables.train.stores[0].patch_size_px
        return (
            f"batches of {self.config.batch_size} patches of {side} px",
            "set a smaller train: batch_size in the pipeline file, or use --device cpu",
        )

    def _make(self) -> nn.Module:
        config, table = self.config, self.tables.train
        size = table.stores[0].patch_size_px
        if self.job.parent is None:
            made, notes = setup.make_model(config, self.n_classes, size, table)
        else:
            made, notes = parent_model(self.job.parent, config)
        self.notes.extend(notes)
        model = made.to(self.device)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = setup.make_objective(config, table, self.n_classes)
        self.loader = BatchLoader(table, config.cache_bytes, self.device)
        self.val_loader = BatchLoader(
            self._share(self.tables.val), config.cache_bytes // 4, self.device
        )
        self.labels = torch.from_numpy(table.labels)
        self.steps_per_epoch = len(self._batches(0))
        return model

    def _network(self) -> nn.Module:
        if self.config.compile:
            return torch.compile(self.model)  # type: ignore[return-value]
        return self.model

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

    # -- one epoch
    def _step_batches(self, epoch: int) -> Iterator[StepBatch]:
        rng = np.random.default_rng([self.job.seed, epoch, 3])
        batches = self._batches(epoch)
        mine = slice(self.rank, None, self.world_size)
        read = self.loader([b[mine] for b in batches])
        for batch, (index, patches) in zip(batches, read, strict=True):
            drawn = draw(len(batch), self.config.augment, rng).part(mine)
            yield StepBatch(
                apply(patches, drawn),
                self.labels[index].to(self.device, non_blocking=True),
                Visit(torch.from_numpy(index), drawn.orientation),
                len(batch),
            )

    def _after_steps(self, epoch: int) -> None:
        average_buffers(self.model)
        if self.average is not None:  # each process followed its own statistics
            average_buffers(self.average)

    def _watched(self, most: int) -> tuple[Tensor, Tensor]:
        n = min(most, len(self.tables.train))
        index = np.linspace(0, len(self.tables.train) - 1, n).astype(np.int64)
        images = to_float(torch.from_numpy(self.tables.train.read(index)).to(self.device))
        return images, self.labels[index].to(self.device)

    # -- judging
    def _judge(self, row: dict[str, Any]) -> None:
        found, logits, truth = self._evaluate(self.val_loader)
        row.update({f"val_{k}": v for k, v in found.items()})
        if len(logits):
            row["val_calibrated_loss"] = calibrated_loss(logits, truth)

    def _value(self, row: dict[str, Any]) -> float:
        """Good is a small class-balanced loss of calibrated probabilities on the validation
        patches: an AUC may be perfect where every patch is given one class."""
        return -float(row.get("val_calibrated_loss", row["loss"]))

    @torch.no_grad()
    def _evaluate(
        self, loader: BatchLoader, other: nn.Module | None = None
    ) -> tuple[dict[str, float], NDArray[np.float32], NDArray[Any]]:
        """Scores, logits and labels over a table, gathered from all processes."""
        model = other or self.judged
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

    # -- the end
    def _finish(self, state: TrainingState, seconds: float) -> TrainResult:
        self._restore(state)
        metrics, logits, labels = self._evaluate(self.val_loader)
        found = {f"val_{k}": v for k, v in metrics.items()}
        one_label = labels.ndim == 1 and len(np.unique(labels)) > 1
        one_label = one_label and not self.tables.val_judges.copied  # they calibrate nothing
        temperature = fit_temperature(logits, labels, smoothed=True) if one_label else 1.0
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
        stores = [*self.tables.train.stores, *self.tables.val.stores]
        self._note_quality(temperature, held_out, stores)
        if self.config.multi_label:
            self.notes.append(NOT_OF_LABELS)
        identity = [""]
        if self.rank == 0:
            self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            references = measure_references(
                self.model, self.tables.train, self.tables.val_judges.whole, self.job.class_names,
                temperature, self.device, multi_label=self.config.multi_label,
            )  # fmt: skip
            if destroyed := references.destroyed(self.config.learning_rate):
                self.notes.append(f"{destroyed}.")
            config = patch_bundle_config(
                self.job, self.model, self.method, self.tables, found, temperature, held_out,
                references, tuple(self.notes),
            )  # fmt: skip
            config = save_bundle(
                self.job.out,
                self.model,
                config,
                training_log=log_text(state.rows or [], times=False),
                features=references.features,
                neighbours=self._neighbours(references),
            )
            identity = [model_fingerprint(config)]
        if dist.is_initialized():
            dist.broadcast_object_list(identity, src=0)  # the first process alone knows the weights
            dist.barrier()
        return self._result(state, found, identity[0], seconds, held_out)

    def _neighbours(self, references: References) -> NeighbourIndex | None:
        """Where the training patches lie among each other, for who asks why."""
        if references.training is None or references.held_out is None:
            return None
        slides = self.job.slides
        mine = [s for s in slides if s.split == "train"]
        others = [s for s in slides if s.split == "val"] or mine  # else blocks of the training's
        return build_index(
            references.training, references.held_out, [s.patient_id for s in mine],
            [s.patient_id for s in others], references.held_out_logits, self.job.fingerprint,
            self.n_classes,
        )  # fmt: skip

    def _held_out(
        self,
        val_logits: NDArray[np.float32],
        test_logits: NDArray[np.float32] | None,
        temperature: float,
    ) -> HeldOut | None:
        """Quality on the test patches where they can show it, else on the validation patches."""
        tables, slides = self.tables, self.job.slides
        choices = [("val", tables.val_judges, val_logits)]
        if test_logits is not None:
            choices.insert(0, ("test", tables.test_judges, test_logits))
        telling = [
            choice for choice in choices
            if (class_counts(choice[1].table.labels, self.n_classes) > 0).sum() > 1
        ]  # fmt: skip
        sound = [choice for choice in telling if not choice[1].copied]
        split, judges, logits = (sound or telling or choices[-1:])[0]
        table = judges.table
        if not len(logits):
            return None
        blocks = split == "val" and not any(s.split == "val" for s in slides)
        mine = [s for s in slides if s.split == ("train" if blocks else split)]
        source = "blocks of the training slides" if blocks else f"{_WORDS[split]} slides"
        # several processes gather their shares one after the other
        order = np.concatenate(
            [np.arange(r, len(table), self.world_size) for r in range(self.world_size)]
        )
        found = measure_held_out(
            logits, temperature, table.select(order), mine, self.job.class_names,
            source, seed=self.job.seed,  # type: ignore[arg-type]
        )  # fmt: skip
        return found.model_copy(
            update={
                "judged": COPIED_LABELS if judges.copied else None,
                "n_copied": judges.n_left_out,
            }
        )

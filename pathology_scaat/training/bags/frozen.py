"""Learning in bags with an encoder that is not trained: features once, then the head alone.

An encoder that stays as it is gives a patch the same features in every epoch, so that they are
computed once and kept in files beside the patches, in TRIDENT's shape; those of test slides as
well, for heads that are trained on the files later. The bundle is that of any
model for bags: its slides are explained down to the pixels. Patches are not augmented then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.errors import StoreError
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.scaat.method import Visit
from pathology_scaat.slides.painted import is_painted
from pathology_scaat.training import builders
from pathology_scaat.training.augment import to_float
from pathology_scaat.training.bags.data import BagBatch, BagTable
from pathology_scaat.training.bags.model import BagModel
from pathology_scaat.training.bags.trainer import EVALUATION_BATCH, BagTrainer
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.data import BatchLoader
from pathology_scaat.training.heads.feature_files import (
    PAINTED,
    PATCHES,
    read_feature_file,
    write_feature_file,
)
from pathology_scaat.training.heads.patch_words import MPP
from pathology_scaat.training.job import StepBatch


def _print_of(encoder: nn.Module) -> str:
    """A name made of the encoder's weights, normalisation among them."""
    mark = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        mark.update(name.encode())
        mark.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"scaat-{mark.hexdigest()[:32]}"


def uses_fixed_features(config: TrainConfig) -> bool:
    """Whether only the head learns, and from clean patches: an adversary works on pixels."""
    return config.trainable == "head" and config.method == "plain"


class FrozenBagTrainer(BagTrainer):
    """One training of the head of a model for bags, on features that are computed once."""

    def _make(self) -> nn.Module:
        model = super()._make()
        assert isinstance(model, BagModel)  # noqa: S101  (for the type checker)
        model.eval()
        encoder = _print_of(model.encoder)
        self.features = {
            id(table): self._of_bags(model, table, encoder) for table in (self.train, self.val)
        }
        kept = self.job.features_dir
        note = "The encoder is not trained: features were computed once, of patches without " \
               "augmentation"  # fmt: skip
        if kept is not None:
            for slide in self.job.slides:
                if slide.split not in ("train", "val") and len(store := PatchStore(slide.store)):
                    self._features(model, store, slide.slide_id, encoder)
            note += f", and are kept in '{kept.name}', those of the test slides too"
        self.notes.append(f"{note}.")
        return model

    def _of_bags(self, model: BagModel, table: BagTable, encoder: str) -> list[Tensor]:
        """Features (n, F) of each bag, of a case slide by slide."""
        parts: list[list[NDArray[np.float32]]] = [[] for _ in range(len(table))]
        for bag, store, slide_id in zip(
            table.bag_of_store, table.patches.stores, table.slide_ids, strict=True
        ):
            parts[bag].append(self._features(model, store, slide_id, encoder))
        return [torch.from_numpy(np.concatenate(found)) for found in parts]

    def _features(
        self, model: BagModel, store: PatchStore, slide_id: str, encoder: str
    ) -> NDArray[np.float32]:
        """Features (n, F) of a slide's patches, read where they are kept already."""
        path = None
        if self.job.features_dir is not None:
            path = self.job.features_dir / f"{slide_id}.h5"
        held = None if path is None else _held(path, slide_id, encoder, store)
        if held is not None:
            return held
        found = self._encoded(model, store)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            side = float(store.meta.grid.patch_size_level0_px)
            write_feature_file(
                path, found, store.origins_px,
                {"patch_size_level0": side, "patch_size": store.patch_size_px,
                 MPP: store.meta.effective_mpp,
                 PATCHES: store.meta.fingerprint, PAINTED: is_painted(store.meta.slide.vendor)},
                encoder,
            )  # fmt: skip
        return found

    @torch.no_grad()
    def _encoded(self, model: BagModel, store: PatchStore) -> NDArray[np.float32]:
        parts = [
            model.encoder(to_float(torch.from_numpy(batch).to(self.device))).float().cpu().numpy()
            for batch in store.iter_batches(EVALUATION_BATCH)
        ]
        return np.concatenate(parts)

    def _network(self) -> nn.Module:
        head: nn.Module = self.model.head
        return head

    def _step_batches(self, epoch: int) -> Iterator[StepBatch]:
        kept = self.features[id(self.train)]
        for step in self._steps(epoch):
            owner = np.searchsorted(self.train.starts, step.patches, side="right") - 1
            rows = step.patches - self.train.starts[owner]
            if isinstance(step, BagBatch):
                parts = rows.reshape(len(step.bags), -1)
                bags = [kept[b][torch.from_numpy(r)] for b, r in zip(step.bags, parts, strict=True)]
                labels = self.labels[step.bags]
            else:
                bags = [kept[b][r : r + 1] for b, r in zip(owner, rows, strict=True)]
                labels = torch.from_numpy(step.labels)
            index = torch.from_numpy(step.patches)
            yield StepBatch(
                torch.stack(bags).to(self.device),
                labels.to(self.device),
                Visit(index, torch.zeros_like(index)),
                len(index),
            )

    def _step(self, shown: StepBatch, step: int) -> Tensor:
        rate = builders.learning_rate(self.config, step, self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.method.set_progress((step + 1) / self.n_steps)
        loss = self.objective.per_image(self.model.head(shown.images), shown.labels).mean()
        self.averager.backward(loss, True)
        self.averager.finish()
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self._follow(step)
        value = loss.detach()
        return torch.stack([value, value, torch.zeros_like(value)])

    def _after_steps(self, epoch: int) -> None:
        """Nothing: the statistics of a frozen encoder are those of its weights."""

    def _watch(self, state: Any) -> dict[str, float]:
        return {}

    def _features_of(
        self, model: BagModel, table: BagTable, loader: BatchLoader, most: int | None
    ) -> Iterator[Tensor]:
        """Features (n, F) of all patches of each bag: they are here already."""
        for features in self.features[id(table)]:
            yield features.to(self.device)


def _held(path: Path, slide_id: str, encoder: str, store: PatchStore) -> NDArray[np.float32] | None:
    """Features that are kept already; None where they are of other patches, or damaged."""
    if not path.is_file():
        return None
    try:
        file = read_feature_file(path, slide_id)
        painted = is_painted(store.meta.slide.vendor)
        if (file.encoder, file.patches) != (encoder, store.meta.fingerprint):
            return None
        if file.painted != painted:  # written before that was recorded
            return None
        return file.read()
    except StoreError:
        return None

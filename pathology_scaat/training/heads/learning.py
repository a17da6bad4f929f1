"""The epochs of training a head on features, and which of them is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import TrainingError
from pathology_scaat.training import builders
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.config import Target
from pathology_scaat.training.heads.data import FeatureBag, FeatureReader, labels_of, outcomes_of
from pathology_scaat.training.heads.judging import scores_of
from pathology_scaat.training.heads.model import FeatureHead
from pathology_scaat.training.heads.objectives import cox_loss
from pathology_scaat.training.heads.settings import bag_settings
from pathology_scaat.training.results import TrainProgress
from pathology_scaat.training.sampling import class_weights

STATISTICS_ROWS = 256


class HeadLearning:
    """One training of a head.

    Attributes
    ----------
    model : FeatureHead
        After :meth:`run` the chosen one, ready to predict.
    epochs_done, best_epoch : int
        From 1.
    """

    def __init__(
        self,
        train: list[FeatureBag],
        val: list[FeatureBag],
        config: TrainConfig,
        target: Target,
        n_features: int,
        seed: int,
        progress: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.train, self.val = train, val
        self.config, self.target, self.seed, self.progress = config, target, seed, progress
        self.n_features = n_features
        self.bag = bag_settings(config, target)
        self.reader = FeatureReader(config.cache_bytes)
        self.epochs_done = self.best_epoch = 0

    def run(self) -> None:
        """Train, and leave the chosen epoch's weights in :attr:`model`.

        Raises
        ------
        TrainingError
            If the loss is not finite.
        """
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            self.model = FeatureHead(self.n_features, self.target, self.bag.head())
            self._standardise()
            self._learn()

    def _standardise(self) -> None:
        """Mean and deviation of each feature over patches spread evenly over the training bags."""
        rows = []
        for bag in self.train:
            most = min(STATISTICS_ROWS, bag.n_patches)
            spread = np.unique(np.linspace(0, bag.n_patches - 1, most).astype(np.int64))
            rows.append(self.reader.read(bag, spread))
        found = torch.cat(rows).double()
        self.model.mean.copy_(found.mean(dim=0).float())
        deviation = found.std(dim=0, unbiased=False).float()
        self.model.std.copy_(torch.where(deviation > 1e-6, deviation, torch.ones(())))

    def _learn(self) -> None:
        config, model = self.config, self.model
        weights = None
        if self.target.kind != "survival" and config.class_balance == "weights":
            weights = torch.from_numpy(class_weights(labels_of(self.train, self.target),
                                                     len(self.target.names)))  # fmt: skip
        optimizer = builders.make_optimizer(model, config)
        draws, size = self.bag.draws_per_epoch, min(self.bag.bags_per_step, len(self.train))
        n_steps = max(1, len(self.train) * draws // size)
        best, best_at, chosen = -math.inf, 0, copy.deepcopy(model.state_dict())
        for epoch in range(config.epochs):
            rng = np.random.default_rng([self.seed, epoch, 1])
            order = np.concatenate([rng.permutation(len(self.train)) for _ in range(draws)])
            model.train()
            total = 0.0
            for step in range(n_steps):
                rate = builders.learning_rate(config, epoch * n_steps + step,
                                              n_steps * config.epochs)  # fmt: skip
                for group in optimizer.param_groups:
                    group["lr"] = rate
                bags = [self.train[i] for i in order[step * size : (step + 1) * size]]
                scores = torch.stack([self.model.scores(self._drawn(b, rng)) for b in bags])
                loss = self._loss(scores, bags, weights)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if config.grad_clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
                optimizer.step()
                total += float(loss.detach())
            if not math.isfinite(total):
                raise TrainingError(
                    "the training", "diverged (the loss is not finite)", "lower learning_rate"
                )
            row = {"loss": total / n_steps}
            value = float(epoch)
            if self.val:
                row["val_loss"] = self._val_loss()
                value = -row["val_loss"]
            self.epochs_done = epoch + 1
            if value > best + config.min_improvement:
                best_at = epoch
            if value >= best - config.choice_tolerance:
                chosen, self.best_epoch = copy.deepcopy(model.state_dict()), epoch + 1
            best = max(best, value)
            if self.progress is not None:
                self.progress(TrainProgress(epoch + 1, config.epochs, 0.0, row))
            if epoch - best_at >= config.patience:
                break
        model.load_state_dict(chosen)
        model.eval()

    def _drawn(self, bag: FeatureBag, rng: np.random.Generator) -> Tensor:
        most = self.bag.patches_per_bag
        if bag.n_patches <= most:
            return self.reader.read(bag)
        return self.reader.read(bag, np.sort(rng.choice(bag.n_patches, most, replace=False)))

    def _loss(self, scores: Tensor, bags: Sequence[FeatureBag], weights: Tensor | None) -> Tensor:
        if self.target.kind == "survival":
            return cox_loss(scores[:, 0], *outcomes_of(bags))
        labels = torch.from_numpy(labels_of(bags, self.target))
        logits = self.model.logits(scores)
        smoothing = self.config.label_smoothing if self.target.kind == "classes" else 0.0
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return (losses if weights is None else losses * weights[labels]).mean()

    @torch.no_grad()
    def _val_loss(self) -> float:
        return float(self._loss(scores_of(self.model, self.reader, self.val), self.val, None))

"""Training a head on features that are there already: minutes on a CPU, no pixels."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.errors import BundleError, TrainingError, UsageError
from pathology_scaat.metrics.classification import scores as class_scores
from pathology_scaat.metrics.functional.calibration import fit_temperature
from pathology_scaat.metrics.functional.survival import concordance
from pathology_scaat.training import builders
from pathology_scaat.training.bags.config import BagConfig
from pathology_scaat.training.bundle_config import NOTHING_LEARNT, slide_key
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.bundle import read_head_config, save_head
from pathology_scaat.training.heads.config import SCHEMA_VERSION, HeadBundleConfig, Target, Unit
from pathology_scaat.training.heads.data import FeatureBag, FeatureReader, check_alike, is_known
from pathology_scaat.training.heads.model import FeatureHead
from pathology_scaat.training.heads.objectives import cox_loss
from pathology_scaat.training.held_out import measure_held_out_slides
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.results import TrainProgress
from pathology_scaat.training.sampling import class_weights

BAGS_PER_STEP = {"classes": 8, "grades": 8, "survival": 32}
PATCHES_PER_BAG = 512
SCHEDULE = {"epochs": 60, "patience": 15, "learning_rate": 5e-3}
"""Where the settings name none: features cost little, and a risk set must hold some patients."""
STATISTICS_ROWS = 256
LEAST_EVENTS = 2
USED = {"bag", "epochs", "patience", "choice_tolerance", "min_improvement", "learning_rate",
        "weight_decay", "warmup_share", "final_rate_share", "grad_clip", "label_smoothing",
        "class_balance", "cache_bytes", "positive_class"}  # fmt: skip
"""Settings of training that a head uses; others have no effect, and are named."""


@dataclass(frozen=True)
class HeadResult:
    """What training a head left.

    Attributes
    ----------
    metrics : dict
        On the validation bags: ``val_auc``... or ``val_c_index``.
    skipped : bool
        True where the right head was there already.
    """

    path: Path
    config: HeadBundleConfig
    metrics: dict[str, float]
    n_epochs: int
    best_epoch: int
    notes: tuple[str, ...]
    nothing_learnt: str = ""
    skipped: bool = False


def head_settings(config: TrainConfig) -> TrainConfig:
    """The settings of training, with a head's own defaults where none are named."""
    own = {k: v for k, v in SCHEDULE.items() if k not in config.model_fields_set}
    return config.model_copy(update=own)


def bag_settings(config: TrainConfig, target: Target) -> BagConfig:
    """The settings of bags, with a head's own defaults where none are named."""
    own: dict[str, int] = {
        "bags_per_step": BAGS_PER_STEP[target.kind], "patches_per_bag": PATCHES_PER_BAG,
    }  # fmt: skip
    named = config.bag.model_fields_set
    return config.bag.model_copy(update={k: v for k, v in own.items() if k not in named})


def train_head(
    bags: Sequence[FeatureBag],
    out_dir: Path,
    config: TrainConfig,
    target: Target,
    *,
    unit: Unit = "slide",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
) -> HeadResult:
    """Train an additive head on bags of features, and save it.

    Parameters
    ----------
    bags : sequence of FeatureBag
        Those for testing take no part.
    out_dir : Path
        The head's folder; the right one that is there already is kept.
    config : TrainConfig
        :data:`USED` names the settings that count.
    target : Target
        What is learnt; with its classes or grades.
    unit : str
        What a bag is, for the record.
    seed, overwrite, progress
        As for other trainings.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, or the files are of different encoders.
    UsageError
        If grades are fewer than two.
    """
    named = set(config.model_fields_set)
    config = head_settings(config)
    known = [b for b in bags if is_known(b, target) and b.n_patches]
    train = [b for b in known if b.split == "train"]
    val = [b for b in known if b.split == "val"]
    notes = _check(bags, train, target, config, named)
    n_features, encoder = check_alike([*train, *val])
    identity = _identity(train, val, config, target, unit, seed)
    if not overwrite and (done := _finished(out_dir, identity)) is not None:
        return done
    work = _Training(train, val, config, target, n_features, seed, progress)
    work.run()
    notes += work.notes
    config_ = HeadBundleConfig(
        target=target,
        positive_class=""
        if target.kind == "survival"
        else positive_class(config.positive_class, target.names).name,
        unit=unit,
        n_features=n_features,
        encoder=encoder,
        head=work.bag.head(),
        temperature=work.temperature,
        calibration=work.calibration,
        median_risk=work.median_risk,
        training={
            **config.model_dump(mode="json", include=USED - {"cache_bytes"}),
            "bag": work.bag.model_dump(mode="json"),
            "seed": seed,
        },
        training_fingerprint=identity,
        slides=_keys([(b.split, f.fingerprint) for b in bags for f in b.files], identity),
        patients=_keys([(b.split, b.patient_id) for b in bags], identity),
        counts=_counts(train, target),
        metrics=work.metrics,
        notes=tuple(notes),
    )
    written = save_head(out_dir, work.model, config_)
    return HeadResult(out_dir, written, work.metrics, work.epochs_done, work.best_epoch,
                      tuple(notes), work.nothing_learnt)  # fmt: skip


class _Training:
    """One training of a head."""

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
        self.notes: list[str] = []
        self.metrics: dict[str, float] = {}
        self.temperature = 1.0
        self.calibration = ""
        self.median_risk: float | None = None
        self.nothing_learnt = ""
        self.epochs_done = self.best_epoch = 0

    def run(self) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            self.model = FeatureHead(self.n_features, self.target, self.bag.head())
            self._standardise()
            self._learn()
        self._judge()

    # -- learning
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
            weights = torch.from_numpy(class_weights(self._labels(self.train),
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
            return cox_loss(scores[:, 0], *_outcome(bags))
        labels = torch.from_numpy(self._labels(bags))
        logits = self.model.logits(scores)
        smoothing = self.config.label_smoothing if self.target.kind == "classes" else 0.0
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return (losses if weights is None else losses * weights[labels]).mean()

    def _labels(self, bags: Sequence[FeatureBag]) -> NDArray[np.int64]:
        return np.array([self.target.names.index(b.label) for b in bags], np.int64)

    # -- judging
    @torch.no_grad()
    def _scores(self, bags: Sequence[FeatureBag]) -> Tensor:
        self.model.eval()
        return torch.stack([self.model.scores(self.reader.read(b)) for b in bags])

    @torch.no_grad()
    def _val_loss(self) -> float:
        return float(self._loss(self._scores(self.val), self.val, None))

    @torch.no_grad()
    def _judge(self) -> None:
        self.metrics = {"n_train_bags": float(len(self.train)), "n_val_bags": float(len(self.val)),
                        "best_epoch": float(self.best_epoch)}  # fmt: skip
        if self.target.kind == "survival":
            self._judge_survival()
            return
        if not self.val:
            self.calibration = "not calibrated: there are no validation slides"
            self.notes.append("There are no validation slides: the probabilities are not "
                              "calibrated, and the last epoch is kept.")  # fmt: skip
            return
        logits = self.model.logits(self._scores(self.val)).numpy()
        labels = self._labels(self.val)
        self.metrics |= {f"val_{k}": float(v) for k, v in class_scores(logits, labels).items()}
        if len(np.unique(labels)) > 1:
            self.temperature = fit_temperature(logits, labels, smoothed=True)
            self.calibration = f"calibrated on the validation bags (temperature " \
                               f"{self.temperature:.3g})"  # fmt: skip
        else:
            self.calibration = "not calibrated: no validation bags of two classes"
            self.notes.append("The validation slides hold one class only: the probabilities are "
                              "not calibrated.")  # fmt: skip
        held = measure_held_out_slides(
            logits, labels, self.temperature, [b.patient_id for b in self.val],
            sum(b.n_patches for b in self.val), self.target.names, seed=self.seed,
        )  # fmt: skip
        text = held.text()
        self.notes.append(f"{text[0].upper()}{text[1:]}." if text.startswith("quality")
                          else f"Quality {text}.")  # fmt: skip
        self._say_nothing_learnt(held.nothing_learnt)

    def _judge_survival(self) -> None:
        risk = self._scores(self.train)[:, 0]
        self.median_risk = float(risk.median())
        self.calibration = "a log hazard: it orders patients, and is no probability"
        if not self.val:
            self.notes.append("There are no validation patients: the last epoch is kept.")
            return
        time, event = _outcome(self.val)
        own = self._scores(self.val)[:, 0].numpy().astype(np.float64)
        value = float(concordance(own, time.numpy(), event.numpy() > 0.5)[0])
        if math.isfinite(value):
            self.metrics["val_c_index"] = value
            self.notes.append(
                f"C-index on the {len(self.val)} validation patients ({int(event.sum())} events), "
                f"by which the epoch was chosen: {value:.3f}."
            )
            if value <= 0.5:
                self._say_nothing_learnt(
                    f"its C-index on the validation patients is {value:.3f}; guessing gives 0.5"
                )
        else:
            self.notes.append("No two validation patients can be compared: the C-index is unknown.")

    def _say_nothing_learnt(self, why: str) -> None:
        self.nothing_learnt = why
        if why:
            self.notes.append(f"{NOTHING_LEARNT}: {why}.")


def _outcome(bags: Sequence[FeatureBag]) -> tuple[Tensor, Tensor]:
    """Times and events (n,) of bags that have them."""
    time = torch.tensor([float(b.time or 0.0) for b in bags], dtype=torch.float64)
    return time, torch.tensor([float(bool(b.event)) for b in bags])


def _check(
    bags: Sequence[FeatureBag],
    train: list[FeatureBag],
    target: Target,
    config: TrainConfig,
    named: set[str],
) -> list[str]:
    """Refuse what cannot be learnt from; what is to be said of the rest."""
    notes = []
    splits: dict[str, set[str]] = {}
    for bag in bags:
        splits.setdefault(bag.patient_id, set()).add(bag.split)
    torn = sorted(p for p, found in splits.items() if len(found - {""}) > 1)
    if torn:
        raise TrainingError(
            "the splits", f"put patient '{torn[0]}' into more than one", "give each patient one"
        )
    empty = [b.bag_id for b in bags if not b.n_patches]
    if empty:
        notes.append(f"Left out, since they hold no patch: {', '.join(empty[:5])}"
                     f"{', ...' if len(empty) > 5 else ''}.")  # fmt: skip
    unknown = sum(not is_known(b, target) for b in bags)
    if unknown:
        notes.append(f"{unknown} without a value of {target.column} take no part in the training.")
    if target.kind == "survival":
        events = sum(bool(b.event) for b in train)
        if events < LEAST_EVENTS:
            raise TrainingError(
                "the training patients",
                f"have {events} events",
                f"a Cox model needs {LEAST_EVENTS} at the very least; check the columns",
            )
        notes.append(
            f"Survival: {len(train)} training patients with {events} events; Cox partial "
            "likelihood over the patients of a step, ties by Efron."
        )
    else:
        if target.kind == "grades" and len(target.names) < 2:
            raise UsageError("--grades", "are fewer than two", "name them from lowest to highest")
        counts = Counter(b.label for b in train)
        told = ", ".join(f"{name}: {counts.get(name, 0)}" for name in target.names) or "none"
        if len(counts) < 2:
            raise TrainingError(
                "the training slides",
                f"have labels of fewer than two classes ({told})",
                "label more slides, or check the split",
            )
        notes.append(f"Training bags by class: {told}.")
        if missing := [name for name in target.names if not counts.get(name)]:
            notes.append(f"No training slide of: {', '.join(missing)}.")
        if target.kind == "classes":
            notes.append(f"{positive_class(config.positive_class, target.names).note}.")
    without = sorted(named - USED - {"labels", "method", "trainable"})
    if without:
        notes.append(f"Settings without effect on a head on features: {', '.join(without)}.")
    return notes


def _identity(
    train: Sequence[FeatureBag],
    val: Sequence[FeatureBag],
    config: TrainConfig,
    target: Target,
    unit: Unit,
    seed: int,
) -> str:
    return fingerprint(
        {
            "schema_version": SCHEMA_VERSION,
            "target": target.model_dump(mode="json"),
            "unit": unit,
            "data": [
                [b.bag_id, b.patient_id, b.split, b.label, b.time, b.event,
                 [f.fingerprint for f in b.files]]
                for b in sorted([*train, *val], key=lambda b: b.bag_id)
            ],
            "config": config.model_dump(mode="json", include=USED - {"cache_bytes", "bag"}),
            "bag": bag_settings(config, target).model_dump(mode="json"),
            "seed": seed,
        }
    )  # fmt: skip


def _finished(path: Path, identity: str) -> HeadResult | None:
    """The head that this very training left, where it did."""
    try:
        config = read_head_config(path)
    except BundleError:
        return None
    if config.training_fingerprint != identity:
        return None
    learnt = next((n for n in config.notes if n.startswith(NOTHING_LEARNT)), "")
    return HeadResult(path, config, dict(config.metrics), 0, int(config.metrics["best_epoch"]),
                      config.notes, learnt.removeprefix(f"{NOTHING_LEARNT}: ").rstrip("."),
                      skipped=True)  # fmt: skip


def _keys(pairs: Sequence[tuple[str, str]], identity: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for split, text in pairs:
        if split:
            found.setdefault(split, set()).add(slide_key(text, identity))
    return {split: tuple(sorted(marks)) for split, marks in sorted(found.items())}


def _counts(train: Sequence[FeatureBag], target: Target) -> dict[str, int]:
    if target.kind == "survival":
        events = sum(bool(b.event) for b in train)
        return {"event": events, "censored": len(train) - events}
    counts = Counter(b.label for b in train)
    return {name: counts.get(name, 0) for name in target.names}

"""What a training starts from: tables, network, method and optimiser out of the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.scaat.method import COMMON_OPTIONS, Method
from pathology_scaat.scaat.methods import make_method
from pathology_scaat.scaat.methods.adversarial import Pgd
from pathology_scaat.scaat.methods.amortised import AmortisedScaat
from pathology_scaat.scaat.objective import MultiLabelObjective, Objective, SingleLabelObjective
from pathology_scaat.scaat.options import ScaatOptions
from pathology_scaat.scaat.scaat import SCAAT
from pathology_scaat.system.rounding import percent
from pathology_scaat.training.backbones import (
    Classifier,
    create_backbone,
    fitting_weights,
    load_backbone_weights,
    normalisation_of,
    set_trainable,
)
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.data import PatchTable, make_table
from pathology_scaat.training.encoders import encoder_of
from pathology_scaat.training.judging import Judges, judges_of
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.results import TrainingSlide
from pathology_scaat.training.sampling import class_counts, class_weights, hold_out_blocks

RANDOM_AND_FIXED = (
    "No weights are given (--weights) and only a part of the network is trained ({}): the rest "
    "keeps random weights, so that its features are those of a random network."
)


@dataclasses.dataclass(frozen=True)
class Tables:
    """Patches by split, and what to say about them."""

    train: PatchTable
    val_judges: Judges
    test_judges: Judges
    notes: tuple[str, ...]

    @property
    def val(self) -> PatchTable:
        """The validation patches that figures are taken from."""
        return self.val_judges.table

    @property
    def test(self) -> PatchTable:
        """The test patches that figures are taken from."""
        return self.test_judges.table


def make_tables(
    slides: tuple[TrainingSlide, ...], config: TrainConfig, class_names: tuple[str, ...], seed: int
) -> Tables:
    """The labelled patches of each split; blocks are held out where no slide validates.

    Raises
    ------
    TrainingError
        If fewer than two classes have patches to train on.
    """
    tables = {
        split: make_table(
            [slide for slide in slides if slide.split == split],
            config.multi_label,
            config.multi_label_min_coverage,
        )
        for split in ("train", "val", "test")
    }
    train, val = tables["train"], tables["val"]
    notes = []
    if len(train) and not len(val):
        train, val = hold_out_blocks(train, config.validation_share, seed)
        notes.append(_held_out_note(tables["train"], train, val, config.validation_share))
    counts = class_counts(train.labels, len(class_names))
    if (counts > 0).sum() < (1 if config.multi_label else 2):
        found = ", ".join(f"{n}: {c}" for n, c in zip(class_names, counts, strict=True))
        raise TrainingError(
            "the training slides",
            f"have labelled patches of fewer than two classes ({found})",
            "annotate more, or check the split",
        )
    missing = [n for n, c in zip(class_names, counts, strict=True) if c == 0]
    if missing:
        notes.append(f"No training patch of: {', '.join(missing)}.")
    judges = {"val": judges_of(val, class_names), "test": judges_of(tables["test"], class_names)}
    for split, chosen in judges.items():
        notes.extend(chosen.notes({"val": "validation", "test": "test"}[split]))
        table = chosen.table
        present = class_counts(table.labels, len(class_names)) if len(table) else counts[:0]
        shown = [n for n, c in zip(class_names, present, strict=False) if c > 0]
        notes.extend(one_class_notes(split, shown))
    notes.append(f"{positive_class(config.positive_class, class_names).note}.")
    return Tables(train, judges["val"], judges["test"], tuple(notes))


def _held_out_note(before: PatchTable, train: PatchTable, val: PatchTable, share: float) -> str:
    if not len(val):
        return (
            "No slide is left for validation, and the training slides are too small to hold a "
            "block of them out: there is no validation figure."
        )
    found = len(val) / (len(val) + len(train))
    lost = len(before) - len(train) - len(val)
    return (
        "No slide is left for validation: blocks of the training slides are held out "
        f"({len(val)} patches, {percent(found)}; {percent(share)} was asked for; {lost} "
        "patches that overlap them are not used), so the validation figures are optimistic."
    )


def one_class_notes(split: str, class_names: Sequence[str]) -> list[str]:
    """What figures a validation or test split of one class alone cannot give."""
    if len(class_names) != 1:
        return []
    whole = {"val": "validation", "test": "test"}[split]
    choice = (
        "; val_loss, val_ece, the temperature and the choice of the epoch rest on this class alone"
        if split == "val"
        else "; test_loss and test_ece rest on this class alone"
    )
    return [
        f"The {whole} split holds one class only ({class_names[0]}): {split}_auc cannot be given, "
        f"and {split}_accuracy and {split}_balanced_accuracy are the share of this class found, "
        f"which a model that always says '{class_names[0]}' has too{choice}."
    ]


def patch_statistics(
    table: PatchTable, limit: int = 256
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1] over evenly spread patches."""
    index = np.unique(np.linspace(0, len(table) - 1, min(limit, len(table))).astype(np.int64))
    pixels = table.read(index).reshape(-1, 3)
    mean, std = pixels.mean(axis=0) / 255, pixels.std(axis=0) / 255
    rounded = tuple(round(float(v), 4) for v in mean)
    return rounded, tuple(max(round(float(v), 4), 0.05) for v in std)


def fill_backbone(backbone: nn.Module, config: TrainConfig) -> tuple[str, ...]:
    """Give a network the weights of a file, where one is named; what is to be said of them.

    Raises
    ------
    UsageError
        If an encoder is called by name and its weights are not given.
    TrainingError
        If they are another network's.
    """
    require_encoder_weights(config)
    encoder = encoder_of(config.backbone)
    if config.backbone_weights is None:
        return () if config.trainable == "all" else (RANDOM_AND_FIXED.format(config.trainable),)
    said = load_backbone_weights(backbone, config.backbone_weights, whole=needs_all_weights(config))
    notes = (said,)
    if encoder is None:
        return notes
    beside = (f"{encoder.title}: {encoder.note}.",) if encoder.note else ()
    return (*notes, f"{encoder.terms}.", *beside)


def needs_all_weights(config: TrainConfig) -> bool:
    """Whether a file must hold all of a network but its head: what it lacks would stay random."""
    return encoder_of(config.backbone) is not None or config.trainable != "all"


def require_fitting_weights(config: TrainConfig, backbone: nn.Module) -> None:
    """Refuse a file of weights that are not the network's, which is left as it is.

    Raises
    ------
    TrainingError
    """
    if config.backbone_weights is not None:
        fitting_weights(backbone, config.backbone_weights, whole=needs_all_weights(config))


def require_encoder_weights(config: TrainConfig) -> None:
    """Refuse the name of an encoder without its weights: it would be a random network.

    Raises
    ------
    UsageError
    """
    encoder = encoder_of(config.backbone)
    if encoder is not None and config.backbone_weights is None:
        raise UsageError(
            "--backbone",
            f"'{encoder.name}' is {encoder.title}, whose weights are never downloaded",
            f"get them from {encoder.page} on the Hugging Face hub and give --weights FILE",
        )


def make_model(
    config: TrainConfig, n_classes: int, patch_size_px: int, table: PatchTable
) -> tuple[Classifier, tuple[str, ...]]:
    """The network with its normalisation, weights and frozen parts; and what to say about it."""
    backbone = create_backbone(config.backbone, n_classes, patch_size_px, config.backbone_options)
    notes = fill_backbone(backbone, config)
    set_trainable(backbone, config.trainable)
    own = config.normalisation == "auto" and config.backbone_weights is not None
    measured = None if own else patch_statistics(table)
    mean, std = normalisation_of(
        config.normalisation, backbone, config.backbone_weights is not None, measured
    )
    return Classifier(backbone, mean, std), notes


def make_objective(config: TrainConfig, table: PatchTable, n_classes: int) -> Objective:
    """The loss, with class weights measured on the training patches.

    Raises
    ------
    UsageError
        If noise tolerance is asked for where several classes may hold at once.
    """
    weights = None
    if config.class_balance == "weights":
        weights = torch.from_numpy(class_weights(table.labels, n_classes))
    if config.multi_label:
        if config.noise_tolerance > 0:
            raise UsageError(
                "noise_tolerance", "is for one class per patch", "use label_smoothing instead"
            )
        return MultiLabelObjective(weights, config.label_smoothing)
    return SingleLabelObjective(weights, config.label_smoothing, config.noise_tolerance)


def autocast_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where asked, or where a GPU has it in hardware."""
    if config.precision == "bf16":
        return torch.bfloat16
    automatic = config.precision == "auto" and device.type == "cuda"
    if automatic and torch.cuda.get_device_capability(device)[0] >= 8:
        return torch.bfloat16
    return None


def make_training_method(
    config: TrainConfig, model: nn.Module, objective: Objective, device: torch.device, seed: int
) -> Method:
    """The method by its name, with its options.

    Raises
    ------
    UsageError
        If an option is unknown, out of range, or the training's own to give.
    """
    ours = sorted(COMMON_OPTIONS.intersection(config.method_options))
    if ours:
        raise UsageError("method options", f"unknown: {', '.join(ours)}", "leave it out")
    return make_method(
        config.method,
        model,
        objective=objective,
        seed=seed,
        autocast_dtype=autocast_dtype(config, device),
        **config.method_options,
    )


def monitor_options(method: Method) -> ScaatOptions | None:
    """What the overfitting monitor attacks with: only single-step adversaries need one.

    It attacks pixels, so a method that changes a layer's output has none.
    """
    if isinstance(method, SCAAT | AmortisedScaat):
        options = method.options
        attacks = options.fill == "perturb" and options.direction == "adversarial"
        attacks = attacks and options.layer is None
        return options if attacks and options.lam > 0 and options.steps == 1 else None
    if isinstance(method, Pgd) and method.steps == 1:
        return ScaatOptions(eps=method.eps, where="all")
    return None


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; norms and biases are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate)


def learning_rate(config: TrainConfig, step: int, n_steps: int) -> float:
    """Linear warm-up, then half a cosine down to ``final_rate_share``."""
    warmup = config.warmup_share * n_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(n_steps - warmup, 1)
    low = config.final_rate_share
    cosine = 0.5 * (1 + float(np.cos(np.pi * min(share, 1.0))))
    return config.learning_rate * (low + (1 - low) * cosine)

"""Which settings of training count for a head on features, and its own defaults."""

from __future__ import annotations

from pathology_scaat.training.bags.config import BagConfig
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.heads.config import Target

BAGS_PER_STEP = {"classes": 8, "grades": 8, "survival": 32}
PATCHES_PER_BAG = 512
DRAWS_PER_EPOCH = 4
SCHEDULE = {"epochs": 60, "patience": 15, "learning_rate": 5e-3}
"""Where the settings name none: features cost little, and a risk set must hold some patients."""
NOT_OF_HEADS = {"of", "attention_steps", "attention_patches"}
"""Settings of bags that a head on features has no use for."""
USED = {"bag", "epochs", "patience", "choice_tolerance", "min_improvement", "learning_rate",
        "weight_decay", "warmup_share", "final_rate_share", "grad_clip", "label_smoothing",
        "class_balance", "cache_bytes", "positive_class"}  # fmt: skip
"""Settings of training that a head uses; others have no effect, and are named."""


def head_settings(config: TrainConfig) -> TrainConfig:
    """The settings of training, with a head's own defaults where none are named."""
    own = {k: v for k, v in SCHEDULE.items() if k not in config.model_fields_set}
    return config.model_copy(update=own)


def bag_settings(config: TrainConfig, target: Target) -> BagConfig:
    """The settings of bags, with a head's own defaults where none are named."""
    own: dict[str, int] = {
        "bags_per_step": BAGS_PER_STEP[target.kind], "patches_per_bag": PATCHES_PER_BAG,
        "draws_per_epoch": DRAWS_PER_EPOCH,
    }  # fmt: skip
    named = config.bag.model_fields_set
    return config.bag.model_copy(update={k: v for k, v in own.items() if k not in named})

"""A bundle as the beginning of another training: its network, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.errors import TrainingError
from pathology_scaat.training.backbones import Classifier, set_trainable
from pathology_scaat.training.bundle import load_bundle
from pathology_scaat.training.bundle_config import GIVEN_WEIGHTS
from pathology_scaat.training.config import TrainConfig


def parent_model(path: Path, config: TrainConfig) -> tuple[Classifier, tuple[str, ...]]:
    """The network of a bundle, ready to be trained on, and what to say about it.

    Raises
    ------
    BundleError
        If the bundle cannot be read.
    TrainingError
        If it is no model for patches.
    """
    bundle = load_bundle(path)
    model = bundle.model
    if not isinstance(model, Classifier):
        raise TrainingError(path.name, "is no model for patches", "train it again with 'train'")
    model.requires_grad_(True)
    set_trainable(model.backbone, config.trainable)
    note = (
        f"Fine-tuned from the model {bundle.fingerprint[:12]} (trained with "
        f"'{bundle.config.method}'); normalisation and network are that model's."
    )
    given = tuple(text for text in bundle.config.notes if text.startswith(GIVEN_WEIGHTS))
    if bundle.config.began and not given:
        given = (f"{GIVEN_WEIGHTS} those of an imported model, whose training is not known.",)
    return model, (note, *given)

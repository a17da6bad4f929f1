"""The bundle of a head: a configuration with its checksum, and the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pathology_scaat.artifacts.atomic import atomic_path, write_json
from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.artifacts.fingerprint import file_sha256, fingerprint, versions
from pathology_scaat.errors import BundleError
from pathology_scaat.training.bundle_config import class_names_problem, slide_key
from pathology_scaat.training.bundle_reading import (
    ANEW,
    CONFIG_NAME,
    OTHER_NAMES,
    checked_config,
    read_config_json,
)
from pathology_scaat.training.heads.config import SCHEMA_NAME, SCHEMA_VERSION, HeadBundleConfig
from pathology_scaat.training.heads.model import FeatureHead

WEIGHTS_NAME = "head.safetensors"
MAX_CONFIG_BYTES = 16 << 20
NOT_IDENTITY = {"versions", "metrics", "notes"}


@dataclass(frozen=True)
class HeadBundle:
    """A head ready for use.

    Attributes
    ----------
    fingerprint : str
        SHA-256 over weights and meaning.
    """

    model: FeatureHead
    config: HeadBundleConfig
    fingerprint: str

    def role_of(self, features: str, patient_id: str) -> str:
        """What a slide served for in training: ``train``, ``val``, ``test``, or empty if nothing.

        A slide of a patient that was trained on counts as trained on, also where the slide itself
        was not.
        """
        key = self.config.training_fingerprint
        marks = ((self.config.slides, features), (self.config.patients, patient_id))
        for role in ("train", "val", "test"):
            if any(slide_key(text, key) in known.get(role, ()) for known, text in marks):
                return role
        return ""


def head_fingerprint(config: HeadBundleConfig) -> str:
    """Fingerprint of a head; versions, measures and notes do not enter."""
    # heads of before this was recorded keep their fingerprints
    unsaid = NOT_IDENTITY if config.patches else NOT_IDENTITY | {"patches"}
    return fingerprint(config.model_dump(mode="json", exclude=unsaid))


def save_head(path: Path, model: FeatureHead, config: HeadBundleConfig) -> HeadBundleConfig:
    """Write a head; it appears whole or not at all. Returns the configuration as written."""
    with atomic_path(path) as partial:
        partial.mkdir()
        state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(state, partial / WEIGHTS_NAME)
        update = {"weights_sha256": file_sha256(partial / WEIGHTS_NAME), "versions": versions()}
        config = config.model_copy(update=update)
        value = {**config.model_dump(mode="json"), "fingerprint": head_fingerprint(config)}
        write_json(partial / CONFIG_NAME, value)
        checksum_folder(partial, CONFIG_NAME)
    return config


def read_head_config(path: Path) -> HeadBundleConfig:
    """What a head says of itself, checked; no weights are read.

    Raises
    ------
    BundleError
        If it is missing, altered, or of another schema.
    """
    value = read_config_json(
        path,
        MAX_CONFIG_BYTES,
        (SCHEMA_NAME, SCHEMA_VERSION),
        "is no head on features",
        "train one with 'scaat train --features'",
    )
    config = checked_config(path, value, HeadBundleConfig, head_fingerprint)
    if problem := class_names_problem(config.target.names):
        raise BundleError(path.name, problem, OTHER_NAMES)
    return config


def load_head(path: Path) -> HeadBundle:
    """Load a head for use.

    Raises
    ------
    BundleError
        If a file is missing, altered, or does not fit the others.
    """
    config = read_head_config(path)
    weights = path / WEIGHTS_NAME
    if not weights.is_file():
        raise BundleError(path.name, f"has no {WEIGHTS_NAME}", ANEW)
    if file_sha256(weights) != config.weights_sha256:
        raise BundleError(
            path.name, f"has a {WEIGHTS_NAME} that is not the one it was saved with", ANEW
        )
    model = FeatureHead(config.n_features, config.target, config.head)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, ValueError, RuntimeError, KeyError):
        raise BundleError(path.name, "has damaged weights", ANEW) from None
    return HeadBundle(model.eval(), config, head_fingerprint(config))

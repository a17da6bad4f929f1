"""The model bundle: weights, what they mean, and the same model for QuPath and WSInfer.

::

    model/  model.safetensors                weights; tensors only
            config.json                      schema, hashes, classes, patch size, method, metrics
            training_log.csv                 one row an epoch
            wsinfer/torchscript_model.pt     raw logits, normalisation inside
            wsinfer/config.json              the WSInfer model format

Loading a bundle reads safetensors and JSON and checks both against their SHA-256; nothing is
unpickled. The TorchScript is for other programs and is never loaded here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pathology_scaat.artifacts.atomic import atomic_path, write_json
from pathology_scaat.artifacts.checksums import SEAL_KEY, seal_folder
from pathology_scaat.artifacts.fingerprint import file_sha256, fingerprint, versions
from pathology_scaat.errors import BundleError, ScaatError, TrainingError
from pathology_scaat.scaat.method import Method
from pathology_scaat.system.representation import Described
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.bags.model import build_bag_model
from pathology_scaat.training.builders import Tables, default_positive_class
from pathology_scaat.training.bundle_config import (
    SCHEMA_NAME,
    SCHEMA_VERSION,
    BundleConfig,
    model_fingerprint,
)
from pathology_scaat.training.job import Job
from pathology_scaat.training.wsinfer import write_wsinfer_model

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
WSINFER_DIR = "wsinfer"
MAX_CONFIG_BYTES = 4 << 20


@dataclass(frozen=True, repr=False)
class ModelBundle(Described):
    """A loaded model in evaluation mode.

    Attributes
    ----------
    model : nn.Module
        (B, 3, P, P) float in [0, 1] to (B, K) raw logits. A model for bags (``config.bag``)
        also takes tall images (B, 3, m * P, P) of m patches each.
    config : BundleConfig
    fingerprint : str
        SHA-256 over weights and meaning; other for any other model.
    """

    model: nn.Module
    config: BundleConfig
    fingerprint: str

    def _facts(self) -> dict[str, str]:
        config = self.config
        return {
            "backbone": config.backbone,
            "classes": ", ".join(config.class_names),
            "patches": f"{config.patch_size_px} px at {config.mpp or float('nan'):g} µm/px",
            "method": config.method,
        }


def save_bundle(
    path: Path,
    model: nn.Module,
    config: BundleConfig,
    *,
    training_log: str | None = None,
    wsinfer: bool = True,
) -> BundleConfig:
    """Write a bundle; it appears whole or not at all.

    Parameters
    ----------
    path : Path
        The bundle's folder; one that is there is replaced.
    model : nn.Module
        On any device; saved in float32 as it is.
    config : BundleConfig
        Hash and versions are filled in.
    training_log : str, optional
        CSV text kept beside the weights.
    wsinfer : bool
        Also write the TorchScript and the WSInfer configuration.

    Returns
    -------
    BundleConfig
        As written.
    """
    with atomic_path(path) as partial:
        partial.mkdir()
        state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(state, partial / WEIGHTS_NAME)
        config = config.model_copy(
            update={
                "weights_sha256": file_sha256(partial / WEIGHTS_NAME),
                "versions": config.versions or versions(),
            }
        )
        write_json(
            partial / CONFIG_NAME,
            {**config.model_dump(mode="json"), "fingerprint": model_fingerprint(config)},
        )
        if training_log is not None:
            (partial / "training_log.csv").write_text(training_log, encoding="utf-8")
        if wsinfer:
            write_wsinfer_model(partial / WSINFER_DIR, model, config)
        seal_folder(partial, CONFIG_NAME)
    return config


def read_bundle_config(path: Path) -> BundleConfig:
    """The configuration of a bundle, checked; no weights are read.

    Raises
    ------
    BundleError
        If it is missing, altered, or of another schema.
    """
    file = path / CONFIG_NAME
    remedy = "train it again, or copy the whole folder anew"
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise BundleError(path.name, "has a config.json of absurd size", remedy)
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            path.name,
            "is not a model bundle (no config.json)",
            "give the folder 'scaat train' made",
        ) from None
    except (OSError, ValueError, RecursionError):
        raise BundleError(path.name, "has a config.json that cannot be read", remedy) from None
    if not isinstance(value, dict) or value.get("schema_name") != SCHEMA_NAME:
        raise BundleError(path.name, "is not a model bundle", "give the folder 'scaat train' made")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            path.name,
            f"is of schema version {value.get('schema_version')}, not {SCHEMA_VERSION}",
            "train it again with this version",
        )
    stated = value.pop("fingerprint", None)
    value.pop(SEAL_KEY, None)  # of all files, for 'scaat verify'
    try:
        config = BundleConfig.model_validate(value)
    except ValidationError:
        raise BundleError(path.name, "has a damaged config.json", remedy) from None
    if stated != model_fingerprint(config):
        raise BundleError(path.name, "has a config.json that was altered", remedy)
    if config.positive_class not in config.class_names:
        raise BundleError(path.name, "names a positive class it does not have", remedy)
    return config


def build_model(config: BundleConfig) -> nn.Module:
    """The network a configuration describes, with random weights."""
    if config.bag is not None:
        return build_bag_model(
            config.backbone,
            config.backbone_options,
            config.patch_size_px,
            len(config.class_names),
            config.bag,
            config.mean,
            config.std,
        )
    backbone = create_backbone(
        config.backbone, len(config.class_names), config.patch_size_px, config.backbone_options
    )
    return Classifier(backbone, config.mean, config.std)


@lru_cache(maxsize=1)
def kept_bundle(path: Path, fingerprint: str, device: str) -> ModelBundle:
    """:func:`load_bundle`, the last one kept: a worker that explains many slides loads it once.

    ``fingerprint`` is that of the configuration as it stands now (:func:`model_fingerprint`), so
    that a bundle that was replaced meanwhile is loaded anew.
    """
    return load_bundle(path, device=device)


def load_bundle(path: str | Path, device: str = "cpu") -> ModelBundle:
    """Load a bundle for use.

    Parameters
    ----------
    path : str or Path
        The bundle's folder.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    BundleError
        If a file is missing, altered, or does not fit the others.
    """
    folder = Path(path)
    config = read_bundle_config(folder)
    weights = folder / WEIGHTS_NAME
    remedy = "train it again, or copy the whole folder anew"
    if not weights.is_file():
        raise BundleError(folder.name, f"has no {WEIGHTS_NAME}", remedy)
    if file_sha256(weights) != config.weights_sha256:
        raise BundleError(
            folder.name, f"has a {WEIGHTS_NAME} that is not the one it was saved with", remedy
        )
    try:
        model = build_model(config)
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, ScaatError) as error:
        raise BundleError(
            folder.name, f"cannot be loaded ({type(error).__name__})", remedy
        ) from None
    model.eval().requires_grad_(False)
    return ModelBundle(model.to(torch.device(device)), config, model_fingerprint(config))


def bundle_config(
    job: Job,
    model: Classifier,
    method: Method,
    tables: Tables,
    metrics: dict[str, float],
    temperature: float,
) -> BundleConfig:
    """The bundle's configuration; hashes and versions are added when it is saved.

    Raises
    ------
    TrainingError
        If the positive class that was asked for does not exist.
    """
    config, names = job.config, job.class_names
    store = tables.train.stores[0]
    positive = config.positive_class or default_positive_class(names)
    if positive not in names:
        raise TrainingError(
            "positive_class", f"'{positive}' is no class", f"choose from {', '.join(names)}"
        )
    options = getattr(method, "options", None)
    stores = [s for t in (tables.train, tables.val) for s in t.stores]
    return BundleConfig(
        class_names=names,
        positive_class=positive,
        multi_label=config.multi_label,
        patch_size_px=store.patch_size_px,
        mpp=store.meta.requested_mpp,
        backbone=config.backbone,
        backbone_options=config.backbone_options,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        method=config.method,
        method_options=options.to_dict() if options is not None else config.method_options,
        training={
            **config.model_dump(
                mode="json", exclude={"backbone_weights", "cache_bytes", "labels", "bag"}
            ),
            "seed": job.seed,
        },
        dataset_fingerprint=fingerprint({"stores": sorted({s.meta.fingerprint for s in stores})}),
        training_fingerprint=job.fingerprint,
        metrics=metrics,
        temperature=temperature,
    )

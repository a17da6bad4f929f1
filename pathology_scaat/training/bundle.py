"""The model bundle: weights, what they mean, and the same model for QuPath and WSInfer.

::

    model/  model.safetensors                weights; tensors only
            config.json                      schema, hashes, classes, patch size, method, metrics
            training_log.csv                 one row per epoch
            decision.json                    what validation cases chose; comes later (.decision)
            features.safetensors             what training patches look like to the model
            neighbours.safetensors           their features one by one, for finding the nearest
            wsinfer/NAME/                    the WSInfer model format, in a folder of its name
            script.pt                        instead of weights: an imported TorchScript network

Loading a bundle reads safetensors and JSON and checks both against their SHA-256; nothing is
unpickled. The TorchScript in ``wsinfer/`` is for other programs and is never loaded here; an
imported script only where its user has imported it (:mod:`.imported.script`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pathology_scaat.artifacts.atomic import atomic_path, write_json
from pathology_scaat.artifacts.checksums import checksum_folder
from pathology_scaat.artifacts.fingerprint import file_sha256, versions
from pathology_scaat.errors import BundleError, ScaatError
from pathology_scaat.system.memory import is_out_of_memory
from pathology_scaat.system.representation import Described
from pathology_scaat.system.signals import raise_again
from pathology_scaat.training.backbones import Classifier, create_backbone
from pathology_scaat.training.bags.model import build_bag_model
from pathology_scaat.training.bundle_config import (
    BundleConfig,
    model_fingerprint,
)
from pathology_scaat.training.bundle_reading import (
    ANEW,
    CONFIG_NAME,
    FEATURES_NAME,
    NEIGHBOURS_NAME,
    SCRIPT_FILE,
    WEIGHTS_NAME,
    read_bundle_config,
)
from pathology_scaat.training.feature_reference import FeatureReference
from pathology_scaat.training.imported.record import SCRIPT_BACKBONE
from pathology_scaat.training.imported.script import load_trusted_script
from pathology_scaat.training.neighbours import NeighbourIndex
from pathology_scaat.training.small_cnn import SMALL_NAME, stored_options
from pathology_scaat.training.wsinfer import write_wsinfer_model

WSINFER_DIR = "wsinfer"


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
    features : FeatureReference or None
        What training patches look like to the model; None where the bundle does not hold it.
    """

    model: nn.Module
    config: BundleConfig
    fingerprint: str
    features: FeatureReference | None = None

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
    features: FeatureReference | None = None,
    script: Path | None = None,
    neighbours: NeighbourIndex | None = None,
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
        Also write the TorchScript and the WSInfer configuration; never of a model for several
        labels, whose probabilities that format cannot give (:data:`.wsinfer.NOT_OF_LABELS`).
    features : FeatureReference, optional
        What training patches look like to the model.
    script : Path, optional
        A TorchScript file that is the network: it is kept in place of weights.
    neighbours : NeighbourIndex, optional
        Features of training patches one by one.

    Returns
    -------
    BundleConfig
        As written.
    """
    with atomic_path(path) as partial:
        partial.mkdir()
        weights = partial / (WEIGHTS_NAME if script is None else SCRIPT_FILE)
        if script is not None:
            shutil.copyfile(script, weights)
        else:
            state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
            save_file(state, weights)
        update: dict[str, object] = {
            "weights_sha256": file_sha256(weights),
            "versions": config.versions or versions(),
        }
        if features is not None:
            save_file(features.tensors(), partial / FEATURES_NAME)
            update["feature_reference_sha256"] = file_sha256(partial / FEATURES_NAME)
        if neighbours is not None:
            save_file(neighbours.tensors(), partial / NEIGHBOURS_NAME)
            update["neighbours_sha256"] = file_sha256(partial / NEIGHBOURS_NAME)
        config = config.model_copy(update=update)
        write_json(
            partial / CONFIG_NAME,
            {**config.model_dump(mode="json"), "fingerprint": model_fingerprint(config)},
        )
        if training_log is not None:
            (partial / "training_log.csv").write_text(training_log, encoding="utf-8")
        if wsinfer and not config.multi_label:
            write_wsinfer_model(partial / WSINFER_DIR, model, config)
        checksum_folder(partial, CONFIG_NAME)
    return config


def _weights_problem(model: nn.Module) -> str | None:
    """What makes weights unusable whatever they were trained on, in words."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    for value in model.state_dict().values():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return "has weights that are not finite numbers (NaN or infinite)"
    if matrices and not any(bool(p.any()) for p in matrices):
        return "has weights that are all zero: it says the same of every image"
    head = getattr(getattr(model, "backbone", None), "get_classifier", None)
    last = head() if callable(head) else None
    weight = getattr(last, "weight", None)
    if isinstance(weight, torch.Tensor) and not bool(weight.any()):
        return "has a last layer that is all zero: it says the same of every image"
    return None


def build_model(config: BundleConfig, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The network a configuration describes, with random weights.

    ``state`` are the weights that it will be given: a network of ours whose design has changed
    since is built as it was.

    Raises
    ------
    UsageError
        If the backbone or its options are unknown.
    """
    options = config.backbone_options
    if config.backbone == SMALL_NAME and state is not None:
        options = stored_options(state, options)
    if config.bag is not None:
        return build_bag_model(
            config.backbone,
            options,
            config.patch_size_px,
            len(config.class_names),
            config.bag,
            config.mean,
            config.std,
        )
    backbone = create_backbone(
        config.backbone, len(config.class_names), config.patch_size_px, options
    )
    return Classifier(backbone, config.mean, config.std)


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

    Examples
    --------
    With ``out`` the folder of a run:

    >>> import torch, pathology_scaat as ps
    >>> bundle = ps.load_bundle(out / "model")
    >>> bundle.config.class_names
    ('normal', 'tumour')
    >>> bundle.model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 2])
    """
    folder = Path(path)
    config = read_bundle_config(folder)
    model = _script(folder, config) if config.backbone == SCRIPT_BACKBONE else _network(
        folder, config)  # fmt: skip
    if problem := _weights_problem(model):
        raise BundleError(folder.name, problem, "train it again")
    model.eval().requires_grad_(False)
    if config.bag is not None:  # as it was trained; convolutions by channel are fast so
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ModelBundle(
        model.to(torch.device(device)),
        config,
        model_fingerprint(config),
        _feature_reference(folder, config),
    )


def _script(folder: Path, config: BundleConfig) -> nn.Module:
    """The network of a bundle that is a script, if this user trusts it."""
    script = load_trusted_script(folder / SCRIPT_FILE, config.weights_sha256, folder.name)
    return Classifier(script, config.mean, config.std)


def _network(folder: Path, config: BundleConfig) -> nn.Module:
    """The network of a bundle, built by its name and filled with its tensors."""
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise BundleError(folder.name, f"has no {WEIGHTS_NAME}", ANEW)
    if file_sha256(weights) != config.weights_sha256:
        raise BundleError(
            folder.name, f"has a {WEIGHTS_NAME} that is not the one it was saved with", ANEW
        )
    try:
        state = load_file(weights)
        model = build_model(config, state)
        model.load_state_dict(state)
    except ScaatError as error:
        raise BundleError(folder.name, f"cannot be loaded ({error.problem})", ANEW) from None
    except Exception as error:
        raise_again()  # a signal that a loader made into an error of its own
        if is_out_of_memory(error):
            raise
        # Whatever network and loader say of data that do not fit: it is the bundle's fault.
        raise BundleError(folder.name, f"cannot be loaded ({type(error).__name__})", ANEW) from None
    return model


def _feature_reference(folder: Path, config: BundleConfig) -> FeatureReference | None:
    tensors = _tensors(folder, FEATURES_NAME, config.feature_reference_sha256)
    try:
        return None if tensors is None else FeatureReference.of_tensors(tensors)
    except ValueError:
        raise BundleError(folder.name, f"has a damaged {FEATURES_NAME}", ANEW) from None


def load_neighbours(path: str | Path) -> NeighbourIndex | None:
    """Features of a bundle's training patches; None where it holds none.

    Raises
    ------
    BundleError
        If the bundle, or the file, is damaged.
    """
    folder = Path(path)
    tensors = _tensors(folder, NEIGHBOURS_NAME, read_bundle_config(folder).neighbours_sha256)
    try:
        return None if tensors is None else NeighbourIndex.of_tensors(tensors)
    except ValueError:
        raise BundleError(folder.name, f"has a damaged {NEIGHBOURS_NAME}", ANEW) from None


def _tensors(folder: Path, name: str, sha256: str | None) -> dict[str, Tensor] | None:
    """A further file of a bundle, checked; None where the bundle has none."""
    if sha256 is None:
        return None
    path = folder / name
    if not path.is_file():
        raise BundleError(folder.name, f"has no {name}", ANEW)
    if file_sha256(path) != sha256:
        raise BundleError(folder.name, f"has a {name} that is not the one it was saved with", ANEW)
    try:
        return load_file(path)
    except (SafetensorError, ValueError):
        raise BundleError(folder.name, f"has a damaged {name}", ANEW) from None

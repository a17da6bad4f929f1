"""What is wrong with a command is found before its first slide is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import ScaatError, StoreError, UsageError
from pathology_scaat.execution.devices import require_device
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import PatchStore, TileConfig
from pathology_scaat.patches.config import LOSSLESS
from pathology_scaat.saliency import ExplainConfig
from pathology_scaat.saliency.explanation import check_match
from pathology_scaat.system.names import did_you_mean, name_key, shown_names
from pathology_scaat.training import TrainConfig
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.positive_class import positive_class

DEFAULT_PATCH_SIDE_PX = 256


def check_device(device: str, engine: EngineConfig | None = None) -> None:
    """Refuse a device that does not exist; what a cluster's workers have is seen there.

    Raises
    ------
    UsageError
    """
    is_elsewhere = engine is not None and (
        engine.cluster is not None or engine.scheduler not in (None, "local")
    )
    if not (is_elsewhere and device.split(":")[0] in ("auto", "cuda")):
        require_device(device)


def check_training(config: TrainConfig, patch_size_px: int = DEFAULT_PATCH_SIDE_PX) -> None:
    """Refuse a network, weights or a method that a training would refuse after the tiling.

    A method whose options leave it nothing to do is refused, too: the training would be a plain
    one under another name.

    Raises
    ------
    UsageError, TrainingError
        Naming the option.
    """
    # What is imported here needs torch; the other checks of this module do not wait for it.
    import torch
    from torch import nn

    from pathology_scaat.scaat.feature_attack import check_layer
    from pathology_scaat.scaat.grid import network_cell
    from pathology_scaat.scaat.objective import (
        MultiLabelObjective,
        Objective,
        SingleLabelObjective,
    )
    from pathology_scaat.training.backbones import create_backbone
    from pathology_scaat.training.builders import (
        make_training_method,
        require_encoder_weights,
        require_fitting_weights,
    )
    from pathology_scaat.training.lora import require_lora
    from pathology_scaat.training.small_cnn import SmallNet

    weights = config.backbone_weights
    if weights is not None and not weights.is_file():
        raise UsageError("--weights", f"'{weights.name}' is no file", "correct the path")
    require_encoder_weights(config)
    require_lora(config.trainable)
    network: nn.Module | None = None
    try:
        with torch.device("meta"):  # shapes alone: no memory, no time
            network = create_backbone(config.backbone, 2, patch_size_px, config.backbone_options)
        require_fitting_weights(config, network)
        shape = torch.empty(2, 3, patch_size_px, patch_size_px, device="meta")
        if config.method_options.get("grid") == "network":
            network_cell(network, shape[:1])
        if isinstance(layer := config.method_options.get("layer"), str):
            check_layer(network, layer, shape)
    except ScaatError:
        raise
    except (RuntimeError, NotImplementedError):
        pass  # a network that cannot be built of shapes alone: training builds it
    objective: Objective = SingleLabelObjective(None, config.label_smoothing)
    if config.multi_label:
        objective = MultiLabelObjective(None, config.label_smoothing)
    if network is None:  # its layers are not known yet
        known = {name: v for name, v in config.method_options.items() if name != "layer"}
        config = config.model_copy(update={"method_options": known})
    method = make_training_method(config, network or SmallNet(2), objective, torch.device("cpu"), 0)
    if config.method != "plain" and not method.ever_acts:
        raise UsageError(
            "method options",
            f"leave '{config.method}' nothing to do: all of the training would be plain",
            "start must be less than 1, and eps, lam and shares more than 0; or choose the "
            "method 'plain'",
        )


def check_class_choices(
    train: TrainConfig | None, explain: ExplainConfig, class_names: Sequence[str]
) -> None:
    """Refuse a positive class or a target that is none of the classes.

    Raises
    ------
    TrainingError, UsageError
    """
    if not class_names:
        return
    if train is not None:
        positive_class(train.positive_class, class_names)
    spelled_target(explain, class_names)


def spelled_target(config: ExplainConfig, class_names: Sequence[str]) -> ExplainConfig:
    """The settings with the target as the classes spell it.

    Raises
    ------
    UsageError
        If it is none of them.
    """
    if config.target is None:
        return config
    spelled = {name_key(name): name for name in class_names}
    if name_key(config.target) in spelled:  # a class whose name holds a comma
        return config.model_copy(update={"target": spelled[name_key(config.target)]})
    found = []
    for asked in config.target.split(","):
        if name_key(asked) not in spelled:
            meant = did_you_mean(asked.strip(), class_names)
            choices = f"choose from {', '.join(class_names)}"
            raise UsageError(
                "--target",
                f"'{asked.strip()}' is no class of the model",
                f"{meant} {choices}".strip(),
            )
        found.append(spelled[name_key(asked)])
    return config.model_copy(update={"target": ",".join(found)})


def check_stores(space: Workspace, slide_ids: Sequence[str], model: BundleConfig) -> None:
    """Refuse a model that fits no patch store at all: one sentence, and not one per slide.

    Raises
    ------
    UsageError
        The first store's reason. Where some fit, the others fail alone.
    """
    first: UsageError | None = None
    for slide_id in slide_ids:
        try:
            check_match(PatchStore(space.patches(slide_id)).meta, model, slide_id)
        except UsageError as error:
            first = first or error
        except StoreError:
            return  # this one fails alone, with its reason
        else:
            return
    if first is not None:
        raise UsageError("--model", f"fits no tiled slide: {first.subject} {first.problem}",
                         first.remedy)  # fmt: skip


def refuse_unused_options(given: Mapping[str, Any], model: BundleConfig) -> None:
    """Refuse command-line options that a given model decides or makes idle.

    Parameters
    ----------
    given : mapping of option to value
        What the command line names; None where an option was not given.
    model : BundleConfig
        The model to apply.

    Raises
    ------
    UsageError
        Naming all of them and what the model has instead. An option that says what the model
        says is no contradiction.
    """
    own = {
        "--mpp": model.mpp,
        "--mag": model.mpp,
        "--patch-size": model.patch_size_px,
        "--classes": model.class_names,
    }
    unused = []
    for option, value in given.items():
        if value is None:
            continue
        if option not in own:
            unused.append(option)
        elif not _same(value, own[option]):
            shown = {
                "--classes": ",".join(model.class_names),
                "--patch-size": f"{model.patch_size_px} px",
            }.get(option, f"{model.mpp:g} µm/px")
            unused.append(f"{option} (the model's: {shown})")
    if unused:
        raise UsageError(
            ", ".join(unused),
            "cannot be used with --model, which is trained already",
            "leave it out, or train a new model without --model",
        )


def unused_settings(
    config: TileConfig, train: TrainConfig, model: BundleConfig, *, keeps_pixels: bool = True
) -> list[str]:
    """A sentence for the settings of a pipeline file that a given model overrides.

    Where no pixels are kept, how they would be stored is one of them.
    """
    own = {
        "mpp": model.mpp,
        "patch_size_px": model.patch_size_px,
        "class_names": model.class_names,
    }
    named = [
        f"tile.{name}"
        for name, value in own.items()
        if name in config.model_fields_set and not _same(getattr(config, name), value)
    ]
    if config.pixels != LOSSLESS and not keeps_pixels:
        named.append("tile.pixels")
    defaults = TrainConfig()
    named += [
        f"train.{name}"
        for name in sorted(train.model_fields_set)
        if getattr(train, name) != getattr(defaults, name)
    ]
    if not named:
        return []
    return [f"settings not used, because a model is given: {shown_names(named, 12)}"]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return [name_key(str(a)) for a in one] == [name_key(str(b)) for b in other]
    return bool(one == other)

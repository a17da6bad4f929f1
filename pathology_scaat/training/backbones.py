"""Networks by name: ours, or any of timm's, with weights from local files only."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathology_scaat.cohort.mistaken import Kind, kind_of, not_weights
from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.system.memory import is_out_of_memory
from pathology_scaat.system.names import did_you_mean
from pathology_scaat.system.rounding import percent
from pathology_scaat.system.signals import raise_again
from pathology_scaat.training.backbone_options import checked_options
from pathology_scaat.training.bundle_config import GIVEN_WEIGHTS
from pathology_scaat.training.encoders import ENCODERS, Encoder, encoder_of
from pathology_scaat.training.imported.hugging_face import is_hugging_face_vit, renamed_vit
from pathology_scaat.training.lora import add_lora, lora_rank, require_lora
from pathology_scaat.training.small_cnn import SMALL_NAME, SmallNet
from pathology_scaat.training.weight_names import COUNTERS, likely_prefixes, renamed_tensor

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_MATCHED_SHARE = 0.5
"""A weight file that fills less of the network than this belongs to another one."""


class Classifier(nn.Module):
    """A backbone with its normalisation inside: [0, 1] RGB in, raw logits out.

    Parameters
    ----------
    backbone : nn.Module
        Takes normalised (B, 3, H, W).
    mean, std : sequences of 3 floats
        Per channel, on the [0, 1] scale.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] to (B, K) logits; normalised in float32."""
        normalised = (images - self.mean) / self.std
        return self.backbone(normalised)  # type: ignore[no-any-return]


MAX_PARAMETERS = 4_000_000_000
"""More weights than any network for patches has; 16 GB of memory in float32."""


def create_backbone(
    name: str, num_classes: int, patch_size_px: int, options: dict[str, Any] | None = None
) -> nn.Module:
    """A network with random weights.

    Raises
    ------
    UsageError
        If the name or an option is unknown, or the network would be of absurd size.
    """
    if name == SMALL_NAME:
        return SmallNet(num_classes, **checked_options(name, dict(options or {})))
    import timm  # seconds of import that our own network does not need

    if (encoder := encoder_of(name)) is not None:
        return _create_encoder(encoder, num_classes, patch_size_px, options)
    if not timm.is_model(name):
        raise UsageError(
            "--backbone",
            f"'{name[:60]}' is unknown",
            f"{did_you_mean(name, ['scaat-small', *ENCODERS, *timm.list_models()])} "
            f"use 'scaat-small', {', '.join(ENCODERS)}, or a name that timm knows".strip(),
        )
    extra = checked_options(name, dict(options or {}))
    fixed = bool(getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False))
    if fixed:
        extra.setdefault("img_size", patch_size_px)
    if "mlp_layer" in extra:  # the one option that timm takes as a class only
        extra["mlp_layer"] = getattr(importlib.import_module("timm.layers"), extra["mlp_layer"])

    def make() -> nn.Module:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, **extra
        )
        return network

    if options:
        _require_plausible_size(make)
    try:
        return make()
    except Exception as error:
        raise_again()  # a signal that library code made into an error of its own
        if is_out_of_memory(error):
            raise
        # Each network checks its options in its own way, or not at all.
        words = str(error).partition("\n")[0][:160]
        raise UsageError(
            "--backbone",
            f"'{name}' cannot be made for {patch_size_px} px patches ({words})",
            "choose another patch size or backbone_options",
        ) from None


def _create_encoder(
    encoder: Encoder, num_classes: int, patch_size_px: int, options: dict[str, Any] | None
) -> nn.Module:
    """A foundation encoder with a classifier, its own normalisation noted as timm notes it."""
    if patch_size_px % encoder.token_px:
        below = patch_size_px // encoder.token_px * encoder.token_px
        raise UsageError(
            "--backbone",
            f"{encoder.title} sees patches in squares of {encoder.token_px} px, which do not fill "
            f"{patch_size_px} px",
            f"use --patch-size {encoder.input_px}, which it was trained on, or "
            f"{max(below, encoder.token_px)} or {below + encoder.token_px}",
        )
    network = create_backbone(
        encoder.architecture, num_classes, patch_size_px, {**encoder.options, **(options or {})}
    )
    mean, std = encoder.normalisation
    known = getattr(network, "pretrained_cfg", None) or {}
    # plain values in place of timm's own, which are those of natural images
    network.pretrained_cfg = {"mean": mean, "std": std, **{  # type: ignore[assignment]
        key: value for key, value in dict(known).items() if key == "classifier"
    }}  # fmt: skip
    return network


def _require_plausible_size(make: Callable[[], nn.Module]) -> None:
    """Refuse options that ask for a network of absurd size, before any memory is asked for."""
    try:
        with torch.device("meta"):  # shapes without memory
            count = sum(p.numel() for p in make().parameters())
    except Exception as error:
        raise_again()
        logger.debug("the size of the network is not known before it is made (%s)", error)
        return
    if count > MAX_PARAMETERS:
        raise UsageError(
            "backbone_options",
            f"ask for a network of {count / 1e9:.0f} billion weights",
            f"{MAX_PARAMETERS / 1e9:.0f} billion is the most",
        )


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a local weight file; nothing but tensors is ever unpickled.

    Raises
    ------
    TrainingError
        If the file is missing or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(path.name, "is not there", "check backbone_weights") from None
    except Exception as error:
        problem = f"is not a weight file that can be read safely ({type(error).__name__})"
        remedy = "convert it to safetensors"
        if kind_of(path) not in (Kind.WEIGHTS, Kind.FILE):
            problem, remedy = not_weights(path)
        raise TrainingError(path.name, problem, remedy) from None
    for key in ("state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise TrainingError(path.name, "holds no weights", "give a state dict")
    return {str(k): v for k, v in state.items() if isinstance(v, Tensor)}


def load_backbone_weights(backbone: nn.Module, path: Path, *, whole: bool = False) -> str:
    """Fill a network from a file, leaving out a head of another width; says what was matched.

    See :func:`fitting_weights`.
    """
    fitting, said = fitting_weights(backbone, path, whole=whole)
    backbone.load_state_dict(fitting, strict=False)
    if not any(k.startswith(f"{_head_name(backbone)}.") for k in fitting):
        shrink_head_weights(backbone)
    return said


def fitting_weights(
    backbone: nn.Module, path: Path, *, whole: bool = False
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file that a network takes, by its names, and what is to be said of them.

    The network may be one of shapes alone (on the device ``meta``). Position
    embeddings learnt for another patch size are resampled to this one's grid.

    Parameters
    ----------
    backbone : nn.Module
    path : Path
    whole : bool
        Refuse a file that leaves anything but the head as it was initialised: where most of a
        network is not trained, or it is called by the name of the weights.

    Raises
    ------
    TrainingError
        If less than half of the network's weights are in the file, or (``whole``) not all.
    """
    given = read_weight_file(path)
    if is_hugging_face_vit(given):
        given = renamed_vit(given)
    prefixes = likely_prefixes(given, backbone.state_dict())
    # of several copies of one network (student and teacher) the teacher's is meant to be used
    prefix = next((p for p in prefixes if "teacher" in p), prefixes[0])
    file = given
    given = {
        key.removeprefix(prefix): value for key, value in file.items() if key.startswith(prefix)
    }
    # counters of batches decide nothing, and many files leave them out
    own = {k: v for k, v in backbone.state_dict().items() if not k.endswith(COUNTERS)}
    moved = resample_positions(backbone, given, own)
    fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    matched = sum(own[k].numel() for k in fitting)
    total = sum(v.numel() for v in own.values())
    head = _head_name(backbone)
    if matched < MIN_MATCHED_SHARE * total:
        body = {k: v for k, v in own.items() if not k.startswith(f"{head}.")}
        if (names := renamed_tensor(file, body)) is not None:
            raise TrainingError(
                path.name,
                f"is of the network's shapes, but names its tensors otherwise ('{names[0]}' for "
                f"'{names[1]}'), as another library does",
                "give the weights under the network's own names (timm's file of this backbone)",
            )
        raise TrainingError(
            path.name,
            f"fits only {percent(matched / max(total, 1))} of the network",
            "check that backbone and backbone_options are those of the weights",
        )
    left = [
        k for k in own
        if k not in fitting and not k.startswith(f"{head}.")
    ]  # fmt: skip
    if whole and left:
        raise TrainingError(
            path.name,
            f"lacks {len(left)} of the network's tensors ('{left[0]}'), which would stay random",
            "check that backbone and backbone_options are those of the weights, or train all of it",
        )
    # kept in the bundle and the notes: it must not hold the name of a file
    said = (
        f"{GIVEN_WEIGHTS} {len(fitting)} of {len(own)} tensors, "
        f"{percent(matched / total, 1)} of the network"
        f"{', positions resampled to this patch size' if moved else ''}"
    )
    return fitting, said


HEAD_STD = 0.01


def shrink_head_weights(backbone: nn.Module) -> None:
    """Give a new classifier over learnt features small weights, so that it begins undecided.

    Some networks initialise theirs by the number of classes alone: with two, an EfficientNet's
    first logits are tens, its predictions saturated and wrong, and an attack of the size that
    suits other networks moves its loss by tens of nats (``benchmarks/evidence``).
    """
    head = getattr(backbone, "get_classifier", lambda: None)()
    for module in head.modules() if isinstance(head, nn.Module) else ():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=HEAD_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _head_name(backbone: nn.Module) -> str:
    """Name of a network's classifier, as its own tensors begin."""
    head = getattr(backbone, "get_classifier", lambda: None)()
    names = (name for name, module in backbone.named_modules() if module is head)
    return next(names, "head")


def resample_positions(
    backbone: nn.Module, given: dict[str, Tensor], own: dict[str, Tensor]
) -> bool:
    """Fit a vision transformer's learnt positions, (1, N, D), to this network's grid, in place.

    Left out, they would stay random while everything else is loaded. Returns whether it was done.
    """
    key = "pos_embed"
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if key not in own or key not in given or grid is None:
        return False
    before, wanted = given[key], own[key].shape
    prefix = wanted[1] - grid[0] * grid[1]  # class and register tokens have positions of their own
    side = math.isqrt(max(before.shape[1] - prefix, 0)) if before.ndim == 3 else 0
    square = side > 0 and side * side + prefix == before.shape[1]
    if before.shape == wanted or not square or before.shape[2] != wanted[2]:
        return False
    from timm.layers.pos_embed import resample_abs_pos_embed

    given[key] = resample_abs_pos_embed(before, list(grid), num_prefix_tokens=prefix)
    return True


def set_trainable(backbone: nn.Module, trainable: str) -> None:
    """Freeze all but the head (``head``), all but the last blocks and the head (``last-N``), or
    all but the head and low-rank adapters that are added (``lora``, ``lora-RANK``).

    Frozen modules are also kept in evaluation mode by :func:`train_mode`, so that their
    BatchNorm statistics stay those of the weights.

    Raises
    ------
    UsageError
        If the backbone names no head or has fewer blocks, or the library for adapters is not there.
    """
    if trainable == "all":
        return
    rank = lora_rank(trainable)
    if rank is not None:
        require_lora(trainable)
        add_lora(backbone, rank)
        return
    backbone.requires_grad_(False)
    head = getattr(backbone, "get_classifier", None)
    if head is None:
        raise UsageError("trainable", "this backbone names no head", "use trainable=all")
    head().requires_grad_(True)
    if trainable == "head":
        return
    count = int(trainable.removeprefix("last-"))
    blocks = _blocks(backbone)
    if count > len(blocks):
        raise UsageError(
            "trainable",
            f"the backbone has {len(blocks)} blocks",
            f"give last-1 to last-{len(blocks)}",
        )
    for block in blocks[len(blocks) - count :]:
        block.requires_grad_(True)
    for name in ("norm", "fc_norm", "norm_pre"):
        final = getattr(backbone, name, None)
        if isinstance(final, nn.Module):
            final.requires_grad_(True)


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network from input to output."""
    for name in ("blocks", "stages", "layers"):
        found = getattr(backbone, name, None)
        if isinstance(found, nn.Sequential | nn.ModuleList):
            return list(found)
    numbered = [m for n, m in backbone.named_children() if n.startswith("layer")]
    return numbered or list(backbone.children())[:-1]


def train_mode(model: nn.Module) -> None:
    """Training mode for what is trained; frozen parts stay in evaluation mode."""
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()


def normalisation_of(
    kind: str, backbone: nn.Module, has_weights: bool, measured: tuple[Any, Any] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, per channel, by the setting ``normalisation``."""
    if kind == "auto" and has_weights:
        settings = getattr(backbone, "pretrained_cfg", None) or {}
        return tuple(settings.get("mean", IMAGENET_MEAN)), tuple(settings.get("std", IMAGENET_STD))
    if kind == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if kind == "half" or measured is None:
        return (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return measured

"""The options of a backbone, as a typed schema: what is not named here is refused.

Options come from settings and from model bundles, and a bundle may come from anybody. A name that
a library would look up, a number that would ask for terabytes, a file that it would read: none can
be written in these types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pathology_scaat.errors import UsageError

Activation = Literal[
    "celu", "elu", "gelu", "gelu_tanh", "hard_mish", "hard_sigmoid", "hard_swish", "leaky_relu",
    "mish", "prelu", "quick_gelu", "relu", "relu6", "selu", "sigmoid", "silu", "swish", "tanh",
]  # fmt: skip
Norm = Literal[
    "batchnorm2d", "groupnorm", "groupnorm1", "layernorm", "layernorm2d", "rmsnorm", "rmsnorm2d",
]  # fmt: skip
Mlp = Literal["Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked"]
Width = Annotated[int, Field(ge=8, le=4096, multiple_of=8)]
Rate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Depth = Annotated[int, Field(ge=1, le=96)]
Side = Annotated[int, Field(ge=8, le=4096)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class SmallNetOptions(_Options):
    """Options of the network ``scaat-small``."""

    downsampling: Literal["even", "odd"] = "even"
    norm: Literal["batch", "group"] = "batch"
    widths: tuple[Width, ...] = Field((16, 32, 64, 128), min_length=2, max_length=8)


class TimmOptions(_Options):
    """Options of a network of timm; each network takes those that it knows."""

    act_layer: Activation | None = None
    attn_drop_rate: Rate | None = None
    block_size: int | None = Field(None, ge=1, le=64)
    channels: tuple[Width, ...] | None = Field(None, min_length=1, max_length=8)
    class_token: bool | None = None
    depth: Depth | None = None
    depths: tuple[Depth, ...] | None = Field(None, min_length=1, max_length=8)
    drop_path_rate: Rate | None = None
    drop_rate: Rate | None = None
    dynamic_img_pad: bool | None = None
    dynamic_img_size: bool | None = None
    embed_dim: Width | None = None
    fc_norm: bool | None = None
    global_pool: Literal["", "avg", "avgmax", "max", "token", "map"] | None = None
    img_size: Side | None = None
    init_values: float | None = Field(None, gt=0, le=10, allow_inf_nan=False)
    mlp_layer: Mlp | None = None
    mlp_ratio: float | None = Field(None, gt=0, le=16, allow_inf_nan=False)
    no_embed_class: bool | None = None
    norm_layer: Norm | None = None
    num_heads: int | None = Field(None, ge=1, le=128)
    output_stride: Literal[8, 16, 32] | None = None
    patch_size: int | None = Field(None, ge=2, le=64)
    proj_drop_rate: Rate | None = None
    qk_norm: bool | None = None
    qkv_bias: bool | None = None
    reg_tokens: int | None = Field(None, ge=0, le=64)
    window_size: int | None = Field(None, ge=1, le=64)
    zero_init_last: bool | None = None


def checked_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a network that were given, in their types.

    Parameters
    ----------
    name : str
        The network.
    options : dict
        As written in settings or in a bundle.

    Raises
    ------
    UsageError
        If an option is unknown, of another type, or out of range.
    """
    schema = SmallNetOptions if name == "scaat-small" else TimmOptions
    try:
        found = schema.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"]) or "options"
        if first["type"] == "extra_forbidden":
            raise UsageError(
                "backbone_options",
                f"'{option[:60]}' is not accepted",
                f"known: {', '.join(sorted(schema.model_fields))}",
            ) from None
        raise UsageError(
            "backbone_options", f"'{option[:60]}': {first['msg'][:120]}", "correct it"
        ) from None
    values = found.model_dump(exclude_unset=True)
    return {key: value for key, value in values.items() if value is not None}

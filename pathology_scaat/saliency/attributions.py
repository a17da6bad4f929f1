"""The registry of attribution methods: names and summaries without importing torch.

A method is a callable ``(model, images, classes, output, options)`` that returns maps
(N, H, W) >= 0 and the logits (N, K) of the same images; ``options`` are
:class:`pathology_scaat.saliency.attribution.AttributionOptions`. The model is in eval mode, images
are float (N, C, H, W) in 0..1, classes int64 (N,).
"""

from __future__ import annotations

from pathology_scaat.system.registry import Registry

ATTRIBUTIONS = Registry("attribution method", "pathology_scaat.attributions")

_HERE = "pathology_scaat.saliency."
for _name, _function, _summary in (
    ("gradient", "attribution:gradient_map", "input gradient; one backward pass"),
    ("gradient-x-input", "attribution:gradient_x_input_map", "input gradient times the pixel"),
    ("smoothgrad", "attribution:smoothgrad_map", "mean gradient over noisy copies"),
    (
        "integrated-gradients",
        "attribution:integrated_gradients_map",
        "gradient along the way from white",
    ),
    ("grad-cam", "attribution:grad_cam_map", "class activation map of the last spatial layer"),
    ("grad-cam++", "attribution:grad_cam_plus_plus_map", "Grad-CAM with second-order weights"),
    (
        "fused-cam",
        "cam:fused_cam_map",
        "Grad-CAM of the last spatial layer times LayerCAM of finer ones; CNNs",
    ),
    (
        "token-cam",
        "cam:token_cam_map",
        "Grad-CAM of the last block times LayerCAM of the upper half of blocks; ViTs",
    ),
    ("advise", "advise:advise_map", "Grad-CAM over units weighed by relevance (reconstruction)"),
    ("lrp", "lrp:lrp_map", "layer-wise relevance propagation; CNNs and ViTs"),
    ("attn-lrp", "lrp:attn_lrp_map", "attention-aware relevance propagation; ViTs"),
    ("gradient-grid", "tokens:gradient_grid_map", "input gradient at the network's own grid"),
    ("gradient-blurred", "tokens:gradient_blurred_map", "input gradient smoothed by half a token"),
    (
        "token-gradient-x-input",
        "tokens:token_gradient_x_input_map",
        "gradient times patch embedding; ViTs",
    ),
    ("attention-rollout", "tokens:attention_rollout_map", "attention-gradient rollout; ViTs"),
    ("occlusion", "occlusion:occlusion_map", "score's change when a square is white; slow"),
    ("rise", "occlusion:rise_map", "score by random masks; slowest, a reference"),
):
    ATTRIBUTIONS.register(_name, _HERE + _function, _summary)

CUT_AT_ZERO = frozenset(
    {"grad-cam", "grad-cam++", "fused-cam", "token-cam", "advise", "attention-rollout"}
)
SIGNED = frozenset(e.name for e in ATTRIBUTIONS.built_in) - CUT_AT_ZERO
"""Methods whose map of a negated score is the same: the size of something that changes sign.

Of two classes that exclude each other one map then serves both. Methods that cut at zero have one
for each class, and of another package's method nothing is known.
"""

OPTIONS_OF = {"n_masks": ("rise",), "square_px": ("rise", "occlusion")}
"""Settings that decide nothing under the other methods, which are not made anew for them."""

AUTO = "auto"
"""Instead of a method: the one that the model's own reference maps were made by, which is
``fused-cam`` for convolutional networks and ``token-cam`` for transformers trained since that is
so, else ``gradient``."""

LOOKS_INSIDE = frozenset(
    {
        "grad-cam", "grad-cam++", "fused-cam", "token-cam", "advise", "lrp", "attn-lrp",
        "attention-rollout", "token-gradient-x-input",
    }
)  # fmt: skip
"""Methods that need the outputs of single layers: a compiled network does not give them."""


def check_method(name: str) -> str:
    """A name of :data:`ATTRIBUTIONS`, or ``auto``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    return name if name == AUTO else ATTRIBUTIONS.check(name)

"""The registry of attribution methods: names and summaries without importing torch.

A method is a callable ``(model, images, classes, output, options)`` that returns maps
(N, H, W) >= 0 and the logits (N, K) of the same images; ``options`` are
:class:`pathology_scaat.saliency.attribution.AttributionOptions`. The model is in eval mode, images
are float (N, C, H, W) in 0..1, classes int64 (N,).
"""

from __future__ import annotations

from pathology_scaat.system.registry import Registry

ATTRIBUTIONS = Registry("attribution method", "pathology_scaat.attributions")

_HOME = "pathology_scaat.saliency.attribution:"
for _name, _function, _summary in (
    ("gradient", "gradient_map", "input gradient; one backward pass"),
    ("gradient-x-input", "gradient_x_input_map", "input gradient times the pixel"),
    ("smoothgrad", "smoothgrad_map", "mean gradient over noisy copies"),
    ("integrated-gradients", "integrated_gradients_map", "gradient along the way from white"),
    ("grad-cam", "grad_cam_map", "class activation map of the last spatial layer"),
    ("grad-cam++", "grad_cam_plus_plus_map", "Grad-CAM with second-order weights"),
):
    ATTRIBUTIONS.register(_name, _HOME + _function, _summary)

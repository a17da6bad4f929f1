"""The registry of training methods: names and summaries without importing torch.

A method is a callable of a model and options that returns a
:class:`pathology_scaat.scaat.method.Method`.
"""

from __future__ import annotations

from pathology_scaat.system.registry import Registry

METHODS = Registry("training method", "pathology_scaat.methods")

_METHODS = "pathology_scaat.scaat.methods."
for _name, _target, _summary in (
    (
        "plain",
        _METHODS + "plain:Plain",
        "cross-entropy on the clean image",
    ),
    (
        "scaat",
        "pathology_scaat.scaat.scaat:SCAAT",
        "saliency-constrained adversary on the least salient pixels, shared clean backward",
    ),
    (
        "scaat-amortised",
        _METHODS + "amortised:AmortisedScaat",
        "SCAAT with masks and directions kept from the last visit to each patch",
    ),
    (
        "sgt",
        _METHODS + "guided:sgt",
        "Saliency Guided Training: the least salient pixels are replaced by random values",
    ),
    (
        "fgsm",
        _METHODS + "adversarial:fgsm",
        "adversarial training, one step from a random start (FGSM-RS)",
    ),
    (
        "pgd",
        _METHODS + "adversarial:Pgd",
        "adversarial training, several projected steps",
    ),
    (
        "trades",
        _METHODS + "adversarial:Trades",
        "clean loss plus divergence from the worst image within eps",
    ),
    (
        "free",
        _METHODS + "adversarial:FreeTraining",
        "Free adversarial training: one perturbation replayed over several updates",
    ),
    (
        "gradient-penalty",
        _METHODS + "penalty:GradientPenalty",
        "cross-entropy plus a penalty on the input gradient (double backward)",
    ),
    (
        "random-mask",
        _METHODS + "controls:random_mask",
        "control: SCAAT with a random mask of the same area",
    ),
    (
        "random-noise",
        _METHODS + "controls:random_noise",
        "control: SCAAT with random signs in the same mask and budget",
    ),
    (
        "inverted-mask",
        _METHODS + "controls:inverted_mask",
        "control: SCAAT on the most salient pixels",
    ),
    (
        "background",
        _METHODS + "guided:background",
        "Explanation-Consistency-style attack on the background of a Grad-CAM map",
    ),
):
    METHODS.register(_name, _target, _summary)

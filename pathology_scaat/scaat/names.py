"""The names under which training methods are known, without importing torch."""

from __future__ import annotations

METHOD_SUMMARIES: dict[str, str] = {
    "plain": "cross-entropy on the clean image",
    "scaat": "saliency-constrained adversary on the least salient pixels, shared clean backward",
    "scaat-amortised": "SCAAT with masks and directions kept from the last visit to each patch",
    "sgt": "Saliency Guided Training: the least salient pixels are replaced by random values",
    "fgsm": "adversarial training, one step from a random start (FGSM-RS)",
    "pgd": "adversarial training, several projected steps",
    "trades": "clean loss plus divergence from the worst image within eps",
    "free": "Free adversarial training: one perturbation replayed over several updates",
    "gradient-penalty": "cross-entropy plus a penalty on the input gradient (double backward)",
    "random-mask": "control: SCAAT with a random mask of the same area",
    "random-noise": "control: SCAAT with random signs in the same mask and budget",
    "inverted-mask": "control: SCAAT on the most salient pixels",
    "background": "Explanation-Consistency-style attack on the background of a Grad-CAM map",
}

METHOD_NAMES: tuple[str, ...] = tuple(METHOD_SUMMARIES)

r"""Does a slide's map name the patches that its model uses? Patches are taken away and added.

*Patch flipping* (Hense et al., NeurIPS 2024, as pixels in Samek et al. 2017): the slide's patches
are put in order of relevance and the model, which takes bags of any size, is asked again with the
most relevant share of them alone, and with the least relevant alone. To *add* the most relevant
first is the same as to *drop* the least relevant first, read from the other end, so that the two
curves hold all four: ``kept_most[s]`` is the probability with the most relevant share ``s``,
``kept_least[s]`` with the least relevant. Their mean difference, the *gain*, is 0 for an order
without knowledge and at most 1.

*Necessity* is how far the probability falls when the marked patches are taken away, *sufficiency*
what it is with them alone; beside each stands the same with as many patches drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathology_scaat.training.bags.head import BagHead
from pathology_scaat.training.bags.patch_meaning import least_said
from pathology_scaat.training.bags.slopes import patch_probability

Floats = NDArray[np.float64]

SHARES: Final = (
    *(round(0.01 * k, 2) for k in range(1, 10)),
    *(round(0.05 * k, 2) for k in range(2, 21)),
)
"""Shares of a slide's patches that are kept: finely where tumour is small."""
IG_STEPS = 32
N_RANDOM = 10
"""Random draws that controls are averaged over."""


@dataclass(frozen=True)
class SlideFeatures:
    """A slide as its model's head sees it, and the class that is spoken of.

    Attributes
    ----------
    features : Tensor of shape (n, F)
    target : int
        Class whose probability is followed.
    temperature : float
        Of the model's calibration.
    """

    features: Tensor
    target: int
    temperature: float


@torch.no_grad()
def probability(head: BagHead, slide: SlideFeatures, kept: NDArray[np.int64]) -> float:
    """Calibrated probability of the target, 0 to 1, if the slide had only some of its patches.

    ``kept`` (m,) holds their indices; at least one.
    """
    logits = head(slide.features[torch.from_numpy(kept).to(slide.features.device)])
    return float((logits / slide.temperature).softmax(dim=-1)[slide.target])


def _margin(values: Tensor, target: int) -> Tensor:
    """The target's column minus the mean of the others."""
    others = values.sum(dim=-1) - values[..., target]
    return values[..., target] - others / max(values.shape[-1] - 1, 1)


@torch.no_grad()
def by_contribution(head: BagHead, slide: SlideFeatures) -> Floats:
    """What each patch adds to the slide's margin, (n,); the map's weight of a patch rises with it.

    The margin is the target's logit minus the mean of the others.
    """
    return _numpy(_margin(head.contributions(slide.features), slide.target))


@torch.no_grad()
def by_single_patch(head: BagHead, slide: SlideFeatures) -> Floats:
    """What the model says of each patch alone, as a slide of one patch: its margin, (n,)."""
    return _numpy(_margin(head.score(slide.features), slide.target))


def by_integrated_gradients(head: BagHead, slide: SlideFeatures) -> Floats:
    """Integrated gradients of the slide's margin by the patches' features, from zero; (n,).

    The midpoint rule with :data:`IG_STEPS` steps (Sundararajan et al. 2017); a patch's relevance
    is the sum over its features.
    """
    total = torch.zeros_like(slide.features)
    for step in range(IG_STEPS):
        scale = (step + 0.5) / IG_STEPS
        leaf = (slide.features * scale).detach().requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(_margin(head(leaf), slide.target), [leaf])
        total += slope / IG_STEPS
    return _numpy((total * slide.features).sum(dim=1))


@torch.no_grad()
def by_attention(head: BagHead, slide: SlideFeatures) -> Floats:
    """Weight of each patch in the pooling, (n,): no sign and, with attention, without class."""
    return _numpy(head.weights(slide.features)[:, slide.target])


def _numpy(values: Tensor) -> Floats:
    found: Floats = values.detach().cpu().numpy().astype(np.float64)
    return found


RIVALS: Final[dict[str, tuple[Callable[[BagHead, SlideFeatures], Floats], str]]] = {
    "contribution": (by_contribution, "by what each patch contributes alone"),
    "single": (by_single_patch, "by the model's word on each patch alone"),
    "integrated-gradients": (by_integrated_gradients, "by integrated gradients of the patches"),
    "attention": (by_attention, "by attention"),
}
"""Orders of patches that are compared: how each is made, and what it is in words."""


@dataclass(frozen=True)
class Flipping:
    """Probability of the target with the most, and with the least, relevant shares of patches.

    Attributes
    ----------
    kept_most, kept_least : (S,) float64
        At :data:`SHARES`.
    """

    kept_most: Floats
    kept_least: Floats

    @property
    def gain(self) -> float:
        """Mean difference of the two, over the share (trapezoids)."""
        width = SHARES[-1] - SHARES[0]
        difference = self.kept_most - self.kept_least
        return float(np.trapezoid(difference, SHARES) / width)

    @property
    def drop_most_first(self) -> float:
        """Mean probability while the most relevant patches go first; small is good."""
        return float(np.trapezoid(self.kept_least, SHARES) / (SHARES[-1] - SHARES[0]))

    @property
    def drop_least_first(self) -> float:
        """Mean probability while the least relevant go first; large is good."""
        return float(np.trapezoid(self.kept_most, SHARES) / (SHARES[-1] - SHARES[0]))


def flip(head: BagHead, slide: SlideFeatures, relevance: Floats, seed: int = 0) -> Flipping:
    """Follow the probability while patches are kept in order of relevance.

    Equal patches keep an order of their own, drawn at random, so that ties favour nobody.

    Parameters
    ----------
    head : BagHead
    slide : SlideFeatures
        Of n patches.
    relevance : (n,) float64
        The larger, the more relevant.
    seed : int
        Of the order of equal patches.
    """
    n = len(relevance)
    shuffled = np.random.default_rng([seed, n]).permutation(n)
    order = shuffled[np.argsort(-relevance[shuffled], kind="stable")]
    counts = [max(1, round(share * n)) for share in SHARES]
    return Flipping(
        np.array([probability(head, slide, order[:count]) for count in counts]),
        np.array([probability(head, slide, order[n - count :]) for count in counts]),
    )


def random_gain(head: BagHead, slide: SlideFeatures, seed: int) -> float:
    """Mean gain of :data:`N_RANDOM` random orders: 0 but for chance."""
    n = len(slide.features)
    rng = np.random.default_rng([seed, n, 1])
    return float(np.mean([flip(head, slide, rng.random(n), seed).gain for _ in range(N_RANDOM)]))


@dataclass(frozen=True)
class MarkedPatches:
    """What the marked patches do for a slide's prediction.

    Attributes
    ----------
    share : float
        Of the slide's patches that are marked.
    necessity, sufficiency : float
        Fall of the probability without them; the probability with them alone.
    random_necessity, random_sufficiency : float
        The same with as many random patches, mean of :data:`N_RANDOM` draws.
    """

    share: float
    necessity: float
    sufficiency: float
    random_necessity: float
    random_sufficiency: float


def marked_patches(
    head: BagHead, slide: SlideFeatures, marked: NDArray[np.bool_], seed: int = 0
) -> MarkedPatches | None:
    """Necessity and sufficiency of marked patches, beside as many random ones.

    Parameters
    ----------
    head : BagHead
    slide : SlideFeatures
        Of n patches.
    marked : (n,) bool
    seed : int
        Of the random patches.

    Returns
    -------
    MarkedPatches or None
        None where none or all patches are marked.
    """
    n, count = len(marked), int(marked.sum())
    if count in (0, n):
        return None
    everything = np.arange(n)
    whole = probability(head, slide, everything)

    def both(mine: NDArray[np.bool_]) -> tuple[float, float]:
        without, alone = everything[~mine], everything[mine]
        return whole - probability(head, slide, without), probability(head, slide, alone)

    rng = np.random.default_rng([seed, n, count])
    controls = []
    for _ in range(N_RANDOM):
        some = np.zeros(n, bool)
        some[rng.choice(n, count, replace=False)] = True
        controls.append(both(some))
    necessity, sufficiency = both(marked)
    by_chance = np.mean(controls, axis=0)
    return MarkedPatches(
        count / n, necessity, sufficiency, float(by_chance[0]), float(by_chance[1])
    )


def measure_slide(
    head: BagHead,
    slide: SlideFeatures,
    seed: int,
    *,
    evidence: Floats | None = None,
) -> dict[str, Any]:
    """All measures of one slide, by name; those that do not apply are left out.

    Parameters
    ----------
    head : BagHead
    slide : SlideFeatures
    seed : int
        Of random orders and controls; another one for each slide, so that they do not share them.
    evidence : (n,), optional
        Mean of each patch in the evidence map (contribution x position); patches that contribute
        more than little to the class are the marked ones in any case.
    """
    found: dict[str, Any] = {}
    relevances = {name: make(head, slide) for name, (make, _) in RIVALS.items()}
    if evidence is not None:
        relevances["evidence"] = np.asarray(evidence, np.float64)
    for name, relevance in relevances.items():
        flipping = flip(head, slide, relevance, seed)
        found[f"flipping/{name}"] = flipping.gain
        found[f"drop_most_first/{name}"] = flipping.drop_most_first
        found[f"drop_least_first/{name}"] = flipping.drop_least_first
    found["flipping/random"] = random_gain(head, slide, seed)
    with torch.no_grad():
        said = patch_probability(head.contributions(slide.features), slide.temperature)
        own = said[:, slide.target].cpu().numpy()
    marked = marked_patches(head, slide, own >= least_said(head.n_classes), seed)
    if marked is not None:
        found |= {
            "marked_share": marked.share,
            "necessity": marked.necessity,
            "sufficiency": marked.sufficiency,
            "necessity/random": marked.random_necessity,
            "sufficiency/random": marked.random_sufficiency,
        }
    return found

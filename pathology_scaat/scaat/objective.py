"""What a classifier is trained for: per-image losses, divergences and confidences.

Losses are per image and weights are fixed beforehand (mean 1 over the training set), so that a
batch loss is a plain mean: two processes with half a batch each then average to exactly the
gradient of one process with the whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from pathology_scaat.scaat.options import check_range


class Objective(ABC):
    """Per-image quantities of a classification problem; all take (B, K) float logits.

    Labels are (B,) int64 class indices, or (B, K) of 0 and 1, as the objective says.
    """

    @abstractmethod
    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Training loss of each image, (B,), in nats, class weights included."""

    @abstractmethod
    def divergence(self, reference: Tensor, logits: Tensor) -> Tensor:
        """KL(reference || logits) of each image, (B,), in nats, 0 or more."""

    @abstractmethod
    def confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Probability of the true label, (B,), 0 to 1."""

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """Hard labels of the same form as the training labels, (B,) int64 or (B, K) of 0 and 1."""

    @abstractmethod
    def target_logit(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The logit (sum) that speaks for the label, (B,): what Grad-CAM differentiates."""


class SingleLabelObjective(Objective):
    """Cross-entropy on integer labels (B,).

    Parameters
    ----------
    class_weights : Tensor of shape (K,), optional
        Weight of each class.
    label_smoothing : float
        Share of the target spread over all classes.
    noise_tolerance : float
        Exponent q of the generalised cross-entropy ``(1 - p_y**q) / q`` (Zhang and Sabuncu,
        NeurIPS 2018, arXiv 1805.07836); 0 is cross-entropy, 1 the mean absolute error. It and
        label smoothing exclude each other: with q > 0 the smoothing is not applied.
    """

    def __init__(
        self,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        noise_tolerance: float = 0.0,
    ) -> None:
        check_range("label_smoothing", label_smoothing, 0.0, 1.0)
        check_range("noise_tolerance", noise_tolerance, 0.0, 1.0)
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.noise_tolerance = noise_tolerance

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.noise_tolerance > 0:
            q = self.noise_tolerance
            log_p = -F.cross_entropy(logits, labels, reduction="none")
            losses = (1 - torch.exp(q * log_p)) / q
        else:
            losses = F.cross_entropy(
                logits, labels, reduction="none", label_smoothing=self.label_smoothing
            )
        if self.class_weights is not None:
            losses = losses * self.class_weights.to(losses.device, non_blocking=True)[labels]
        return losses

    def divergence(self, reference: Tensor, logits: Tensor) -> Tensor:
        log_p, log_q = F.log_softmax(reference, dim=1), F.log_softmax(logits, dim=1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)

    def confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.exp(-F.cross_entropy(logits, labels, reduction="none"))

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1)

    def target_logit(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits.gather(1, labels[:, None])[:, 0]


class MultiLabelObjective(Objective):
    """Binary cross-entropy on (B, K) float labels of 0 and 1, summed over classes.

    Parameters
    ----------
    class_weights : Tensor of shape (K,), optional
        Weight of the positive term of each class.
    label_smoothing : float
        Labels are moved this share of the way to one half.
    """

    def __init__(self, class_weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        check_range("label_smoothing", label_smoothing, 0.0, 1.0)
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    def per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = (
            None
            if self.class_weights is None
            else self.class_weights.to(logits.device, non_blocking=True)
        )
        return F.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=weights, reduction="none"
        ).sum(dim=1)

    def divergence(self, reference: Tensor, logits: Tensor) -> Tensor:
        p = torch.sigmoid(reference)
        yes = p * (F.logsigmoid(reference) - F.logsigmoid(logits))
        no = (1 - p) * (F.logsigmoid(-reference) - F.logsigmoid(-logits))
        return (yes + no).sum(dim=1)

    def confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), reduction="none"
        )
        return torch.exp(-losses.mean(dim=1))

    def predict(self, logits: Tensor) -> Tensor:
        return (logits > 0).to(torch.float32)

    def target_logit(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits * labels.to(logits.dtype)).sum(dim=1)

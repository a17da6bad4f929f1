"""The default backbone: small enough to train on a laptop while somebody waits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL_NAME = "scaat-small"
SMALL_WIDTHS = (16, 32, 64, 128)
"""Powers of two: on CPUs, blocked convolution kernels are twice as fast on these."""

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(8, channels),
    "batch": nn.BatchNorm2d,
}


def repeat_border(images: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, H + 2, W + 2), the outermost pixels once more.

    ``F.pad`` with ``replicate`` in other operations: its gradient adds up in an order that
    changes from run to run on a GPU, this one's does not.

    Examples
    --------
    >>> import torch
    >>> repeat_border(torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[1., 1., 2., 2.],
              [1., 1., 2., 2.],
              [1., 1., 2., 2.]]]])
    """
    rows = torch.cat([images[:, :, :1], images, images[:, :, -1:]], dim=2)
    return torch.cat([rows[..., :1], rows, rows[..., -1:]], dim=3)


class EdgeRepeatingConv2d(nn.Conv2d):
    """A convolution over an image whose border is repeated by one pixel, the same in each run.

    On a processor it is ``nn.Conv2d`` with ``padding_mode="replicate"``, which repeats there.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not input.is_cuda:
            found: Tensor = super()._conv_forward(input, weight, bias)
            return found
        return F.conv2d(repeat_border(input), weight, bias, self.stride)


def _even(inputs: int, outputs: int) -> nn.Module:
    """Halve with 4 x 4 kernels: the stride divides the kernel, so that every pixel meets as many
    weights as its neighbour (no checkerboard in the gradient; Odena et al. 2016) and the four
    borders are alike. Repeating the border's pixels keeps their share of the gradient, which
    padding with zeros would drop."""
    return EdgeRepeatingConv2d(
        inputs, outputs, 4, stride=2, padding=1, bias=False, padding_mode="replicate"
    )


def _odd(inputs: int, outputs: int) -> nn.Module:
    """Halve with 3 x 3 kernels, centred on even pixels: as in models of before, kept for their
    weights. The right and bottom borders meet fewer weights than the left and top ones."""
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)


DOWNSAMPLING: dict[str, Callable[[int, int], nn.Module]] = {"even": _even, "odd": _odd}


def stored_options(state: Mapping[str, Tensor], options: dict[str, object]) -> dict[str, object]:
    """Backbone options with the downsampling that the weights of a bundle were trained with."""
    stem = state.get("backbone.stem.0.weight")
    if "downsampling" in options or stem is None or stem.shape[-1] != 3:
        return options
    return {**options, "downsampling": "odd"}


class ResidualStage(nn.Module):
    """Halve the sides with one convolution, refine with a second around a shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: Callable[[int], nn.Module],
        down: Callable[[int, int], nn.Module] = _even,
    ) -> None:
        super().__init__()
        self.down = down(inputs, outputs)
        self.norm1 = norm(outputs)
        self.refine = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H / 2, W / 2), of C ``inputs`` and D ``outputs``."""
        x = self.activation(self.norm1(self.down(x)))
        return self.activation(x + self.norm2(self.refine(x)))  # type: ignore[no-any-return]


class SmallNet(nn.Module):
    """Stride-2 stem, three residual stages, mean pooling, linear head: 0.37 million weights.

    Parameters
    ----------
    num_classes : int
        Width of the head; 0 gives the features (B, widths[-1]) themselves.
    norm : str
        ``batch`` trains about 1.5 times faster on a CPU and is a fixed scale and shift a pixel
        when the model is explained; ``group`` keeps images apart in training too, but couples
        all pixels of one in every layer and so in its saliency.
    widths : tuple of int
        Channels of the stem and of each stage.
    downsampling : str
        ``even`` treats all pixels and borders alike; ``odd`` is what older bundles hold.
    """

    def __init__(
        self,
        num_classes: int,
        norm: str = "batch",
        widths: tuple[int, ...] = SMALL_WIDTHS,
        downsampling: str = "even",
    ) -> None:
        super().__init__()
        make_norm, down = NORMS[norm], DOWNSAMPLING[downsampling]
        self.stem = nn.Sequential(
            down(3, widths[0]),
            make_norm(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            *(ResidualStage(a, b, make_norm, down) for a, b in itertools.pairwise(widths))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head: nn.Module = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            # Drawing normal numbers without memory would load all of torch's compiler (a second).
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to logits (B, K), or to features without a head."""
        features = self.pool(self.blocks(self.stem(x))).flatten(1)
        return self.head(features)  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        """The head, as timm's models name it."""
        return self.head

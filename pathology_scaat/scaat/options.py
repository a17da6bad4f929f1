"""Every open point of the reconstruction, as an option with a documented default."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from pathology_scaat.errors import UsageError

CHOICES: dict[str, tuple[str, ...]] = {
    "where": ("low", "high", "random", "all"),
    "budget": ("value", "rank"),
    "sample_scale": ("none", "confidence", "instance"),
    "saliency": ("gradient", "gradient-input", "smoothgrad", "gradcam", "ema-teacher"),
    "direction": ("adversarial", "random-sign", "gaussian"),
    "fill": ("perturb", "random", "mean"),
    "loss": ("kl", "ce", "mse"),
    "random_start": ("with", "before", "none"),
    "batch_norm": ("clean", "shared", "frozen"),
    "region": ("all", "tissue"),
    "colour_space": ("rgb", "optical-density"),
    "grid": ("pixel", "network"),
}


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise :class:`UsageError` unless ``value`` is a number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(name, f"'{value}' is no number", f"choose one from {low:g} to {high:g}")
    if not low <= value <= high:
        raise UsageError(name, f"{value} is not within {low:g} to {high:g}", "choose another value")


def check_whole(name: str, value: int, low: int, high: int) -> None:
    """Raise :class:`UsageError` unless ``value`` is a whole number from ``low`` to ``high``."""
    check_range(name, value, low, high)
    if not isinstance(value, int):
        raise UsageError(name, f"{value} is no whole number", f"choose one from {low} to {high}")


@dataclass(frozen=True)
class ScaatOptions:
    """What the adversary may do, where, and how it is judged.

    The abstract fixes only that adversarial samples are made under the guidance of the saliency
    map. The defaults are what our measurements support (``benchmarks/evidence``): against the
    hard mask (``gamma=0``) of eps 32/255, the soft one of 16/255 gains as much in where the map
    lies on planted tumour, and loses a tenth as much AUC on breast patches. Against the same
    budget at random positions it is more faithful on colon and breast patches; on drawn tissue that
    depends on the network: the maps of a full ResNet-18 are ruined by random positions on one set
    and better for them on the other. On real tissue a ResNet-18 pays a point of AUC.

    Attributes
    ----------
    eps : float
        Largest change of a channel in [0, 1] units (optical density units, natural logarithm,
        when ``colour_space`` is so). Larger than in robustness work: 2/255 changes nothing.
        On breast patches 8/255 costs a ResNet-18 half a point of AUC, and gains half as much.
    mask_ratio : float
        Share of the pixels (of the region) that may be changed.
    gamma : float
        Shape of the budget below the saliency quantile: ``eps * (1 - s/s_k)**gamma``, the less
        salient, the more; 0 is the hard mask, every pixel below the quantile having it all.
    alpha : float or None
        Step relative to the budget; None means 1.25 for one step, 2.5/steps for several.
    steps : int
        Attack steps; each beyond the first costs one forward and one input backward.
    lam : float
        Weight of the consistency term; 0 is plain training, bit for bit.
    sample_scale : str
        Per-image factor: ``none``; ``confidence`` = probability of the true class, a curriculum;
        ``instance`` = where the first-order adversary would reach probability one half.
    saliency : str
        What ranks the pixels; only ``gradient`` and ``gradient-input`` come free with the
        shared backward.
    where : str
        Which pixels are attacked: ``low`` (least salient), ``high``, ``random``, ``all``.
    grid : str
        What is ranked and chosen as one: each ``pixel``, or each cell of the ``network``'s own
        grid, found from the model: the tokens of a transformer, the stride of a CNN's stem. The
        saliency is averaged over a cell (instead of ``smooth_px``) and its pixels have one budget.
    budget : str
        For ``gamma > 0``: by saliency ``value`` or by ``rank``.
    direction, fill : str
        Adversarial sign, random sign or Gaussian; ``fill`` replaces pixels as Saliency Guided
        Training does instead of perturbing them.
    loss : str
        ``kl`` from the clean prediction, ``ce`` on the label, ``mse`` of the logits.
    stop_gradient : bool
        Hold the clean prediction fixed in ``kl``/``mse`` (needed for the shared backward).
    random_start : str
        ``with``: noise is added to the step taken from the clean gradient (no extra pass);
        ``before``: the gradient is taken at the noisy image (one more forward and backward).
    batch_norm : str
        In the perturbed pass: ``clean`` = batch statistics, running ones untouched; ``shared`` =
        running ones updated too; ``frozen`` = normalised by the running ones. Dual statistics
        would equal ``clean``, since only the clean ones are used afterwards.
    every : int
        Perturbed pass on every n-th step only.
    batch_share : float
        Share of the batch that is perturbed.
    unmasked_share : float
        Probability that an image is attacked everywhere. Meant against shortcuts that are
        salient early and would never be attacked; measured, it holds on to them *more* than any
        other arm did (``benchmarks/evidence``, five seeds), and loses maps.
    start : float
        Share of training, 0 to 1, that is plain before the adversary begins: its steps cost what
        plain ones cost. 0.5 makes a training of 1.5 plain ones out of one of 2.0; over five seeds
        its maps are as good as those of 0 where the answer is known, surely so with a full
        ResNet-18 alone (``benchmarks/evidence``).
    warmup : float
        Share of what follows ``start`` over which eps grows linearly from 0.
    region, tissue_threshold : str, float
        ``tissue`` leaves glass out: pixels whose darkest channel is above the threshold.
    colour_space : str
        Space in which the change is made.
    layer : str or None
        Name of the module whose output is changed instead of the pixels (``layer2``,
        ``blocks.1``; the end of a name will do): positions of its map, or tokens, are ranked by its
        own gradient, and ``eps`` counts in the root mean square of an image's activations there.
        A plain step's gradient serves, so it costs what a change of pixels costs.
    smooth_px : int
        Odd side of the box filter over the saliency map; 1 is none. For ``grid="pixel"``.
    smoothgrad_samples, smoothgrad_sigma, teacher_decay : int, float, float
        Settings of the sources that need them.

    Raises
    ------
    UsageError
        If a value is unknown or out of range.
    """

    eps: float = 16 / 255
    mask_ratio: float = 0.5
    gamma: float = 1.0
    alpha: float | None = None
    steps: int = 1
    lam: float = 1.0
    sample_scale: str = "none"
    saliency: str = "gradient"
    where: str = "low"
    grid: str = "pixel"
    budget: str = "value"
    direction: str = "adversarial"
    fill: str = "perturb"
    loss: str = "kl"
    stop_gradient: bool = True
    random_start: str = "with"
    batch_norm: str = "clean"
    every: int = 1
    batch_share: float = 1.0
    unmasked_share: float = 0.0
    start: float = 0.5
    warmup: float = 0.1
    region: str = "all"
    tissue_threshold: float = 0.85
    colour_space: str = "rgb"
    layer: str | None = None
    smooth_px: int = 3
    smoothgrad_samples: int = 4
    smoothgrad_sigma: float = 0.1
    teacher_decay: float = 0.99

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(
                    name, f"'{getattr(self, name)}' is unknown", f"choose from {', '.join(allowed)}"
                )
        check_range("eps", self.eps, 0.0, 1.0 if self.colour_space == "rgb" else 4.0)
        check_range("mask_ratio", self.mask_ratio, 0.0, 1.0)
        check_range("gamma", self.gamma, 0.0, 16.0)
        check_range("lam", self.lam, 0.0, 1e3)
        check_whole("steps", self.steps, 1, 100)
        check_whole("every", self.every, 1, 1_000_000)
        check_whole("smoothgrad_samples", self.smoothgrad_samples, 1, 1000)
        for name in (
            "batch_share", "unmasked_share", "start", "warmup", "teacher_decay",
            "tissue_threshold", "smoothgrad_sigma",
        ):  # fmt: skip
            check_range(name, getattr(self, name), 0.0, 1.0)
        check_whole("smooth_px", self.smooth_px, 1, 4095)
        if self.smooth_px % 2 == 0:
            raise UsageError("smooth_px", f"{self.smooth_px} is not odd", "give 1, 3, 5, ...")
        if not isinstance(self.stop_gradient, bool):
            raise UsageError(
                "stop_gradient", f"'{self.stop_gradient}' is neither", "give true or false"
            )
        if self.layer is not None:
            self._check_layer()
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0.0, 16.0)
        if self.fill != "perturb":
            self._check_fill()

    def _check_fill(self) -> None:
        """Refuse what has a meaning for pixels that are moved, and none for replaced ones."""
        for name in ("alpha", "steps", "direction", "colour_space", "sample_scale"):
            if getattr(self, name) != _DEFAULTS[name]:
                raise UsageError(
                    name, f"says how pixels are moved, and with fill '{self.fill}' (as Saliency "
                    "Guided Training has it) they are replaced", "leave it out",
                )  # fmt: skip

    def _check_layer(self) -> None:
        """Refuse what has a meaning for pixels alone."""
        if not isinstance(self.layer, str):
            raise UsageError("layer", f"'{self.layer}' is no name", "name a module of the network")
        for name, only in (
            ("saliency", "gradient"), ("fill", "perturb"), ("region", "all"),
            ("colour_space", "rgb"), ("grid", "pixel"),
        ):  # fmt: skip
            if getattr(self, name) != only:
                raise UsageError(
                    "layer", f"'{self.layer}' does not go with {name} '{getattr(self, name)}'",
                    f"set {name} to '{only}', or layer to nothing",
                )  # fmt: skip
        if self.random_start == "before" or not self.stop_gradient:
            what = "random_start 'before'" if self.stop_gradient else "stop_gradient false"
            raise UsageError("layer", f"'{self.layer}' does not go with {what}", "change either")

    @property
    def step_size(self) -> float:
        """Step relative to the budget."""
        if self.alpha is not None:
            return self.alpha
        return 1.25 if self.steps == 1 else 2.5 / self.steps

    @property
    def are_felt(self) -> bool:
        """Whether anything is changed at all, and what becomes of it counts."""
        somewhere = self.where == "all" or self.mask_ratio > 0 or self.unmasked_share > 0
        return somewhere and self.eps > 0 and self.batch_share > 0 and self.lam > 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ScaatOptions:
        """Options from a mapping; an unknown name is a :class:`UsageError`."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(
                "method options",
                f"unknown: {', '.join(unknown)}",
                f"known: {', '.join(sorted(known))}",
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(ScaatOptions)}

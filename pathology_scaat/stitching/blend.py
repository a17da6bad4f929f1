"""One block of the map from the patches that touch it.

For map pixel x and patches i with window w_i (separable, resampled by area overlap)::

    value(x) = sum_i w_i(x) v_i(x) / sum_i w_i(x)

so the windows form a partition of unity wherever a patch is, tissue edges included: a
constant goes in and the same constant comes out. Sums are float64 in slide order, the result
is float32: blocks of any size and stores in any order give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.geometry import BoxPx
from pathology_scaat.scaat.evidence import patch_evidence
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.stitching.resample import AxisWeights, axis_weights, window_1d
from pathology_scaat.stitching.source import SaliencySource

BATCH_BYTES = 8 << 20
"""Float64 patch pixels weighted and resampled at once."""


def saliency_factor(
    target_probability: NDArray[np.float64], config: StitchConfig
) -> NDArray[np.float64]:
    """(N,) factor on each patch's saliency, by :class:`StitchConfig`'s ``weighting``; 0 to 1."""
    if config.weighting == "probability":
        return target_probability
    if config.weighting == "threshold":
        return (target_probability >= config.weight_threshold).astype(np.float64)
    return np.ones_like(target_probability)


@dataclass(frozen=True)
class Placement:
    """Where the saliency of a grid of patches lies on the slide map.

    Lengths are in map pixels, counted from the map's upper left corner.

    Attributes
    ----------
    scale_px : float
        Level-0 pixels per map pixel.
    ratio : float
        Map pixels per pixel of the patch saliency.
    side : int
        Pixels along a side of a patch's saliency.
    origin_x_px, origin_y_px : float
        Upper left corner of the patch in row 0 and column 0 of the grid.
    step_px : float
        From one patch to the next.
    """

    scale_px: float
    ratio: float
    side: int
    origin_x_px: float
    origin_y_px: float
    step_px: float

    @classmethod
    def of(cls, source: SaliencySource, scale_px: float) -> Placement:
        grid, frame = source.meta.grid, source.meta.slide.frame_px
        return cls(
            scale_px=scale_px,
            ratio=source.meta.stride_px * grid.scale / scale_px,
            side=source.side,
            origin_x_px=(grid.anchor_x_px - frame.x) / scale_px,
            origin_y_px=(grid.anchor_y_px - frame.y) / scale_px,
            step_px=grid.step_level0_px / scale_px,
        )

    def column_weights(self, column: int) -> AxisWeights:
        return axis_weights(self.origin_x_px + column * self.step_px, self.ratio, self.side)

    def row_weights(self, row: int) -> AxisWeights:
        return axis_weights(self.origin_y_px + row * self.step_px, self.ratio, self.side)

    def touching(self, low_px: int, high_px: int, origin_px: float) -> tuple[int, int]:
        """First and last grid line whose patches may touch map pixels low <= p < high."""
        length = self.side * self.ratio
        first = int(np.floor((low_px - origin_px - length) / self.step_px)) - 1
        last = int(np.ceil((high_px - origin_px) / self.step_px)) + 1
        # One grid line more on each side than the division says: rounding must not lose a patch,
        # and one that touches nothing adds nothing.
        return max(first, 0), max(last, 0)


class Band:
    """Patches of all grid rows that touch a band of map rows, read once where they fit."""

    def __init__(
        self, source: SaliencySource, placement: Placement, y_px: tuple[int, int], budget_bytes: int
    ) -> None:
        self.source = source
        self.rows = placement.touching(y_px[0], y_px[1], placement.origin_y_px)
        row_of = source.grid_index[:, 1]
        self.start = int(np.searchsorted(row_of, self.rows[0], side="left"))
        self.stop = int(np.searchsorted(row_of, self.rows[1], side="right"))
        # classes that share an array are read once
        self.array_of = {name: source.meta.array_of(name) for name in source.meta.targets}
        arrays = {array: name for name, array in self.array_of.items()}
        # Blocks of one band share its patches, which are read once where they fit into memory;
        # else each block reads its own. float32 in memory is twice the stored float16.
        size = (self.stop - self.start) * source.side**2 * 4 * len(arrays)
        self._held = (
            {array: source.read(self.start, self.stop, name) for array, name in arrays.items()}
            if size <= budget_bytes
            else None
        )

    def read(self, start: int, stop: int, class_name: str) -> NDArray[np.float32]:
        """Saliency of patches ``start`` to ``stop`` for a class, (n, side, side) float32.

        Both are numbers in slide order, and lie in the band.

        Raises
        ------
        StoreError
            If the saliency is damaged or not finite.
        """
        if self._held is not None:
            held = self._held[self.array_of[class_name]]
            return held[start - self.start : stop - self.start]
        return self.source.read(start, stop, class_name)

    def row_range(self, row: int, columns: tuple[int, int]) -> tuple[int, int]:
        """Patches of one grid row between two columns (both included)."""
        row_of = self.source.grid_index[self.start : self.stop, 1]
        low = self.start + int(np.searchsorted(row_of, row, side="left"))
        high = self.start + int(np.searchsorted(row_of, row, side="right"))
        column_of = self.source.grid_index[low:high, 0]
        return (
            low + int(np.searchsorted(column_of, columns[0], side="left")),
            low + int(np.searchsorted(column_of, columns[1], side="right")),
        )


@dataclass
class Sums:
    """Running sums of a block, and how many patches hold each pixel.

    ``columns`` (C, h, w) are of values that a whole patch has (probabilities, how unlike the
    training data), ``layers`` (L, h, w) of those that each pixel has: the evidence for each
    explained class, then its saliency. ``weight`` (h, w) is the sum of windows, ``count`` (h, w) of
    patches.
    """

    columns: NDArray[np.float64]
    layers: NDArray[np.float64]
    weight: NDArray[np.float64]
    count: NDArray[np.float32]

    @classmethod
    def zeros(cls, n_columns: int, n_layers: int, box: BoxPx) -> Sums:
        shape = (box.height, box.width)
        return cls(
            np.zeros((n_columns, *shape)), np.zeros((n_layers, *shape)), np.zeros(shape),
            np.zeros(shape, np.float32),
        )  # fmt: skip

    def values(self, n_classes: int) -> NDArray[np.float32]:
        """(C + L + 1, h, w) float32 in the order of the map's channels; NaN where no patch is.

        The last channel is the count, 0 where no patch is.
        """
        seen = self.count > 0
        sums = [*self.columns[:n_classes], *self.layers, *self.columns[n_classes:]]
        out = np.full((len(sums) + 1, *self.count.shape), np.nan, np.float32)
        for k, channel in enumerate(sums):
            # divided as float64, and kept as float32
            np.divide(channel, self.weight, out=out[k], where=seen, casting="same_kind")
        out[-1] = self.count
        return out


@dataclass(frozen=True)
class PatchValues:
    """What each patch contributes: columns (N, C), and for each explained class its probability
    and the factor on its saliency, (N,) each."""

    columns: NDArray[np.float64]
    probability: dict[str, NDArray[np.float64]]
    factor: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, source: SaliencySource, config: StitchConfig) -> PatchValues:
        unlike = [] if source.unlike is None else [source.unlike]
        probability = {name: source.class_probability(name) for name in source.meta.targets}
        return cls(
            np.column_stack([source.probability, *unlike]),
            probability,
            {name: saliency_factor(values, config) for name, values in probability.items()},
        )


def blend_block(
    band: Band, placement: Placement, box: BoxPx, config: StitchConfig
) -> NDArray[np.float32]:
    """Values of a block of the map.

    Parameters
    ----------
    band : Band
        Patches of the band of map rows that ``box`` lies in.
    box : BoxPx
        The block in map pixels.

    Returns
    -------
    (C, height, width) float32
        The channels of :func:`~pathology_scaat.stitching.schema.channel_names`.
    """
    source = band.source
    values = PatchValues.of(source, config)
    sums = Sums.zeros(values.columns.shape[1], 2 * len(values.factor), box)
    window = window_1d(source.side, config.window)
    columns = placement.touching(box.x, box.right, placement.origin_x_px)
    weights_of: dict[int, tuple[AxisWeights, NDArray[np.float64]]] = {}
    batch = max(BATCH_BYTES // (source.side**2 * 8), 1)
    for row in range(band.rows[0], band.rows[1] + 1):
        y_weights = placement.row_weights(row)
        if y_weights.start_px >= box.bottom or y_weights.start_px + y_weights.n_px <= box.y:
            continue
        low, high = band.row_range(row, columns)
        for start in range(low, high, batch):
            stop = min(start + batch, high)
            _add_patches(
                sums, band, placement, box, y_weights, weights_of, window, values, start, stop
            )
    return sums.values(source.probability.shape[1])


def _layers(band: Band, values: PatchValues, start: int, stop: int) -> list[NDArray[np.float64]]:
    """Evidence for each explained class, then saliency for each, (n, side, side) float64."""
    evidence, saliency = [], []
    for name, factor in values.factor.items():
        read = band.read(start, stop, name).astype(np.float64)
        evidence.append(patch_evidence(read, values.probability[name][start:stop]))
        read *= factor[start:stop, None, None]
        saliency.append(read)
    return [*evidence, *saliency]


def _add_patches(
    sums: Sums,
    band: Band,
    placement: Placement,
    box: BoxPx,
    y_weights: AxisWeights,
    weights_of: dict[int, tuple[AxisWeights, NDArray[np.float64]]],
    window: NDArray[np.float64],
    values: PatchValues,
    start: int,
    stop: int,
) -> None:
    """Add patches of one grid row, west to east."""
    source = band.source
    along_y = []
    for layer in _layers(band, values, start, stop):
        layer *= window[:, None] * window
        along_y.append(layer if y_weights.is_identity else y_weights.apply(layer, axis=1))
    weight_y = y_weights.apply(window, axis=0)
    top, bottom = (
        max(y_weights.start_px, box.y),
        min(y_weights.start_px + y_weights.n_px, box.bottom),
    )
    ys = slice(top - box.y, bottom - box.y)
    cut_y = slice(top - y_weights.start_px, bottom - y_weights.start_px)
    for i in range(stop - start):
        column = int(source.grid_index[start + i, 0])
        if column not in weights_of:
            found = placement.column_weights(column)
            weights_of[column] = found, found.apply(window, axis=0)
        weights, window_x = weights_of[column]
        left, right = max(weights.start_px, box.x), min(weights.start_px + weights.n_px, box.right)
        if left >= right:
            continue
        xs = slice(left - box.x, right - box.x)
        cut_x = slice(left - weights.start_px, right - weights.start_px)
        for k, layer in enumerate(along_y):
            patch = layer[i] if weights.is_identity else weights.apply(layer[i], axis=1)
            sums.layers[k, ys, xs] += patch[cut_y, cut_x]
        weight = weight_y[cut_y, None] * window_x[cut_x]
        sums.weight[ys, xs] += weight
        sums.columns[:, ys, xs] += values.columns[start + i, :, None, None] * weight
        sums.count[ys, xs] += y_weights.covered[cut_y, None] & weights.covered[cut_x]

"""Where things are on a synthetic slide: tissue, nests, tumour, in fields of 4 µm pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LAYOUT_UM = 4.0
"""µm per layout pixel."""

NEST_SIGMA_UM = 21.0
NEST_QUANTILE = 0.53
REGION_MARGIN = 0.14
"""Tissue nearer than this to the border between tumour and normal stays unannotated."""


@dataclass(frozen=True)
class Layout:
    """Smooth fields over a slide, all (h, w) at :data:`LAYOUT_UM`.

    Attributes
    ----------
    tissue, nest, lumen : float32
        Positive inside, negative outside; zero is the outline.
    tumor : bool
        Which nests are tumour (only meaningful inside nests).
    field : float32
        Positive where tumour grows.
    shade : float32
        Slow variation of the staining around 1.
    ink : bool
        Pen marks on the glass.
    """

    tissue: NDArray[np.float32]
    nest: NDArray[np.float32]
    lumen: NDArray[np.float32]
    tumor: NDArray[np.bool_]
    field: NDArray[np.float32]
    shade: NDArray[np.float32]
    ink: NDArray[np.bool_]

    @property
    def tumor_truth(self) -> NDArray[np.bool_]:
        """Where tumour cells are, (h, w) bool: the planted answer."""
        return (self.nest > 0) & (self.tissue > 0) & self.tumor

    def region(self, tumor: bool) -> NDArray[np.bool_]:
        """The annotated part of the tumour, or of the normal tissue, (h, w) bool.

        More than 40 µm inside the tissue, and not near the border between the two
        (:data:`REGION_MARGIN`).
        """
        side = self.field > REGION_MARGIN if tumor else self.field < -REGION_MARGIN
        inner = ndimage.distance_transform_edt(self.tissue > 0) > 40 / LAYOUT_UM
        kept: NDArray[np.bool_] = ndimage.binary_opening(side & inner, iterations=6)
        return kept


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], sigma: float
) -> NDArray[np.float32]:
    """Gaussian noise of a given grain: of ``shape`` (h, w), float32, mean 0 and deviation 1.

    ``sigma`` is the grain's standard deviation in pixels of the result.
    """
    step = max(int(sigma // 4), 1)
    small = (-(-shape[0] // step) + 2, -(-shape[1] // step) + 2)
    noise = ndimage.gaussian_filter(rng.standard_normal(small).astype(np.float32), sigma / step)
    if step > 1:
        noise = ndimage.zoom(noise, step, order=3)
    noise = noise[: shape[0], : shape[1]]
    out: NDArray[np.float32] = ((noise - noise.mean()) / noise.std()).astype(np.float32)
    return out


def make_layout(
    rng: np.random.Generator, size_px: int, mpp: float, tumor_share: float, pen: bool
) -> Layout:
    """Draw a slide's plan.

    Parameters
    ----------
    rng : Generator
        Source of all chance.
    size_px : int
        Side of the square slide.
    mpp : float
        µm per slide pixel.
    tumor_share : float
        Share of the tissue that tumour grows in, 0 to 1.
    pen : bool
        Whether somebody drew on the glass.
    """
    n = int(np.ceil(size_px * mpp / LAYOUT_UM)) + 1
    shape = (n, n)
    rows, cols = np.mgrid[0:n, 0:n].astype(np.float32) / n - 0.5
    angle = rng.uniform(0, np.pi)
    across = np.cos(angle) * cols + np.sin(angle) * rows
    along = -np.sin(angle) * cols + np.cos(angle) * rows
    aspect = rng.uniform(0.82, 1.0)
    radius = np.hypot(across, along / aspect)
    coarse = smooth_noise(rng, shape, n * 0.07)
    fine = smooth_noise(rng, shape, n * 0.012)
    tissue = (0.385 - radius) * 10 + 0.38 * coarse + 0.08 * fine
    # The difference of two grains has no slow part: nests of one size, apart from each other.
    raw = rng.standard_normal(shape).astype(np.float32)
    sigma = NEST_SIGMA_UM / LAYOUT_UM
    nest_noise = ndimage.gaussian_filter(raw, sigma) - ndimage.gaussian_filter(raw, 1.7 * sigma)
    nest_noise /= nest_noise.std()
    nest = nest_noise - np.float32(np.quantile(nest_noise, NEST_QUANTILE))
    inside = tissue > 0
    turn = rng.uniform(0, 2 * np.pi)
    field = 3.0 * (np.cos(turn) * cols + np.sin(turn) * rows) + 0.35 * smooth_noise(
        rng, shape, n * 0.09
    )
    field -= np.float32(np.quantile(field[inside], 1 - tumor_share))
    if tumor_share == 0:  # nests on the tissue's rim have a say from beyond it, too
        field = np.full_like(field, -1.0)
    labels, count = ndimage.label(nest > 0)
    votes = ndimage.mean(field, labels, np.arange(count + 1))
    # A nest is wholly tumour or wholly normal, save the few that run across the slide.
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    whole = sizes[labels] < 60_000 / LAYOUT_UM**2
    tumor = np.where(whole, votes[labels] > 0, field > 0)
    depth = ndimage.distance_transform_edt(nest > 0.05)
    hollow = (rng.random(count + 1) < 0.35)[labels] & whole
    lumen = np.where(hollow, depth - 6.5, -1.5).astype(np.float32)
    lumen = ndimage.gaussian_filter(lumen, 1.0)
    shade = 1 + 0.06 * smooth_noise(rng, shape, n * 0.05) + 0.05 * smooth_noise(rng, shape, 7)
    ink = _pen_stroke(rng, tissue) if pen else np.zeros(shape, dtype=bool)
    return Layout(
        tissue.astype(np.float32), nest, lumen, tumor, field.astype(np.float32), shade, ink
    )


def _pen_stroke(rng: np.random.Generator, tissue: NDArray[np.float32]) -> NDArray[np.bool_]:
    """A felt-pen line around one corner of the tissue, partly over it."""
    n = tissue.shape[0]
    start = rng.uniform(-0.4, 0.2)
    theta = np.linspace(start, start + 1.5, 4000)
    wobble = 0.012 * np.sin(7 * theta + rng.uniform(0, 6)) + 0.006 * np.sin(23 * theta)
    reach = 0.43 + wobble
    x = (0.5 + reach * np.cos(theta)) * n
    y = (0.5 + reach * np.sin(theta)) * n
    line = np.ones((n, n), dtype=bool)
    keep = (x >= 0) & (y >= 0) & (x < n) & (y < n)
    line[y[keep].astype(int), x[keep].astype(int)] = False
    width = ndimage.distance_transform_edt(line)
    stroke: NDArray[np.bool_] = width < 0.011 * n
    return stroke

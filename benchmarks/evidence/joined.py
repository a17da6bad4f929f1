"""Test images that are joined of two patches along a straight line: whose side is the tumour's?

Half of them are tumour beside normal tissue (class tumour, mask on the tumour's side), half normal
beside normal, so that a join tells nothing of the class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def joined(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    groups: NDArray[np.str_],
    n: int,
    seed: int,
    *,
    within_groups: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_], NDArray[np.bool_]]:
    """Images, labels, groups and tumour masks of ``n`` joined images.

    Parameters
    ----------
    images : (N, P, P, 3) uint8
    labels : (N,) int64
        1 is tumour.
    groups : (N,) str
        Patients, or what stands for them. A joined image belongs to its first patch's: the
        tumour's where there is tumour.
    n : int
    seed : int
    within_groups : bool
        Both patches are of one group, so that stain and scanner are the same on both sides;
        groups without two normal patches and one of tumour are left out.

    Notes
    -----
    The first patch takes 20 to 80 % of the image.
    """
    rng = np.random.default_rng(seed)
    pools = [np.flatnonzero(labels == k) for k in (0, 1)]
    by_group = {
        name: [pool[groups[pool] == name] for pool in pools]
        for name in np.unique(groups)
        if within_groups
    }
    complete = [name for name, (low, high) in by_group.items() if len(low) > 1 and len(high)]
    size = images.shape[1]
    grid_y, grid_x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    made, masks, owners = [], [], []
    of = np.arange(n) % 2
    for label in of:
        normal, either = pools[0], pools[label]
        if within_groups:
            own = by_group[rng.choice(complete)]
            normal, either = own[0], own[label]
        first, second = rng.choice(either), rng.choice(normal)
        turn = rng.uniform(0, 2 * np.pi)
        along = grid_x * np.cos(turn) + grid_y * np.sin(turn)
        side = along <= np.quantile(along, rng.uniform(0.2, 0.8))
        made.append(np.where(side[..., None], images[first], images[second]))
        masks.append(side & bool(label))
        owners.append(groups[first])
    return np.stack(made), of.astype(np.int64), np.array(owners), np.stack(masks)

"""The saliency store as stitching reads it: in slide order, in bounded pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.saliency.store import SaliencyStore


class SaliencySource:
    """Patches of one slide sorted by grid row and column, whatever order the store has.

    Attributes
    ----------
    meta : SaliencyStoreMeta
    grid_index : (N, 2) int64
        Column and row, sorted by row, then column.
    probability : (N, K) float64
    unlike : (N,) float64 or None
        How unlike the training patches, percentile.
    of_slides : bool
        Whether the model speaks of whole slides: the store then says what each patch contributes.
    side : int
        Saliency pixels along a patch side.

    Raises
    ------
    StoreError
        If the store is missing, damaged, or has arrays or values that do not fit its schema.
    """

    def __init__(self, path: Path) -> None:
        self._store = SaliencyStore(path)
        self.name = path.name
        self.meta: SaliencyStoreMeta = self._store.meta
        probability = np.asarray(self._store.probability, dtype=np.float64)
        grid_index = np.asarray(self._store.grid_index, dtype=np.int64)
        shape = tuple(int(n) for n in self._store.saliency.shape)
        self._check(shape, probability, grid_index)
        self.side = shape[1]
        self._order = np.lexsort((grid_index[:, 0], grid_index[:, 1]))
        self.grid_index = grid_index[self._order]
        self.probability = probability[self._order]
        self.of_slides = self._store.contribution is not None
        unlike = self._store.unlike
        if unlike is not None and unlike.shape != (shape[0],):
            raise StoreError(
                self.name, "has arrays that do not fit its schema", "make it with 'scaat explain'"
            )
        self.unlike = None if unlike is None else np.asarray(unlike, np.float64)[self._order]

    def _check(
        self, shape: tuple[int, ...], probability: NDArray[Any], grid_index: NDArray[Any]
    ) -> None:
        n_classes = len(self.meta.class_names)
        whole = (
            len(shape) == 3
            and shape[1] == shape[2]
            and shape[1] * self.meta.stride_px == self.meta.grid.patch_size_px
            and probability.shape == (shape[0], n_classes)
            and grid_index.shape == (shape[0], 2)
        )
        if not whole:
            raise StoreError(
                self.name, "has arrays that do not fit its schema", "make it with 'scaat explain'"
            )
        if not np.isfinite(probability).all():
            raise StoreError(
                self.name,
                "has probabilities that are not finite",
                "check the model, then make it again with 'scaat explain'",
            )

    def __len__(self) -> int:
        return len(self._order)

    @property
    def target_probability(self) -> NDArray[np.float64]:
        """(N,) probability of the target class, in slide order."""
        return np.ascontiguousarray(self.probability[:, self.meta.target_index])

    def class_probability(self, class_name: str) -> NDArray[np.float64]:
        """(N,) probability of a class, in slide order."""
        return np.ascontiguousarray(self.probability[:, self.meta.class_names.index(class_name)])

    def read(self, start: int, stop: int, class_name: str | None = None) -> NDArray[np.float32]:
        """Saliency of patches ``start`` to ``stop`` in slide order, (n, side, side) float32.

        For the target class unless another explained class is named.

        Raises
        ------
        StoreError
            If it is damaged or not finite.
        """
        rows = self._order[start:stop]
        if rows.size == 0:
            return np.zeros((0, self.side, self.side), np.float32)
        if int(rows[-1]) - int(rows[0]) == rows.size - 1 and np.all(np.diff(rows) == 1):
            values = self._store.read_saliency(slice(int(rows[0]), int(rows[-1]) + 1), class_name)
        else:
            values = self._store.read_saliency(rows, class_name)
        if not np.isfinite(values).all():
            raise StoreError(
                self.name,
                "has saliency that is not finite",
                "explain the slide again with a smaller scale or another method",
            )
        return values

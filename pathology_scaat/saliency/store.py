"""The saliency store: written shard by shard in slide order, read in random batches.

Saliency is stored as ``value * saliency_scale`` in float16. The scale is a parameter of the
run, the same for every patch and slide (default 1024), so that the small gradients of a
robust model do not vanish in float16 (its smallest step is 6e-8) and maps of different slides
stay comparable. :meth:`SaliencyStore.read_saliency` divides it out again.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from pathology_scaat.artifacts.zarr_folder import file_kvstore, group_attributes
from pathology_scaat.errors import StoreError
from pathology_scaat.patches.schema import ATTRIBUTES_KEY
from pathology_scaat.saliency.labelled import saliency_to_dask, saliency_to_xarray
from pathology_scaat.saliency.schema import (
    CONTRIBUTION_ARRAY,
    MAIN_ARRAY,
    UNLIKE_ARRAY,
    SaliencyStoreMeta,
)
from pathology_scaat.system.representation import Described, shown_maps


def _open_array(path: Path) -> ts.TensorStore:
    return ts.open(
        {"driver": "zarr3", "kvstore": file_kvstore(path.resolve())},
        open=True,
        read=True,
    ).result()


class SaliencyStore(Described):
    """A saliency store, opened for reading; the large array is read lazily by TensorStore.

    Parameters
    ----------
    path : str or Path
        Folder of the store.

    Raises
    ------
    StoreError
        If it is missing, partial or of another schema; a damaged array raises it when it is first
        used.

    Examples
    --------
    With ``out`` the folder of a run:

    >>> import pathology_scaat as ps
    >>> store = ps.SaliencyStore(out / "saliency" / "s1.zarr")
    >>> store
    <SaliencyStore 's1': patches 12; classes normal, tumour; explained tumour by gradient>
    >>> store.read_saliency(slice(0, 2)).shape[0]
    2
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            attributes = group_attributes(self.path)[ATTRIBUTES_KEY]
        except (OSError, KeyError, ValueError, RecursionError):
            raise StoreError(
                self.path.name, "is not a saliency store", "make it with 'scaat explain'"
            ) from None
        if not isinstance(attributes, dict):
            raise StoreError(
                self.path.name, "has damaged attributes", "make it again with 'scaat explain'"
            )
        self.meta = SaliencyStoreMeta.from_attributes(attributes, self.path.name)

    def _title(self) -> str:
        return self.meta.slide_id

    def _facts(self) -> dict[str, str]:
        return {
            "patches": f"{len(self):,}",
            "classes": ", ".join(self.meta.class_names),
            "explained": f"{self.meta.target_class} by {self.meta.method}",
        }

    def _thumbnail(self) -> NDArray[np.uint8] | None:
        return shown_maps(self.read_saliency, len(self))

    def _small(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(_open_array(self.path / name).read().result())
        except ValueError:
            raise StoreError(
                self.path.name, f"has no readable '{name}'", "make it again with 'scaat explain'"
            ) from None

    @cached_property
    def _arrays(self) -> dict[str, ts.TensorStore]:
        return {}

    def _array(self, name: str) -> ts.TensorStore:
        if name not in self._arrays:
            try:
                self._arrays[name] = _open_array(self.path / name)
            except ValueError:
                raise StoreError(
                    self.path.name,
                    f"has no readable '{name}'",
                    "make it again with 'scaat explain'",
                ) from None
        return self._arrays[name]

    def __len__(self) -> int:
        return int(self._array(MAIN_ARRAY).shape[0])

    @property
    def saliency(self) -> ts.TensorStore:
        """The stored array, (N, h, h) float16, lazily; values are multiplied by ``scale``."""
        return self._array(MAIN_ARRAY)

    @property
    def scale(self) -> float:
        """What stored values are multiplied by."""
        return float(self.meta.parameters.get("saliency_scale", 1.0))

    def read_saliency(
        self, indices: NDArray[np.integer] | slice, class_name: str | None = None
    ) -> NDArray[np.float32]:
        """Attribution in true units, (n, h, h) float32, 0 or more, of some patches.

        Parameters
        ----------
        indices : (n,) int or slice
        class_name : str, optional
            One of ``meta.targets``; the target class if none is given.

        Raises
        ------
        StoreError
            If the values are damaged.
        ValueError
            If the class was not explained.
        """
        name = MAIN_ARRAY if class_name is None else self.meta.array_of(class_name)
        try:
            stored = np.asarray(self._array(name)[indices].read().result())
        except ValueError:
            raise StoreError(
                self.path.name, "has damaged values", "make it again with 'scaat explain'"
            ) from None
        values = stored.astype(np.float32)
        values /= np.float32(self.scale)
        return values

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """(N, K) float32, calibrated."""
        return self._small("probability")

    @cached_property
    def contribution(self) -> NDArray[np.float32] | None:
        """(N, K) float32, what each patch adds to the slide's logits; None for patch models."""
        there = (self.path / CONTRIBUTION_ARRAY).is_dir()
        return self._small(CONTRIBUTION_ARRAY) if there else None

    @cached_property
    def unlike(self) -> NDArray[np.float32] | None:
        """(N,) float32: how unlike the training patches, percentile 0 to 100; None if unknown."""
        return self._small(UNLIKE_ARRAY) if (self.path / UNLIKE_ARRAY).is_dir() else None

    @cached_property
    def target_probability(self) -> NDArray[np.float32]:
        """(N,) float32, of the class that is explained."""
        column: NDArray[np.float32] = self.probability[:, self.meta.target_index]
        return column

    @cached_property
    def origins_px(self) -> NDArray[np.int64]:
        """(N, 2) int64 level-0 top-left corners, x, y."""
        return self._small("origin_px")

    @cached_property
    def grid_index(self) -> NDArray[np.int32]:
        """(N, 2) int32 column, row."""
        return self._small("grid_index")

    def to_dask(self, class_name: str | None = None) -> Any:
        """Attribution in true units as a lazy Dask array, (N, h, h) float32."""
        return saliency_to_dask(self, class_name or self.meta.target_class)

    def to_xarray(self) -> Any:
        """The store as a lazy ``xarray.Dataset`` (needs the extra ``xarray``).

        ``saliency`` (patch, row_px, column_px) in true units is read when it is used, and
        ``saliency: CLASS`` for further explained classes; ``probability`` (patch, class).

        Raises
        ------
        UsageError
            If xarray is not installed.
        """
        return saliency_to_xarray(self)

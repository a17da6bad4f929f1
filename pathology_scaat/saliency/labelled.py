"""A saliency store as a labelled lazy data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.patches.labelled import patch_coordinates, picked
from pathology_scaat.system.extras import need

if TYPE_CHECKING:
    from pathology_scaat.saliency.store import SaliencyStore

BATCH_BYTES = 32 << 20


class LazySaliency:
    """Saliency of one class in true units, as ``dask.array.from_array`` slices it."""

    def __init__(self, store: SaliencyStore, class_name: str) -> None:
        self._path, self._class = store.path, class_name
        self._store: SaliencyStore | None = store
        self.shape = tuple(int(n) for n in store.saliency.shape)
        self.ndim, self.dtype = 3, np.dtype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[np.float32]:
        from pathology_scaat.saliency.store import SaliencyStore

        if self._store is None:
            self._store = SaliencyStore(self._path)
        store, name = self._store, self._class
        return picked(lambda patches: store.read_saliency(patches, name), key)


def saliency_to_dask(store: SaliencyStore, class_name: str) -> Any:
    """Saliency of a class in true units as a Dask array, (N, h, h) float32."""
    import dask.array as da  # imported late: it takes half a second

    lazy = LazySaliency(store, class_name)
    side = lazy.shape[1]
    chunks = (max(1, BATCH_BYTES // (4 * side * side)), side, side)
    return da.from_array(lazy, chunks=chunks, name=False, asarray=False)


def saliency_to_xarray(store: SaliencyStore) -> Any:
    """A ``Dataset`` of a store: saliency of each explained class (lazy), and the small arrays."""
    xarray = need("xarray", "xarray", "to_xarray")
    meta = store.meta
    data: dict[str, Any] = {
        "saliency" if name == meta.target_class else f"saliency: {name}": (
            ("patch", "row_px", "column_px"),
            saliency_to_dask(store, name),
            {"class": name},
        )
        for name in meta.targets
    }
    data["probability"] = (("patch", "class"), store.probability)
    if store.unlike is not None:
        data["unlike_training"] = ("patch", store.unlike, {"units": "percentile"})
    if store.contribution is not None:
        data["contribution"] = (("patch", "class"), store.contribution)
    return xarray.Dataset(
        data,
        {
            **patch_coordinates(store.origins_px, store.grid_index, meta.slide),
            "class": list(meta.class_names),
        },
        {
            "slide_id": meta.slide_id,
            "um_per_px": meta.effective_mpp * meta.stride_px,
            "slide_um_per_px": meta.slide.mpp,
            "target_class": meta.target_class,
            "explained_by": meta.method,
            "model_fingerprint": meta.model_fingerprint,
            "slide_role": str(meta.model.get("slide_role", "unknown")),
            "store_fingerprint": meta.fingerprint,
        },
    )

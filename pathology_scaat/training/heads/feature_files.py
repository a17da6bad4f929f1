"""Features of a slide's patches in HDF5, as TRIDENT, CLAM and STAMP write them.

What is read: a data set ``features`` (STAMP: ``feats``) of shape (n, d) or (1, n, d), and beside
it ``coords`` (n, 2), level-0 pixels of each patch's top-left corner. How large a patch is on
level 0 stands in attributes of ``coords``: TRIDENT's ``patch_size_level0``, or CLAM's
``patch_size`` times ``downsample``. CLAM keeps them in the file of coordinates alone
(``patches/ID.h5``), which is looked for beside the folder of features, and believed where its
coordinates are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology_scaat.errors import StoreError
from pathology_scaat.system.extras import need
from pathology_scaat.training.heads.patch_words import patch_words

ENDINGS = (".h5", ".hdf5")
FEATURES = ("features", "feats")
COORDINATES = "coords"
PATCHES = "scaat_patches"
"""Attribute of coordinates: the fingerprint of our patch store."""
PAINTED = "scaat_painted"
"""The same: that the slide was painted by ``scaat demo``."""
MOST_FEATURES = 65_536
SAMPLED_ROWS = 256
"""Rows, evenly spread, that a file's fingerprint is made of, beside its shape and coordinates."""
CHECKED_ROWS = 4096
ANEW = "write the file again"


@dataclass(frozen=True)
class FeatureFile:
    """Features of one slide's patches, read when they are asked for.

    Attributes
    ----------
    path : Path
    slide_id : str
    n_patches, n_features : int
    coords_px : (n, 2) int64 or None
        Level-0 x, y of the top-left corner of each patch; None where the file has none, or has
        them in other units.
    patch_size_level0_px : float or None
        Side of a patch in level-0 pixels; None where nothing says it.
    encoder : str
        Name of the encoder, where the file names it; else empty.
    fingerprint : str
        SHA-256 of shape, coordinates and evenly spread rows: the same features in another file
        have the same one.
    patches : str
        Fingerprint of the patch store that the features are of, where they were made here.
    painted : bool
        Whether the slide was painted by ``scaat demo``, as far as the file says it.
    patch_words : str
        Size and magnification of the patches, where the file, or that of coordinates beside it,
        states both; else empty.
    """

    path: Path
    slide_id: str
    n_patches: int
    n_features: int
    coords_px: NDArray[np.int64] | None
    patch_size_level0_px: float | None
    encoder: str
    fingerprint: str
    patches: str = ""
    painted: bool = False
    patch_words: str = ""

    def read(self, rows: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """Features (n, d) float32 of some patches, ``rows`` (n,) in the order asked for, or of all.

        Raises
        ------
        StoreError
            If the file cannot be read any more, or holds what is no finite number.
        """
        with _opened(self.path) as file:
            found = _rows(_features(file, self.path), rows)
        if not np.isfinite(found).all():
            raise StoreError(
                self.path.name, "holds features that are not finite numbers (NaN or infinite)", ANEW
            )
        return found


def find_feature_file(folder: Path, slide_id: str) -> Path | None:
    """The file of a slide's features: ``ID.h5`` in the folder, or in CLAM's ``h5_files`` in it."""
    for directory in (folder, folder / "h5_files"):
        for ending in ENDINGS:
            if (path := directory / f"{slide_id}{ending}").is_file():
                return path
    return None


def feature_ids(folder: Path) -> tuple[str, ...]:
    """Slides of which a folder holds features."""
    found = {
        path.stem
        for directory in (folder, folder / "h5_files")
        for path in (directory.iterdir() if directory.is_dir() else ())
        if path.suffix in ENDINGS and path.is_file()
    }
    return tuple(sorted(found))


def read_feature_file(path: Path, slide_id: str) -> FeatureFile:
    """What a file of features holds; the features themselves are read later.

    Raises
    ------
    StoreError
        If it is no HDF5 file, has no features of patches, or they do not fit the coordinates.
    UsageError
        If h5py is not installed.
    """
    with _opened(path) as file:
        features = _features(file, path)
        n, d = features.shape[-2:]
        if not 0 < d <= MOST_FEATURES:
            raise StoreError(path.name, f"has {d} features a patch", ANEW)
        sampled = _rows(features, _spread(n, SAMPLED_ROWS))
        coords, attributes = _coordinates(file, path, n)
        encoder = _text(features.attrs.get("encoder", file.attrs.get("encoder",
                        file.attrs.get("extractor", ""))))  # fmt: skip
        stated = dict(file.attrs)
        in_um = _text(file.attrs.get("unit", attributes.get("unit", ""))) == "um"
    if coords is not None and in_um:
        coords = None  # STAMP's: nothing here says how many pixels a µm is
    size = None if coords is None else _patch_size(attributes)
    words = patch_words(attributes, stated)
    if coords is not None and size is None:
        beside = _attributes_beside(path, slide_id, coords)
        size, words = _patch_size(beside), words or patch_words(beside)
    mark = hashlib.sha256(repr((n, d)).encode())
    mark.update(np.ascontiguousarray(sampled).tobytes())
    if coords is not None:
        mark.update(np.ascontiguousarray(coords).tobytes())
    made_of = _text(attributes.get(PATCHES, ""))
    return FeatureFile(
        path, slide_id, n, d, coords, size, encoder, mark.hexdigest(), made_of,
        bool(attributes.get(PAINTED, False)), words,
    )  # fmt: skip


def write_feature_file(
    path: Path,
    features: NDArray[np.floating],
    coords_px: NDArray[np.integer],
    attributes: Mapping[str, Any],
    encoder: str,
) -> None:
    """Write features as TRIDENT does; the file appears whole or not at all.

    Parameters
    ----------
    features : (n, d)
        Written as float32.
    coords_px : (n, 2)
        Level-0 pixels of the top-left corners.
    attributes : mapping
        Of the coordinates, ``patch_size_level0`` among them.
    encoder : str
        What the features come from.
    """
    from pathology_scaat.artifacts.atomic import atomic_path

    h5py = need("h5py", "h5", "features in files")
    with atomic_path(path) as partial, h5py.File(partial, "w") as file:
        file.create_dataset("features", data=np.asarray(features, np.float32))
        file["features"].attrs["encoder"] = encoder
        file.create_dataset(COORDINATES, data=np.asarray(coords_px, np.int64))
        for name, value in attributes.items():
            file[COORDINATES].attrs[name] = value


def _opened(path: Path) -> Any:
    h5py = need("h5py", "h5", "--features")
    try:
        return h5py.File(path, "r")
    except (OSError, ValueError):
        raise StoreError(path.name, "is no HDF5 file that can be read", ANEW) from None


def _features(file: Any, path: Path) -> Any:
    """The data set of features, (n, d) or (1, n, d)."""
    found = next((file[name] for name in FEATURES if name in file), None)
    if found is None:
        known = ", ".join(sorted(map(str, file.keys()))[:5]) or "nothing"
        raise StoreError(
            path.name,
            f"has no data set 'features' (it has {known})",
            "give the folder of features, not that of coordinates",
        )
    shape = tuple(getattr(found, "shape", ()) or ())
    if len(shape) == 1:
        raise StoreError(
            path.name,
            "holds one vector for the slide, not one a patch",
            "give the features of patches",
        )
    if (
        not (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1))
        or found.dtype.kind not in "fiu"
    ):
        raise StoreError(
            path.name, f"has features of shape {shape} and type {found.dtype}", "they are (n, d)"
        )
    return found


def _rows(features: Any, rows: NDArray[np.integer] | None) -> NDArray[np.float32]:
    source = features[0] if features.ndim == 3 else features
    if rows is None:
        return np.asarray(source[...], np.float32)
    order, back = np.unique(rows, return_inverse=True)  # h5py wants them rising and once
    return np.asarray(source[order], np.float32)[back] if len(order) else np.zeros(
        (0, features.shape[-1]), np.float32)  # fmt: skip


def _spread(n: int, most: int) -> NDArray[np.int64]:
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))


def _coordinates(file: Any, path: Path, n: int) -> tuple[NDArray[np.int64] | None, dict[str, Any]]:
    if COORDINATES not in file:
        return None, {}
    data = file[COORDINATES]
    values = np.asarray(data[...])
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.shape != (n, 2):
        raise StoreError(
            path.name,
            f"has {n} patches with features and coordinates of shape {values.shape}",
            ANEW,
        )
    if not np.isfinite(values).all():
        raise StoreError(path.name, "has coordinates that are not finite numbers", ANEW)
    return np.round(values).astype(np.int64), dict(data.attrs)


def _patch_size(attributes: Mapping[str, Any]) -> float | None:
    """Side of a patch on level 0, from TRIDENT's attributes or CLAM's."""
    try:
        if "patch_size_level0" in attributes:
            size = float(np.ravel(attributes["patch_size_level0"])[0])
        elif "patch_size" in attributes and "downsample" in attributes:
            size = float(np.ravel(attributes["patch_size"])[0]) * float(
                np.ravel(attributes["downsample"])[0]
            )
        elif "patch_size" in attributes and int(np.ravel(attributes["patch_level"])[0]) == 0:
            size = float(np.ravel(attributes["patch_size"])[0])
        else:
            return None
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return size if 0 < size < 1e6 else None


def _attributes_beside(path: Path, slide_id: str, coords: NDArray[np.int64]) -> dict[str, Any]:
    """Attributes in the file of coordinates, where that holds the same patches."""
    above = path.parent.parent
    names = (f"{slide_id}_patches.h5", f"{slide_id}.h5")
    for folder in (above / "patches", above.parent / "patches"):
        for name in names:
            if not (folder / name).is_file():
                continue
            with _opened(folder / name) as file:
                if COORDINATES not in file:
                    continue
                data = file[COORDINATES]
                if data.shape != coords.shape or not np.array_equal(data[...], coords):
                    continue
                return dict(data.attrs)
    return {}


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if text.isprintable() else ""

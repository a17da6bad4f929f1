"""Fingerprints: what an artifact was made of, as one SHA-256 of canonical JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with one spelling for one value (sorted keys, no spaces, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of a mapping of inputs and parameters."""
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that decide its results."""
    return dict(_versions())


@cache  # they are read out of files, and asked for once a slide
def _versions() -> dict[str, str]:
    names = (
        "pathology-scaat", "torch", "timm", "numpy", "zarr", "tensorstore", "openslide-python",
        "openslide-bin", "tifffile", "imagecodecs", "scikit-image", "shapely", "dask",
    )  # fmt: skip
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found

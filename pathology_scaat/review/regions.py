"""The regions of a slide that wait for a verdict, out of its exported overlay."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from pathology_scaat.errors import StoreError
from pathology_scaat.export.qupath.geojson import measurement_name
from pathology_scaat.review.same_file import same_file

MAX_OVERLAY_BYTES = 1 << 30
HEAD, TAIL = b'{"type":"FeatureCollection","features":[', b"]}"
"""How a file of ours begins and ends; between them is one object a line, or a few."""
ANNOTATION = re.compile(rb'"objectType"\s*:\s*"annotation"')
Order = Literal["uncertainty", "evidence", "area"]
ORDERS: tuple[str, ...] = get_args(Order)
DISAGREEMENT = "disagreement"
"""The order that needs the models of the folds: :mod:`pathology_scaat.review.ensemble`."""
Rings = tuple[tuple[tuple[float, float], ...], ...]
"""Closed outlines of (x, y); the first is the outer one."""


@dataclass(frozen=True)
class ReviewRegion:
    """One region: outline in the viewer's pixels (the slide's frame), and what is known of it.

    Attributes
    ----------
    region_id : str
        The object's id in the exported file.
    name : str
    rings : tuple of rings
        Closed outlines, each a tuple of (x, y); the first is the outer one.
    area_um2, saliency, probability : float
        NaN where the overlay does not say.
    """

    region_id: str
    name: str
    rings: Rings
    area_um2: float
    saliency: float
    probability: float

    @property
    def uncertainty(self) -> float:
        """1 where the model is undecided (probability one half), 0 where it is sure."""
        return 1 - 2 * abs(self.probability - 0.5) if math.isfinite(self.probability) else 0.0

    def to_dict(self) -> dict[str, Any]:
        value = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in asdict(self).items()
        }
        return {**value, "uncertainty": self.uncertainty}


def overlay_path(overlays: Path, slide_id: str) -> Path | None:
    """The GeoJSON of a slide, packed or plain."""
    for suffix in (".geojson.gz", ".geojson"):
        path = overlays / f"{slide_id}{suffix}"
        if path.is_file():
            return path
    return None


@same_file
def read_regions(path: Path) -> tuple[ReviewRegion, ...]:
    """The annotations of an overlay, in its order (largest first).

    Our own files hold one object a line, so that of a quarter of a million tiles none is parsed;
    a file that another program has written is read whole.

    Raises
    ------
    StoreError
        If the file is damaged.
    """
    try:
        with _opened(path) as stream:
            features = _own_annotations(stream)
        if features is None:
            with _opened(path) as stream:
                features = json.loads(stream.read(MAX_OVERLAY_BYTES))["features"]
        return tuple(region for feature in features if (region := _region(feature)) is not None)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        raise StoreError(path.name, "is damaged", "run 'scaat export' again") from None


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _own_annotations(stream: IO[bytes]) -> list[dict[str, Any]] | None:
    """Annotations of a file of ours, line by line; None where it is another's, or torn."""
    found: list[dict[str, Any]] = []
    size, last = 0, b""
    for line in stream:
        size += len(line)
        if size > MAX_OVERLAY_BYTES or (size == len(line) and not line.startswith(HEAD)):
            return None
        last = line.rstrip()
        if ANNOTATION.search(last):
            text = last.removeprefix(HEAD).removesuffix(TAIL).strip(b",")
            try:
                found += json.loads(b"[" + text + b"]")
            except ValueError:
                return None
    return found if last.endswith(TAIL) else None


def _region(feature: dict[str, Any]) -> ReviewRegion | None:
    properties = feature["properties"]
    geometry = feature["geometry"]
    if properties.get("objectType") != "annotation" or geometry["type"] != "Polygon":
        return None
    measured = properties.get("measurements") or {}

    def value(suffix: str) -> float:
        found = [v for k, v in measured.items() if k.endswith(suffix)]
        return float(found[0]) if found else math.nan

    return ReviewRegion(
        region_id=str(feature["id"]),
        name=str(properties.get("name", "")),
        rings=tuple(
            tuple((float(x), float(y)) for x, y, *_ in ring) for ring in geometry["coordinates"]
        ),
        area_um2=float(measured.get(measurement_name("Area um^2"), math.nan)),
        saliency=value("Saliency mean"),
        probability=value(" probability"),
    )


def ordered(regions: tuple[ReviewRegion, ...], order: str) -> tuple[ReviewRegion, ...]:
    """Regions with what is to be judged first in front."""
    keys = {
        "uncertainty": lambda r: -r.uncertainty,
        "evidence": lambda r: -r.saliency if math.isfinite(r.saliency) else 0.0,
        "area": lambda r: -r.area_um2 if math.isfinite(r.area_um2) else 0.0,
    }
    return tuple(sorted(regions, key=keys[order]))

"""Outlines of regions that were judged: an append-only list in ``review/regions.jsonl``.

Another model marks other regions, and its overlay takes the place of the one that was judged. So
the outline is kept beside the verdict: what a reader said stays a label for every later training.
"""

from __future__ import annotations

import math
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.errors import StoreError
from pathology_scaat.review.json_lines import append_json_line, json_lines
from pathology_scaat.review.regions import Rings
from pathology_scaat.review.verdicts import FOLDER

FILE_NAME = "regions.jsonl"
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class JudgedRegion:
    """One region as the reader saw it.

    Attributes
    ----------
    slide_id, region_id, name : str
    rings : tuple of rings
        Closed outlines of (x, y), the outer one first, in the viewer's pixels (the slide's frame,
        level 0).
    """

    slide_id: str
    region_id: str
    name: str
    rings: Rings


class JudgedRegions:
    """The outlines that are kept in an output folder; nothing but ``review`` is ever written."""

    def __init__(self, out: Path) -> None:
        self.path = out / FOLDER / FILE_NAME
        self._lock = threading.Lock()
        self._known: set[tuple[str, str]] | None = None

    def keep(self, region: JudgedRegion) -> None:
        """Add an outline unless it is there; it is on the disk when this returns.

        Raises
        ------
        StoreError
            If it cannot be written, or what is there is damaged.
        """
        key = (region.slide_id, region.region_id)
        with self._lock:
            if self._known is None:
                self._known = set(self.current())
            if key in self._known:
                return
            append_json_line(self.path, asdict(region))
            self._known.add(key)

    def current(self) -> dict[tuple[str, str], JudgedRegion]:
        """Outlines by slide and region.

        Raises
        ------
        StoreError
            If the file is not a list of regions.
        """
        try:
            found = [_region(value) for value in json_lines(self.path, MAX_BYTES)]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise StoreError(FILE_NAME, "is not a list of regions", "move it away") from None
        return {(region.slide_id, region.region_id): region for region in found}


def _region(value: dict[str, Any]) -> JudgedRegion:
    rings = tuple(tuple((float(x), float(y)) for x, y in ring) for ring in value["rings"])
    if not rings or any(len(ring) < 4 for ring in rings):
        raise ValueError("no outline")
    if not all(math.isfinite(v) for ring in rings for point in ring for v in point):
        raise ValueError("no coordinate")
    return JudgedRegion(str(value["slide_id"]), str(value["region_id"]), str(value["name"]), rings)

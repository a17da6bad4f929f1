"""Outlines that reviewers drew: an append-only list in ``review/drawings.jsonl``.

One JSON object a line; a later line of the same drawing by the same reviewer replaces it, and one
with ``removed`` takes it away. No line holds a date.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import shapely

from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.review.json_lines import append_json_line, json_lines
from pathology_scaat.review.verdicts import FOLDER

FILE_NAME = "drawings.jsonl"
MAX_POINTS = 500
MAX_NAME = 80
MAX_BYTES = 256 << 20

Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Drawing:
    """What one reviewer outlined on one slide.

    Attributes
    ----------
    reviewer, slide_id : str
    drawing_id : str
        Chosen by the page; unique for the reviewer and slide.
    class_name : str
        What is inside.
    ring : tuple of (x, y)
        Corners, in the viewer's pixels (the slide's frame, level 0); not closed. Empty where
        removed.
    removed : bool
    """

    reviewer: str
    slide_id: str
    drawing_id: str
    class_name: str
    ring: Ring
    removed: bool = False

    @property
    def polygon(self) -> shapely.Polygon:
        return shapely.Polygon(self.ring)

    def checked(self) -> Drawing:
        """The drawing itself.

        Raises
        ------
        UsageError
            If a name is missing or too long, or the outline bounds no area.
        """
        named = (self.reviewer.strip(), self.slide_id, self.drawing_id, self.class_name)
        if not all(named):
            raise UsageError("the drawing", "names no reviewer, slide or class", "give all three")
        if max(len(self.reviewer), len(self.drawing_id)) > MAX_NAME:
            raise UsageError("the drawing", f"has a name beyond {MAX_NAME} characters", "")
        if self.removed:
            return self
        if not 3 <= len(self.ring) <= MAX_POINTS:
            raise UsageError(
                "the outline", f"has {len(self.ring)} corners", f"draw 3 to {MAX_POINTS}"
            )
        if not all(math.isfinite(v) for point in self.ring for v in point):
            raise UsageError("the outline", "has corners that are no coordinates", "draw it again")
        if not self.polygon.is_valid or self.polygon.area <= 0:
            raise UsageError("the outline", "crosses itself or holds no area", "draw it again")
        return self


class DrawingTable:
    """The drawings of an output folder; nothing but its folder ``review`` is ever written."""

    def __init__(self, out: Path) -> None:
        self.path = out / FOLDER / FILE_NAME
        self._lock = threading.Lock()

    def append(self, drawing: Drawing) -> None:
        """Add a line; it is on the disk when this returns.

        Raises
        ------
        UsageError
            If it is no drawing.
        StoreError
            If it cannot be written.
        """
        value = asdict(drawing.checked())
        with self._lock:
            append_json_line(self.path, value)

    def current(self) -> tuple[Drawing, ...]:
        """The drawings that stand, in the order in which they were begun.

        Raises
        ------
        StoreError
            If the file is not a list of drawings.
        """
        try:
            return latest_drawings(drawing_of(value) for value in json_lines(self.path, MAX_BYTES))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError):
            raise StoreError(FILE_NAME, "is not a list of drawings", "move it away") from None


def drawing_of(value: dict[str, Any]) -> Drawing:
    """A drawing from JSON; ValueError, KeyError or TypeError where it is none."""
    return Drawing(
        reviewer=str(value["reviewer"]).strip(),
        slide_id=str(value["slide_id"]),
        drawing_id=str(value["drawing_id"]),
        class_name=str(value["class_name"]),
        ring=tuple((float(x), float(y)) for x, y in value["ring"]),
        removed=bool(value.get("removed", False)),
    ).checked()


def latest_drawings(drawings: Iterable[Drawing]) -> tuple[Drawing, ...]:
    """Replay lines in order: the last of a drawing holds."""
    held: dict[tuple[str, str, str], Drawing] = {}
    for drawing in drawings:
        held[drawing.reviewer, drawing.slide_id, drawing.drawing_id] = drawing
    return tuple(d for d in held.values() if not d.removed)

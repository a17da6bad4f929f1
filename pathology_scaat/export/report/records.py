"""What the cohort's page and contact sheet are made of: one record per exported slide."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.artifacts.output_names import CONTACT_SHEET, PAGE
from pathology_scaat.artifacts.table_cells import id_cell
from pathology_scaat.errors import ExportError
from pathology_scaat.export.raster.canvas import resized
from pathology_scaat.export.report.differences import Difference
from pathology_scaat.export.sidecar import read_sidecar
from pathology_scaat.saliency.methods_of_maps import card_is_of
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.tissue.overlay import read_written_png

__all__ = [
    "CHECKSUM_META",
    "CONTACT_SHEET",
    "PAGE",
    "ExportedCohort",
    "read_cohort",
    "small_picture",
]

SCHEMA_VERSION = 6


CHECKSUM_META = re.compile(r'<meta name="(?:checksum|seal)" content="([0-9a-f]{64})">')


@dataclass(frozen=True)
class FailedSlide:
    """A slide of the cohort that has no result, and why."""

    slide_id: str
    stage: str
    reason: str


@dataclass(frozen=True)
class ExportedCohort:
    """The records of all slides in a folder of overlays, by slide id.

    ``failed`` are slides without a result; ``card`` is where the trust card lies, seen from the
    folder of overlays, if there is one. ``differences`` are of slides that several models
    predicted together, by slide id; there may be some that have no map. ``earlier`` are slides
    whose files here are of an earlier run, and why. ``slide_notes`` is what the stages before
    the export have to say of slides, by slide id. ``card_of`` is the fingerprint of the model
    that the card is of, ``card_method`` the attribution method of the maps that it measured; both
    are empty where nobody knows. ``slide_methods`` are the methods of the slides' maps by slide id,
    for records of versions that did not write them.
    """

    overlay_dir: Path
    records: tuple[dict[str, Any], ...]
    failed: tuple[FailedSlide, ...] = ()
    card: str | None = None
    differences: Mapping[str, Difference] = field(default_factory=dict)
    earlier: Mapping[str, str] = field(default_factory=dict)
    slide_notes: Mapping[str, str] = field(default_factory=dict)
    card_of: str = ""
    card_method: str = ""
    slide_methods: Mapping[str, str] = field(default_factory=dict)

    def notes(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """What is to be read of a slide: what was noted when it was tiled, then its exports'."""
        noted = self.slide_notes.get(id_cell(str(record["slide_id"])), "")
        return (*((noted,) if noted else ()), *map(str, record["notes"]))

    def of_earlier_run(self, record: Mapping[str, Any]) -> str:
        """Why a slide's files are of an earlier run, in words; empty where they are not."""
        return self.earlier.get(id_cell(str(record["slide_id"])), "")

    def picture(self, record: dict[str, Any], *kinds: str) -> Path | None:
        """The first picture of the given formats that a slide has: the main one of several."""
        for kind in kinds:
            for name, entry in record["files"].items():
                path = self.overlay_dir / Path(name).name
                main = entry.get("main", True)
                if entry.get("format") == kind and main and path.is_file():
                    return path
        return None

    @property
    def warning(self) -> str:
        """What must be read first: that a model has learnt nothing, or that nobody knows.

        Of several models it is said of which.
        """
        models = self.models
        said = {str(m.get("fingerprint", "")): str(m.get("read_first", m["nothing_learnt"]))
                for m in models}  # fmt: skip
        if len(set(said.values())) == 1:
            return next(iter(said.values()))
        return " ".join(f"Model {name[:16]}: {text}" for name, text in said.items() if text)

    @property
    def card_is_of_these(self) -> bool:
        """Whether the trust card is of a model that made maps here."""
        return self.card_of in {str(r["model_fingerprint"]) for r in self.records}

    @property
    def methods(self) -> dict[str, int]:
        """Slides by the attribution method of their maps, as far as it is recorded."""
        found = Counter(filter(None, map(self.method_of, self.records)))
        return dict(sorted(found.items()))

    def method_of(self, record: Mapping[str, Any]) -> str:
        """The attribution method of a slide's map; empty where nobody knows."""
        slide_id = str(record["slide_id"])
        return str(record["map"].get("method") or self.slide_methods.get(slide_id, ""))

    @property
    def card_is_of_these_maps(self) -> bool:
        """Whether the trust card measured maps as they are made here, as far as that is known."""
        return card_is_of(self.card_method, self.methods)

    @property
    def models(self) -> list[dict[str, Any]]:
        """What is known of each model that slides were explained by."""
        found = {str(r["model_fingerprint"]): dict(r["model"]) for r in self.records}
        return [found[key] for key in sorted(found)]

    def fingerprint(self, title: str) -> str:
        """What page and sheet are made of: the slides' records, and with them their files."""
        return fingerprint(
            {
                "schema_version": SCHEMA_VERSION,
                "title": title,
                "records": list(self.records),
                "failed": [[f.slide_id, f.stage, f.reason] for f in self.failed],
                "methods": self.methods,
                "card": [self.card, self.card_is_of_these, self.card_method],
                "earlier": dict(sorted(self.earlier.items())),
                "slide_notes": dict(sorted(self.slide_notes.items())),
                "differences": {k: [d.text, d.link] for k, d in sorted(self.differences.items())},
            }
        )


def read_cohort(
    overlay_dir: Path,
    failed: Sequence[FailedSlide] = (),
    card: str | None = None,
    differences: Mapping[str, Difference] | None = None,
    earlier: Mapping[str, str] | None = None,
    slide_notes: Mapping[str, str] | None = None,
    card_of: str = "",
    card_method: str = "",
    slide_methods: Callable[[], Mapping[str, str]] | None = None,
) -> ExportedCohort:
    """Read the records of a folder of overlays; what is no record is passed over.

    ``slide_methods`` is asked only where a record does not hold the method of its map.
    """
    overlay_dir = Path(overlay_dir)
    records = (read_sidecar(path) for path in overlay_dir.glob("*.json"))
    found = [record for record in records if record is not None]
    ordered = tuple(sorted(found, key=lambda r: str(r["slide_id"])))
    known = all(record["map"].get("method") for record in ordered)
    methods = {} if known or slide_methods is None else slide_methods()
    return ExportedCohort(
        overlay_dir, ordered, tuple(failed), card, differences or {}, earlier or {},
        slide_notes or {}, card_of, card_method, methods,
    )  # fmt: skip


def small_picture(path: Path, side_px: int, box_px: Sequence[int] | None = None) -> RgbImage:
    """A PNG, or a part (x, y, width, height) of it, no larger than ``side_px``.

    Raises
    ------
    ExportError
        If it cannot be decoded.
    """
    small = _decoded(path)
    if box_px is not None:
        x, y, width, height = box_px
        small = small[max(y, 0) : y + height, max(x, 0) : x + width]
    rows, columns = small.shape[:2]
    if not rows * columns:
        raise _damaged(path)
    scale = side_px / max(rows, columns)
    if scale >= 1:
        return small
    # By area: as good for making smaller, and a fifth of the time of a filter by Lanczos, which
    # would be a quarter of what a small slide costs.
    width, height = (max(round(side * scale), 1) for side in (columns, rows))
    return resized(np.ascontiguousarray(small), width, height)


def _decoded(path: Path) -> RgbImage:
    """Pixels of a PNG, fast where it is as exports write it."""
    try:
        pixels = read_written_png(path.read_bytes())
        if pixels is not None:
            return pixels
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, RuntimeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> ExportError:
    return ExportError(path.name, "is a damaged picture", "export the slide again")

"""A contact sheet: the map over every slide, small, under its id."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pathology_scaat.errors import ExportError
from pathology_scaat.export.raster.canvas import (
    WARNING,
    fitting,
    fitting_name,
    font,
    short_number,
    wrapped,
)
from pathology_scaat.export.raster.colour_scale import ColourScale, legend_colours
from pathology_scaat.export.raster.overlay_png import NEARLY_ALL, all_of, little_evidence
from pathology_scaat.export.report.records import CONTACT_SHEET, ExportedCohort, small_picture
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.system.rounding import percent
from pathology_scaat.tissue.overlay import write_png

CELL_PX = 420
CAPTION_LINES = 2
LINE_PX = 17
CAPTION_PX = 23 + LINE_PX * CAPTION_LINES
GAP_PX = 12
MIN_COLUMNS = 3
MAX_SHEET_PX = 40_000_000
"""Pixels of a contact sheet; the pictures of a large cohort are made smaller."""
BAR_PX = (160, 14)
GREY = (90, 90, 90)


def columns_for(count: int) -> int:
    """Columns of an about square sheet with few empty cells."""
    least = max(math.isqrt(max(count - 1, 0)) + 1, min(count, MIN_COLUMNS))
    return min(range(least, least + 3), key=lambda n: (-count % n, n))


def _picture(cohort: ExportedCohort, record: dict[str, Any], side_px: int) -> RgbImage | None:
    """The map over the slide without the frame of text around it; else the whole figure."""
    path = cohort.picture(record, "png", "figure")
    if path is None:
        return None
    return small_picture(path, side_px, record["files"][path.name].get("picture_px"))


ROLE_SHORT = {
    "train": "training slide", "val": "validation slide", "test": "held out",
    "held out": "held out", "unknown": "not known if trained on",
}  # fmt: skip


def evidence_words(record: dict[str, Any]) -> str:
    """How much evidence a slide has, in words."""
    target, area = str(record["target_class"]), record["slide_summary"].get("drawn_um2")
    if record["slide_summary"]["target_probability_max"] is None:
        return f"{record['drawn']} for {target} not judged: no patch of it was cut"
    if area is None:
        return ""
    if record["model"]["nothing_learnt"]:
        return f"{record['drawn']} for {target} not drawn: the model has learnt nothing"
    found = f"{record['drawn']} for {target} on {area / 1e6:.3g} mm²"
    if area == 0:
        found = f"no {record['drawn']} for {target}"
        if record["drawn"] == "evidence":
            found = little_evidence(target, record["slide_summary"].get("too_little_um2", 0.0))
    share = record["slide_summary"].get("not_judged")
    if share and share > NEARLY_ALL:
        much = all_of(share)
        return f"{record['drawn']} for {target} not judged: {much} unlike the training data"
    return f"{found} where judged; {percent(share)} not judged" if share else found


def unlike_words(record: dict[str, Any]) -> str:
    """How much of a slide is unlike the training data, where it is worth a word."""
    share = record["slide_summary"].get("unlike_share")
    return f"{percent(share)} of tiles unlike training" if share and share >= 0.1 else ""


def _caption(cohort: ExportedCohort, record: dict[str, Any]) -> str:
    role = ROLE_SHORT[str(record["model"]["slide_role"])]
    earlier = "OF AN EARLIER RUN" if cohort.of_earlier_run(record) else ""
    return "; ".join(t for t in (earlier, role, unlike_words(record), evidence_words(record)) if t)


@dataclass(frozen=True)
class _Head:
    """What stands above the pictures: what is shown, how to read the colours, how good the model
    is; ``height`` in pixels."""

    title: str
    of_scale: tuple[str, ...]
    of_model: tuple[str, ...]
    is_warning: bool
    scale: ColourScale | None

    @property
    def height(self) -> int:
        return max(28 + LINE_PX * (len(self.of_scale) + len(self.of_model)), 54) + 8


def _head(cohort: ExportedCohort, records: list[dict[str, Any]], width: int) -> _Head:
    """Nothing of it is cut: its last words, which say how good the model is, count most."""
    scales = {(float(r["colour_scale"]["vmax"]), float(r["colour_scale"]["floor"]))
              for r in records}  # fmt: skip
    targets = {str(r["target_class"]) for r in records}
    top, floor = min(scales)
    one = len(scales) == 1
    n_models = len({str(r["model_fingerprint"]) for r in records})
    why = "slides of several models" if n_models > 1 else "slides exported with several settings"
    said = f"one scale, top {top:.3g}, below {floor:.3g} nothing is drawn"
    if not one:
        said = f"{why}: scales differ, and colours of two slides cannot be compared"
    if len(cohort.methods) > 1:
        said += f"; maps by {' and '.join(cohort.methods)}: they do not compare"
    room, small = width - 2 * GAP_PX, font(12)
    drawn = str(records[0]["drawn"]).capitalize()
    count = f"{len(records)} slide{'' if len(records) == 1 else 's'}"
    quality = f"model {records[0]['model']['quality']}" if n_models == 1 else ""
    colours = ColourScale(top, "", str(records[0]["parameters"]["colormap"]), floor)
    return _Head(
        f"{drawn} for {', '.join(sorted(targets))}: {count}",
        tuple(wrapped(said, small, room - BAR_PX[0] - 3 * GAP_PX)),
        tuple(wrapped(cohort.warning or quality, small, room)),
        bool(cohort.warning),
        colours if one else None,
    )


def _draw_head(draw: ImageDraw.ImageDraw, sheet: Image.Image, head: _Head) -> None:
    large, small = font(17), font(12)
    left = max(sheet.width - BAR_PX[0] - 2 * GAP_PX, sheet.width // 2)
    draw.text((GAP_PX, 6), fitting(head.title, large, left - 2 * GAP_PX), fill="black", font=large)
    of_model = WARNING if head.is_warning else GREY
    lines = [(line, GREY) for line in head.of_scale] + [(line, of_model) for line in head.of_model]
    for number, (line, colour) in enumerate(lines):
        draw.text((GAP_PX, 29 + LINE_PX * number), line, fill=colour, font=small)
    if head.scale is not None:
        _bar(draw, sheet, (left, 8), head.scale)


def _bar(
    draw: ImageDraw.ImageDraw, sheet: Image.Image, corner: tuple[int, int], scale: ColourScale
) -> None:
    """The colours from 0 to the top, with the value from which on there is any."""
    (x, y), (width, height), small = corner, BAR_PX, font(12)
    strip = np.repeat(legend_colours(scale, width)[None], height, axis=0)
    sheet.paste(Image.fromarray(strip), corner)
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=GREY)
    share = scale.floor / scale.vmax
    draw.text((x, y + 18), "0", fill=GREY, font=small, anchor="ma")
    draw.text((x + width, y + 18), short_number(scale.vmax), fill=GREY, font=small, anchor="ma")
    at = x + round(share * (width - 1))
    draw.line((at, y - 3, at, y + height + 2), fill=WARNING)
    if 0.1 < share < 0.8:
        draw.text((at, y + 18), short_number(scale.floor), fill=WARNING, font=small, anchor="ma")


def _caption_lines(caption: str, target: str, room: int) -> list[str]:
    """Two lines at most; only where that is not enough the class's name is made shorter."""
    small = font(12)
    lines = wrapped(caption, small, room)
    if len(lines) > CAPTION_LINES:
        short = fitting_name(caption, target, small, round(1.7 * room))
        lines = wrapped(short, small, room)
    whole, rest = lines[: CAPTION_LINES - 1], lines[CAPTION_LINES - 1 :]
    return [*whole, fitting(" ".join(rest), small, room)] if rest else whole


def write_contact_sheet(cohort: ExportedCohort) -> Path:
    """Write ``contact_sheet.png`` beside the overlays.

    Raises
    ------
    ExportError
        If no slide there has a picture, or one is damaged.
    """
    found = [r for r in cohort.records if cohort.picture(r, "png", "figure")]
    if not found:
        raise ExportError(
            cohort.overlay_dir.name, "holds no pictures", "export with the format 'png'"
        )
    columns = columns_for(len(found))
    rows = -(-len(found) // columns)
    side = min(CELL_PX, math.isqrt(MAX_SHEET_PX // (columns * rows)))
    cell = (side, side + CAPTION_PX)
    head = _head(cohort, found, columns * cell[0])
    sheet = Image.new("RGB", (columns * cell[0], head.height + rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    _draw_head(draw, sheet, head)
    face, small = font(14), font(12)
    for position, record in enumerate(found):
        x, y = position % columns * cell[0], head.height + position // columns * cell[1]
        room = side - 2 * GAP_PX
        picture = _picture(cohort, record, room)
        if picture is not None:
            height, width = picture.shape[:2]
            corner = (x + (side - width) // 2, y + CAPTION_PX + (room - height) // 2)
            sheet.paste(Image.fromarray(picture), corner)
        slide_id = fitting(str(record["slide_id"]), face, room)
        draw.text((x + GAP_PX, y + 2), slide_id, fill="black", font=face)
        caption = _caption_lines(_caption(cohort, record), str(record["target_class"]), room)
        for number, line in enumerate(caption):
            draw.text((x + GAP_PX, y + 21 + LINE_PX * number), line, fill=GREY, font=small)
    path = cohort.overlay_dir / CONTACT_SHEET
    write_png(np.asarray(sheet), path, {})
    return path

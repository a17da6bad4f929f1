"""A contact sheet: the map over every slide, small, under its id."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pathology_scaat.errors import ExportError
from pathology_scaat.export.raster.canvas import WARNING, fitting, fitting_name, font
from pathology_scaat.export.raster.colour_scale import ColourScale, legend_colours
from pathology_scaat.export.raster.overlay_png import NEARLY_ALL, all_of, little_evidence
from pathology_scaat.export.report.records import CONTACT_SHEET, ExportedCohort, small_picture
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.system.rounding import percent
from pathology_scaat.tissue.overlay import write_png

CELL_PX = 420
CAPTION_PX = 40
HEAD_PX = 66
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
    if record["drawn"] == "evidence" and record["model"]["nothing_learnt"]:
        return f"evidence for {target} not drawn: the model has learnt nothing"
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
    return f"{percent(share)} unlike training" if share and share >= 0.1 else ""


def _caption(cohort: ExportedCohort, record: dict[str, Any]) -> str:
    role = ROLE_SHORT[str(record["model"]["slide_role"])]
    earlier = "OF AN EARLIER RUN" if cohort.of_earlier_run(record) else ""
    return "; ".join(t for t in (earlier, role, unlike_words(record), evidence_words(record)) if t)


def _head(
    draw: ImageDraw.ImageDraw,
    sheet: Image.Image,
    records: list[dict[str, Any]],
    warning: str,
    methods: Mapping[str, int],
) -> None:
    """One line of what is shown and how to read the colours."""
    scales = {(float(r["colour_scale"]["vmax"]), float(r["colour_scale"]["floor"]))
              for r in records}  # fmt: skip
    targets = {str(r["target_class"]) for r in records}
    top, floor = min(scales)
    one = f"one scale, top {top:.3g}, below {floor:.3g} nothing is drawn"
    n_models = len({str(r["model_fingerprint"]) for r in records})
    why = "slides of several models" if n_models > 1 else "slides exported with several settings"
    scale = one if len(scales) == 1 else f"{why}: scales differ"
    if len(methods) > 1:
        scale += f"; maps by {' and '.join(methods)}: they do not compare"
    large, small = font(17), font(12)
    left = max(sheet.width - BAR_PX[0] - GAP_PX, sheet.width // 2)
    room = left - 2 * GAP_PX
    drawn = str(records[0]["drawn"]).capitalize()
    count = f"{len(records)} slide{'' if len(records) == 1 else 's'}"
    title = f"{drawn} for {', '.join(sorted(targets))}: {count}"
    draw.text((GAP_PX, 6), fitting(title, large, room), fill="black", font=large)
    quality = f"model {records[0]['model']['quality']}" if n_models == 1 else ""
    draw.text((GAP_PX, 29), fitting(scale, small, room), fill=GREY, font=small)
    line = warning or quality
    width = sheet.width - 2 * GAP_PX
    if line:
        draw.text((GAP_PX, 46), fitting(line, small, width), fill=WARNING if warning else GREY,
                  font=small)  # fmt: skip
    colours = ColourScale(top, "", str(records[0]["parameters"]["colormap"]), floor)
    strip = np.repeat(legend_colours(colours, BAR_PX[0])[None], BAR_PX[1], axis=0)
    sheet.paste(Image.fromarray(strip), (left, 8))
    draw.text((left, 26), "none", fill=GREY, font=small)
    draw.text((left + BAR_PX[0], 26), "top", fill=GREY, font=small, anchor="ra")


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
    sheet = Image.new("RGB", (columns * cell[0], HEAD_PX + rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    _head(draw, sheet, found, cohort.warning, cohort.methods)
    face, small = font(14), font(12)
    for position, record in enumerate(found):
        x, y = position % columns * cell[0], HEAD_PX + position // columns * cell[1]
        room = side - 2 * GAP_PX
        picture = _picture(cohort, record, room)
        if picture is not None:
            height, width = picture.shape[:2]
            corner = (x + (side - width) // 2, y + CAPTION_PX + (room - height) // 2)
            sheet.paste(Image.fromarray(picture), corner)
        slide_id = fitting(str(record["slide_id"]), face, room)
        draw.text((x + GAP_PX, y + 2), slide_id, fill="black", font=face)
        caption = fitting_name(_caption(cohort, record), str(record["target_class"]), small, room)
        draw.text((x + GAP_PX, y + 21), caption, fill=GREY, font=small)
    path = cohort.overlay_dir / CONTACT_SHEET
    write_png(np.asarray(sheet), path, {})
    return path

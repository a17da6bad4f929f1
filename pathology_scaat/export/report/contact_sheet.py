"""A contact sheet: the map over every slide, small, under its id."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.errors import ExportError
from pathology_scaat.export.raster.overlay_png import legend_colours
from pathology_scaat.export.report.records import CONTACT_SHEET, ExportedCohort, small_picture

CELL_PX = 420
CAPTION_PX = 40
HEAD_PX = 56
GAP_PX = 12
MIN_COLUMNS = 3
MAX_SHEET_PX = 40_000_000
"""Pixels of a contact sheet; the pictures of a large cohort are made smaller."""
BAR_PX = (160, 14)
GREY = (90, 90, 90)


def columns_for(count: int) -> int:
    """Columns of an about square sheet with few empty places."""
    least = max(math.isqrt(max(count - 1, 0)) + 1, min(count, MIN_COLUMNS))
    return min(range(least, least + 3), key=lambda n: (-count % n, n))


def _picture(cohort: ExportedCohort, record: dict[str, Any], side_px: int) -> Image.Image | None:
    """The map over the slide without the frame of text around it; else the whole figure."""
    path = cohort.picture(record, "png", "figure")
    if path is None:
        return None
    return small_picture(path, side_px, record["files"][path.name].get("picture_px"))


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Any, width_px: int) -> str:
    """The text, its end cut off where it is too long."""
    if draw.textlength(text, font=font) <= width_px:
        return text
    while text and draw.textlength(text + "…", font=font) > width_px:
        text = text[:-1]
    return text + "…"


def _caption(record: dict[str, Any]) -> str:
    n = int(record["n_regions"])
    regions = f", {n} region{'' if n == 1 else 's'}" if n else ""
    return f"top of the scale {record['colour_scale']['vmax']:.3g}{regions}"


def _head(draw: ImageDraw.ImageDraw, sheet: Image.Image, records: list[dict[str, Any]]) -> None:
    """One line of what is shown and how to read the colours."""
    tops = {float(r["colour_scale"]["vmax"]) for r in records}
    own = len(tops) > 1 or len(records) == 1
    scale = "each slide on its own scale" if own else f"one scale, top {tops.pop():.3g}"
    font, small = ImageFont.load_default(18), ImageFont.load_default(13)
    draw.text((GAP_PX, 8), f"Saliency of {len(records)} slides", fill="black", font=font)
    draw.text((GAP_PX, 33), scale, fill=GREY, font=small)
    colormap = str(records[0]["parameters"]["colormap"])
    strip = np.repeat(legend_colours(colormap, BAR_PX[0])[None], BAR_PX[1], axis=0)
    left = max(sheet.width - BAR_PX[0] - GAP_PX, sheet.width // 2)
    sheet.paste(Image.fromarray(strip), (left, 10))
    draw.text((left, 30), "none", fill=GREY, font=small)
    draw.text((left + BAR_PX[0], 30), "top", fill=GREY, font=small, anchor="ra")


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
    _head(draw, sheet, found)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for position, record in enumerate(found):
        x, y = position % columns * cell[0], HEAD_PX + position // columns * cell[1]
        room = side - 2 * GAP_PX
        picture = _picture(cohort, record, room)
        if picture is not None:
            place = (x + (side - picture.width) // 2, y + CAPTION_PX + (room - picture.height) // 2)
            sheet.paste(picture, place)
        slide_id = _fitting(draw, str(record["slide_id"]), font, room)
        draw.text((x + GAP_PX, y + 2), slide_id, fill="black", font=font)
        caption = _fitting(draw, _caption(record), small, room)
        draw.text((x + GAP_PX, y + 21), caption, fill=GREY, font=small)
    path = cohort.overlay_dir / CONTACT_SHEET
    with atomic_path(path) as partial:
        sheet.save(partial, format="PNG")
    return path

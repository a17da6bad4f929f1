"""A cohort at a glance: a contact sheet, and a page that shows every slide without a network."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont

from pathology_scaat.errors import ExportError
from pathology_scaat.export.sidecar import read_sidecar
from pathology_scaat.provenance import atomic_path, fingerprint

CELL_PX = 420
CAPTION_PX = 22
MIN_COLUMNS = 4
MAX_SHEET_PX = 40_000_000
"""Pixels of a contact sheet; the pictures of a large cohort are made smaller."""
MAX_EMBEDDED = 100
"""Slides up to which a page holds its pictures; beyond, it shows the files beside it."""
PAGE_PICTURE_PX = 900
CONTACT_SHEET = "contact_sheet.png"
PAGE = "index.html"
HEAD_CHARACTERS = 400
"""The fingerprint stands within so many characters of the page's beginning."""


def exported_slides(overlay_dir: Path) -> list[dict[str, Any]]:
    """The records of all slides in a folder of overlays, by slide id."""
    records = (read_sidecar(path) for path in sorted(overlay_dir.glob("*.json")))
    return sorted((r for r in records if r is not None), key=lambda r: str(r["slide_id"]))


def _picture(overlay_dir: Path, record: dict[str, Any], *kinds: str) -> Path | None:
    """The first picture of the given formats that a slide has."""
    for kind in kinds:
        for name, entry in record["files"].items():
            path = overlay_dir / Path(name).name
            if entry.get("format") == kind and path.is_file():
                return path
    return None


def _small(path: Path, side_px: int) -> Image.Image:
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError:
        raise ExportError(path.name, "is a damaged picture", "export the slide again") from None
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return small


def write_contact_sheet(overlay_dir: Path) -> Path:
    """Write ``contact_sheet.png``: the overlay picture of every slide, small, with its id.

    Raises
    ------
    ExportError
        If no slide there has a picture.
    """
    found = [
        (str(record["slide_id"]), picture)
        for record in exported_slides(overlay_dir)
        if (picture := _picture(overlay_dir, record, "png", "figure"))
    ]
    if not found:
        raise ExportError(overlay_dir.name, "holds no pictures", "export with the format 'png'")
    columns = max(math.ceil(math.sqrt(len(found))), min(len(found), MIN_COLUMNS))
    rows = -(-len(found) // columns)
    side = min(CELL_PX, math.isqrt(MAX_SHEET_PX // (columns * rows)))
    cell = (side, side + CAPTION_PX)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for position, (slide_id, picture) in enumerate(found):
        x, y = position % columns * cell[0], position // columns * cell[1]
        small = _small(picture, side - 8)
        sheet.paste(small, (x + (cell[0] - small.width) // 2, y + CAPTION_PX))
        draw.text((x + 6, y + 3), slide_id[: side // 8], fill="black", font=font)
    path = overlay_dir / CONTACT_SHEET
    with atomic_path(path) as partial:
        sheet.save(partial, format="PNG")
    return path


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;"
    "color:#222}img{max-width:100%;border:1px solid #ddd}section{margin:2.5em 0}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;"
    "border-bottom:1px solid #ddd}code{font-size:90%}.note{color:#8a4b00}"
)
# nothing but what is in the page: no script, no network
_POLICY = "default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'"


def _data_uri(path: Path) -> str:
    stream = io.BytesIO()
    _small(path, PAGE_PICTURE_PX).save(stream, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _section(overlay_dir: Path, record: dict[str, Any], embed: bool) -> str:
    text = html.escape
    slide_id = text(str(record["slide_id"]))
    scale = record["colour_scale"]
    frame = record["coordinates"]
    facts = [
        ("tiles, regions", f"{record['n_tiles']:,}, {record['n_regions']:,}"),
        ("top of the colour scale", f"{scale['vmax']:.4g} ({scale['source']})"),
        ("saliency", record["map"]["formula"]),
        ("map", f"{record['map']['mpp']:.4g} µm/px"),
        ("QuPath frame", f"{frame['frame_size_px'][0]} x {frame['frame_size_px'][1]} px, offset "
         f"{frame['offset_px'][0]}, {frame['offset_px'][1]} ({frame['origin']})"),
        ("model", str(record["model_fingerprint"])[:16]),
    ]  # fmt: skip
    rows = "".join(f"<tr><th>{text(name)}<td>{text(str(value))}" for name, value in facts)
    files = ", ".join(f'<a href="{quote(n)}">{text(n)}</a>' for n in sorted(record["files"]))
    notes = "".join(f'<p class="note">{text(str(note))}</p>' for note in record["notes"])
    picture = _picture(overlay_dir, record, "figure", "png")
    shown = ""
    if picture:
        source = _data_uri(picture) if embed else quote(picture.name)
        shown = f'<img alt="{slide_id}" loading="lazy" src="{source}">'
    return (
        f'<section id="{slide_id}"><h2>{slide_id}</h2>{shown}<table>{rows}</table>'
        f"<p>{files}</p>{notes}</section>"
    )


def write_page(overlay_dir: Path, title: str = "Saliency maps") -> Path:
    """Write ``index.html``: every slide's picture, scale, frame, files and notes.

    One file that holds its pictures and asks for nothing else: it opens offline, from a USB
    stick or an e-mail. Beyond 100 slides it shows the pictures beside it instead. Raises
    :class:`ExportError` if no slide was exported there.
    """
    records = exported_slides(overlay_dir)
    if not records:
        raise ExportError(overlay_dir.name, "holds no exported slide", "run 'scaat export' first")
    links = " ".join(
        f'<a href="#{html.escape(str(r["slide_id"]))}">{html.escape(str(r["slide_id"]))}</a>'
        for r in records
    )
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="fingerprint" content="{cohort_fingerprint(records, title)}">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{len(records)} slides. Research use: saliency shows "
        f"what moved the model, not what is there.</p><p>{links}</p>"
    )
    path = overlay_dir / PAGE
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.write(head)
        for record in records:
            stream.write(_section(overlay_dir, record, len(records) <= MAX_EMBEDDED))
        stream.write("</html>\n")
    return path


def cohort_fingerprint(records: Sequence[dict[str, Any]], title: str) -> str:
    """What the page and the sheet are made of: the slides' records, and with them their files."""
    return fingerprint({"schema_version": 1, "title": title, "records": list(records)})


def _is_current(overlay_dir: Path, wanted: str, pictured: bool) -> bool:
    try:
        with (overlay_dir / PAGE).open(encoding="utf-8") as stream:
            head = stream.read(HEAD_CHARACTERS)
    except (OSError, UnicodeDecodeError):
        return False
    return wanted in head and (not pictured or (overlay_dir / CONTACT_SHEET).is_file())


def write_cohort(overlay_dir: Path, title: str = "Saliency maps") -> Sequence[Path]:
    """Write what shows a whole cohort, unless it is there: the contact sheet, then the page.

    The page comes last and carries the fingerprint of both, so that a run that was killed
    between them makes them again.

    Returns
    -------
    sequence of Path
        What was written; empty where the right files were there.
    """
    overlay_dir = Path(overlay_dir)
    records = exported_slides(overlay_dir)
    pictured = any(_picture(overlay_dir, r, "png", "figure") for r in records)
    if _is_current(overlay_dir, cohort_fingerprint(records, title), pictured):
        return []
    made = [write_contact_sheet(overlay_dir)] if pictured else []
    return [*made, write_page(overlay_dir, title)]

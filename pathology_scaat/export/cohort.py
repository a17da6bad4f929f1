"""A cohort at a glance: a contact sheet, and a page that shows every slide without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pathology_scaat.errors import ExportError
from pathology_scaat.export.sidecar import read_sidecar
from pathology_scaat.provenance import atomic_path

CELL_PX = 420
CAPTION_PX = 22
PAGE_PICTURE_PX = 1100
CONTACT_SHEET = "contact_sheet.png"
PAGE = "index.html"


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
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return small


def write_contact_sheet(overlay_dir: Path, columns: int = 4) -> Path:
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
    columns = min(columns, len(found))
    rows = -(-len(found) // columns)
    cell = (CELL_PX, CELL_PX + CAPTION_PX)
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for position, (slide_id, picture) in enumerate(found):
        x, y = position % columns * cell[0], position // columns * cell[1]
        small = _small(picture, CELL_PX - 8)
        sheet.paste(small, (x + (cell[0] - small.width) // 2, y + CAPTION_PX))
        draw.text((x + 6, y + 3), slide_id[:50], fill="black", font=font)
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
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def _data_uri(path: Path) -> str:
    stream = io.BytesIO()
    _small(path, PAGE_PICTURE_PX).save(stream, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _section(overlay_dir: Path, record: dict[str, Any]) -> str:
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
    files = ", ".join(f'<a href="{text(n)}">{text(n)}</a>' for n in sorted(record["files"]))
    notes = "".join(f'<p class="note">{text(str(note))}</p>' for note in record["notes"])
    picture = _picture(overlay_dir, record, "figure", "png")
    shown = f'<img alt="{slide_id}" src="{_data_uri(picture)}">' if picture else ""
    return (
        f'<section id="{slide_id}"><h2>{slide_id}</h2>{shown}<table>{rows}</table>'
        f"<p>{files}</p>{notes}</section>"
    )


def write_page(overlay_dir: Path, title: str = "Saliency maps") -> Path:
    """Write ``index.html``: every slide's picture, scale, frame, files and notes.

    One file that holds its pictures and asks for nothing else: it opens offline, from a USB
    stick or an e-mail. Raises :class:`ExportError` if no slide was exported there.
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
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{len(records)} slides. Research use: saliency shows "
        f"what moved the model, not what is there.</p><p>{links}</p>"
    )
    path = overlay_dir / PAGE
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.write(head)
        for record in records:
            stream.write(_section(overlay_dir, record))
        stream.write("</html>\n")
    return path


def write_cohort(overlay_dir: Path, title: str = "Saliency maps") -> Sequence[Path]:
    """Write what shows a whole cohort: the page, and the contact sheet if there are pictures."""
    overlay_dir = Path(overlay_dir)
    made = [write_page(overlay_dir, title)]
    pictured = any(_picture(overlay_dir, r, "png", "figure") for r in exported_slides(overlay_dir))
    return [*made, write_contact_sheet(overlay_dir)] if pictured else made

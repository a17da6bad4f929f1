"""A page that shows every slide of a cohort without a network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.checksums import EMPTY_CHECKSUM, text_with_checksum
from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.errors import ExportError
from pathology_scaat.export.report.records import (
    CHECKSUM_META,
    CONTACT_SHEET,
    PAGE,
    ExportedCohort,
    small_picture,
)

MAX_EMBEDDED = 100
"""Slides up to which a page holds its pictures; beyond, it shows the files beside it."""
PICTURE_PX = 1400

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;"
    "color:#222}h1{margin-bottom:.2em}img{max-width:100%;border:1px solid #ddd}"
    "section{margin:3em 0;border-top:3px solid #eee}table{border-collapse:collapse}"
    "td,th{padding:.25em .9em;text-align:left;vertical-align:top;font-weight:normal;"
    "border-bottom:1px solid #ddd}th{color:#555}thead th{color:#222;font-weight:600}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:90%}"
    ".use{background:#fff6e5;border-left:4px solid #e69f00;padding:.5em 1em}"
    ".note{color:#8a4b00}dt{font-weight:600;margin-top:.5em}dd{margin-left:1.5em}"
    "details{margin:1em 0}@media print{section{break-inside:avoid}}"
)
# nothing but what is in the page: no script, no network
_POLICY = "default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'"

_READING = (
    "<details><summary>How to read the pictures</summary><dl>"
    "<dt>Colour<dd>From transparent (no saliency) to yellow (the top of the slide's scale): how "
    "strongly the pixels moved the model's score of the class that is named. Slides have scales of "
    "their own unless one was set for the cohort, so that colours of two slides are compared by "
    "the numbers of their scales only."
    "<dt>Probability<dd>What the model holds each patch for; saliency says on which pixels that "
    "rests."
    "<dt>White, or the bare slide<dd>No tissue was found there, and nothing was computed: this is "
    "not a negative finding."
    "<dt>Regions<dd>The outlined annotations in the QuPath files: the slide's most salient pixels "
    "where the class is also probable.</dl></details>"
)

_FILE_WORDS = {
    "geojson": "drag onto the slide in QuPath",
    "geojson-plain": "QuPath objects, not packed",
    "ome-tiff": "the map's values, for QuPath and ImageJ",
    "rgb-tiff": "coloured map for OpenSlide viewers",
    "tile-png": "one pixel a tile",
    "png": "map over the slide",
    "figure": "all pictures of the slide",
    "csv": "table of scores",
    "annotation-store": "for TIAToolbox and TIAViz",
    "dicom": "DICOM",
}


def _data_uri(path: Path) -> str:
    stream = io.BytesIO()
    small_picture(path, PICTURE_PX).save(stream, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _overview(cohort: ExportedCohort) -> str:
    rows = []
    for record in cohort.records:
        slide_id = html.escape(str(record["slide_id"]))
        notes = len(record["notes"])
        rows.append(
            f'<tr><td><a href="#{slide_id}">{slide_id}</a><td class="n">{record["n_tiles"]:,}'
            f'<td class="n">{record["n_regions"]:,}'
            f'<td class="n">{record["colour_scale"]["vmax"]:.3g}<td>'
            + (f'<span class="note">{notes} note{"s"[: notes > 1]}</span>' if notes else "")
        )
    return (
        "<table><thead><tr><th>slide<th>tiles<th>regions of high saliency<th>top of the scale<th>"
        f"<tbody>{''.join(rows)}</table>"
    )


def _section(cohort: ExportedCohort, record: dict[str, Any], embed: bool) -> str:
    text = html.escape
    slide_id = text(str(record["slide_id"]))
    scale, frame = record["colour_scale"], record["coordinates"]
    width, height = frame["frame_size_px"]
    offset = frame["offset_px"]
    placed = "" if offset == [0, 0] else f", {offset[0]}, {offset[1]} px into the canvas"
    facts = [
        ("tiles, regions", f"{record['n_tiles']:,}, {record['n_regions']:,}"),
        ("top of the colour scale", f"{scale['vmax']:.4g} ({scale['source']})"),
        ("saliency", record["map"]["formula"]),
        ("map", f"{record['map']['mpp']:.4g} µm/px"),
        ("slide in QuPath", f"{width} x {height} px at {frame['slide_mpp']:.4g} µm/px{placed}"),
        ("model", str(record["model_fingerprint"])[:16]),
    ]
    rows = "".join(f"<tr><th>{text(name)}<td>{text(str(value))}" for name, value in facts)
    files = "".join(
        f'<tr><th><a href="{quote(name)}">{text(name)}</a>'
        f"<td>{text(_FILE_WORDS.get(str(entry['format']), ''))}"
        for name, entry in sorted(record["files"].items())
    )
    notes = "".join(f'<p class="note">{text(str(note))}</p>' for note in record["notes"])
    picture = cohort.picture(record, "figure", "png")
    shown = ""
    if picture:
        source = _data_uri(picture) if embed else quote(picture.name)
        shown = (
            f'<p><a href="{quote(picture.name)}"><img alt="saliency of {slide_id}" loading="lazy" '
            f'src="{source}"></a></p>'
        )
    return (
        f'<section id="{slide_id}"><h2>{slide_id}</h2>{shown}{notes}<table>{rows}</table>'
        f"<h3>Files</h3><table>{files}</table></section>\n"
    )


def write_page(cohort: ExportedCohort, title: str = "Saliency maps") -> Path:
    """Write ``index.html``: every slide's picture, scale, frame, files and notes.

    One file that holds its pictures and asks for nothing else: it opens offline, from a USB
    stick or an e-mail. Beyond 100 slides it shows the pictures beside it instead.

    Raises
    ------
    ExportError
        If no slide was exported there, or a picture is damaged.
    """
    if not cohort.records:
        raise ExportError(
            cohort.overlay_dir.name, "holds no exported slide", "run 'scaat export' first"
        )
    sheet = cohort.overlay_dir / CONTACT_SHEET
    stated = ""
    if sheet.is_file():
        stated = f'<meta name="contact-sheet" content="{file_sha256(sheet)}">'
    at_a_glance = f'<a href="{CONTACT_SHEET}">All at a glance</a>. ' if stated else ""
    count = len(cohort.records)
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="fingerprint" content="{cohort.fingerprint(title)}">'
        f'<meta name="seal" content="{EMPTY_CHECKSUM}">{stated}'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{count} slide{'s'[: count > 1]}. {at_a_glance}</p>"
        '<p class="use">For research. Saliency shows what moved the model, not what is there.</p>'
        f"{_READING}\n{_overview(cohort)}\n"
    )
    embed = count <= MAX_EMBEDDED
    text = head + "".join(_section(cohort, r, embed) for r in cohort.records) + "</html>\n"
    path = cohort.overlay_dir / PAGE
    with atomic_path(path) as partial:
        partial.write_bytes(text_with_checksum(text, CHECKSUM_META).encode())
    return path

"""A page that shows every slide of a cohort without a network."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any
from urllib.parse import quote

import imagecodecs

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.checksums import EMPTY_CHECKSUM, text_with_checksum
from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.errors import ExportError
from pathology_scaat.export.model_facts import NO_YEARS, ROLE_WORDS
from pathology_scaat.export.report.contact_sheet import ROLE_SHORT, evidence_words
from pathology_scaat.export.report.differences import Difference
from pathology_scaat.export.report.records import (
    CHECKSUM_META,
    CONTACT_SHEET,
    PAGE,
    ExportedCohort,
    small_picture,
)
from pathology_scaat.saliency.methods_of_maps import method_words
from pathology_scaat.system.rounding import decimals, percent

MAX_EMBEDDED = 100
"""Slides up to which a page holds its pictures; beyond, it shows the files beside it."""
PICTURE_PX = 1400
NOT_PREDICTED = "none by this model"

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;"
    "color:#222}h1{margin-bottom:.2em}img{max-width:100%;border:1px solid #ddd}"
    "section{margin:3em 0;border-top:3px solid #eee}table{border-collapse:collapse}"
    "td,th{padding:.25em .9em;text-align:left;vertical-align:top;font-weight:normal;"
    "border-bottom:1px solid #ddd;overflow-wrap:break-word}"
    "th{color:#555}thead th{color:#222;font-weight:600}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:90%}"
    ".bad{background:#b00000;color:#fff;padding:.7em 1em;font-weight:600}"
    ".use{background:#fff6e5;border-left:4px solid #e69f00;padding:.5em 1em}"
    ".note{color:#8a4b00}dt{font-weight:600;margin-top:.5em}dd{margin-left:1.5em}"
    "details{margin:1em 0}.wide{overflow-x:auto}h2,a{overflow-wrap:anywhere}"
    "table.all td:first-child{min-width:6em}"
    "@media(max-width:50em){body{margin:1em auto}td,th{padding:.25em .4em}}"
    "@media print{body{max-width:none;font-size:11pt}section{break-inside:avoid}"
    "table{font-size:9pt}.wide{overflow:visible}td,th{padding:.2em .3em}}"
)
CONTENT_POLICY = "default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'"
"""Content-Security-Policy of the page: nothing but what is in it; no script, no network."""

_READING = (
    "<details><summary>How to read this page and the pictures</summary><dl>"
    "<dt>Slide prediction<dd>What the model says of the whole slide: the probability of each "
    "class, and how uncertain that is (0 certain, 1 undecided). Possible at 90 %: the classes that "
    "are left where, of patients like those it was checked on, nine in ten keep their true one. "
    "Where not exactly one is left, or much of the slide is unlike the training data, the patient "
    "is referred to a pathologist."
    "<dt>Tile<dd>A piece of the slide that the model judged on its own; QuPath shows them."
    "{of_slides}"
    "<dt>Probability<dd>How probable the class is to the model, patch by patch; always from 0 to "
    "1. Whether it is calibrated is said of each model above."
    "<dt>Evidence<dd>The same probability, strongest where in the patch it comes from: where to "
    "look first. One scale for all slides of a model (what set it is said with each slide); "
    "what stays below that of other classes, where that is known, is not drawn, so that a slide "
    "without evidence is bare."
    "<dt>Saliency<dd>Where in a patch the model's score comes from, by the method that each "
    "picture names: class activation of its layers, or how strongly a pixel moves the score, which "
    "is large at rims and small inside a tumour that the model is sure of. It does not say how "
    "probable the class is."
    "<dt>Slide without colour<dd>It was looked at, and the model found less than the scale begins "
    "with. That is no diagnosis: it does not mean that the class is not there."
    "<dt>Paled<dd>No tissue was found there, and nothing was computed."
    "<dt>Hatched<dd>Unlike the tissue that the model was trained on, more so than 99 in 100 "
    "held-out patches, in what the model sees in it or in stain and texture. It is not judged: it "
    "has no colour, region or class, whatever the model says of it, and that is no finding. A "
    "model that does not record its training tissue hatches nothing."
    "<dt>Regions<dd>The outlined annotations in the QuPath files: where evidence is drawn and the "
    "class is more probable than not.</dl></details>"
)

_OF_SLIDES = (
    "<dt>Highest probability in a tile<dd>This model learnt from whole slides: a tile has the "
    "probability that a slide of such tiles alone would have. One that says nothing for or against "
    "has as much of each class, 0.5 of two: that is what the tiles of a slide without the class "
    "have, and no finding."
)

_FILE_WORDS = {
    "geojson": "drag onto the slide in QuPath",
    "geojson-plain": "QuPath objects, not packed",
    "ome-tiff": "the map's values, for QuPath and ImageJ",
    "rgb-tiff": "coloured map for OpenSlide viewers",
    "tile-png": "one pixel per tile",
    "png": "a map over the slide",
    "figure": "all pictures of the slide",
    "csv": "table of scores",
    "annotation-store": "for TIAToolbox and TIAViz",
    "dicom": "DICOM",
    "dicom-map": "DICOM, the map's values",
    "dicom-sr": "DICOM, score, regions and verdicts",
}


def _data_uri(path: Path) -> str:
    encode: Any = imagecodecs.jpeg8_encode  # its stubs know no arrays
    packed = bytes(encode(small_picture(path, PICTURE_PX), level=85))
    return "data:image/jpeg;base64," + base64.b64encode(packed).decode()


def _reading(cohort: ExportedCohort) -> str:
    """How to read the page; of models that learnt from labels of slides, what a tile's
    probability is."""
    of_slides = any(model.get("of_slides") for model in cohort.models)
    return _READING.replace("{of_slides}", _OF_SLIDES if of_slides else "")


def _overview(cohort: ExportedCohort) -> str:
    rows = []
    for record in cohort.records:
        slide_id = html.escape(str(record["slide_id"]))
        notes = len(cohort.notes(record))
        rows.append(
            f'<tr><td><a href="#{slide_id}">{slide_id}</a>'
            f"<td>{html.escape(str(record['model'].get('prediction') or NOT_PREDICTED))}"
            f"<td>{html.escape(evidence_words(record))}"
            f'<td class="n">{_number(record["slide_summary"]["target_probability_max"])}'
            f'<td class="n">{_exported(record, "n_regions")}'
            f'<td class="n">{_exported(record, "n_tiles")}'
            f'<td class="n">{_share(record["slide_summary"]["unlike_share"])}'
            f"<td>{html.escape(ROLE_SHORT[str(record['model']['slide_role'])] or 'not known')}<td>"
            + (f'<span class="note">{notes} note{"s"[: notes > 1]}</span>' if notes else "")
            + _earlier(cohort, record)
        )
    targets = sorted({str(r["target_class"]) for r in cohort.records})
    return (
        '<div class="wide"><table class="all"><thead><tr><th>slide<th>slide prediction<th>'
        f"{html.escape(' or '.join(sorted({str(r['drawn']) for r in cohort.records})))}"
        f"<th>highest probability of {html.escape(', '.join(targets))} in a tile"
        "<th>regions<th>tiles<th>of them unlike the training data"
        f"<th>in training<th>notes<tbody>{''.join(rows)}</table></div>"
    )


def _earlier(cohort: ExportedCohort, record: dict[str, Any]) -> str:
    """That a slide's results are no part of the last run, and why."""
    why = cohort.of_earlier_run(record)
    return f'<p class="note">OF AN EARLIER RUN: {html.escape(why)}</p>' if why else ""


def _exported(record: dict[str, Any], name: str) -> str:
    """How many tiles or regions there are; that none were exported is no count of them."""
    formats = {str(entry.get("format")) for entry in record["files"].values()}
    if not record[name] and not formats & {"geojson", "geojson-plain"}:
        return "not exported"
    return f"{record[name]:,}"


def _number(value: Any) -> str:
    return "" if value is None else html.escape(decimals(float(value)))


def _share(value: Any) -> str:
    return "not known" if value is None else percent(float(value))


def _failed(cohort: ExportedCohort) -> str:
    """The slides without a result: a cohort is not what was left of it."""
    if not cohort.failed:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(f.slide_id)}<td>{html.escape(f.stage)}<td>{html.escape(f.reason)}"
        for f in cohort.failed
    )
    count = len(cohort.failed)
    return (
        f'<h2 id="failed">{count} slide{"s"[: count > 1]} without a result</h2><div class="wide">'
        f"<table><thead><tr><th>slide<th>failed in<th>why<tbody>{rows}</table></div>"
    )


def _differences(cohort: ExportedCohort) -> str:
    """Where models differ about slides that have no map here; the others' cards say it."""
    shown = {str(r["slide_id"]) for r in cohort.records}
    rows = "".join(
        f"<tr><td>{html.escape(slide_id)}<td>{_difference(one)}"
        for slide_id, one in sorted(cohort.differences.items())
        if slide_id not in shown
    )
    if not rows:
        return ""
    return (
        "<h2>Slides without a map, predicted by several models together</h2>"
        f"<table><tbody>{rows}</table>"
    )


def _difference(one: Difference) -> str:
    return (
        f'{html.escape(one.text)} <a href="{quote(one.link)}">How far, patch by patch</a>: drag '
        "onto the slide in QuPath (tiles)."
    )


def _models(cohort: ExportedCohort) -> str:
    """The model (or models): quality, slides, trust card."""
    lines = []
    for model in cohort.models:
        role = str(model["quality"])
        lines.append(
            f"<p>Model <code>{html.escape(str(model['fingerprint'])[:16])}</code>, "
            f"{html.escape(str(model['slides']))}; {html.escape(role)}. Its probabilities are "
            f"{html.escape(str(model.get('probability', 'perhaps not calibrated')))}. Age of its "
            f"data: {html.escape(str(model.get('age_of_data', NO_YEARS)))}.</p>"
        )
    return "".join(lines) + _mixed(cohort) + _card(cohort)


def _card(cohort: ExportedCohort) -> str:
    """Where the trust card is, and of which model."""
    makes = "<code>scaat evaluate</code> makes one"
    if not cohort.card:
        return f"<p>No trust card yet: {makes}.</p>"
    link, name = f'<a href="{quote(cohort.card)}">', html.escape(cohort.card_of[:16])
    if not cohort.card_is_of_these:
        which = f"another model (<code>{name}</code>)" if name else "a model that is not known"
        return f"<p>No trust card of this: {link}the one there</a> is of {which}; {makes}.</p>"
    if len(cohort.models) > 1:
        return f"<p>{link}Trust card</a> of model <code>{name}</code>, and of no other.</p>"
    if not cohort.card_is_of_these_maps:
        by, here = html.escape(cohort.card_method), html.escape(method_words(cohort.methods))
        anew = "" if len(cohort.methods) > 1 else f" {makes} of them."
        return f"<p>{link}Trust card</a> of maps by '{by}'; those here are by {here}.{anew}</p>"
    return f"<p>{link}Trust card</a>: how far its maps can be trusted.</p>"


def _mixed(cohort: ExportedCohort) -> str:
    """That maps were made by different methods, where they were."""
    methods = cohort.methods
    if len(methods) < 2:
        return ""
    return f'<p class="note">Maps are made by {html.escape(method_words(methods))}.</p>'


def _saliency_words(cohort: ExportedCohort, record: dict[str, Any]) -> str:
    """The method of a map and how its patches were put together."""
    method = cohort.method_of(record)
    return (f"by '{method}'; " if method else "") + str(record["map"]["formula"])


def _section(cohort: ExportedCohort, record: dict[str, Any], embed: bool) -> str:
    text = html.escape
    slide_id = text(str(record["slide_id"]))
    scale, frame, model = record["colour_scale"], record["coordinates"], record["model"]
    width, height = frame["frame_size_px"]
    offset = frame["offset_px"]
    offset_text = "" if offset == [0, 0] else f", {offset[0]}, {offset[1]} px into the canvas"
    facts = [
        ("evidence", evidence_words(record)),
        ("slide prediction", model.get("prediction") or NOT_PREDICTED),
        ("in training", ROLE_WORDS[str(model["slide_role"])]),
        ("tiles unlike the training data", _share(record["slide_summary"]["unlike_share"])),
        ("tiles, regions", f"{_exported(record, 'n_tiles')}, {_exported(record, 'n_regions')}"),
        (
            "colour scale of evidence",
            f"top {scale['vmax']:.4g} ({scale['source']}); below {scale['floor']:.4g} "
            "nothing is drawn",
        ),
        ("saliency", _saliency_words(cohort, record)),
        ("map", f"{record['map']['mpp']:.4g} µm/px"),
        (
            "slide in QuPath",
            f"{width} x {height} px at {frame['slide_mpp']:.4g} µm/px{offset_text}",
        ),
        ("model", f"{str(record['model_fingerprint'])[:16]}: {model['quality']}"),
    ]
    rows = "".join(f"<tr><th>{text(name)}<td>{text(str(value))}" for name, value in facts)
    if differ := cohort.differences.get(str(record["slide_id"])):
        rows += f"<tr><th>where models differ<td>{_difference(differ)}"
    files = "".join(
        f'<tr><th><a href="{quote(name)}">{text(name)}</a>'
        f"<td>{text(_FILE_WORDS.get(str(entry['format']), ''))}"
        for name, entry in sorted(record["files"].items())
    )
    notes = "".join(f'<p class="note">{text(str(note))}</p>' for note in cohort.notes(record))
    picture = cohort.picture(record, "figure", "png")
    shown = ""
    if picture:
        source = _data_uri(picture) if embed else quote(picture.name)
        shown = (
            f'<p><a href="{quote(picture.name)}"><img alt="maps of {slide_id}" loading="lazy" '
            f'src="{source}"></a></p>'
        )
    return (
        f'<section id="{slide_id}"><h2>{slide_id}</h2>{_earlier(cohort, record)}{shown}{notes}'
        f'<div class="wide"><table>{rows}</table></div>'
        f'<h3>Files</h3><div class="wide"><table>{files}</table></div></section>\n'
    )


def write_page(cohort: ExportedCohort, title: str = "Evidence maps") -> Path:
    """Write ``index.html``: the model, every slide's picture, scale, files, and what failed.

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
    if sheet.is_file() and any(cohort.picture(r, "png", "figure") for r in cohort.records):
        stated = f'<meta name="contact-sheet" content="{file_sha256(sheet)}">'
    at_a_glance = f'<a href="{CONTACT_SHEET}">All at a glance</a>. ' if stated else ""
    count, failed = len(cohort.records), len(cohort.failed)
    lost = f'; <a href="#failed">{failed} without a result</a>' if failed else ""
    if earlier := sum(bool(cohort.of_earlier_run(r)) for r in cohort.records):
        lost = f" ({earlier} of them of an earlier run){lost}"
    warning = ""
    if cohort.warning:
        warning = f'<p class="bad">{html.escape(cohort.warning)}</p>'
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="fingerprint" content="{cohort.fingerprint(title)}">'
        f'<meta name="checksum" content="{EMPTY_CHECKSUM}">{stated}'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style>'
        f"<h1>{html.escape(title)}</h1>{warning}"
        f"<p>{count} slide{'s'[: count > 1]}{lost}. {at_a_glance}</p>{_models(cohort)}"
        '<p class="use">For research. The maps show what moved the model, not what is there.</p>'
        f"{_reading(cohort)}\n{_overview(cohort)}\n{_failed(cohort)}{_differences(cohort)}\n"
    )
    embed = count <= MAX_EMBEDDED
    text = head + "".join(_section(cohort, r, embed) for r in cohort.records) + "</html>\n"
    path = cohort.overlay_dir / PAGE
    with atomic_path(path) as partial:
        partial.write_bytes(text_with_checksum(text, CHECKSUM_META).encode())
    return path

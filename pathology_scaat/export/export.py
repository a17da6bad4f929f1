"""Everything that one slide's map is exported to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.fingerprint import fingerprint, versions
from pathology_scaat.artifacts.output_names import FORMAT_SUFFIXES, overlay_name, plug_in_name
from pathology_scaat.artifacts.urls import SlideLocation, slide_location
from pathology_scaat.errors import ExportError
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.context import Context
from pathology_scaat.export.exporters import EXPORTERS
from pathology_scaat.export.qupath.model_words import ModelWords
from pathology_scaat.export.sidecar import (
    RULES,
    SCHEMA_VERSION,
    OtherFiles,
    current_formats,
    file_entry,
    read_sidecar,
    record_before_writing,
    remove_files,
    sidecar_path,
    with_other_files,
    write_sidecar,
)
from pathology_scaat.export.slide_findings import WITH_FINDINGS, SlideFindings
from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.stitching.slide_map import SlideMap
from pathology_scaat.stitching.source import SaliencySource


@dataclass(frozen=True)
class ExportResult:
    """What exporting a slide did.

    ``files`` are names in the overlay folder; ``skipped`` means that they were there already.
    """

    slide_id: str
    files: tuple[str, ...]
    n_tiles: int
    n_regions: int
    skipped: bool
    seconds: float
    fingerprint: str
    notes: tuple[str, ...] = ()


def file_name(slide_id: str, kind: str, writer: Any) -> str:
    """Name of the file that an exporter writes for a slide, such as ``s1.geojson.gz``.

    Parameters
    ----------
    slide_id : str
    kind : str
        Registered name of the format; ``writer`` is its exporter.
    writer : callable
        Asked for its ``suffix`` (with the dot) if it comes from another package.

    Raises
    ------
    UsageError
        If an exporter of another package has no valid ``suffix``.
    """
    if kind in FORMAT_SUFFIXES:
        return overlay_name(slide_id, FORMAT_SUFFIXES[kind])
    return plug_in_name(slide_id, kind, getattr(writer, "suffix", ""))


def export_fingerprint(
    slide_map: SlideMap,
    config: ExportConfig,
    with_slide: bool,
    with_tissue: bool = False,
    facts: ModelWords | None = None,
) -> str:
    """What a slide's exports are made from; which formats are asked for does not enter.

    Pictures differ with and without slide and tissue.
    """
    parameters = {k: v for k, v in config.parameters().items() if k != "formats"}
    return fingerprint(
        {
            "schema_version": SCHEMA_VERSION,
            "rules": RULES,
            "map": slide_map.meta.fingerprint,
            "parameters": parameters,
            "facts": facts.as_json() if facts is not None else {},
            "with_slide": with_slide,
            "with_tissue": with_tissue,
        }
    )


def _made_from(kind: str, wanted: str, findings: SlideFindings) -> str:
    """What a slide's file of one format is made from; with verdicts where the format holds them."""
    if kind not in WITH_FINDINGS or not findings:
        return wanted
    return fingerprint({"exports": wanted, "findings": findings.as_json()})


def export_slide(
    map_path: Path,
    saliency_path: Path,
    overlay_dir: Path,
    config: ExportConfig | None = None,
    *,
    slide_path: SlideLocation | None = None,
    mpp: float | None = None,
    tissue_path: Path | None = None,
    facts: ModelWords | None = None,
    findings: SlideFindings | None = None,
    overwrite: bool = False,
    prune: bool = False,
) -> ExportResult:
    """Write a slide's map as the files that viewers open; files of other formats stay.

    Parameters
    ----------
    map_path, saliency_path : Path
        Slide map and the saliency store that it was stitched from.
    overlay_dir : Path
        Folder for ``<slide_id>.*``; ``<slide_id>.json`` records frame, offset and hashes.
    config : ExportConfig, optional
    slide_path : Path or SlideUrl, optional
        The slide, for the pictures; without it they are drawn on grey.
    mpp : float, optional
        The manifest's µm/px of the slide.
    tissue_path : Path, optional
        Picture of the tissue mask, for the figure.
    facts : ModelWords, optional
        What is known of the model; left out where the map is another model's.
    findings : SlideFindings, optional
        Score and verdicts of the slide; those of another model are left out.
    overwrite : bool
        Write anew even where the right files are.
    prune : bool
        Remove the slide's files of other formats and of earlier maps, those that its record
        names and that nobody changed since.

    Raises
    ------
    StoreError
        If the map or the saliency store is missing or damaged.
    ExportError
        If map, saliency and slide do not belong together, or a format cannot be written.
    """
    config = config or ExportConfig()
    started = time.perf_counter()
    slide_map, source = SlideMap(Path(map_path)), SaliencySource(Path(saliency_path))
    if slide_map.meta.saliency_fingerprint != source.meta.fingerprint:
        raise ExportError(
            slide_map.name, "was stitched from other saliency than this", "stitch the slide again"
        )
    slide_id = slide_map.meta.slide_id
    overlay_dir = Path(overlay_dir)
    overlay_dir.mkdir(parents=True, exist_ok=True)
    record_path = sidecar_path(overlay_dir, slide_id)
    facts = (facts or ModelWords()).of_map(slide_map.meta.model_fingerprint)
    wanted = export_fingerprint(
        slide_map, config, slide_path is not None, tissue_path is not None, facts
    )
    findings = (findings or SlideFindings()).of_map(slide_map.meta.model_fingerprint)
    made_from = {kind: _made_from(kind, wanted, findings) for kind in config.formats}
    old = read_sidecar(record_path)
    have: frozenset[str] = frozenset()
    if old and not overwrite:
        have = frozenset(
            kind
            for kind, print_ in made_from.items()
            if kind in current_formats(old, overlay_dir, print_)
        )
    todo = [kind for kind in config.formats if kind not in have]
    other = OtherFiles.of(old, overlay_dir, todo, slide_map.meta.fingerprint)
    surplus = other.without(config.formats) if prune else {}
    if old is not None and not todo and not surplus:
        return _result(old, True, time.perf_counter() - started)
    location = None if slide_path is None else slide_location(slide_path)
    context = Context(slide_map, source, config, location, mpp, tissue_path, facts, findings)
    if config.vmax is not None and config.drawn == "evidence" and {"png", "figure"} & set(todo):
        context.notes.append(
            "--vmax is the top of saliency, and pictures show evidence: --evidence-top is theirs"
        )
    record_before_writing(record_path, old, todo)
    with closing(context):
        files = _written(context, overlay_dir, todo, made_from)
        if surplus:
            other = other.pruned(config.formats)
            context.notes.extend(remove_files(overlay_dir, surplus))
        record = with_other_files(_record(context, wanted, files), old, other)
    write_sidecar(record_path, record)
    return _result(record, False, time.perf_counter() - started)


def _written(
    context: Context, overlay_dir: Path, kinds: Sequence[str], made_from: Mapping[str, str]
) -> dict[str, Any]:
    """Write the files of some formats; their entries for the record, by name."""
    files: dict[str, Any] = {}
    for kind in kinds:
        n_notes = len(context.notes)
        writer = EXPORTERS.load(kind, "--formats")
        path = overlay_dir / file_name(context.slide_map.meta.slide_id, kind, writer)
        frame = writer(path, context)
        common = {"made_from": made_from[kind], "notes": context.notes[n_notes:]}
        for beside in context.beside:
            files[beside.name] = {
                **file_entry(beside, kind, frame),
                **context.extras.get(beside.name, {}),
                **common,
            }
        context.beside.clear()
        extras = context.extras.get(path.name, {})
        files[path.name] = {**file_entry(path, kind, frame), **common, **extras}
    return files


def _record(context: Context, wanted: str, files: dict[str, Any]) -> dict[str, Any]:
    meta, frame, pictures = context.slide_map.meta, context.qupath_frame, context.pictures
    return {
        "slide_id": meta.slide_id,
        "fingerprint": wanted,
        "map_fingerprint": meta.fingerprint,
        "slide_fingerprint": meta.slide_fingerprint,
        "model_fingerprint": meta.model_fingerprint,
        "coordinates": {
            "origin": frame.origin,
            "offset_px": [frame.offset_x_px, frame.offset_y_px],
            "frame_size_px": [frame.width_px, frame.height_px],
            "slide_size_px": [meta.slide.size_px.width, meta.slide.size_px.height],
            "slide_mpp": meta.slide.mpp,
        },
        "scanned_px": asdict(meta.slide.frame_px),
        "classes": [
            {"name": given, "qupath_name": shown.name, "color": list(shown.colour)}
            for given, shown in zip(meta.class_names, context.classes, strict=True)
        ],
        "map": {
            "scale_px": meta.scale_px,
            "mpp": meta.mpp,
            "formula": meta.formula,
            "method": meta.method,
        },
        "target_class": meta.target_class,
        "classes_explained": list(meta.targets),
        "drawn": context.config.drawn,
        "colour_scale": pictures.scale(context.config.drawn, meta.target_class).as_record(),
        "saliency_scale": pictures.scale("saliency", meta.target_class).as_record(),
        "model": {**context.words.as_json(), **context.facts.as_record()},
        "slide_summary": _summary(context),
        "n_tiles": context.n_tiles,
        "n_regions": len(context.regions.regions) if "regions" in context.__dict__ else 0,
        "files": files,
        "notes": context.notes,
        "parameters": context.config.parameters(),
        "versions": versions(),
    }


def _summary(context: Context) -> dict[str, Any]:
    """What the pages say of the slide: its highest probability, and what stands out."""
    meta, source = context.slide_map.meta, context.source
    probability = source.target_probability
    unlike = source.unlike
    found: dict[str, Any] = {
        "target_probability_mean": _rounded(probability.mean()) if len(probability) else None,
        "target_probability_max": _rounded(probability.max()) if len(probability) else None,
        "unlike_share": (
            None if unlike is None or not len(unlike)
            else _rounded((unlike >= UNLIKE_PERCENTILE).mean())
        ),
    }  # fmt: skip
    if "png" in context.config.formats or "figure" in context.config.formats:
        shown = context.pictures.get(context.config.drawn, meta.target_class)
        found["drawn_um2"] = 0.0 if shown.is_bare else round(shown.drawn_um2, 1)
        if shown.is_bare and shown.drawn_um2:
            found["too_little_um2"] = round(shown.drawn_um2, 1)
        found["not_judged"] = _rounded(shown.not_judged)
    return found


def _rounded(value: Any) -> float:
    rounded = float(f"{float(value):.5g}")
    return float(value) if rounded == 1.0 else rounded  # what is nearly all is not all


def _result(record: dict[str, Any], skipped: bool, seconds: float) -> ExportResult:
    return ExportResult(
        slide_id=str(record["slide_id"]),
        files=tuple(record["files"]),
        n_tiles=int(record["n_tiles"]),
        n_regions=int(record["n_regions"]),
        skipped=skipped,
        seconds=seconds,
        fingerprint=str(record["fingerprint"]),
        notes=tuple(record["notes"]),
    )

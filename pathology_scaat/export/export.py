"""Everything that one slide's map is exported to."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pathology_scaat.artifacts.fingerprint import fingerprint, versions
from pathology_scaat.artifacts.output_names import FORMAT_SUFFIXES, overlay_name
from pathology_scaat.artifacts.urls import SlidePlace, slide_place
from pathology_scaat.errors import ExportError
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.dicom.objects import write_dicom
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.model_facts import NOTHING_LEARNT, ROLE_WORDS, ModelFacts
from pathology_scaat.export.qupath.geojson import region_features, tile_features, write_geojson
from pathology_scaat.export.qupath.model_words import ModelWords
from pathology_scaat.export.qupath.palette import (
    QuPathClass,
    alike_notes,
    qupath_classes,
    qupath_name,
)
from pathology_scaat.export.qupath.regions import RegionSet, find_regions
from pathology_scaat.export.raster.figure import TopPatch, top_patches, write_figure
from pathology_scaat.export.raster.ome_tiff import write_ome_tiff
from pathology_scaat.export.raster.overlay_png import (
    MapPictures,
    channel_of,
    shown_classes,
    write_overlay_png,
    zoom_of,
)
from pathology_scaat.export.raster.rgb import write_rgb_tiff, write_tile_png
from pathology_scaat.export.raster.thumbnail import blank, frame_thumbnail
from pathology_scaat.export.sidecar import (
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
from pathology_scaat.export.tables import write_annotation_store, write_csv
from pathology_scaat.export.tiles import TileTable, tile_table
from pathology_scaat.geometry import SizePx
from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.slides import open_slide
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.stitching.config import StitchConfig
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


@dataclass
class Context:
    """What the writers of one slide share; each part is made when first asked for."""

    slide_map: SlideMap
    source: SaliencySource
    config: ExportConfig
    slide_path: SlidePlace | None
    mpp: float | None
    tissue_path: Path | None
    words: ModelWords = field(default_factory=ModelWords)
    notes: list[str] = field(default_factory=list)
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    beside: list[Path] = field(default_factory=list)
    n_tiles: int = 0

    @property
    def key(self) -> str:
        """What object ids are made from, beside an object's kind and place.

        The slide alone: the overlay of another model takes the place of the last.
        """
        return self.slide_map.meta.slide_fingerprint

    @cached_property
    def qupath_frame(self) -> ExportFrame:
        return ExportFrame.of(self.slide_map.meta.slide, self.config.qupath_origin)

    @cached_property
    def map_frame(self) -> ExportFrame:
        return ExportFrame.of(self.slide_map.meta.slide, "bounds")

    @cached_property
    def full_frame(self) -> ExportFrame:
        return ExportFrame.of(self.slide_map.meta.slide, "full")

    @cached_property
    def stitch_config(self) -> StitchConfig:
        return StitchConfig(**self.slide_map.meta.parameters)

    @cached_property
    def classes(self) -> tuple[QuPathClass, ...]:
        return qupath_classes(self.slide_map.meta.class_names, self.words.colours())

    @cached_property
    def tiles(self) -> TileTable:
        return tile_table(self.source, self.stitch_config, self.config.tile_shape)

    @cached_property
    def regions(self) -> RegionSet:
        target = self.slide_map.meta.target_class
        threshold = self.pictures.scale(self.config.drawn, target).floor
        if self.facts.nothing_learnt:
            threshold = math.inf  # no region where nothing is drawn
        found = find_regions(self.slide_map, self.qupath_frame, self.config, threshold)
        if found.n_left_out:
            self.notes.append(
                f"{found.n_left_out} of {found.n_found} high-saliency regions left out "
                f"(the largest {len(found.regions)} are kept)"
            )
        return found

    @cached_property
    def facts(self) -> ModelFacts:
        return ModelFacts.of(self.slide_map.meta)

    @cached_property
    def pictures(self) -> MapPictures:
        return MapPictures(
            self.slide_map, self.picture_level, lambda: self.base, self.slide_path is not None,
            self.facts, self.config,
        )  # fmt: skip

    @cached_property
    def picture_level(self) -> int:
        return self.slide_map.level_for(self.config.png_max_px)

    @cached_property
    def base(self) -> RgbImage:
        """The slide under the map; grey where the slide is not at hand."""
        zoom = zoom_of(self.slide_map, self.picture_level)
        whole = self.slide_map.size_px(self.picture_level)
        size = SizePx(whole.width * zoom, whole.height * zoom)
        if self.slide_path is None:
            self.notes.append("pictures show no slide: it was not given")
            return blank(size)
        with open_slide(self.slide_path, mpp=self.mpp) as slide:
            if slide.info.frame_px != self.slide_map.frame_px:
                raise ExportError(
                    self.slide_map.name,
                    "the slide at hand has another frame than the map",
                    "give the slide that was tiled",
                )
            scale_px = self.slide_map.level_scale_px(self.picture_level) / zoom
            return frame_thumbnail(slide, size, scale_px)


def _geojson(path: Path, context: Context) -> ExportFrame:
    table, config = context.tiles, context.config
    meta = context.slide_map.meta
    chosen = table.top(config.max_tiles)
    if len(chosen) < len(table):
        context.notes.append(
            f"{len(table) - len(chosen)} of {len(table)} tiles left out (the {len(chosen)} of "
            f"highest {qupath_name(meta.target_class)} probability are kept); the raster shows all"
        )
    context.notes.extend(alike_notes(context.classes))
    found = context.regions
    facts = context.facts
    metadata = {
        "model": meta.model_fingerprint[:16],
        "model quality": facts.quality,
        "slide": ROLE_WORDS[facts.role],
        "method": meta.method,
        f"{config.drawn} threshold": f"{found.threshold:.5g}",
        "outlined at um/px": f"{found.level_mpp:.5g}",
        **context.words.metadata(),
    }
    if facts.nothing_learnt:
        metadata["WARNING"] = f"{NOTHING_LEARNT}: {facts.nothing_learnt}"
    target = qupath_name(meta.target_class)
    regions = region_features(found, context.key, target, metadata)
    tiles = tile_features(table, chosen, context.classes, context.qupath_frame, context.key)
    written = write_geojson(path, itertools.chain(regions, tiles))
    context.n_tiles = written - len(found.regions)
    return context.qupath_frame


def _ome_tiff(path: Path, context: Context) -> ExportFrame:
    write_ome_tiff(path, context.slide_map)
    return context.map_frame


def _png(path: Path, context: Context) -> ExportFrame:
    """The target's evidence; beside it every explained class's probability and evidence."""
    classes = shown_classes(context.slide_map)
    for number, class_name in enumerate(classes):
        for kind in ("probability", context.config.drawn):
            main = number == 0 and kind != "probability"
            file = path if main else path.with_name(
                f"{path.name.removesuffix('.png')}.{picture_name(kind, number, class_name)}.png"
            )  # fmt: skip
            place = write_overlay_png(file, context.pictures, kind, class_name)
            context.extras[file.name] = {
                "picture_px": list(place), "shows": kind, "class": class_name, "main": main,
            }  # fmt: skip
            if not main:
                context.beside.append(file)
    return context.map_frame


def picture_name(kind: str, number: int, class_name: str) -> str:
    """Part of a picture's file name: the class too, but for the target class."""
    word = re.sub(r"[^\w]+", "-", class_name).strip("-").lower()
    return kind if number == 0 else f"{kind}-{number}-{word}".rstrip("-")


def _figure(path: Path, context: Context) -> ExportFrame:
    patches: list[TopPatch] = []
    if context.slide_path is not None:
        with open_slide(context.slide_path, mpp=context.mpp) as slide:
            patches = top_patches(context.source, context.tiles, slide)
    tissue: RgbImage | None = None
    if context.tissue_path is not None:
        with Image.open(context.tissue_path) as picture:
            tissue = np.asarray(picture.convert("RGB"))
    meta = context.source.meta
    patch_um = float(f"{meta.grid.patch_size_level0_px * meta.slide.mpp:.3g}")
    write_figure(path, context.pictures, patches, tissue, patch_um)
    return context.map_frame


def _rgb_tiff(path: Path, context: Context) -> ExportFrame:
    target, drawn = context.slide_map.meta.target_class, context.config.drawn
    channel = channel_of(drawn, target, target)
    write_rgb_tiff(path, context.slide_map, channel, context.pictures.scale(drawn, target))
    return context.map_frame


def _tile_png(path: Path, context: Context) -> ExportFrame:
    target = context.slide_map.meta.target_class
    scale = context.pictures.scale("probability", target)
    extra = write_tile_png(path, context.source, context.tiles, scale)
    frame = context.qupath_frame
    x, y, width, height = extra["region_px"]
    extra["region_px"] = [x - frame.offset_x_px, y - frame.offset_y_px, width, height]
    context.extras[path.name] = extra
    return frame


def _csv(path: Path, context: Context) -> ExportFrame:
    write_csv(path, context.tiles, context.slide_map.meta.class_names)
    return context.full_frame


def _annotation_store(path: Path, context: Context) -> ExportFrame:
    names = context.slide_map.meta.class_names
    write_annotation_store(path, context.tiles, names, context.key)
    return context.full_frame


def _dicom(path: Path, context: Context) -> ExportFrame:
    target = context.slide_map.meta.target_class
    beside = write_dicom(
        path, context.slide_map, context.tiles, context.slide_path,
        context.pictures.scale("saliency", target).vmax, context.config.identified,
    )  # fmt: skip
    context.beside.append(beside)
    return context.full_frame


Writer = Callable[[Path, Context], ExportFrame]

WRITERS: dict[str, Writer] = {
    "geojson": _geojson,
    "geojson-plain": _geojson,
    "ome-tiff": _ome_tiff,
    "rgb-tiff": _rgb_tiff,
    "tile-png": _tile_png,
    "png": _png,
    "figure": _figure,
    "csv": _csv,
    "annotation-store": _annotation_store,
    "dicom": _dicom,
}
"""Writer of each format."""


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
            "map": slide_map.meta.fingerprint,
            "parameters": parameters,
            "facts": facts.as_json() if facts is not None else {},
            "with_slide": with_slide,
            "with_tissue": with_tissue,
        }
    )


def export_slide(
    map_path: Path,
    saliency_path: Path,
    overlay_dir: Path,
    config: ExportConfig | None = None,
    *,
    slide_path: SlidePlace | None = None,
    mpp: float | None = None,
    tissue_path: Path | None = None,
    facts: ModelWords | None = None,
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
        What is known of the model; not told where the map is another model's.
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
    old = read_sidecar(record_path)
    have = current_formats(old, overlay_dir, wanted) if old and not overwrite else frozenset()
    todo = [kind for kind in config.formats if kind not in have]
    other = OtherFiles.of(old, overlay_dir, todo, slide_map.meta.fingerprint)
    surplus = other.without(config.formats) if prune else {}
    if old is not None and not todo and not surplus:
        return _result(old, True, time.perf_counter() - started)
    place = None if slide_path is None else slide_place(slide_path)
    context = Context(slide_map, source, config, place, mpp, tissue_path, facts)
    record_before_writing(record_path, old, todo)
    files: dict[str, Any] = {}
    for kind in todo:
        n_notes = len(context.notes)
        path = overlay_dir / overlay_name(slide_id, FORMAT_SUFFIXES[kind])
        frame = WRITERS[kind](path, context)
        told = {"made_from": wanted, "notes": context.notes[n_notes:]}
        for beside in context.beside:
            files[beside.name] = {
                **file_entry(beside, kind, frame),
                **context.extras.get(beside.name, {}),
                **told,
            }
        context.beside.clear()
        extras = context.extras.get(path.name, {})
        files[path.name] = {**file_entry(path, kind, frame), **told, **extras}
    if surplus:
        other = other.pruned(config.formats)
        context.notes.extend(remove_files(overlay_dir, surplus))
    record = with_other_files(_record(context, wanted, files), old, other)
    write_sidecar(record_path, record)
    return _result(record, False, time.perf_counter() - started)


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
        "map": {"scale_px": meta.scale_px, "mpp": meta.mpp, "formula": meta.formula},
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
    return found


def _rounded(value: Any) -> float:
    return float(f"{float(value):.5g}")


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

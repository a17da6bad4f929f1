"""One writer per export format: given a path and what the writers share, it writes a file.

Each returns the frame whose pixels the file speaks in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pathology_scaat.artifacts.output_names import picture_name
from pathology_scaat.export.context import Context
from pathology_scaat.export.dicom.objects import write_dicom
from pathology_scaat.export.dicom.parametric_map import write_parametric_map
from pathology_scaat.export.dicom.source import needed_source
from pathology_scaat.export.dicom.structured_report import write_structured_report
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.qupath.geojson import region_features, tile_features, write_geojson
from pathology_scaat.export.qupath.palette import (
    CONTRIBUTES_LITTLE,
    UNLIKE_TRAINING,
    alike_notes,
    qupath_name,
)
from pathology_scaat.export.raster.figure import TopPatch, top_patches, write_figure
from pathology_scaat.export.raster.ome_tiff import write_ome_tiff
from pathology_scaat.export.raster.overlay_png import (
    channel_of,
    shown_classes,
    write_overlay_png,
)
from pathology_scaat.export.raster.rgb import write_rgb_tiff, write_tile_png
from pathology_scaat.export.tables import write_annotation_store, write_csv
from pathology_scaat.slides.base import RgbImage
from pathology_scaat.tissue.overlay import read_written_png


def export_geojson(path: Path, context: Context) -> ExportFrame:
    """QuPath objects: tiles as detections, regions as locked annotations."""
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
    metadata = {
        **context.object_metadata,
        f"{config.drawn} threshold": f"{found.threshold:.5g}",
        "outlined at um/px": f"{found.level_mpp:.5g}",
    }
    target = qupath_name(meta.target_class)
    regions = region_features(found, context.key, target, metadata)
    unjudged = context.unjudged
    if n := int(unjudged.sum()):
        are, have, them = ("is", "it has", "it") if n == 1 else ("are", "they have", "them")
        lie = "lies" if n == 1 else "lie"
        context.notes.append(
            f"{n} of {len(table)} tiles {are} unlike the training data: {have} the class "
            f"'{UNLIKE_TRAINING.name}' and {lie} in no region, whatever the model says of {them}"
        )
    little = table.little & ~unjudged
    if (n := int(little.sum())) and context.facts.has_learnt:
        does, have = ("contributes", "it has") if n == 1 else ("contribute", "they have")
        context.notes.append(
            f"{n} of {len(table)} tiles {does} little to what the model says of the slide: {have} "
            f"the class '{CONTRIBUTES_LITTLE.name}'"
        )
    tiles = tile_features(
        table, chosen, context.classes, context.qupath_frame, context.key, unjudged,
        has_learnt=context.facts.has_learnt,
    )  # fmt: skip
    written = write_geojson(path, itertools.chain(regions, tiles))
    context.n_tiles = written - len(found.regions)
    return context.qupath_frame


def export_ome_tiff(path: Path, context: Context) -> ExportFrame:
    """The map's values as a pyramidal OME-TIFF."""
    write_ome_tiff(path, context.slide_map)
    return context.map_frame


def export_png(path: Path, context: Context) -> ExportFrame:
    """The target's evidence; beside it every explained class's probability and evidence."""
    classes = shown_classes(context.slide_map)
    for number, class_name in enumerate(classes):
        for kind in ("probability", context.config.drawn):
            main = number == 0 and kind != "probability"
            file = path if main else path.with_name(
                f"{path.name.removesuffix('.png')}.{picture_name(kind, number, class_name)}.png"
            )  # fmt: skip
            picture_px = write_overlay_png(file, context.pictures, kind, class_name)
            context.extras[file.name] = {
                "picture_px": list(picture_px), "shows": kind, "class": class_name, "main": main,
            }  # fmt: skip
            if not main:
                context.beside.append(file)
    return context.map_frame


def export_figure(path: Path, context: Context) -> ExportFrame:
    """One figure of everything on a slide."""
    patches: list[TopPatch] = []
    if context.slide_path is not None:
        slide = context.opened_slide(context.slide_path)
        patches = top_patches(context.source, context.tiles, slide, context.unjudged)
    tissue: RgbImage | None = None
    if context.tissue_path is not None:
        tissue = read_written_png(context.tissue_path.read_bytes())
    if context.tissue_path is not None and tissue is None:
        with Image.open(context.tissue_path) as picture:
            tissue = np.asarray(picture.convert("RGB"))
    meta = context.source.meta
    patch_um = float(f"{meta.grid.patch_size_level0_px * meta.slide.mpp:.3g}")
    write_figure(path, context.pictures, patches, tissue, patch_um)
    return context.map_frame


def export_rgb_tiff(path: Path, context: Context) -> ExportFrame:
    """The coloured map as a TIFF."""
    target, drawn = context.slide_map.meta.target_class, context.config.drawn
    channel = channel_of(drawn, target, target)
    shown = context.pictures.examined.shown(context.config.draw_unlike)
    if not context.facts.has_learnt:
        context.notes.append(f"{path.name} is white: the model has learnt nothing")
        shown = np.zeros_like(shown)
    write_rgb_tiff(path, context.slide_map, channel, context.pictures.scale(drawn, target), shown)
    return context.map_frame


def export_tile_png(path: Path, context: Context) -> ExportFrame:
    """One pixel per tile, coloured."""
    target = context.slide_map.meta.target_class
    scale = context.pictures.scale("probability", target)
    extra = write_tile_png(path, context.source, context.tiles, scale, context.unjudged)
    frame = context.qupath_frame
    x, y, width, height = extra["region_px"]
    extra["region_px"] = [x - frame.offset_x_px, y - frame.offset_y_px, width, height]
    context.extras[path.name] = extra
    return frame


def export_csv(path: Path, context: Context) -> ExportFrame:
    """A table of tiles."""
    write_csv(path, context.tiles, context.slide_map.meta.class_names)
    return context.full_frame


def export_annotation_store(path: Path, context: Context) -> ExportFrame:
    """TIAToolbox's annotation store."""
    names = context.slide_map.meta.class_names
    write_annotation_store(path, context.tiles, names, context.key, context.unjudged)
    return context.full_frame


def export_dicom(path: Path, context: Context) -> ExportFrame:
    """DICOM annotations, and a segmentation beside them."""
    target = context.slide_map.meta.target_class
    beside = write_dicom(
        path, context.slide_map, context.tiles, context.slide_path,
        context.pictures.scale("saliency", target).vmax, context.config.identified,
        context.object_metadata, context.pictures.examined.shown(context.config.draw_unlike),
    )  # fmt: skip
    context.beside.append(beside)
    return context.full_frame


def export_dicom_map(path: Path, context: Context) -> ExportFrame:
    """The map's values as a DICOM Parametric Map."""
    source = needed_source(path.name, context.slide_path, context.config.identified)
    level = write_parametric_map(path, context.slide_map, source, context.object_metadata)
    if level:
        context.notes.append(
            f"{path.name} holds the map at {context.slide_map.mpp * 2**level:.5g} um/px, which is "
            f"coarser than the map ({context.slide_map.mpp:.5g}); 'ome-tiff' holds all of it"
        )
    return context.map_frame


def export_dicom_sr(path: Path, context: Context) -> ExportFrame:
    """Slide score, regions and verdicts as a DICOM structured report (TID 1500)."""
    source = needed_source(path.name, context.slide_path, context.config.identified)
    context.notes.extend(
        write_structured_report(
            path, context.slide_map, context.regions, context.qupath_frame, source,
            context.object_metadata, context.findings, context.key,
        )
    )  # fmt: skip
    return context.full_frame


Writer = Callable[[Path, Context], ExportFrame]

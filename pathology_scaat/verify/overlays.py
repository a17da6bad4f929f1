"""Re-reading a slide's exported files against their record and against the slide map."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.atomic import PARTIAL_MARK
from pathology_scaat.artifacts.checksums import CHECKSUM_MISMATCH, text_problem
from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.artifacts.output_names import RECORD_SUFFIX, id_of_record
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.qupath.validator import geojson_problems
from pathology_scaat.export.report.cohort import page_problem, stated_sheet
from pathology_scaat.export.report.records import CONTACT_SHEET, PAGE
from pathology_scaat.export.sidecar import read_sidecar, sidecar_path
from pathology_scaat.stitching.schema import SlideMapMeta
from pathology_scaat.verify.findings import Report

MAX_PROBLEMS = 5


def overlay_ids(overlay_dir: Path) -> set[str]:
    """Ids of the slides that have a record in the overlay folder."""
    return {
        id_of_record(p.name)
        for p in overlay_dir.glob(f"*{RECORD_SUFFIX}")
        if PARTIAL_MARK not in p.name
    }


def check_overlays(
    overlay_dir: Path, slide_id: str, slide_map: SlideMapMeta | None, deep: bool, report: Report
) -> None:
    """Verify a slide's exports against their record, ``overlays/SLIDE.json``.

    Parameters
    ----------
    overlay_dir : Path
    slide_id : str
    slide_map : SlideMapMeta, optional
        Of the map that was exported, to compare coordinates and fingerprints with.
    deep : bool
        Also read every byte and compare it with its checksum.
    report : Report
        Receives a line for the record and one per file; problems are reported, not raised.
    """
    name = f"overlays/{sidecar_path(overlay_dir, slide_id).name}"
    record = read_sidecar(sidecar_path(overlay_dir, slide_id))
    if record is None:
        report.add(name, ["is no record of this version; export again"], "")
        return
    try:
        problems = _record_problems(record, slide_id, slide_map)
        broken = text_problem(sidecar_path(overlay_dir, slide_id)) if deep else None
        problems += [f"{broken}; export again"] if broken else []
        report.add(name, problems, "record of the exports")
        files = dict(record["files"])
        for file, entry in sorted(files.items()):
            problems = _file_problems(overlay_dir, str(file), dict(entry), slide_map, deep)
            report.add(f"overlays/{file}", problems, str(entry["format"]))
    except (KeyError, TypeError, ValueError):
        report.add(name, ["is damaged; export again"], "")


def check_cohort(overlay_dir: Path, deep: bool, report: Report) -> None:
    """Report on the page and the contact sheet, where they are."""
    page = overlay_dir / PAGE
    if not page.is_file():
        return
    broken = page_problem(page) if deep else None
    report.add(f"overlays/{PAGE}", [f"{broken}; export again"] if broken else [], "page")
    sheet = overlay_dir / CONTACT_SHEET
    stated = stated_sheet(page)
    if not sheet.is_file():
        problems = ["is missing; export again"] if stated else []
    else:
        problems = (
            [f"{CHECKSUM_MISMATCH}; export again"] if deep and file_sha256(sheet) != stated else []
        )
    if stated or sheet.is_file():
        report.add(f"overlays/{CONTACT_SHEET}", problems, "contact sheet")


def _record_problems(
    record: dict[str, Any], slide_id: str, slide_map: SlideMapMeta | None
) -> list[str]:
    problems = []
    if record["slide_id"] != slide_id:
        problems.append("is named after another slide than the one it holds")
    if slide_map is None:
        return problems
    if record["map_fingerprint"] != slide_map.fingerprint:
        problems.append("was made of another map than the one that is here; export again")
    origin = str(record["coordinates"]["origin"])
    frame = ExportFrame.of(slide_map.slide, origin)
    if record["coordinates"]["offset_px"] != [frame.offset_x_px, frame.offset_y_px] or record[
        "coordinates"
    ]["frame_size_px"] != [frame.width_px, frame.height_px]:
        problems.append("places its objects in another frame than the slide has")
    return problems


def _file_problems(
    overlay_dir: Path,
    name: str,
    entry: dict[str, Any],
    slide_map: SlideMapMeta | None,
    deep: bool,
) -> list[str]:
    if Path(name).name != name:
        return ["is named with a path; export again"]
    path = overlay_dir / name
    if not path.is_file():
        return ["is missing; export again"]
    if path.stat().st_size != entry["bytes"]:
        return ["has another size than when it was written; export again"]
    if not deep:
        return []
    if file_sha256(path) != entry["sha256"]:
        return ["has other bytes than when they were written; export again"]
    frame = ExportFrame(**entry["frame"])
    problems = []
    if slide_map is not None and asdict(ExportFrame.of(slide_map.slide, frame.origin)) != asdict(
        frame
    ):
        problems.append("lies in another frame than the slide map")
    if name.endswith((".geojson", ".geojson.gz")):
        problems += geojson_problems(path, (frame.width_px, frame.height_px))[:MAX_PROBLEMS]
    elif name.endswith(".ome.tiff"):
        problems += _ome_tiff_problems(path, frame, slide_map)
    return problems


def _ome_tiff_problems(path: Path, frame: ExportFrame, slide_map: SlideMapMeta | None) -> list[str]:
    """Whether its pixels, times their size in µm, lie on the slide's frame."""
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            height, width = tiff.series[0].levels[0].shape[-2:]
            resolution = tiff.pages.first.tags["XResolution"].value
    except (OSError, ValueError, KeyError, IndexError, tifffile.TiffFileError):
        return ["cannot be opened as OME-TIFF; export again"]
    if slide_map is None:
        return []
    wanted = [math.ceil(s / slide_map.scale_px - 1e-6) for s in (frame.width_px, frame.height_px)]
    problems = []
    if [width, height] != wanted:
        problems.append("does not cover the slide's frame")
    mpp = 1e4 * resolution[1] / resolution[0]
    if not math.isclose(mpp, slide_map.mpp, rel_tol=1e-3):
        problems.append("states another µm/px than the map has")
    return problems

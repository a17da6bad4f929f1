"""Verifying a whole output folder."""

from __future__ import annotations

from pathlib import Path

from pathology_scaat.artifacts.atomic import PARTIAL_MARK
from pathology_scaat.artifacts.checksums import (
    png_problem,
    sums_problem,
    text_problem,
)
from pathology_scaat.artifacts.leftovers import find_partials
from pathology_scaat.artifacts.notes import FILE_NAME as NOTES
from pathology_scaat.artifacts.notes import read_notes
from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, SUMS_NAME, Workspace
from pathology_scaat.artifacts.run_record import FILE_NAME as RUN_RECORD
from pathology_scaat.artifacts.run_record import read_run_record
from pathology_scaat.artifacts.status import FILE_NAME as STATUS_TABLE
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES, STATES
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.cohort.mistaken import not_an_output_folder
from pathology_scaat.errors import ScaatError, StoreError
from pathology_scaat.saliency.schema import SaliencyStoreMeta
from pathology_scaat.stitching.schema import SlideMapMeta
from pathology_scaat.system.processes import machine_id, owner_is_dead
from pathology_scaat.training.run_bundles import (
    fold_bundles,
    known_fingerprints,
    predicting_fingerprints,
)
from pathology_scaat.verify.bundles import check_bundle
from pathology_scaat.verify.documents import check_documents
from pathology_scaat.verify.findings import Finding, Report
from pathology_scaat.verify.heads import check_heads, head_folders_in
from pathology_scaat.verify.overlays import check_cohort, check_overlays, overlay_ids
from pathology_scaat.verify.slides import check_slides
from pathology_scaat.verify.stores import check_map, check_patches, check_saliency

FOLDERS = {
    "patches": ".zarr",
    "saliency": ".zarr",
    "maps": ".ome.zarr",
}


def verify_run(
    out_dir: Path,
    *,
    deep: bool = True,
    cohort: Manifest | None = None,
    read_slides: bool = False,
) -> list[Finding]:
    """Re-read every artifact of an output folder.

    Parameters
    ----------
    out_dir : Path
        Output folder of a run.
    deep : bool
        Decode every pixel (a checksum stands in every chunk) and hash every exported file;
        without it only metadata, columns, sizes and the chain of fingerprints are checked.
    cohort : Manifest, optional
        Also compare the slides with what the patches were cut from.
    read_slides : bool
        Read every byte of the slides for that, also where a file looks unchanged.

    Returns
    -------
    list of Finding
        One line of each sound artifact and of each fault, in a fixed order.

    Raises
    ------
    StoreError
        If the folder does not exist or is no output folder.
    """
    out_dir = Path(out_dir)
    if not out_dir.is_dir():
        raise StoreError(out_dir.name, *not_an_output_folder(out_dir))
    ids = _artifact_ids(out_dir)
    of_slides = any(ids.values()) or (out_dir / STATUS_TABLE).exists()
    heads = head_folders_in(out_dir)
    if not of_slides and not heads:
        raise StoreError(out_dir.name, *not_an_output_folder(out_dir, "holds no results"))
    report = Report()
    _check_record(out_dir, report)
    _check_notes(out_dir, report)
    for folder in dict.fromkeys((out_dir, *heads)):
        _check_predictions(out_dir, folder, report)
    _check_partials(out_dir, report)
    check_heads(out_dir, deep, report)
    for bundle in (Workspace(out_dir).model, Workspace(out_dir).finetuned, *fold_bundles(out_dir)):
        _check_model(out_dir, bundle, deep, report)
    models = known_fingerprints(out_dir)
    for slide_id in sorted(set().union(*ids.values())):
        _check_slide(out_dir, slide_id, ids, models, deep, report)
    check_cohort(out_dir / "overlays", deep, report)
    check_documents(out_dir, deep, report)
    if cohort is not None:
        stores = {i: Workspace(out_dir).patches(i) for i in ids["patches"]}
        check_slides(cohort, stores, anew=read_slides, report=report)
    if of_slides:
        _check_status(out_dir, ids, report)
    return report.findings


def _artifact_ids(out_dir: Path) -> dict[str, set[str]]:
    found = {
        folder: {
            path.name.removesuffix(suffix)
            for path in (out_dir / folder).glob(f"*{suffix}")
            if PARTIAL_MARK not in path.name
        }
        for folder, suffix in FOLDERS.items()
    }
    return found | {"overlays": overlay_ids(out_dir / "overlays")}


def _check_record(out_dir: Path, report: Report) -> None:
    if not (out_dir / RUN_RECORD).exists():
        return  # made stage by stage: the artifacts carry their own parameters
    try:
        record = read_run_record(out_dir)
    except StoreError as error:
        report.add(RUN_RECORD, [f"{error.problem}; {error.remedy}"], "")
        return
    broken = text_problem(out_dir / RUN_RECORD)
    if broken:
        report.add(RUN_RECORD, [f"{broken}; run again"], "")
        return
    report.add(RUN_RECORD, [], f"settings of the run, {len(record['versions'])} versions")


def _check_notes(out_dir: Path, report: Report) -> None:
    if not (out_dir / NOTES).exists():
        return  # there was nothing to say
    broken = text_problem(out_dir / NOTES)
    n_notes = sum(len(said) for said in read_notes(out_dir).values())
    report.add(NOTES, [f"{broken}; run again"] if broken else [], f"{n_notes} notes")


def _check_predictions(out_dir: Path, folder: Path, report: Report) -> None:
    if not any((folder / name).exists() for name in (SUMS_NAME, PREDICTIONS_NAME)):
        return  # nothing was predicted here
    broken = sums_problem(folder, SUMS_NAME)
    problems = [f"{broken}; run 'scaat predict' again"] if broken else []
    models, named = known_fingerprints(folder), predicting_fingerprints(folder)
    if models and named and not named & models:
        which = "the one" if len(models) == 1 else "those"
        problems.append(
            f"was made by another model than {which} in this folder; run 'scaat predict' again"
        )
    name = (folder / PREDICTIONS_NAME).relative_to(out_dir).as_posix()
    report.add(name, problems, "predictions and performance")


def _check_partials(out_dir: Path, report: Report) -> None:
    for partial in find_partials(out_dir):
        folder = partial.path.parent.relative_to(out_dir)
        name = (folder / partial.artifact).as_posix()
        machine = partial.tag.partition("-")[0]
        if machine == machine_id() and not owner_is_dead(partial.tag):
            report.add(name, [], "is being made right now")
        else:
            report.add(name, ["was left unfinished by a run that ended early; run again"], "")


def _described(path: Path) -> tuple[str, str]:
    from pathology_scaat.training.bundle import load_bundle

    bundle = load_bundle(path)
    config = bundle.config
    words = f"{config.backbone}, {config.method}, {len(config.class_names)} classes"
    return words, bundle.fingerprint


def _check_model(out_dir: Path, path: Path, deep: bool, report: Report) -> None:
    """Load a bundle of the folder, if it is there, which checks its hashes."""
    if path.is_dir():
        check_bundle(path.relative_to(out_dir).as_posix(), path, deep, _described, report)


def _check_slide(
    out_dir: Path,
    slide_id: str,
    ids: dict[str, set[str]],
    models: frozenset[str],
    deep: bool,
    report: Report,
) -> None:
    patches = saliency = None
    slide_map: SlideMapMeta | None = None
    if slide_id in ids["patches"]:
        name = f"patches/{slide_id}.zarr"
        patches, problems, summary = check_patches(out_dir / name, slide_id, deep)
        report.add(name, problems, summary)
        _check_tissue(out_dir, slide_id, deep, report)
    if slide_id in ids["saliency"]:
        name = f"saliency/{slide_id}.zarr"
        saliency, problems, summary = check_saliency(out_dir / name, slide_id, patches, deep)
        problems += _model_problems(saliency, models)
        report.add(name, problems, summary)
    if slide_id in ids["maps"]:
        name = f"maps/{slide_id}.ome.zarr"
        slide_map, problems, summary = check_map(out_dir / name, slide_id, saliency, deep)
        report.add(name, problems, summary)
    if slide_id in ids["overlays"]:
        check_overlays(out_dir / "overlays", slide_id, slide_map, deep, report)


def _model_problems(saliency: SaliencyStoreMeta | None, models: frozenset[str]) -> list[str]:
    if saliency is None or not models or saliency.model_fingerprint in models:
        return []
    which = "the one" if len(models) == 1 else "those"
    return [f"was made by another model than {which} in this folder; explain again"]


def _check_tissue(out_dir: Path, slide_id: str, deep: bool, report: Report) -> None:
    path = Workspace(out_dir).tissue(slide_id)
    if not path.exists():
        return
    from PIL import Image

    problems = []
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        problems = ["is not a whole picture; tile again"]
    if deep and not problems and (broken := png_problem(path)):
        problems = [f"{broken}; remove it and tile again"]
    report.add(f"tissue/{path.name}", problems, "tissue overlay")


def _check_status(out_dir: Path, ids: dict[str, set[str]], report: Report) -> None:
    """Whether the table says of each slide what the folder shows."""
    try:
        rows = StatusTable(out_dir).rows()
    except ScaatError as error:
        report.add(STATUS_TABLE, [f"{error.problem}; {error.remedy}"], "")
        return
    folder_of = dict(zip(STAGES, ("patches", "saliency", "maps", "overlays"), strict=True))
    problems = []
    for row in rows:
        slide_id = row["slide_id"]
        for stage in STAGES:
            state = row[stage]
            if state not in STATES:
                problems.append(f"'{slide_id}' has an unknown state of {stage}: '{state}'")
            elif state == "done" and slide_id not in ids[folder_of[stage]]:
                problems.append(f"'{slide_id}' is called done in {stage}, but has no artifact")
            elif state == "failed" and not row["reason"]:
                problems.append(f"'{slide_id}' failed in {stage} without a reason")
    known = {row["slide_id"] for row in rows}
    problems += [
        f"'{slide_id}' has artifacts, but no row"
        for slide_id in sorted(set().union(*ids.values()) - known)
    ]
    here = [row for row in rows if row["in_manifest"] != "no"]
    failed = sum(any(row[stage] == "failed" for stage in STAGES) for row in here)
    others = len(rows) - len(here)
    beside = f", {others} of earlier runs" if others else ""
    slides = f"{len(here)} slide{'' if len(here) == 1 else 's'}"
    report.add(STATUS_TABLE, problems, f"{slides}, {failed} failed{beside}")

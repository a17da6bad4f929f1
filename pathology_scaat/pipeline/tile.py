"""``scaat tile``: slides into patch stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.output_folder import Workspace, claim_output
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.cohort.manifest import Manifest, ManifestRow, read_manifest
from pathology_scaat.cohort.pseudonyms import pseudonymous
from pathology_scaat.errors import ManifestError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import TileConfig, TileJob, TileResult
from pathology_scaat.patches.plan import check_disk_space, plan_tiling
from pathology_scaat.patches.tile_job import tile_job
from pathology_scaat.pipeline.class_names import counts_text, with_class_names
from pathology_scaat.pipeline.label_source import copies_labels, label_notes
from pathology_scaat.pipeline.reporting import Reporter, StageReport, report_and_keep
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.same_slides import shared_slide_notes
from pathology_scaat.pipeline.stage import known_slides, run_stage
from pathology_scaat.slides.opening import reach_slide
from pathology_scaat.system.names import shown_names
from pathology_scaat.training.bags.config import LabelSource


def load_cohort(
    manifest: Path | Manifest, salt: Path | None = None, out: Path | None = None
) -> Manifest:
    """A manifest from a table, from a folder of slides, or as it is.

    With a salt file its slides and patients get pseudonyms; the salt must not lie in ``out``.
    """
    if isinstance(manifest, Manifest):
        cohort = manifest
    elif manifest.is_dir():
        cohort = Manifest.from_folder(manifest)
    else:
        cohort = read_manifest(manifest)
    if salt is None or out is None:
        return cohort
    return pseudonymous(cohort, salt, out)


def _job(
    row: ManifestRow,
    space: Workspace,
    config: TileConfig,
    overwrite: bool,
    key: bytes,
    copy_label: bool,
    keep_pixels: bool = True,
) -> TileJob:
    return TileJob(
        slide_path=row.slide_path,
        slide_id=row.slide_id,
        store_path=space.patches(row.slide_id),
        tissue_path=space.tissue(row.slide_id),
        annotation_path=row.annotation_path,
        label=row.label if copy_label else None,
        mask_path=row.mask_path,
        mpp=row.mpp,
        config=config,
        overwrite=overwrite,
        keep_pixels=keep_pixels,
        fingerprint_key=key,
    )


def _reach(job: TileJob) -> None:
    """A slide that is not there costs no worker; of a slide by URL only its worker knows."""
    location = slide_location(job.slide_path)
    if isinstance(location, Path):
        reach_slide(location)


def _facts(result: TileResult) -> Mapping[str, Any]:
    return {
        "n_patches": result.n_patches,
        "n_unreadable": result.n_unreadable,
        "n_labelled": counts_text(result.n_labelled_by_class),
        "mpp": result.mpp,
        "mpp_source": result.mpp_source,
        "reader": result.reader,
        "notes": "; ".join((*result.warnings, *result.notes)),
    }


def tile(
    manifest: Path | Manifest,
    out: Path,
    *,
    config: TileConfig | None = None,
    labels: LabelSource = "auto",
    engine: EngineConfig | None = None,
    slide_ids: Sequence[str] | None = None,
    overwrite: bool = False,
    exists_ok: bool = False,
    reporter: Reporter | None = None,
) -> StageReport:
    """Tile every slide of a cohort into ``out/patches``; a failed slide stops no other.

    Parameters
    ----------
    manifest : Path or Manifest
        Cohort table, folder of slides, or a manifest already read.
    out : Path
        Output folder; made if missing.
    config : TileConfig, optional
        µm/px, patch size, overlap and the rules of tissue and labels. Where it names no
        classes, those of the cohort's annotations and labels are taken.
    labels : str
        What is to be learnt from: ``copy`` writes the label of a slide onto each patch, as does
        ``auto`` for slides without annotations in a cohort that has some.
    engine : EngineConfig, optional
        Where the work runs.
    slide_ids : sequence of str, optional
        Only these; the classes are those of the whole cohort all the same.
    overwrite : bool
        Make stores anew even where the right ones exist.
    exists_ok : bool
        Write into a folder that holds what this program did not make, beside it.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    StageReport
        What was done, skipped and failed, by slide id.

    Raises
    ------
    ManifestError
        If the cohort has no slides.
    UsageError
        If a slide that was asked for is not in it.
    StoreError
        If the disk cannot hold the patches.

    Examples
    --------
    With ``manifest`` a cohort of three annotated slides, and ``out`` a folder that is not there:

    >>> import pathology_scaat as ps
    >>> from pathology_scaat.execution.engine import EngineConfig
    >>> from pathology_scaat.patches import TileConfig
    >>> here = EngineConfig(workers=0)
    >>> report = ps.tile(manifest, out, config=TileConfig(mpp=0.5, patch_size_px=64), engine=here)
    >>> report.done, report.failed
    (['slide-0', 'slide-1', 'slide-2'], {})
    """
    listener = logged(reporter, out, "tile")
    cohort = load_cohort(manifest)
    if not cohort.rows:
        raise ManifestError("the cohort", "has no slides", "add at least one row")
    settings, class_notes = with_class_names(config or TileConfig(), cohort.rows)
    todo = _chosen(cohort, slide_ids)
    planned = plan_note(replace(cohort, rows=todo), out, settings, overwrite)
    claim_output(out, exists_ok=exists_ok)
    copied = label_notes(cohort.rows, labels)
    notes = (*cohort.notes, *shared_slide_notes(cohort), *class_notes, *copied)
    report_and_keep(notes, out, "cohort", listener)
    if planned:
        listener.note(planned)
    return tile_cohort(
        cohort, out, settings, engine, labels=labels, slide_ids=[row.slide_id for row in todo],
        overwrite=overwrite, reporter=listener,
    )  # fmt: skip


def _chosen(cohort: Manifest, slide_ids: Sequence[str] | None) -> tuple[ManifestRow, ...]:
    if slide_ids is None:
        return cohort.rows
    wanted = set(known_slides(slide_ids, cohort.slide_ids, "of the manifest"))
    return tuple(row for row in cohort.rows if row.slide_id in wanted)


def plan_note(
    cohort: Manifest, out: Path, settings: TileConfig, overwrite: bool, keep_pixels: bool = True
) -> str:
    """What tiling will make and need, in a sentence; empty where nothing is to be made.

    Where pixels are not kept, it needs no disk to speak of.

    Raises
    ------
    StoreError
        If the disk cannot hold it; nothing has been written then.
    """
    space = Workspace(out)
    key = cohort.fingerprint_key
    jobs = [_job(row, space, settings, overwrite, key, copy_label=False) for row in cohort.rows]
    to_make = [job for job in jobs if overwrite or not Path(job.store_path).exists()]
    plan = plan_tiling(to_make, settings)
    if not plan.n_grid:
        return ""
    return check_disk_space(plan, out) if keep_pixels else plan.sentence(None)


def tile_jobs(
    cohort: Manifest,
    out: Path,
    settings: TileConfig,
    labels: LabelSource,
    overwrite: bool = False,
    keep_pixels: bool = True,
) -> list[TileJob]:
    """The jobs of tiling a cohort, in its order."""
    space, copied, key = Workspace(out), copies_labels(cohort.rows, labels), cohort.fingerprint_key
    return [_job(row, space, settings, overwrite, key, copied, keep_pixels) for row in cohort.rows]


def tile_cohort(
    cohort: Manifest,
    out: Path,
    settings: TileConfig,
    engine: EngineConfig | None,
    *,
    labels: LabelSource = "auto",
    slide_ids: Sequence[str] | None = None,
    overwrite: bool,
    reporter: Reporter,
    keep_pixels: bool = True,
) -> StageReport:
    """The work of :func:`tile`, with classes that are known and notes that have been reported."""
    space = Workspace(out)
    status = StatusTable(out)
    status.plan((row.slide_id for row in cohort.rows), cohort.patient_keys())
    if others := status.not_in_manifest():
        reporter.note(
            f"{len(others)} slide(s) in this folder are not in the manifest "
            f"({shown_names(others, 3)}): what is there of them is of earlier runs, and slides.csv "
            "and the page say so; for a cohort of its own, take a new --out"
        )
    rows = _chosen(cohort, slide_ids)
    chosen = {row.slide_id for row in rows}
    jobs = [
        job
        for job in tile_jobs(cohort, out, settings, labels, overwrite, keep_pixels)
        if job.slide_id in chosen
    ]
    relabelled: list[str] = []

    def facts(result: TileResult) -> Mapping[str, Any]:
        if result.relabelled:
            relabelled.append(result.slide_id)
        return _facts(result)

    report = run_stage(
        "tile",
        [job.slide_id for job in jobs],
        tile_job,
        jobs,
        [space.patches(row.slide_id) for row in rows],
        engine,
        status,
        reporter,
        facts,
        preflight=_reach,
    )
    if relabelled:
        reporter.note(
            f"the labels of {len(relabelled)} slide{'' if len(relabelled) == 1 else 's'} were read "
            "anew, since annotations, classes or the manifest's labels changed; the patches are as "
            "they were"
        )
    return report

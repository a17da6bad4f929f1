"""``scaat tile``: slides into patch stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pathology_scaat.annotations import read_annotations
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest, ManifestRow, read_manifest
from pathology_scaat.cohort.pseudonyms import pseudonymous
from pathology_scaat.errors import AnnotationError, ManifestError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import TileConfig, TileJob, TileResult, tile_slide
from pathology_scaat.pipeline.label_source import copies_labels, label_notes
from pathology_scaat.pipeline.reporting import Reporter, Silent, StageReport
from pathology_scaat.pipeline.stage import run_stage
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


def discover_class_names(rows: Sequence[ManifestRow]) -> tuple[str, ...]:
    """Class names that the cohort's annotations and slide labels use, sorted.

    Annotation files that cannot be read are passed over here: their slide fails, with the
    reason, when it is tiled.
    """
    names: set[str] = set()
    for row in rows:
        if row.annotation_path is not None:
            try:
                names.update(p.class_name for p in read_annotations(row.annotation_path))
            except AnnotationError:
                continue
        elif row.label is not None:
            names.add(row.label)
    return tuple(sorted(name for name in names if not name.endswith("*")))


def _job(
    row: ManifestRow, space: Workspace, config: TileConfig, overwrite: bool, copy_labels: bool
) -> TileJob:
    return TileJob(
        slide_path=row.slide_path,
        slide_id=row.slide_id,
        store_path=space.patches(row.slide_id),
        tissue_path=space.tissue(row.slide_id),
        annotation_path=row.annotation_path,
        label=row.label if copy_labels else None,
        mask_path=row.mask_path,
        mpp=row.mpp,
        config=config,
        overwrite=overwrite,
    )


def _facts(result: TileResult) -> Mapping[str, Any]:
    return {
        "n_patches": result.n_patches,
        "n_unreadable": result.n_unreadable,
        "mpp": result.mpp,
        "mpp_source": result.mpp_source,
        "reader": result.reader,
        "notes": "; ".join(result.notes),
    }


def tile(
    manifest: Path | Manifest,
    out: Path,
    *,
    config: TileConfig | None = None,
    labels: LabelSource = "auto",
    engine: EngineConfig | None = None,
    overwrite: bool = False,
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
    overwrite : bool
        Make stores anew even where the right ones exist.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    StageReport
        What was done, skipped and failed, by slide id.
    """
    listener = reporter or Silent()
    cohort = load_cohort(manifest)
    if not cohort.rows:
        raise ManifestError("the cohort", "has no slides", "add at least one row")
    settings = config or TileConfig()
    if not settings.class_names:
        settings = settings.model_copy(update={"class_names": discover_class_names(cohort.rows)})
    space = Workspace(out)
    copied = copies_labels(cohort.rows, labels)
    for note in label_notes(cohort.rows, labels):
        listener.note(note)
    jobs = [_job(row, space, settings, overwrite, copied) for row in cohort.rows]
    return run_stage(
        "tile",
        [job.slide_id for job in jobs],
        tile_slide,
        jobs,
        [space.patches(row.slide_id) for row in cohort.rows],
        engine,
        StatusTable(out),
        listener,
        _facts,
    )

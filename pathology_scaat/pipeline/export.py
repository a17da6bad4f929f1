"""``scaat export``: slide maps into the files that QuPath and other viewers open."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.artifacts.output_folder import PREDICTIONS_NAME, Workspace
from pathology_scaat.artifacts.readme import write_readme
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.urls import SlideLocation
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import BundleError, StoreError
from pathology_scaat.evaluation.performance.predictions import (
    HOW_NAME,
    MODEL_HEX,
    NOT_CALIBRATED,
    Prediction,
    read_how,
    read_predictions,
)
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.export import ExportConfig
from pathology_scaat.export.qupath.model_words import ModelWords
from pathology_scaat.export.slide_findings import WITH_FINDINGS, SlideFindings
from pathology_scaat.pipeline.cohort_page import write_cohort_page
from pathology_scaat.pipeline.reporting import Reporter, StageReport
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.slide_findings import slide_findings
from pathology_scaat.pipeline.stage import run_stage, slides_to_do
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.system.rounding import decimals
from pathology_scaat.training.bundle_config import model_fingerprint, model_name

if TYPE_CHECKING:
    from pathology_scaat.export import ExportResult


@dataclass(frozen=True)
class ExportJob:
    """One slide's export as a value that travels to a worker."""

    map_path: Path
    saliency_path: Path
    overlay_dir: Path
    config: ExportConfig
    slide_path: SlideLocation | None
    mpp: float | None
    tissue_path: Path | None
    facts: ModelWords
    findings: SlideFindings
    overwrite: bool
    prune: bool = False


def run_export_job(job: ExportJob) -> ExportResult:
    """Export one slide in this process.

    Raises
    ------
    ScaatError
        As :func:`pathology_scaat.export.export.export_slide`.
    """
    # Whoever gives out the jobs, and a cluster's scheduler, read this module: without what draws.
    from pathology_scaat.export import export_slide

    return export_slide(
        job.map_path,
        job.saliency_path,
        job.overlay_dir,
        job.config,
        slide_path=job.slide_path,
        mpp=job.mpp,
        tissue_path=job.tissue_path,
        facts=job.facts,
        findings=job.findings,
        overwrite=job.overwrite,
        prune=job.prune,
    )


def model_facts(bundle: Path) -> ModelWords:
    """What the run's model says of itself; nothing where there is none that can be read."""
    # The workers of a cluster, and its scheduler, read the jobs with this module: without torch.
    from pathology_scaat.training.bundle_reading import read_bundle_config

    try:
        config = read_bundle_config(bundle)
    except BundleError:
        return ModelWords()
    colours = None if config.class_colours is None else tuple(config.class_colours.items())
    return ModelWords(model_fingerprint(config), name=model_name(config), class_colours=colours)


@dataclass(frozen=True)
class SlideWords:
    """A slide's prediction in words, and the model (its fingerprint's beginning) that made it."""

    model: str
    text: str


def predictions_in_words(out: Path) -> dict[str, SlideWords]:
    """What ``predictions.csv`` says of each slide; nothing where there is no such table."""
    path = out / PREDICTIONS_NAME
    try:
        rows, names = read_predictions(path)
    except StoreError:
        return {}
    how = read_how(out / HOW_NAME)
    by_model = {
        str(one.get("fingerprint", ""))[:MODEL_HEX]: str(one.get("calibration", ""))
        for one in how.get("models") or ()
    }
    return in_words(rows, names, str(how.get("calibration", "")), by_model)


def in_words(
    rows: Iterable[Prediction],
    names: Sequence[str],
    calibration: str,
    by_model: Mapping[str, str] | None = None,
) -> dict[str, SlideWords]:
    """What exports say of predictions, as the table holds them, by slide id.

    ``calibration`` is that of the model, in words; ``by_model`` that of each of several, by the
    first characters of its fingerprint.
    """
    found = {}
    for row in rows:
        if not row.model:  # several models together, or a table of before
            continue
        chances = ", ".join(
            f"{name} {decimals(p)}" for name, p in zip(names, row.probability, strict=True)
        )
        # How sure a model is of a patch is calibrated by itself; of a slide that is another matter.
        own = (by_model or {}).get(row.model[:MODEL_HEX], calibration)
        if own.startswith(NOT_CALIBRATED):
            chances += " (not calibrated for whole slides)"
        parts = [chances, f"uncertainty {decimals(row.uncertainty, 2)} of 1"]
        if row.possible is not None:
            parts.append(f"possible at 90 %: {' or '.join(row.possible) or 'none'}")
        if row.refer:
            parts.append(f"REFER TO A PATHOLOGIST ({row.refer_reason})")
        found[row.slide_id] = SlideWords(row.model, "; ".join(parts))
    return found


def with_prediction(facts: ModelWords, said: SlideWords | None) -> ModelWords:
    """A model's facts with its own prediction of a slide.

    Another model's prediction is of the maps of that model: of a fold's, or of one that was given.
    """
    if said is None:
        return facts
    if not facts.model_fingerprint.startswith(said.model):
        return replace(facts, otherwise=ModelWords(said.model, prediction=said.text))
    return replace(facts, prediction=said.text)


def export_job(
    space: Workspace,
    slide_id: str,
    row: ManifestRow | None,
    settings: ExportConfig,
    facts: ModelWords,
) -> ExportJob:
    """What a slide is exported from, of what does not depend on predictions and verdicts."""
    tissue = space.tissue(slide_id)
    return ExportJob(
        map_path=space.map(slide_id),
        saliency_path=space.saliency(slide_id),
        overlay_dir=space.overlays,
        config=settings,
        slide_path=row.slide_path if row else None,
        mpp=row.mpp if row else None,
        tissue_path=tissue if tissue.exists() else None,
        facts=facts,
        findings=SlideFindings(),
        overwrite=False,
    )


def export(
    out: Path,
    *,
    manifest: Path | Manifest | None = None,
    config: ExportConfig | None = None,
    engine: EngineConfig | None = None,
    slide_ids: Sequence[str] | None = None,
    overwrite: bool = False,
    prune: bool = False,
    reporter: Reporter | None = None,
    made_ahead: Collection[str] = (),
) -> StageReport:
    """Export the slide maps of ``out`` into ``out/overlays``.

    Parameters
    ----------
    out : Path
        Output folder of ``stitch``.
    manifest : Path or Manifest, optional
        Where the slides are; needed only for pictures with the slide under the map.
    config : ExportConfig, optional
        Formats, thresholds, caps and the coordinate frame.
    engine : EngineConfig, optional
        Where the work runs.
    slide_ids : sequence of str, optional
        Only these; all that are stitched by default.
    overwrite : bool
        Write files anew even where the right ones exist.
    prune : bool
        Remove files of other formats and of earlier maps that exports made; without it, files
        of formats that are not asked for stay.
    reporter : Reporter, optional
        Listens to progress.
    made_ahead : collection of str
        Slides that were exported for this run already, while others were explained. What such a
        slide's files say is compared once more with what is known now.

    Returns
    -------
    StageReport
        What was done, skipped and failed, by slide id.

    Examples
    --------
    With ``out`` the folder of a run that has done the steps before:

    >>> import pathology_scaat as ps
    >>> report = ps.export(out, config=ps.export.ExportConfig(formats=("geojson",)))
    >>> report.done, report.failed
    (['s1'], {})
    """
    space = Workspace(out)
    rows = {row.slide_id: row for row in load_cohort(manifest).rows} if manifest else {}
    todo = slides_to_do(space, "stitch", slide_ids)
    settings = config or ExportConfig()
    facts = model_facts(space.model)
    said = predictions_in_words(out)
    findings = slide_findings(out) if WITH_FINDINGS & set(settings.formats) else {}
    ahead = frozenset(made_ahead)
    jobs = [
        replace(
            export_job(space, slide_id, rows.get(slide_id), settings, facts),
            facts=with_prediction(facts, said.get(slide_id)),
            findings=findings.get(slide_id, SlideFindings()),
            overwrite=overwrite and slide_id not in ahead,
            prune=prune,
        )
        for slide_id in todo
    ]
    status = StatusTable(out)
    report = run_stage(
        "export",
        todo,
        run_export_job,
        jobs,
        [space.overlays / slide_id for slide_id in todo],
        engine,
        status,
        logged(reporter, out, "export"),
        made_ahead=ahead,
    )
    write_readme(out)
    if report.usable:
        write_cohort_page(out)
    return report

"""``scaat run``: the stages in a row, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.artifacts.readme import write_readme
from pathology_scaat.artifacts.run_record import write_run_record
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.patches import TileJob
from pathology_scaat.pipeline.ahead import Ahead, ahead_job_of, helpers_for
from pathology_scaat.pipeline.config import RunConfig
from pathology_scaat.pipeline.cross_validation import (
    nothing_learnt_in_folds,
    plan_folds,
    predicting_models,
    train_folds,
)
from pathology_scaat.pipeline.explain import explain, start_early
from pathology_scaat.pipeline.export import export
from pathology_scaat.pipeline.predict import predict
from pathology_scaat.pipeline.prediction_files import PredictReport
from pathology_scaat.pipeline.prepare import Prepared, prepare
from pathology_scaat.pipeline.reporting import Reporter, StageReport, report_and_keep
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.stitch import stitch
from pathology_scaat.pipeline.tile import plan_note, tile_cohort, tile_jobs
from pathology_scaat.pipeline.train import train
from pathology_scaat.training import TrainResult
from pathology_scaat.training.bundle_quality import QUALITY_NOT_KNOWN

if TYPE_CHECKING:
    from pathology_scaat.execution.local_pool import StartedWorkers


@dataclass
class RunReport:
    """What a run did: one report per stage, and the training's metrics where it trained.

    ``nothing_learnt`` says why the model counts as having learnt nothing; empty where it has.
    """

    out: Path
    stages: list[StageReport] = field(default_factory=list)
    training: TrainResult | None = None
    predicted: PredictReport | None = None
    nothing_learnt: str = ""

    @property
    def failed(self) -> dict[str, str]:
        """Slide id and reason of every slide that failed in any stage."""
        return {
            slide_id: reason for stage in self.stages for slide_id, reason in stage.failed.items()
        }

    @property
    def completed(self) -> tuple[str, ...]:
        """Ids of the slides that went through every stage."""
        if not self.stages or self.stages[-1].stage != "export":
            return ()
        return self.stages[-1].usable


def run(
    config: RunConfig,
    *,
    overwrite: bool = False,
    exists_ok: bool = False,
    reporter: Reporter | None = None,
) -> RunReport:
    """Tile, train (unless a model is given), explain, predict, stitch and export a cohort.

    Where a model is given, the pixels go from the slides to the model and are not kept, unless
    ``keep_patches`` says so: what is in ``patches/`` then is where the patches lie.

    A stage whose artifact is right does nothing, so that an interrupted run goes on where it
    stopped. A slide that fails in one stage is left out of the next ones and stops no other.

    Parameters
    ----------
    config : RunConfig
        All settings.
    overwrite : bool
        Make every artifact anew.
    exists_ok : bool
        Write into a folder that holds what this program did not make, beside it.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    RunReport
        What was done and what failed; ``slides.csv`` in the output folder says the same.

    Examples
    --------
    Apply the model of another run, ``out / "model"``, to a cohort:

    >>> import pathology_scaat as ps
    >>> from pathology_scaat.pipeline.config import RunConfig
    >>> applied = RunConfig(
    ...     manifest=manifest, out=out.with_name("applied"), model=out / "model", device="cpu",
    ...     engine={"workers": 0}, export={"formats": ["geojson"]},
    ... )
    >>> report = ps.run(applied)
    >>> report.completed, report.failed
    (('slide-0', 'slide-1', 'slide-2'), {})
    """
    out = config.out
    listener = logged(reporter, out, "run")
    ready = prepare(config)
    cohort, tile_config, inputs = ready.cohort, ready.tile_config, dict(ready.inputs)
    bundle = ready.bundle
    keep_pixels = config.model is None or config.keep_patches
    planned = plan_note(cohort, out, tile_config, overwrite, keep_pixels)
    claim_output(out, exists_ok=exists_ok)
    write_readme(out)
    if planned:
        listener.note(planned)
    report_and_keep(ready.notes, out, "cohort", listener)
    StatusTable(out).plan((row.slide_id for row in cohort.rows), cohort.patient_keys())
    # Where the work runs decides no result, and a scheduler's address names a host.
    write_run_record(
        out,
        # Paths stay paths, so that the record can leave out relative ones too.
        config.model_dump(exclude={"engine"}),
        inputs=inputs,
        audit=config.audit,
        full_config=config.model_dump(mode="json"),
    )
    report = RunReport(out)
    if bundle is not None:
        report.nothing_learnt = bundle.nothing_learnt
        if bundle.held_out is None:
            listener.note(f"{QUALITY_NOT_KNOWN}: it has no record of it, and every picture says so")

    if config.model is None:
        return _stages(config, ready, report, overwrite, listener, None)
    with start_early(
        out,
        config.model,
        [row.slide_id for row in cohort.rows],
        config=config.explain,
        device=config.device,
        engine=config.engine,
        overwrite=overwrite,
    ) as started:
        return _stages(config, ready, report, overwrite, listener, started)


def _stages(
    config: RunConfig,
    ready: Prepared,
    report: RunReport,
    overwrite: bool,
    listener: Reporter,
    started: StartedWorkers | None,
) -> RunReport:
    """The stages themselves; ``started`` are processes that wait for what is to be explained."""
    out, cohort, tile_config = config.out, ready.cohort, ready.tile_config
    external, groups = ready.external, ready.subgroups
    keep_pixels = config.model is None or config.keep_patches
    tiled = tile_cohort(
        cohort,
        out,
        tile_config,
        config.engine,
        labels=config.train.labels,
        overwrite=overwrite,
        reporter=listener,
        keep_pixels=keep_pixels,
    )
    report.stages.append(tiled)
    slides: dict[str, TileJob] = {}
    if not keep_pixels:
        jobs = tile_jobs(cohort, out, tile_config, config.train.labels, keep_pixels=False)
        slides = {job.slide_id: job for job in jobs}
    if not tiled.usable:
        return report
    following = ahead_job_of(
        out, config.stitch, overwrite, cohort=cohort, model=config.model, export=config.export
    )
    with Ahead(following, helpers_for(config.engine, config.device)) as ahead:
        if config.folds is not None:
            explained = _by_folds(
                config,
                config.folds,
                cohort,
                external,
                groups,
                ready.sites,
                report,
                tiled.usable,
                overwrite,
                listener,
                ahead,
            )
        else:
            explained = _by_one_model(
                config,
                cohort,
                external,
                groups,
                report,
                tiled.usable,
                overwrite,
                listener,
                slides,
                ahead,
                started,
            )
        stitched_ahead, exported_ahead = ahead.finish()
    report.stages.append(explained)
    stitched = stitch(
        out,
        config=config.stitch,
        engine=config.engine,
        slide_ids=explained.usable,
        overwrite=overwrite,
        reporter=listener,
        made_ahead=stitched_ahead,
    )
    report.stages.append(stitched)
    exported = export(
        out,
        manifest=cohort,
        config=config.export,
        engine=config.engine,
        slide_ids=stitched.usable,
        overwrite=overwrite,
        reporter=listener,
        made_ahead=exported_ahead,
    )
    report.stages.append(exported)
    return report


def _by_one_model(
    config: RunConfig,
    cohort: Manifest,
    external: Sequence[str],
    groups: Mapping[str, Mapping[str, str]],
    report: RunReport,
    slide_ids: Sequence[str],
    overwrite: bool,
    listener: Reporter,
    slides: Mapping[str, TileJob],
    ahead: Ahead,
    started: StartedWorkers | None,
) -> StageReport:
    """Train (unless a model is given), explain and predict: one model for all slides."""
    if config.model is None:
        report.training = train(
            cohort,
            config.out,
            config=config.train,
            device=config.device,
            seed=config.seed,
            overwrite=overwrite,
            reporter=listener,
        )
        report.nothing_learnt = report.training.nothing_learnt
    explained = explain(
        config.out,
        model=config.model,
        config=config.explain,
        device=config.device,
        engine=config.engine,
        slide_ids=slide_ids,
        slides=slides,
        overwrite=overwrite,
        reporter=listener,
        on_done=ahead.ready,
        beside=ahead.beside,
        started=started,
    )
    report.predicted = predict(
        config.out,
        manifest=cohort,
        models=[config.model] if config.model is not None else [],
        external=external,
        prevalence=config.prevalence,
        subgroups=groups,
        device=config.device,
        seed=config.seed,
        reporter=listener,
    )
    return explained


def _by_folds(
    config: RunConfig,
    n_folds: int,
    cohort: Manifest,
    external: Sequence[str],
    groups: Mapping[str, Mapping[str, str]],
    sites: Mapping[str, str] | None,
    report: RunReport,
    slide_ids: Sequence[str],
    overwrite: bool,
    listener: Reporter,
    ahead: Ahead,
) -> StageReport:
    """A model a fold; each slide is explained and predicted by the one that never saw it.

    External slides, which none saw, are predicted by all of them together.
    """
    outside = set(external)
    plan = plan_folds(
        cohort, config.out, n_folds, config.train, config.seed,
        sites=sites, external=external, reporter=listener,
    )  # fmt: skip
    models = train_folds(
        plan,
        config.out,
        config.train,
        device=config.device,
        seed=config.seed,
        overwrite=overwrite,
        reporter=listener,
    )
    report.nothing_learnt = nothing_learnt_in_folds(models)
    if outside:
        listener.note(
            f"The {len(outside)} external test slides are predicted by the {n_folds} models of the "
            "folds together; they get no map, which would be one model's ('scaat explain --model "
            "OUT/folds/N/model' makes one)."
        )
    left_out = sorted(set(slide_ids) - set(plan.fold_of) - outside)
    if left_out:
        listener.note(
            f"{len(left_out)} slide(s) are in no fold, since they have no label: they get no map "
            f"and no prediction ({', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''})."
        )
    explained = StageReport("explain")
    for one in models:
        part = explain(
            config.out,
            model=one.model,
            config=config.explain,
            device=config.device,
            engine=config.engine,
            slide_ids=[s for s in plan.tested_in(one) if s in set(slide_ids)],
            overwrite=overwrite,
            reporter=listener,
            on_done=ahead.ready,
            beside=ahead.beside,
        )
        explained.done += part.done
        explained.skipped += part.skipped
        explained.failed.update(part.failed)
        explained.warnings.update(part.warnings)
    report.predicted = predict(
        config.out,
        manifest=cohort,
        folds=predicting_models(plan, models),
        external=external,
        prevalence=config.prevalence,
        subgroups=groups,
        device=config.device,
        seed=config.seed,
        reporter=listener,
    )
    return explained

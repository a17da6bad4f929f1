"""``scaat run``: the stages in a row, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.artifacts.output_folder import claim_output
from pathology_scaat.artifacts.run_record import write_run_record
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.external import with_external_test
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import ManifestError
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.patches import TileConfig, TileJob
from pathology_scaat.pipeline.class_names import with_class_names
from pathology_scaat.pipeline.config import RunConfig
from pathology_scaat.pipeline.cross_validation import (
    column_of,
    plan_folds,
    predicting_models,
    train_folds,
)
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.export import export
from pathology_scaat.pipeline.label_source import label_notes
from pathology_scaat.pipeline.predict import PredictReport, predict
from pathology_scaat.pipeline.preflight import (
    check_class_choices,
    check_device,
    check_training,
    unused_settings,
)
from pathology_scaat.pipeline.reporting import Reporter, Silent, StageReport, tell_and_keep
from pathology_scaat.pipeline.same_slides import refuse_shared_slides, shared_slide_notes
from pathology_scaat.pipeline.stitch import stitch
from pathology_scaat.pipeline.tile import load_cohort, plan_note, tile_cohort, tile_jobs
from pathology_scaat.pipeline.train import train
from pathology_scaat.slides.fingerprint import keyed
from pathology_scaat.training import TrainResult
from pathology_scaat.training.bundle import load_bundle
from pathology_scaat.training.bundle_config import BundleConfig


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


def tile_config_for(model: BundleConfig, asked: TileConfig) -> TileConfig:
    """The tiling that a trained model needs: its own µm/px, patch size and classes."""
    return asked.model_copy(
        update={
            "mpp": model.mpp,
            "patch_size_px": model.patch_size_px,
            "class_names": model.class_names,
        }
    )


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
    """
    listener = reporter or Silent()
    out = config.out
    cohort: Manifest = load_cohort(config.manifest, config.pseudonymize, out)
    external: tuple[str, ...] = ()
    if config.test_manifest is not None:
        tested = load_cohort(config.test_manifest, config.pseudonymize, out)
        external = tested.slide_ids
        cohort = with_external_test(cohort, tested, config.seed)
    if not cohort.rows:
        raise ManifestError("the cohort", "has no slides", "add at least one row")
    notes = [*cohort.notes]
    cohort = replace(cohort, notes=())  # the stages need not say them again
    tile_config = config.tile
    check_device(config.device, config.engine)
    inputs: dict[str, str] = {}
    if config.manifest.is_file():
        inputs["manifest"] = keyed(file_sha256(config.manifest), cohort.fingerprint_key)
    if config.test_manifest is not None and config.test_manifest.is_file():
        inputs["test_manifest"] = keyed(file_sha256(config.test_manifest), cohort.fingerprint_key)
    if config.model is not None:
        bundle = load_bundle(config.model)
        inputs["model"] = bundle.fingerprint
        tile_config = tile_config_for(bundle.config, config.tile)
        notes += unused_settings(config.tile, config.train, bundle.config)
        notes += shared_slide_notes(cohort)
    else:
        choose_device(config.device)
        check_training(config.train, config.tile.patch_size_px)
        refuse_shared_slides(cohort)
        notes += label_notes(cohort.rows, config.train.labels)
    tile_config, class_notes = with_class_names(tile_config, cohort.rows)
    check_class_choices(
        config.train if config.model is None else None, config.explain, tile_config.class_names
    )
    keep_pixels = config.model is None or config.keep_patches
    planned = plan_note(cohort, out, tile_config, overwrite, keep_pixels)
    claim_output(out, exists_ok=exists_ok)
    if planned:
        listener.note(planned)
    tell_and_keep([*notes, *class_notes], out, "cohort", listener)
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
    if config.model is not None:
        report.nothing_learnt = bundle.config.nothing_learnt

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
    if config.folds is not None:
        explained = _by_folds(
            config, config.folds, cohort, report, tiled.usable, overwrite, listener
        )
    else:
        explained = _by_one_model(
            config, cohort, external, report, tiled.usable, overwrite, listener, slides
        )
    report.stages.append(explained)
    stitched = stitch(
        out,
        config=config.stitch,
        engine=config.engine,
        slide_ids=explained.usable,
        overwrite=overwrite,
        reporter=listener,
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
    )
    report.stages.append(exported)
    return report


def _by_one_model(
    config: RunConfig,
    cohort: Manifest,
    external: Sequence[str],
    report: RunReport,
    slide_ids: Sequence[str],
    overwrite: bool,
    listener: Reporter,
    slides: Mapping[str, TileJob],
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
    )
    report.predicted = predict(
        config.out,
        manifest=cohort,
        model=config.model,
        external=external,
        prevalence=config.prevalence,
        device=config.device,
        seed=config.seed,
        reporter=listener,
    )
    return explained


def _by_folds(
    config: RunConfig,
    n_folds: int,
    cohort: Manifest,
    report: RunReport,
    slide_ids: Sequence[str],
    overwrite: bool,
    listener: Reporter,
) -> StageReport:
    """A model a fold; each slide is explained and predicted by the one that never saw it."""
    sites = None
    if config.preserve_site is not None:
        sites = column_of(config.manifest, config.preserve_site, cohort)
    plan = plan_folds(
        cohort, config.out, n_folds, config.train, config.seed, sites=sites, reporter=listener
    )
    models = train_folds(
        plan,
        config.out,
        config.train,
        device=config.device,
        seed=config.seed,
        overwrite=overwrite,
        reporter=listener,
    )
    left_out = sorted(set(slide_ids) - set(plan.fold_of))
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
        )
        explained.done += part.done
        explained.skipped += part.skipped
        explained.failed.update(part.failed)
    report.predicted = predict(
        config.out,
        manifest=cohort,
        folds=predicting_models(plan, models),
        prevalence=config.prevalence,
        device=config.device,
        seed=config.seed,
        reporter=listener,
    )
    return explained

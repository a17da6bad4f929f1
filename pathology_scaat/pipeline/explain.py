"""``scaat explain``: class probabilities and pixel saliency of every patch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.execution.devices import gpu_count, processes_on_gpu
from pathology_scaat.execution.engine import Beside, EngineConfig
from pathology_scaat.patches import TileJob
from pathology_scaat.pipeline.cases import cases_of, refuse_without_pixels
from pathology_scaat.pipeline.method_preflight import check_method_of_model, refuse_without_slides
from pathology_scaat.pipeline.preflight import check_device, check_stores, spelled_target
from pathology_scaat.pipeline.reporting import Reporter, StageReport, report_and_keep
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.stage import run_stage, slides_to_do
from pathology_scaat.saliency import ExplainConfig, ExplainResult
from pathology_scaat.saliency.attributions import LOOKS_INSIDE
from pathology_scaat.saliency.cautions import map_caution
from pathology_scaat.saliency.explain_job import ExplainJob, GetReadyJob, explain_job, get_ready
from pathology_scaat.saliency.explanation import chosen_method, explained_classes
from pathology_scaat.training.bundle_reading import read_bundle_config

if TYPE_CHECKING:
    from pathology_scaat.execution.local_pool import StartedWorkers


def explain(
    out: Path,
    *,
    model: Path | None = None,
    config: ExplainConfig | None = None,
    device: str = "auto",
    engine: EngineConfig | None = None,
    slide_ids: Sequence[str] | None = None,
    slides: Mapping[str, TileJob] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    on_done: Callable[[str], None] | None = None,
    beside: Beside | None = None,
    started: StartedWorkers | None = None,
) -> StageReport:
    """Explain the patch stores in ``out/patches`` into ``out/saliency``.

    Parameters
    ----------
    out : Path
        Output folder of ``tile``.
    model : Path, optional
        Model bundle; ``out/model`` by default.
    config : ExplainConfig, optional
        Attribution method, target class and resolution.
    device : str
        ``auto``, ``cpu``, ``cuda`` (all GPUs of the machine) or ``cuda:N``.
    engine : EngineConfig, optional
        Where to run. By default one to three processes per GPU, by the machine's cores and the
        GPU's memory; or one per core where no GPU is used.
    slide_ids : sequence of str, optional
        Only these; all that are tiled by default.
    slides : mapping of slide id to TileJob, optional
        How the patch stores were made; those without pixels are read from their slides.
    overwrite : bool
        Make stores anew even where the right ones exist.
    reporter : Reporter, optional
        Listens to progress.
    on_done : callable, optional
        Told the id of each slide that is explained now.
    beside : Beside, optional
        Further jobs for the same workers, which ``on_done`` adds.
    started : StartedWorkers, optional
        Processes that wait for the jobs (:func:`start_early`).

    Returns
    -------
    StageReport
        What was done, skipped and failed, by slide id.

    Raises
    ------
    UsageError
        If the device does not exist, the target is no class of the model, the method cannot
        follow its network, the model fits no slide, or pixels are kept of none and ``slides`` does
        not say where they are.
    BundleError
        If the model cannot be read.

    Examples
    --------
    With ``out`` the folder of a run that has done the steps before:

    >>> import pathology_scaat as ps
    >>> report = ps.explain(out, device="cpu")
    >>> report.done, report.failed
    (['s1'], {})
    """
    space = Workspace(out)
    settings = config or ExplainConfig()
    todo = slides_to_do(space, "tile", slide_ids)
    # One mistake is one sentence: nothing is touched, and no slide is failed for it.
    check_device(device, engine)
    model_config = read_bundle_config(model or space.model)
    settings = spelled_target(settings, model_config.class_names)
    explained_classes(settings.target, model_config)
    check_stores(space, todo, model_config)
    cases: Mapping[str, tuple[str, ...]] = {}
    if model_config.bag_of is not None:
        cases = cases_of(space, StatusTable(out))
        refuse_without_pixels(space, {s for i in todo for s in (i, *cases.get(i, ()))})
    check_method_of_model(model or space.model, settings)
    if slides is None and model_config.bag_of is None:
        refuse_without_slides(space, todo, model_config, settings, overwrite)
    listener = logged(reporter, out, "explain")
    method = chosen_method(settings.method, model_config)
    caution = map_caution(
        model_config.began, method, model_config.backbone, model_config.bag is not None
    )
    notes = [f"{caution}."] if caution else []
    if settings.compile and method in LOOKS_INSIDE:
        notes.append(
            f"Not compiled: '{method}' looks at single layers (--method gradient does not)."
        )
    report_and_keep(notes, out, "explain", listener)
    engine = _engine_for(engine or EngineConfig(), device)
    processes = _sharing_a_gpu(engine, device, len(todo))
    jobs = [
        ExplainJob(
            slide_id,
            space.patches(slide_id),
            model or space.model,
            space.saliency(slide_id),
            settings,
            device,
            overwrite,
            None if slides is None else slides.get(slide_id),
            tuple(space.patches(other) for other in cases.get(slide_id, ())),
            processes,
        )
        for slide_id in todo
    ]
    return run_stage(
        "explain",
        todo,
        explain_job,
        jobs,
        [job.out_path for job in jobs],
        engine,
        StatusTable(out),
        listener,
        facts=_facts,
        on_done=on_done,
        beside=beside,
        started=started,
        resources=None if device == "cpu" else {"GPU": 1},
    )


@contextmanager
def start_early(
    out: Path,
    model: Path,
    slide_ids: Sequence[str],
    *,
    config: ExplainConfig | None = None,
    device: str = "auto",
    engine: EngineConfig | None = None,
    overwrite: bool = False,
) -> Iterator[StartedWorkers | None]:
    """Have the processes that will explain on GPUs load the model while something else is done.

    Parameters
    ----------
    out, model, slide_ids, config, device, engine, overwrite
        As for :func:`explain`, which is to be given what is yielded.

    Yields
    ------
    StartedWorkers or None
        None where nothing is to be explained, or no GPU of this machine does it: the cores have
        enough to do then.
    """
    space = Workspace(out)
    n_missing = sum(overwrite or not space.saliency(name).exists() for name in slide_ids)
    given = engine or EngineConfig()
    gpus = 0 if given.scheduler or given.cluster else gpu_count(device)
    processes = min(_engine_for(given, device).workers or 0, n_missing) if gpus else 0
    if not processes:
        yield None
        return
    from pathology_scaat.execution.local_pool import StartedWorkers

    job = GetReadyJob(model, config or ExplainConfig(), device)
    with StartedWorkers(processes, get_ready, job) as started:
        yield started


def _engine_for(engine: EngineConfig, device: str) -> EngineConfig:
    """Local processes for the GPUs where GPUs compute and nothing else was asked for."""
    if engine.scheduler or engine.cluster or engine.workers is not None:
        return engine
    gpus = gpu_count(device)
    if not gpus:
        return engine
    return engine.model_copy(update={"workers": gpus * processes_on_gpu(device)})


def _sharing_a_gpu(engine: EngineConfig, device: str, n_jobs: int) -> int | None:
    """Processes that will explain on each GPU; None where other machines decide that."""
    if engine.scheduler or engine.cluster:
        return None
    gpus = gpu_count(device)
    if not gpus or engine.workers is None:
        return 1
    return -(-min(max(engine.workers, 1), n_jobs) // gpus)


def _facts(result: ExplainResult) -> dict[str, float | None]:
    """Columns of the status table: share of patches that are unlike the training patches.

    Where the pixels came from the slide: also how many patches could not be decoded.
    """
    facts: dict[str, float | None] = {"unlike_training": result.unlike_share}
    if result.n_unreadable is not None:
        facts |= {"n_patches": result.n_patches, "n_unreadable": result.n_unreadable}
    return facts

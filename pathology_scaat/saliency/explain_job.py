"""Explaining a slide as a job that any engine can run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.urls import SlideUrl
from pathology_scaat.execution.jobs import job_threads, report_progress
from pathology_scaat.patches.config import TileJob
from pathology_scaat.saliency.config import ExplainConfig, ExplainResult


@dataclass(frozen=True)
class ExplainJob:
    """One slide to explain; holds paths only, so that it can travel to another machine.

    Attributes
    ----------
    slide_id : str
        How errors name the job.
    store_path, bundle_path, out_path : Path
        Patch store, model bundle, and the saliency store to make.
    config : ExplainConfig
    device : str
        ``auto`` and ``cuda`` share the GPUs of a machine among its workers.
    overwrite : bool
        Make the store anew even where the right one exists.
    slide : TileJob, optional
        How the patch store was made, where the pixels are read from the slide.
    case : tuple of Path
        Patch stores of the case's other slides, of a model whose bags are cases.
    processes : int, optional
        Processes that explain on each GPU; as many as its machine would start, if None.
    """

    slide_id: str
    store_path: Path
    bundle_path: Path
    out_path: Path
    config: ExplainConfig
    device: str = "auto"
    overwrite: bool = False
    slide: TileJob | None = None
    case: tuple[Path, ...] = ()
    processes: int | None = None

    @property
    def slide_path(self) -> Path | SlideUrl | str | None:
        """What the words of foreign errors must not name."""
        return None if self.slide is None else self.slide.slide_path


def explain_job(job: ExplainJob) -> ExplainResult:
    """Explain one slide in this process, with as many threads as the engine allows.

    Raises
    ------
    StoreError, BundleError, SlideError, UsageError
        As :func:`pathology_scaat.saliency.explain.explain_slide`.
    """
    # A cluster's scheduler reads the jobs, and with them this module: it needs no torch.
    import torch

    from pathology_scaat.execution.devices import job_device
    from pathology_scaat.saliency.explain import explain_slide

    device = job_device(job.device)
    if device.type == "cpu":
        # Several workers on one machine must not start a thread per core each.
        torch.set_num_threads(job_threads())
    return explain_slide(
        job.store_path,
        job.bundle_path,
        job.out_path,
        job.config,
        device=str(device),
        overwrite=job.overwrite,
        progress=report_progress,
        slide=job.slide,
        case=job.case,
        processes=job.processes,
    )


@dataclass(frozen=True)
class GetReadyJob:
    """The model, and how it will explain: all that can be known before the slides are."""

    bundle_path: Path
    config: ExplainConfig
    device: str = "auto"


def get_ready(job: GetReadyJob) -> None:
    """Load the model in this process, as :func:`explain_job` will ask for it.

    Raises
    ------
    BundleError, UsageError
        If that is not possible; explaining a slide says it again.
    """
    from pathology_scaat.execution.devices import job_device
    from pathology_scaat.saliency.explain import get_ready_to_explain

    get_ready_to_explain(job.bundle_path, job.config, str(job_device(job.device)))

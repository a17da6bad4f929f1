"""``scaat explain``: class probabilities and pixel saliency of every patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.leases import lease_if_writable
from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import LeaseError
from pathology_scaat.execution.engine import guarded
from pathology_scaat.pipeline.reporting import Reporter, Silent, StageReport
from pathology_scaat.pipeline.stage import StageRecorder, slides_to_do
from pathology_scaat.saliency import ExplainConfig, ExplainResult, explain_slide
from pathology_scaat.saliency.explain import explained_classes
from pathology_scaat.training.bundle import read_bundle_config


@dataclass(frozen=True)
class _Slide:
    slide_id: str
    wait_s: float


def explain(
    out: Path,
    *,
    model: Path | None = None,
    config: ExplainConfig | None = None,
    device: str = "auto",
    slide_ids: Sequence[str] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
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
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    slide_ids : sequence of str, optional
        Only these; all that are tiled by default.
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
    space = Workspace(out)
    settings = config or ExplainConfig()
    todo = slides_to_do(space, "tile", slide_ids)
    bundle = read_bundle_config(model or space.model)
    explained_classes(settings.target, bundle)  # a wrong class is one mistake, not one a slide
    recorder = StageRecorder("explain", todo, StatusTable(out), listener)
    number = 0

    def tell(done: int, total: int) -> None:
        listener.update("explain", number + done / max(total, 1))

    def work(slide: _Slide) -> ExplainResult:
        with lease_if_writable(space.saliency(slide.slide_id), slide.wait_s):
            return explain_slide(
                space.patches(slide.slide_id),
                model or space.model,
                space.saliency(slide.slide_id),
                settings,
                device=device,
                overwrite=overwrite,
                progress=tell,
            )

    for wait_s in (0.0, math.inf):  # what another run makes comes last, and waits for it
        busy: list[str] = []
        for slide_id in todo:
            result, error = guarded(work, _Slide(slide_id, wait_s))
            if result is not None:
                recorder.succeeded(slide_id, result, {"unlike_training": result.unlike_share})
            elif isinstance(error, LeaseError) and not wait_s:
                busy.append(slide_id)
                continue
            elif error is not None:
                recorder.failed(slide_id, error)
            number += 1
        todo = tuple(busy)
    return recorder.close()

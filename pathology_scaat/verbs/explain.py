"""``scaat explain``: class probabilities and pixel saliency of every patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.errors import LeaseError, ScaatError
from pathology_scaat.leases import lease_if_writable
from pathology_scaat.saliency import ExplainConfig, explain_slide
from pathology_scaat.status import StatusTable
from pathology_scaat.verbs.reporting import Reporter, Silent, StageReport
from pathology_scaat.verbs.stage import StageRecorder, slides_to_do
from pathology_scaat.verbs.workspace import Workspace


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
    todo = slides_to_do(space, "tile", slide_ids)
    recorder = StageRecorder("explain", todo, StatusTable(out), listener)
    busy: list[str] = []
    number = 0

    def tell(done: int, total: int) -> None:
        listener.update("explain", number + done / max(total, 1))

    def attempt(slide_id: str, wait_s: float) -> None:
        with lease_if_writable(space.saliency(slide_id), wait_s):
            result = explain_slide(
                space.patches(slide_id),
                model or space.model,
                space.saliency(slide_id),
                config or ExplainConfig(),
                device=device,
                overwrite=overwrite,
                progress=tell,
            )
        recorder.succeeded(slide_id, result, {})

    for slide_id in todo:
        try:
            attempt(slide_id, 0.0)
        except LeaseError:
            busy.append(slide_id)
            continue
        except ScaatError as error:
            recorder.failed(slide_id, error)
        number += 1
    for slide_id in busy:  # another run makes them: wait for it, then look
        try:
            attempt(slide_id, math.inf)
        except ScaatError as error:
            recorder.failed(slide_id, error)
        number += 1
    return recorder.close()

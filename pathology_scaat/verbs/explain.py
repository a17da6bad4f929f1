"""``scaat explain``: class probabilities and pixel saliency of every patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.errors import ScaatError
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
    for number, slide_id in enumerate(todo):

        def tell(done: int, total: int, number: int = number) -> None:
            listener.update("explain", number + done / max(total, 1))

        try:
            result = explain_slide(
                space.patches(slide_id),
                model or space.model,
                space.saliency(slide_id),
                config or ExplainConfig(),
                device=device,
                overwrite=overwrite,
                progress=tell,
            )
        except ScaatError as error:
            recorder.failed(slide_id, error)
        else:
            recorder.succeeded(slide_id, result, {})
    return recorder.close()

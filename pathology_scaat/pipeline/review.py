"""``scaat review``: a local server for reviewing maps, and its verdicts as labels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.cohort.mistaken import not_an_output_folder, require_output_folder
from pathology_scaat.errors import UsageError
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.review.access import Access
from pathology_scaat.review.agreement import Agreement, agreement_of, moved_by_maps
from pathology_scaat.review.drawings import DrawingTable
from pathology_scaat.review.labels import ReviewLabels, write_labels
from pathology_scaat.review.reviewed_run import Review
from pathology_scaat.review.server import bind, serve
from pathology_scaat.review.verdicts import VerdictTable, latest_verdicts


def review(
    out: Path,
    *,
    manifest: Path | Manifest | None = None,
    model: Path | None = None,
    port: int = 0,
    tunnel_ports: tuple[int, ...] = (),
    on_ready: Callable[[str], None] = lambda link: None,
) -> None:
    """Serve the review pages of a run on 127.0.0.1 until interrupted.

    Parameters
    ----------
    out : Path
        Output folder of a run; only its folder ``review`` is written.
    manifest : Path or Manifest, optional
        Where the slides are, since no output names a path; without it maps and regions are
        shown, but no slide.
    model : Path, optional
        Model bundle; ``out/model`` by default.
    port : int
        0 for any free one.
    tunnel_ports : tuple of int
        Local ports of an ``ssh -L`` tunnel that lead here.
    on_ready : callable
        Called with the link when the server accepts connections. The link works once.

    Raises
    ------
    UsageError
        If the folder holds no run, or the port is taken.
    """
    if not (out.is_dir() and StatusTable(out).rows()):
        raise UsageError("OUT", *not_an_output_folder(out))
    cohort = load_cohort(manifest) if manifest is not None else None
    slides = {row.slide_id: (row.slide_path, row.mpp) for row in cohort.rows} if cohort else {}
    socket, real_port = bind(port)
    served = Review(out, slides, Access(real_port, tunnel_ports), model)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(served, socket, lambda: on_ready(served.access.link)))


@dataclass(frozen=True)
class ImportedReview:
    """What became of the verdicts: labels by slide, and how far readers agree."""

    labels: ReviewLabels
    agreement: Agreement


def import_review(
    out: Path, *, to: Path | None = None, negative_class: str = "Normal"
) -> ImportedReview:
    """Make labels of the verdicts: confirmed regions, rejected ones as hard negatives, drawings.

    Parameters
    ----------
    out : Path
        Output folder with ``review/verdicts.csv``.
    to : Path, optional
        Folder for one GeoJSON per slide; ``out/review/labels`` by default.
    negative_class : str
        Class of regions that were rejected.

    Raises
    ------
    UsageError
        If there is no verdict.
    StoreError
        If a table or overlay is damaged.
    """
    require_output_folder(out)
    rows = VerdictTable(out).rows()
    verdicts = latest_verdicts(rows)
    drawings = DrawingTable(out).current()
    if not verdicts and not drawings:
        raise UsageError("OUT", "holds no verdict", "judge regions in 'scaat review' first")
    folder = to or out / "review" / "labels"
    labels = write_labels(out, verdicts.values(), folder, negative_class, drawings)
    agreement = replace(agreement_of(verdicts.values()), moved=moved_by_maps(rows))
    return ImportedReview(labels, agreement)

"""``scaat run --dry-run``: what a run would do and need; nothing is written where it would be.

Patches are counted on the tissue that is found. A time is measured, here on a few patches or in
an earlier run in the same folder, or it is said not to be known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathology_scaat.artifacts.output_folder import MARKER_NAME, Workspace
from pathology_scaat.artifacts.run_log import StageTime, stage_times
from pathology_scaat.artifacts.urls import slide_location
from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import ScaatError
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.patches.plan import MAX_OPENED, free_bytes
from pathology_scaat.pipeline.config import RunConfig
from pathology_scaat.pipeline.prepare import Prepared, prepare
from pathology_scaat.pipeline.probe import (
    Measured,
    ProbedSlide,
    probe_slide,
    try_explaining,
    try_tiling,
)
from pathology_scaat.pipeline.reporting import Reporter, Silent
from pathology_scaat.system.processes import usable_cores

STAGES = ("tile", "train", "explain", "predict", "stitch", "export")


@dataclass(frozen=True)
class SlidePlan:
    """What is to be done for one slide.

    Attributes
    ----------
    slide_id : str
    n_patches : int or None
        Patches with enough tissue; None where the slide cannot be used.
    n_bytes : int or None
        Of its patches on the disk; None where that is not known.
    already_there : bool
        Whether a patch store of it is there; it is made anew if slide or settings have changed.
    problem : str
        Why it would fail; empty where nothing is against it.
    """

    slide_id: str
    n_patches: int | None
    n_bytes: int | None
    already_there: bool
    problem: str = ""


@dataclass(frozen=True)
class StagePlan:
    """How long a stage takes; None where nobody knows, and where the figure is from."""

    stage: str
    seconds: float | None
    source: str


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes
    ----------
    slides : tuple of SlidePlan
        Those that were looked at.
    n_slides : int
        Of the cohort.
    n_patches : int or None
        Of the cohort, to be cut; where not all slides were looked at, by the mean of the others.
    n_bytes : int or None
        Of these patches.
    saliency_bytes : int or None
        Of their saliency.
    free_bytes : int
        Where the output folder is or will be.
    stages : tuple of StagePlan
    notes : tuple of str
        What the run would report first, and what this plan does not know.
    """

    slides: tuple[SlidePlan, ...]
    n_slides: int
    n_patches: int | None
    n_bytes: int | None
    saliency_bytes: int | None
    free_bytes: int
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Trial:
    """What was measured here; None where it could not be, and why."""

    tiling: Measured | None = None
    explaining: Measured | None = None
    why_no_tiling: str = "no patch fits into the tissue of a slide that can be used"
    why_no_explaining: str = "the model is not trained yet"


def plan_run(config: RunConfig, reporter: Reporter | None = None) -> RunPlan:
    """Plan a run.

    Parameters
    ----------
    config : RunConfig
        As :func:`pathology_scaat.pipeline.run.run` takes it.
    reporter : Reporter, optional
        Listens to progress.

    Raises
    ------
    ScaatError
        Whatever would make the run as a whole fail before its first slide.
    """
    listener = reporter or Silent()
    # No pseudonyms: a salt would be made for them, and names are known on this screen.
    ready = prepare(config.model_copy(update={"pseudonymize": None}))
    rows = ready.cohort.rows[:: max(1, -(-len(ready.cohort.rows) // MAX_OPENED))]
    space = Workspace(config.out)
    probed: dict[str, ProbedSlide] = {}
    problems: dict[str, str] = {}
    listener.begin("look", len(rows))
    for row in rows:
        try:
            probed[row.slide_id] = probe_slide(row, ready.tile_config)
        except ScaatError as error:
            problems[row.slide_id] = str(error)
        listener.advance("look")
    listener.end("look")
    trial = _try_out(config, ready, rows, probed)
    slides = tuple(_slide_plan(row, space, probed, problems, trial) for row in rows)
    to_cut = [one.n_patches or 0 for one in slides if not one.already_there and not one.problem]
    scale = len(ready.cohort.rows) / len(rows)
    n_patches = round(sum(to_cut) * scale)
    every = round(sum(one.n_patches or 0 for one in slides) * scale)
    n_usable = round(len(probed) * scale)
    look_s = sum(one.seconds for one in probed.values()) * scale
    saliency = trial.explaining
    return RunPlan(
        slides=slides,
        n_slides=len(ready.cohort.rows),
        n_patches=n_patches if probed else None,
        n_bytes=round(n_patches * trial.tiling.patch_bytes) if trial.tiling else None,
        saliency_bytes=round(every * saliency.patch_bytes) if saliency else None,
        free_bytes=free_bytes(config.out),
        stages=_stages(config, trial, n_patches, every, n_usable, look_s),
        notes=(*ready.notes, *_notes(config, ready.cohort, len(rows), slides)),
    )


def _slide_plan(
    row: ManifestRow,
    space: Workspace,
    probed: dict[str, ProbedSlide],
    problems: dict[str, str],
    trial: _Trial,
) -> SlidePlan:
    there = space.patches(row.slide_id).exists()
    found = probed.get(row.slide_id)
    if found is None:
        return SlidePlan(row.slide_id, None, None, there, problems.get(row.slide_id, ""))
    size = round(found.n_patches * trial.tiling.patch_bytes) if trial.tiling else None
    return SlidePlan(row.slide_id, found.n_patches, size, there)


def _try_out(
    config: RunConfig, ready: Prepared, rows: Sequence[ManifestRow], probed: dict[str, ProbedSlide]
) -> _Trial:
    """Cut and explain a few patches of the smallest slide that has some."""
    possible = [row for row in rows if row.slide_id in probed and probed[row.slide_id].n_patches]
    if not possible:
        return _Trial()
    row = min(possible, key=_file_bytes)
    try:
        with tempfile.TemporaryDirectory(prefix="scaat-plan-") as made:
            folder = Path(made)
            tiling = try_tiling(row, probed[row.slide_id], ready.tile_config, folder)
            if config.model is None:
                return _Trial(tiling)
            try:
                device = str(choose_device(config.device))
                found = try_explaining(folder, config.model, config.explain, device)
                return _Trial(tiling, found)
            except ScaatError as error:
                return _Trial(tiling, why_no_explaining=str(error))
    except ScaatError as error:
        return _Trial(why_no_tiling=str(error))
    except OSError as error:
        return _Trial(why_no_tiling=f"the temporary folder cannot be used ({error.strerror})")


def _file_bytes(row: ManifestRow) -> int:
    location = slide_location(row.slide_path)
    try:
        return location.stat().st_size if isinstance(location, Path) else 1 << 62
    except OSError:
        return 1 << 62


def _stages(
    config: RunConfig, trial: _Trial, n_to_cut: int, n_patches: int, n_slides: int, look_s: float
) -> tuple[StagePlan, ...]:
    before = stage_times(config.out)
    elsewhere = config.engine.cluster is not None or config.engine.scheduler is not None
    cores = usable_cores() if config.engine.workers is None else max(config.engine.workers, 1)
    workers = 1 if elsewhere else max(min(cores, n_slides), 1)
    found = []
    for stage in STAGES:
        known = before.get(stage)
        if known is not None:
            found.append(_as_before(stage, known, n_to_cut, n_patches, n_slides))
        elif stage == "tile":
            found.append(_tile_plan(trial, n_to_cut, look_s, workers, elsewhere))
        elif stage == "explain" and trial.explaining is not None:
            here = trial.explaining
            source = f"measured here: {here.n_patches} patches, {1 / here.patch_s:,.3g} a second"
            found.append(StagePlan(stage, n_patches * here.patch_s, source))
        elif stage == "train" and config.model is not None:
            found.append(StagePlan(stage, 0.0, "a model is given"))
        else:
            why = trial.why_no_explaining if stage == "explain" else "it was not measured here"
            found.append(StagePlan(stage, None, f"{why}; a finished run in this folder shows it"))
    return tuple(found)


def _tile_plan(
    trial: _Trial, n_to_cut: int, look_s: float, workers: int, elsewhere: bool
) -> StagePlan:
    here = trial.tiling
    if here is None:
        return StagePlan("tile", None, trial.why_no_tiling)
    by = "one process" if workers == 1 else f"divided by {workers} processes"
    if elsewhere:
        by = "one process; how many a cluster gives is not known"
    source = f"measured here: {here.n_patches} patches, {1 / here.patch_s:,.3g} a second; {by}"
    return StagePlan("tile", (n_to_cut * here.patch_s + look_s) / workers, source)


def _as_before(
    stage: str, known: StageTime, n_to_cut: int, n_patches: int, n_slides: int
) -> StagePlan:
    """A stage's time by that of an earlier run: by patches where they were counted."""
    source = f"as the run before in this folder: {known.n_slides} slides"
    if known.n_patches:
        n = n_to_cut if stage == "tile" else n_patches
        source += f", {known.n_patches} patches, {known.seconds:.1f} s"
        return StagePlan(stage, known.seconds * n / known.n_patches, source)
    source += f", {known.seconds:.1f} s"
    return StagePlan(stage, known.seconds * n_slides / known.n_slides, source)


def _notes(
    config: RunConfig, cohort: Manifest, n_looked: int, slides: Sequence[SlidePlan]
) -> list[str]:
    notes = []
    if n_looked < len(cohort.rows):
        notes.append(
            f"{n_looked} of {len(cohort.rows)} slides were looked at, evenly spread; the totals "
            "take the others to be like them."
        )
    if any(one.already_there for one in slides):
        notes.append(
            "Patches that are there already are made anew only where slide or settings changed: "
            "that is not looked at here, nor counted."
        )
    if config.pseudonymize is not None:
        notes.append("What is there under pseudonyms is not seen here: all counts as to be done.")
    if config.tile.only_labelled:
        notes.append("Only labelled patches are kept (only_labelled): fewer than counted here.")
    if config.out.is_dir() and not (config.out / MARKER_NAME).exists():
        held = [path.name for path in config.out.iterdir() if not path.name.startswith(".")]
        if held:
            notes.append("The output folder holds files of others: see --out-exists-ok.")
    notes.append("Space for maps and pictures is not known beforehand.")
    return notes

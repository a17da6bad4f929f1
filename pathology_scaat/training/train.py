"""``train_model``: checks, fingerprint, processes; the work itself is in :mod:`.trainer`."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pathology_scaat.artifacts.fingerprint import file_sha256, fingerprint
from pathology_scaat.errors import BundleError, TrainingError, UsageError
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.patches.reader import PatchStore
from pathology_scaat.system.worker_import import (
    IMPORTED_AGAIN,
    end_if_imported_by_worker,
    imported_again,
)
from pathology_scaat.training.backbones import HEAD_STD
from pathology_scaat.training.bundle_config import SCHEMA_VERSION, model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.data import patch_labels
from pathology_scaat.training.job import Job, work_folder
from pathology_scaat.training.positive_class import positive_class
from pathology_scaat.training.results import TrainingSlide, TrainProgress, TrainResult
from pathology_scaat.training.trainer import Trainer

logger = logging.getLogger(__name__)

PROCESS_TIMEOUT = timedelta(minutes=15)
EXECUTION_ONLY = {"cache_bytes", "tensorboard", "devices", "backbone_weights"}
"""Settings that do not decide the result, and the path of the weights (their hash does)."""
NOT_FOR_PATCHES = {"labels", "bag"}
"""Settings that learning from patches does not use: the labels themselves enter."""
DEFAULTS_VERSION = 3
"""Raised when a default of a method changes: the same settings then train another model."""


def train_model(
    slides: Sequence[TrainingSlide],
    out_dir: str | Path,
    config: TrainConfig | None = None,
    *,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
    parent: Path | None = None,
) -> TrainResult:
    """Train a classifier on labelled patches and save it as a model bundle.

    Parameters
    ----------
    slides : sequence of TrainingSlide
        Patch stores with their splits. Where none is for validation, blocks of the training
        slides are held out (and the result says so).
    out_dir : str or Path
        The bundle's folder. The checkpoint lies beside it in ``<name>.training`` until training
        ends; a stopped training of the same data, settings and seed goes on from there, to the
        same result bit for bit on a CPU.
    config : TrainConfig, optional
        Network, method, schedule.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    seed : int
        Seed of everything random.
    overwrite : bool
        Train anew even where the right bundle or a checkpoint exists.
    progress : callable, optional
        Called after each epoch (and within long ones). Raising in it stops the training after the
        last checkpoint.
    parent : Path, optional
        Bundle to go on from: its weights, its normalisation, and its record of slides
        (:func:`~pathology_scaat.training.finetune.finetune_model` checks that it fits).

    Returns
    -------
    TrainResult

    Raises
    ------
    TrainingError
        If a patient is in two splits, stores do not belong together, labels do not suffice, or
        the positive class is none of the classes.
    UsageError
        If an option of backbone or method is unknown.
    """
    settings = config or TrainConfig()
    out = Path(out_dir)
    classes = check_slides(slides)
    positive_class(settings.positive_class, classes)  # before an hour of training, not after it
    identity = training_fingerprint(slides, settings, seed, parent)
    if not overwrite and (done := finished_training(out, identity)) is not None:
        return done
    job = Job(tuple(slides), out, settings, classes, identity, device_name(device), seed, parent)
    if overwrite:
        (work_folder(out) / "checkpoint.pt").unlink(missing_ok=True)
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _under_torchrun(job, progress)
    if settings.devices > 1:
        return _with_processes(job, progress)
    return Trainer(job, progress).run()


def check_patients(slides: Sequence[TrainingSlide]) -> None:
    """Refuse an unknown split, and a patient in two splits.

    Raises
    ------
    TrainingError
    """
    if not slides:
        raise TrainingError("the cohort", "has no slide to train on", "tile labelled slides first")
    of_patient: dict[str, str] = {}
    for slide in slides:
        if slide.split not in ("train", "val", "test"):
            raise TrainingError(
                slide.slide_id, f"has the split '{slide.split}'", "use train, val or test"
            )
        before = of_patient.setdefault(slide.patient_id, slide.split)
        if before != slide.split:
            raise TrainingError(
                slide.slide_id,
                f"its patient is in both '{before}' and '{slide.split}'",
                "keep all slides of a patient in one split",
            )


def check_slides(slides: Sequence[TrainingSlide]) -> tuple[str, ...]:
    """Check splits, patients and stores; returns the class names they share.

    Raises
    ------
    TrainingError
        If a patient is in two splits, the stores differ in classes, patch size or µm/px, or name
        none.
    StoreError
        If a store cannot be read.
    """
    check_patients(slides)
    kinds: set[tuple[Any, ...]] = set()
    for slide in slides:
        meta = PatchStore(slide.store).meta
        kinds.add((meta.class_names, meta.grid.patch_size_px, round(meta.requested_mpp, 6)))
    if len(kinds) > 1:
        raise TrainingError(
            "the patch stores",
            "differ in classes, patch size or µm/px",
            "tile all slides with the same settings",
        )
    names: tuple[str, ...] = next(iter(kinds))[0]
    if not names:
        raise TrainingError(
            "the patch stores", "name no classes", "tile with annotations or labels"
        )
    return names


def training_fingerprint(
    slides: Sequence[TrainingSlide], config: TrainConfig, seed: int, parent: Path | None = None
) -> str:
    """Fingerprint of everything that decides the trained model."""
    data = []
    for slide in sorted(slides, key=lambda s: s.slide_id):
        store = PatchStore(slide.store)
        labels = patch_labels(store, config.multi_label, config.multi_label_min_coverage)
        digest = hashlib.sha256(labels.tobytes()).hexdigest()
        names = list(store.meta.class_names)
        data.append([slide.slide_id, slide.split, store.meta.fingerprint, digest, names])
    weights = config.backbone_weights
    return fingerprint(
        {
            "schema_version": SCHEMA_VERSION,
            "defaults": DEFAULTS_VERSION,
            "data": data,
            "config": config.model_dump(
                mode="json", exclude=EXECUTION_ONLY | NOT_FOR_PATCHES | config.not_given
            ),
            "weights": _weights_key(weights),
            "seed": seed,
            **({} if parent is None else {"parent": model_fingerprint(read_bundle_config(parent))}),
        }
    )


def _weights_key(weights: Path | None) -> str | None:
    """Identity of given weights, and of how the classifier over them begins."""
    if weights is None or not weights.is_file():
        return None
    return f"{file_sha256(weights)}, classifier {HEAD_STD}"


def finished_training(out: Path, identity: str) -> TrainResult | None:
    """The result of an earlier training of the same, where its bundle stands."""
    try:
        config = read_bundle_config(out)
    except BundleError:
        return None
    if config.training_fingerprint != identity:
        return None
    metrics = dict(config.metrics)
    return TrainResult(
        bundle_path=out,
        fingerprint=identity,
        model_fingerprint=model_fingerprint(config),
        metrics=metrics,
        n_epochs=int(metrics.get("n_epochs", 0)),
        best_epoch=int(metrics.get("best_epoch", 0)),
        skipped=True,
        notes=config.notes,
        nothing_learnt=config.nothing_learnt,
    )


def device_name(device: str) -> str:
    if device == "auto":  # Apple's MPS only where it is asked for
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(choose_device(device))


def _backend(job: Job) -> str:
    return "nccl" if job.device.startswith("cuda") else "gloo"


def _check_devices(job: Job, n: int) -> None:
    if ":" in job.device:
        raise UsageError(
            "--device", f"'{job.device}' is one device, and {n} are asked for", "use cuda"
        )
    if job.device.startswith("cuda") and torch.cuda.device_count() < n:
        raise UsageError(
            "devices", f"{n} asked for, {torch.cuda.device_count()} here", "ask for fewer"
        )


def _under_torchrun(job: Job, progress: Callable[[TrainProgress], None] | None) -> TrainResult:
    """All processes are here already; each does its part, the first writes."""
    own = not dist.is_initialized()
    if own:
        dist.init_process_group(_backend(job), timeout=PROCESS_TIMEOUT)
    try:
        return Trainer(job, progress if dist.get_rank() == 0 else None).run()
    finally:
        if own:
            dist.destroy_process_group()


def _with_processes(job: Job, progress: Callable[[TrainProgress], None] | None) -> TrainResult:
    """Be the first process and start the others; progress stays in this one."""
    end_if_imported_by_worker()
    n = job.config.devices
    _check_devices(job, n)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scaat-"))
        context = mp.get_context("spawn")
        others = [
            context.Process(target=_member, args=(job, folder, rank, n), daemon=True)
            for rank in range(1, n)
        ]
        for process in others:
            process.start()
        try:
            _await_begin(Path(folder), others)
            dist.init_process_group(
                _backend(job), init_method=_meeting(folder), rank=0, world_size=n,
                timeout=PROCESS_TIMEOUT,
            )  # fmt: skip
            try:
                with _share_of_cores(job, n):
                    result = Trainer(job, progress).run()
            finally:
                dist.destroy_process_group()  # the others wait for it before they end
            for process in others:
                process.join(timeout=60)
            return result
        finally:
            for process in others:
                if process.is_alive():
                    process.terminate()


@contextmanager
def _share_of_cores(job: Job, n: int) -> Iterator[None]:
    """Threads of one of n processes on this machine: with all cores each they would fight."""
    before = torch.get_num_threads()
    if job.device == "cpu":
        torch.set_num_threads(max(1, before // n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _meeting(folder: str) -> str:
    """Where the processes find each other."""
    return f"file://{folder}/meeting"


def _await_begin(folder: Path, others: Sequence[BaseProcess]) -> None:
    """Wait until all processes are at their work, or one has ended before.

    Raises
    ------
    UsageError
        If the user's script starts its work where it is imported.
    """
    while len(list(folder.glob("begun-*"))) < len(others):
        for process in others:
            if process.exitcode == IMPORTED_AGAIN:
                raise imported_again()
            if process.exitcode is not None:
                return  # why is said where the processes are to meet
        time.sleep(0.02)


def _member(job: Job, folder: str, rank: int, world_size: int) -> None:
    """One of the other processes; ``folder`` is of all of them."""
    (Path(folder) / f"begun-{rank}").touch()
    dist.init_process_group(
        _backend(job),
        init_method=_meeting(folder),
        rank=rank,
        world_size=world_size,
        timeout=PROCESS_TIMEOUT,
    )
    try:
        with _share_of_cores(job, world_size):
            Trainer(job, None).run()
    finally:
        dist.destroy_process_group()

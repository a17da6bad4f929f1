"""``evaluate_run`` (one model, a trust card) and ``compare`` (several, under the protocol)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.evaluation.comparison import Comparison, compare_measurements
from pathology_scaat.evaluation.comparison_report import write_comparison
from pathology_scaat.evaluation.evaluation_set import (
    ChosenPatches,
    EvaluationSet,
    choose_patches,
)
from pathology_scaat.evaluation.held_out import SlideChoice, choose_slides
from pathology_scaat.evaluation.measure import Progress, measure_model
from pathology_scaat.evaluation.measurement import Measurement
from pathology_scaat.evaluation.protocol import ProtocolConfig, with_method
from pathology_scaat.evaluation.slide_card import slide_card
from pathology_scaat.evaluation.trust_card import TrustCard, build_entries, write_card
from pathology_scaat.evaluation.warnings import doubts_of_model, doubts_of_slides, model_warning
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.execution.engine import EngineConfig, map_jobs
from pathology_scaat.metrics.functional.calibration import fit_temperature, temperature_problem
from pathology_scaat.training.bundle_quality import OF_PAINTED_SLIDES
from pathology_scaat.training.bundle_reading import read_bundle_config

logger = logging.getLogger(__name__)

MEASUREMENT_SCHEMA = 2  # noise and orders are drawn per image, whatever the batch size


def _stores(out_dir: Path, slide_ids: Sequence[str]) -> dict[str, Path]:
    paths = {i: out_dir / "patches" / f"{i}.zarr" for i in slide_ids}
    return {i: p for i, p in paths.items() if p.is_dir()}


def evaluate_run(
    out_dir: Path,
    *,
    model: Path | None = None,
    config: ProtocolConfig | None = None,
    slide_ids: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
    annotations: Mapping[str, Path] | None = None,
    labels: Mapping[str, str] | None = None,
    referees: Sequence[Path] = (),
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    engine: EngineConfig | None = None,
    announce: Callable[[str], None] | None = None,
) -> TrustCard:
    """Measure a run's model on its test slides and write a trust card.

    Parameters
    ----------
    out_dir : Path
        Output folder of ``scaat run``: its ``patches``, ``model`` and ``slides.csv`` are read;
        ``evaluation/trust_card.{json,md,png}`` is written.
    model : Path, optional
        Another bundle than ``out/model``.
    config : ProtocolConfig, optional
    slide_ids : sequence of str, optional
        Slides to measure on; by default those that the model has not seen according to its
        bundle, else the validation slides, else all (and the card says so).
    patients : mapping of slide id to patient id, optional
        What intervals are clustered by; by default what ``slides.csv`` knows of patients, else
        slides.
    annotations : mapping of slide id to annotation file, optional
        Polygons that give patches of the positive class their masks.
    labels : mapping of slide id to class, optional
        Of whole slides: what a model for bags is judged by.
    referees : sequence of Path
        Bundles of independent models that judge the maps too.
    device : str
    overwrite : bool
        Measure again even where a measurement of this model and these images is there.
    progress : callable, optional
        Called with (what, done, all); not by a job on a cluster.
    engine : EngineConfig, optional
        Where labels are read, one job per slide, and, where it names a cluster, where the model
        is measured: one job on a worker with a GPU, which reads the chosen patches itself.
        Decides speed only.
    announce : callable, optional
        Called with one sentence that a user should read of the cluster.

    Returns
    -------
    TrustCard
        What could not be measured is there, and says "not measured" and why.

    Raises
    ------
    BundleError, StoreError
        If an input cannot be read.
    UsageError
        If no patch of these slides has a label the model knows.
    """
    out_dir = Path(out_dir)
    config = config or ProtocolConfig()
    model = Path(model or out_dir / "model")
    model_config = read_bundle_config(model)
    if model_config.bag_of is not None:
        raise UsageError(
            "the model",
            "tells of cases, all slides of a patient together, and this measures slides one by one",
            "see performance.md for how well it tells patients apart",
        )
    patients = dict(patients or StatusTable(out_dir).column("patient"))
    job = EvaluateJob(
        out_dir, model, config, slide_ids=None if slide_ids is None else tuple(slide_ids),
        patients=patients, labels=None if labels is None else dict(labels),
        referees=tuple(Path(path) for path in referees), device=device, overwrite=overwrite,
    )  # fmt: skip
    if model_config.bag is None:
        choice = choose_slides(out_dir, model_config, slide_ids, patients)
        chosen = choose_patches(
            _stores(out_dir, choice.slide_ids), model_config.class_names,
            model_config.positive_class, patients=patients, annotations=annotations,
            max_patches=config.max_images, max_pixels=config.max_pixels, seed=config.seed,
            name=choice.words, engine=engine,
        )  # fmt: skip
        if chosen is None:
            raise UsageError(
                out_dir.name,
                "has no labelled patch to evaluate on",
                "annotate test slides, or name labelled slides",
            )
        job = replace(job, choice=choice, chosen=chosen)
    card = _evaluated(job, engine, progress, announce)
    write_card(card, out_dir / "evaluation")
    return card


@dataclass(frozen=True)
class EvaluateJob:
    """One model to measure: paths and choices, no pixels and no weights.

    Attributes
    ----------
    out_dir, model : Path
        Output folder of a run, and the bundle.
    config : ProtocolConfig
    slide_ids, patients, labels, referees, device, overwrite
        As in :func:`evaluate_run`.
    choice, chosen : SlideChoice, ChosenPatches
        Slides and patches to measure on; None for a model for bags, which is measured on whole
        slides.
    """

    out_dir: Path
    model: Path
    config: ProtocolConfig
    slide_ids: tuple[str, ...] | None
    patients: dict[str, str]
    labels: dict[str, str] | None
    referees: tuple[Path, ...]
    device: str
    overwrite: bool
    choice: SlideChoice | None = None
    chosen: ChosenPatches | None = None


def evaluate_job(job: EvaluateJob, progress: Progress | None = None) -> TrustCard:
    """Read the chosen patches and measure the model on them, on the device of this machine.

    Measurements are kept in ``out/evaluation/measurements``.

    Raises
    ------
    BundleError, StoreError
        If an input cannot be read.
    """
    from pathology_scaat.training.bundle import load_bundle

    device = choose_device(job.device)
    bundle = load_bundle(job.model, device=str(device))
    if job.chosen is None or job.choice is None:
        return slide_card(
            job.out_dir, bundle, job.config, slide_ids=job.slide_ids, patients=job.patients,
            labels=job.labels, device=device, progress=progress,
        )  # fmt: skip
    data, choice = job.chosen.read(), job.choice
    config = with_method(job.config, [bundle.config])
    judges = [load_bundle(path, device=str(device)) for path in job.referees]
    result = _measured(
        bundle, data, config, float(bundle.config.temperature), judges, device,
        job.out_dir / "evaluation", job.overwrite, progress,
    )  # fmt: skip
    return TrustCard(
        model_fingerprint=bundle.fingerprint,
        training_method=bundle.config.trained_by,
        explanation_method=config.method,
        target_class=bundle.config.positive_class,
        data=choice.words,
        n_images=len(data),
        n_groups=len(np.unique(data.groups)),
        unit=data.unit,
        held_out=choice.held_out,
        held_out_words=choice.held_out_words,
        temperature=float(bundle.config.temperature),
        entries=build_entries(result, data, config, len(judges)),
        terms=bundle.config.terms,
        label_note=data.label_note,
        copied_labels=data.copied,
        warning=model_warning(bundle.config.held_out),
        slide_notes=(
            *doubts_of_model(bundle.config),
            *doubts_of_slides(job.out_dir, choice.slide_ids),
        ),
        settings=config.model_dump(mode="json"),
    )


def _evaluated(
    job: EvaluateJob,
    engine: EngineConfig | None,
    progress: Progress | None,
    announce: Callable[[str], None] | None,
) -> TrustCard:
    """The card, measured on a cluster's GPU where there is a cluster; else here, step by step."""
    if engine is None or not (engine.scheduler or engine.cluster):
        return evaluate_job(job, progress)
    gpu = None if job.device == "cpu" else {"GPU": 1.0}
    with closing(
        map_jobs(evaluate_job, [job], engine, announce=announce, resources=gpu)
    ) as outcomes:
        outcome = next(outcomes)
    if outcome.result is None:
        assert outcome.error is not None  # noqa: S101  (for the type checker)
        raise outcome.error
    return outcome.result


def _measured(
    bundle: Any,
    data: EvaluationSet,
    config: ProtocolConfig,
    temperature: float,
    referees: Sequence[Any],
    device: torch.device,
    folder: Path,
    overwrite: bool,
    progress: Progress | None,
) -> Measurement:
    """A model's measurement, from its file where it is there: this is how runs resume."""
    wanted = fingerprint(
        {
            "schema": MEASUREMENT_SCHEMA,
            "model": bundle.fingerprint,
            "data": data.digest(),
            "config": config.model_dump(
                mode="json", exclude={"primary", "auc_margin", "batch_size"}
            ),
            "temperature": temperature,
            "referees": [r.fingerprint for r in referees],
        }
    )
    path = folder / "measurements" / f"{wanted[:24]}.npz"
    if path.is_file() and not overwrite:
        try:
            return Measurement.load(path)
        except StoreError:
            logger.warning("%s is damaged and is measured again", path.name)
    result = measure_model(
        bundle.model, data, config, temperature=temperature,
        referees=[r.model for r in referees], device=device, progress=progress,
    )  # fmt: skip
    result.facts["fingerprint"] = wanted
    result.facts["method"] = str(bundle.config.method)
    result.save(path)
    return result


def compare(
    arms: Mapping[str, Sequence[Path]],
    data: EvaluationSet,
    out_dir: Path,
    *,
    baseline: str = "plain",
    config: ProtocolConfig | None = None,
    validation: EvaluationSet | None = None,
    referees: Sequence[Path] = (),
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare model bundles of several training methods under one protocol.

    Parameters
    ----------
    arms : mapping of name to bundles
        One bundle per seed, in the same order of seeds for all arms.
    data : EvaluationSet
        Test images: the same for all.
    out_dir : Path
        ``comparison.{json,md,png}`` are written here; one measurement per bundle is kept in
        ``measurements``, so that a call that was interrupted goes on where it stopped.
    baseline : str
    config : ProtocolConfig, optional
        ``config.primary`` names the one measure that decides.
    validation : EvaluationSet, optional
        For each bundle's temperature; else the one in the bundle.
    referees : sequence of Path
    device, overwrite, progress
        As in :func:`evaluate_run`.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        If the baseline is no arm, a bundle's patch size or classes do not fit the images, or
        the arms do not have the same seeds.
    """
    from pathology_scaat.training.bundle import load_bundle

    config = config or ProtocolConfig()
    if baseline not in arms:
        raise UsageError("baseline", f"'{baseline}' is no arm", f"have {', '.join(arms)}")
    config = with_method(config, [read_bundle_config(p) for paths in arms.values() for p in paths])
    chosen_device = choose_device(device)
    data = data.take(data.spread(config.max_images, config.seed))
    judges = [load_bundle(path, device=str(chosen_device)) for path in referees]
    results: dict[str, list[Measurement]] = {}
    silent: list[str] = []
    n_painted = 0
    for arm, paths in arms.items():
        for path in paths:
            bundle = load_bundle(path, device=str(chosen_device))
            if bundle.config.patch_size_px != data.images.shape[1]:
                raise UsageError(
                    Path(path).name,
                    f"wants patches of {bundle.config.patch_size_px} px",
                    "compare models of one patch size",
                )
            temperature = float(bundle.config.temperature)
            if validation is not None and not validation.copied:  # they calibrate nothing
                temperature = _temperature(bundle.model, validation, chosen_device)
            found = _measured(
                bundle, data, config, temperature, judges, chosen_device, Path(out_dir),
                overwrite, progress,
            )  # fmt: skip
            seed = bundle.config.training.get("seed")
            if seed is not None:
                found.facts["seed"] = int(seed)
            n_painted += bundle.config.of_painted
            if warning := model_warning(bundle.config.held_out):
                silent.append(f"{arm}{'' if seed is None else f', seed {seed}'}: {warning}")
            results.setdefault(arm, []).append(found)
    n_models = sum(map(len, results.values()))
    which = "All" if n_painted == n_models else f"{n_painted} of the {n_models}"
    painted = (f"{which} models {OF_PAINTED_SLIDES}.",) if n_painted else ()
    comparison = compare_measurements(results, data, baseline=baseline, config=config)
    comparison = replace(comparison, read_first=(*painted, *silent))
    write_comparison(comparison, Path(out_dir))
    return comparison


@torch.no_grad()
def _temperature(model: torch.nn.Module, data: EvaluationSet, device: torch.device) -> float:
    parts = []
    for start in range(0, len(data), 128):
        pixels = torch.from_numpy(data.images[start : start + 128]).to(device)
        parts.append(model(pixels.permute(0, 3, 1, 2).float() / 255).float().cpu())
    found = fit_temperature(torch.cat(parts).numpy(), data.labels)
    if (problem := temperature_problem(found)) is not None:
        logger.warning("%s", problem)
    return found

"""``evaluate_run`` (one model, a trust card) and ``compare`` (several, under the protocol)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.evaluation.comparison import Comparison, compare_measurements
from pathology_scaat.evaluation.comparison_report import write_comparison
from pathology_scaat.evaluation.evaluation_set import EvaluationSet, evaluation_set_from_stores
from pathology_scaat.evaluation.held_out import choose_slides, read_column
from pathology_scaat.evaluation.measure import Progress, measure_model
from pathology_scaat.evaluation.measurement import Measurement
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.evaluation.slide_card import slide_card
from pathology_scaat.evaluation.trust_card import TrustCard, build_entries, write_card
from pathology_scaat.execution.devices import choose_device
from pathology_scaat.metrics.functional.calibration import fit_temperature, temperature_problem

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
        Called with (what, done, all).

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
    from pathology_scaat.training.bundle import load_bundle

    out_dir = Path(out_dir)
    config = config or ProtocolConfig()
    chosen_device = choose_device(device)
    bundle = load_bundle(model or out_dir / "model", device=str(chosen_device))
    patients = patients or read_column(out_dir, "patient")
    if bundle.config.bag is not None:
        card = slide_card(
            out_dir, bundle, config, slide_ids=slide_ids, patients=patients, labels=labels,
            device=chosen_device, progress=progress,
        )  # fmt: skip
        write_card(card, out_dir / "evaluation")
        return card
    choice = choose_slides(out_dir, bundle.config, slide_ids, patients)
    data = evaluation_set_from_stores(
        _stores(out_dir, choice.slide_ids), bundle.config.class_names,
        bundle.config.positive_class, patients=patients, annotations=annotations,
        max_patches=config.max_images, max_pixels=config.max_pixels, seed=config.seed,
        name=choice.words,
    )  # fmt: skip
    if data is None:
        raise UsageError(
            out_dir.name,
            "has no labelled patch to evaluate on",
            "annotate test slides, or name labelled slides",
        )
    judges = [load_bundle(path, device=str(chosen_device)) for path in referees]
    result = _measured(
        bundle, data, config, float(bundle.config.temperature), judges, chosen_device,
        out_dir / "evaluation", overwrite, progress,
    )  # fmt: skip
    card = TrustCard(
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
        settings=config.model_dump(mode="json"),
    )
    write_card(card, out_dir / "evaluation")
    return card


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
    chosen_device = choose_device(device)
    data = data.take(data.spread(config.max_images, config.seed))
    judges = [load_bundle(path, device=str(chosen_device)) for path in referees]
    results: dict[str, list[Measurement]] = {}
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
            if validation is not None:
                temperature = _temperature(bundle.model, validation, chosen_device)
            found = _measured(
                bundle, data, config, temperature, judges, chosen_device, Path(out_dir),
                overwrite, progress,
            )  # fmt: skip
            if "seed" in bundle.config.training:
                found.facts["seed"] = int(bundle.config.training["seed"])
            results.setdefault(arm, []).append(found)
    comparison = compare_measurements(results, data, baseline=baseline, config=config)
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

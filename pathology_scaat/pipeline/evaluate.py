"""``scaat evaluate`` and ``scaat compare``: are the maps good, and better than another method's?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pathology_scaat.artifacts.output_folder import Workspace, claim_output
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.compare_methods import CompareConfig, compare_methods
from pathology_scaat.evaluation.comparison import Comparison
from pathology_scaat.evaluation.evaluate import evaluate_run
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.evaluation.trust_card import TrustCard
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches import PatchStore
from pathology_scaat.patches.schema import PatchStoreMeta
from pathology_scaat.pipeline.class_table import class_table_notes
from pathology_scaat.pipeline.cohort_page import renew_cohort_page
from pathology_scaat.pipeline.config import read_yaml, validation_error
from pathology_scaat.pipeline.data_years import with_years
from pathology_scaat.pipeline.preflight import check_device, check_training
from pathology_scaat.pipeline.reporting import Reporter
from pathology_scaat.pipeline.run_log import logged
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.pipeline.train import training_cohort
from pathology_scaat.saliency.attributions import AUTO
from pathology_scaat.saliency.methods_of_maps import method_words, methods_of_maps
from pathology_scaat.training.bundle_config import model_fingerprint
from pathology_scaat.training.bundle_reading import read_bundle_config


def _steps(reporter: Reporter) -> Callable[[str, int, int], None]:
    """A progress callback that opens one bar for each kind of work as it begins."""
    begun: set[str] = set()

    def update(what: str, done: int, total: int) -> None:
        if what not in begun:
            begun.add(what)
            reporter.begin(what, total)
        reporter.update(what, done)

    return update


def _as_explained(
    config: ProtocolConfig | None, out: Path, model: Path, reporter: Reporter
) -> ProtocolConfig:
    """The settings with the method that the run's maps were made by, where that is one method.

    A trust card stands beside those maps, and is read as theirs.
    """
    config = config or ProtocolConfig()
    if config.method != AUTO:
        return config
    print_of_model = model_fingerprint(read_bundle_config(model))
    methods = methods_of_maps(out, print_of_model)
    if len(methods) == 1:
        return config.model_copy(update={"method": next(iter(methods))})
    if methods:
        reporter.note(
            f"Maps of this model are made by {method_words(methods)}. The trust card is of those "
            "by the model's own method: 'scaat explain' with one --method makes all alike."
        )
    return config


def _annotations(cohort: Manifest) -> dict[str, Path]:
    return {r.slide_id: r.annotation_path for r in cohort.rows if r.annotation_path is not None}


def evaluate(
    out: Path,
    *,
    manifest: Path | Manifest | None = None,
    model: Path | None = None,
    config: ProtocolConfig | None = None,
    device: str = "auto",
    engine: EngineConfig | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> TrustCard:
    """Measure a run's model on its held-out slides into ``out/evaluation/trust_card.*``.

    Parameters
    ----------
    out : Path
        Output folder of a run.
    manifest : Path or Manifest, optional
        Gives the patients that intervals are clustered by (else ``slides.csv`` does), and the
        annotations that masks come from; without it localisation is "not measured".
    model : Path, optional
        Another bundle than ``out/model``.
    config : ProtocolConfig, optional
        What is measured.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    engine : EngineConfig, optional
        Where labels are read, one job per slide (in this process by default), and on which
        cluster, if any, the model is measured.
    overwrite : bool
        Measure again.
    reporter : Reporter, optional
        Listens to progress.

    Returns
    -------
    TrustCard
        What could not be measured is there, and says "not measured" and why.

    Raises
    ------
    UsageError
        If the device does not exist, or no patch of these slides has a label the model knows.
    BundleError, StoreError
        If an input cannot be read.
    LostError
        If the cluster went away.
    """
    check_device(device, engine)
    claim_output(out)
    listener = logged(reporter, out, "evaluate")
    cohort = load_cohort(manifest) if manifest is not None else None
    card = evaluate_run(
        out,
        model=model,
        config=_as_explained(config, out, model or Workspace(out).model, listener),
        patients=cohort.patient_keys() if cohort else None,
        annotations=_annotations(cohort) if cohort else None,
        labels={r.slide_id: r.label for r in cohort.rows if r.label} if cohort else None,
        device=device,
        overwrite=overwrite,
        progress=_steps(listener),
        engine=engine,
        announce=listener.note,
    )
    renew_cohort_page(out, listener)  # it links to the card
    return card


COMPARISON_FILE = "a file of a comparison"


def load_compare_config(path: Path | None, seeds: Sequence[int] | None = None) -> CompareConfig:
    """A comparison from a YAML file; the default arms without one. ``seeds`` go before its own.

    Raises
    ------
    ConfigError
        If the file cannot be read or a setting is unknown or impossible.
    """
    values: dict[str, Any] = read_yaml(path, COMPARISON_FILE) if path else {}
    if seeds is not None:
        values = {**values, "seeds": tuple(seeds)}
    try:
        return CompareConfig.model_validate(values)
    except ValidationError as error:
        raise validation_error(path.name if path else "comparison", error, CompareConfig) from None


def _check_arms(config: CompareConfig, store: PatchStoreMeta) -> None:
    """Refuse a method or network that could not be trained, before the first model is.

    Raises
    ------
    UsageError
        Naming the arm.
    """
    side = store.grid.patch_size_px
    for name, arm in config.arms.items():
        settings = config.train.model_copy(
            update={"method": arm.method, "method_options": dict(arm.method_options)}
        )
        try:
            check_training(settings, side)
        except UsageError as error:
            raise UsageError(
                f"arm '{name}': {error.subject}", error.problem, error.remedy
            ) from None


def compare(
    manifest: Path | Manifest,
    out: Path,
    *,
    config: CompareConfig | None = None,
    device: str = "auto",
    seed: int | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Comparison:
    """Train several methods on the patches of ``out`` and compare their maps.

    Parameters
    ----------
    manifest : Path or Manifest
        The cohort that was tiled; patients and annotations come from it.
    out : Path
        Output folder of ``tile``; models and tables go to ``out/comparison``.
    config : CompareConfig, optional
        Arms, seeds and the protocol, with the primary measure named before training.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    seed : int, optional
        Seed of the split where the manifest gives none; without it the split of the run that is
        in ``slides.csv`` is kept.
    overwrite : bool
        Train and measure anew.
    reporter : Reporter, optional
        Listens to progress.
    """
    listener = logged(reporter, out, "compare")
    check_device(device)
    claim_output(out)
    cohort = load_cohort(manifest)
    found = training_cohort(cohort, out, seed)
    if config is not None and config.train.data_years:
        found = replace(found, slides=with_years(found.slides, cohort.rows))
    for note in (*cohort.notes, *class_table_notes(found.class_counts), *found.notes):
        listener.note(note)
    _check_arms(config or CompareConfig(), PatchStore(found.slides[0].store).meta)
    return compare_methods(
        found.slides,
        out / "comparison",
        config,
        annotations=_annotations(cohort),
        device=device,
        overwrite=overwrite,
        progress=_steps(listener),
        announce=listener.note,
    )

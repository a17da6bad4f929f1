"""What ``train`` and ``predict`` do with ``--features``: heads, of one target or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pathology_scaat.cli.common import (
    print_metrics,
    print_performance,
    progress_of,
    refuse_nothing_learnt,
)
from pathology_scaat.cli.output import put_values, stdout
from pathology_scaat.errors import UsageError
from pathology_scaat.system.rounding import decimals

if TYPE_CHECKING:
    from pathology_scaat.training.config import TrainConfig
    from pathology_scaat.training.heads.config import Unit
    from pathology_scaat.training.heads.train import HeadResult

UNITS = ("slide", "patient")
TestFeatures = Annotated[
    Path | None,
    typer.Option(
        "--test-features",
        help="With --features and --test-manifest: the external cohort's features, where they are "
        "in another folder.",
    ),
]


@dataclass(frozen=True)
class Asked:
    """Options that features alone have."""

    columns: Sequence[str]
    grades: Sequence[str]
    time: str | None
    event: str | None
    bags_of: str | None
    folds: int | None = None
    preserve_site: str | None = None
    test_manifest: Path | None = None


def bag_unit(asked: str | None) -> Unit | None:
    """What one bag is, as asked for.

    Raises
    ------
    UsageError
    """
    if asked is not None and asked not in UNITS:
        raise UsageError("--bags-of", f"'{asked}' is unknown", f"choose from {', '.join(UNITS)}")
    return cast("Unit | None", asked)


def refuse_without_features(asked: Asked) -> None:
    """Refuse options that nothing would be done with.

    Raises
    ------
    UsageError
    """
    given = {
        "--target": asked.columns,
        "--grades": asked.grades,
        "--time": asked.time,
        "--event": asked.event,
    }
    for option, value in given.items():
        if value:
            raise UsageError(option, "does nothing without --features", "give both")
    with_slides = {
        "--folds": asked.folds,
        "--preserve-site": asked.preserve_site,
        "--test-manifest": asked.test_manifest,
    }
    for option, wanted in with_slides.items():
        if wanted is not None:
            raise UsageError(
                option, "of 'scaat train' is for --features", f"for slides: scaat run {option}"
            )


def no_pseudonyms(salt: Path | None) -> None:
    """Refuse pseudonyms: files of features are found by the slides' own names.

    Raises
    ------
    UsageError
    """
    if salt is not None:
        raise UsageError(
            "--pseudonymize",
            "is not for features, which are found by the slides' names",
            "rename slides, files and table before",
        )


def refuse_engine_options(workers: int | None, scheduler: str | None, cluster: Path | None) -> None:
    """Refuse options of the engine: a head is trained on features in this process alone.

    Raises
    ------
    UsageError
    """
    given = {"--workers": workers, "--scheduler": scheduler, "--cluster": cluster}
    for option, value in given.items():
        if value is not None:
            raise UsageError(option, "has no effect with --features", "leave it out")


def train(
    manifest: Path,
    out: Path,
    features: Path,
    asked: Asked,
    settings: TrainConfig,
    seed: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train a head for each target, and print what was measured."""
    from pathology_scaat.pipeline.head_targets import targets_of
    from pathology_scaat.pipeline.head_training import train_heads

    unit = bag_unit(asked.bags_of) or "slide"
    targets = targets_of(asked.columns, asked.grades, asked.time, asked.event)
    with progress_of(quiet) as reporter:
        results = train_heads(
            manifest, out, features, targets=targets, unit=unit, config=settings,
            n_folds=asked.folds, preserve_site=asked.preserve_site,
            test_manifest=asked.test_manifest, seed=seed, overwrite=overwrite, reporter=reporter,
        )  # fmt: skip
    silent = _silence(results)
    put_values(out=out, heads=_paths(results), nothing_learnt=silent)
    for result in results:
        if len(results) > 1:
            fold = "" if result.fold is None else f", fold {result.fold}"
            _line(f"{result.config.target.column}{fold}:")
        print_metrics(result.metrics)
        _line(f"head: {result.path}")
    also = " (and --test-manifest)" if asked.test_manifest is not None else ""
    _line(f"then: scaat predict --features, with the same --manifest and --out{also}")
    refuse_nothing_learnt(silent)


def _paths(results: Sequence[HeadResult]) -> dict[str, Path | dict[str, Path]]:
    """The head of each column; of folds those of each fold."""
    found: dict[str, Path | dict[str, Path]] = {}
    for r in results:
        own = found.setdefault(r.config.target.column, r.path if r.fold is None else {})
        if isinstance(own, dict):
            own[str(r.fold)] = r.path
    return found


def _silence(results: Sequence[HeadResult]) -> str:
    """Why heads have learnt nothing; of folds where none of them has learnt anything.

    That some have not is among the notes: few patients validate a fold.
    """
    said = []
    for column in dict.fromkeys(r.config.target.column for r in results):
        own = [r for r in results if r.config.target.column == column]
        if all(r.nothing_learnt for r in own):
            where = "" if len(own) == 1 else "no head of any fold: "
            said.append(f"{column}: {where}{own[0].nothing_learnt}")
    return "; ".join(said)


def predict(
    manifest: Path,
    out: Path,
    features: Path,
    models: Sequence[Path],
    ensemble: bool,
    test_manifest: Path | None,
    test_features: Path | None,
    subgroups: Sequence[str],
    prevalence: float | None,
    seed: int,
    quiet: bool,
) -> None:
    """Predict with the heads of a folder, or with other ones, and print what was measured."""
    from pathology_scaat.pipeline.head_predictions import predict_heads

    if ensemble:
        raise UsageError(
            "--ensemble",
            "is not for features: the heads of folds predict patients of elsewhere together anyway",
            "leave it out",
        )
    with progress_of(quiet) as reporter:
        found = predict_heads(
            manifest, out, features, models=models, test_manifest=test_manifest,
            test_features=test_features, prevalence=prevalence, subgroups=subgroups,
            seed=seed, reporter=reporter,
        )  # fmt: skip
    put_values(out=out)
    if len(found) > 1:
        put_values(targets={
            one.folder.name: {
                "predictions": one.folder / "predictions.csv",
                "n_predicted": one.n_predicted,
                "performance": one.performance,
                "external_performance": one.external_performance,
                "decision": dict(one.classes.decision) if one.classes is not None else None,
            }
            for one in found
        })  # fmt: skip
    for one in found:
        if len(found) > 1:
            _line(f"{one.folder.name}:")
        if one.classes is not None:
            print_performance(one.classes, one.folder)
            continue
        _line(f"predictions: {one.folder / 'predictions.csv'}")
        put_values(predictions=one.folder / "predictions.csv", n_predicted=one.n_predicted,
             performance=one.survival, external_performance=one.external,
             decision=None)  # fmt: skip
        for record in (one.survival, one.external):
            if record is not None:
                _line(_concordance(record))


def _concordance(record: Mapping[str, Any]) -> str:
    limits, value = record["intervals_95"]["c_index"], record["c_index"]
    head = f"C-index, {record['n']} {record['evaluated_on']}: "
    if value is None:
        return f"{head}not measurable"
    span = f"{decimals(limits[0])}-{decimals(limits[1])}" if limits else "no interval"
    return f"{head}{decimals(value)} ({span})"


def _line(text: str) -> None:
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)

"""What ``train`` and ``predict`` do with ``--features``: heads, of one target or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pathology_scaat.cli.common import (
    print_metrics,
    print_performance,
    progress_of,
    refuse_nothing_learnt,
)
from pathology_scaat.cli.output import put_values, stdout
from pathology_scaat.errors import UsageError

if TYPE_CHECKING:
    from pathology_scaat.training.config import TrainConfig
    from pathology_scaat.training.heads.config import Unit

UNITS = ("slide", "patient")


@dataclass(frozen=True)
class Asked:
    """Options that features alone have."""

    columns: Sequence[str]
    grades: Sequence[str]
    time: str | None
    event: str | None
    bags_of: str | None


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
        "--bags-of": asked.bags_of,
    }
    for option, value in given.items():
        if value:
            raise UsageError(option, "does nothing without --features", "give both")


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

    unit = asked.bags_of or "slide"
    if unit not in UNITS:
        raise UsageError("--bags-of", f"'{unit}' is unknown", f"choose from {', '.join(UNITS)}")
    targets = targets_of(asked.columns, asked.grades, asked.time, asked.event)
    with progress_of(quiet) as reporter:
        results = train_heads(
            manifest, out, features, targets=targets, unit=cast("Unit", unit), config=settings,
            seed=seed, overwrite=overwrite, reporter=reporter,
        )  # fmt: skip
    put_values(
        out=out,
        heads={r.config.target.column: r.path for r in results},
        nothing_learnt="; ".join(r.nothing_learnt for r in results if r.nothing_learnt),
    )
    for result in results:
        if len(results) > 1:
            _line(f"{result.config.target.column}:")
        print_metrics(result.metrics)
        _line(f"head: {result.path}")
    _line("then: scaat predict --features, with the same --manifest and --out")
    silent = [r for r in results if r.nothing_learnt]
    refuse_nothing_learnt(
        "; ".join(f"{r.config.target.column}: {r.nothing_learnt}" for r in silent)
    )


def predict(
    manifest: Path,
    out: Path,
    features: Path,
    models: Sequence[Path],
    others: Mapping[str, object],
    prevalence: float | None,
    seed: int,
    quiet: bool,
) -> None:
    """Predict with the heads of a folder, or with another one, and print what was measured."""
    from pathology_scaat.pipeline.head_predictions import predict_heads

    for option, value in others.items():
        if value:
            raise UsageError(option, "is not for features", "leave it out")
    if len(models) > 1:
        raise UsageError("--model", "is one head", "give one")
    with progress_of(quiet) as reporter:
        found = predict_heads(
            manifest, out, features, model=models[0] if models else None, prevalence=prevalence,
            seed=seed, reporter=reporter,
        )  # fmt: skip
    put_values(out=out)
    if len(found) > 1:
        put_values(targets={
            one.folder.name: {
                "predictions": one.folder / "predictions.csv",
                "n_predicted": one.n_predicted,
                "performance": one.performance,
            }
            for one in found
        })  # fmt: skip
    for one in found:
        if len(found) > 1:
            _line(f"{one.folder.name}:")
        if one.classes is not None:
            print_performance(one.classes, one.folder)
            continue
        record = one.survival or {}
        limits = record["intervals_95"]["c_index"]
        value = record["c_index"]
        value_text = "not measurable" if value is None else f"{value:.3f}"
        span = f" ({limits[0]:.3f}-{limits[1]:.3f})" if limits else " (no interval)"
        put_values(predictions=one.folder / "predictions.csv", n_predicted=one.n_predicted,
             performance=record)  # fmt: skip
        _line(f"predictions: {one.folder / 'predictions.csv'}")
        _line(f"C-index, {record['n']} {record['evaluated_on']}: "
              f"{value_text}{span if value is not None else ''}")  # fmt: skip


def _line(text: str) -> None:
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)

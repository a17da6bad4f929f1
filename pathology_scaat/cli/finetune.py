"""``scaat finetune``: a model that is there already, trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import (
    checked,
    cohort,
    needed,
    print_metrics,
    progress_of,
    refuse_nothing_learnt,
)
from pathology_scaat.cli.method_options import MethodOption, method_options
from pathology_scaat.cli.output import Json, put_values, stdout


@app.command(short_help="Go on training a finished model, with SCAAT.")
def finetune(
    model: Annotated[
        Path | None, typer.Option("--model", help="Model bundle to begin with; it stays as it is.")
    ] = None,
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The new bundle; OUT/finetuned if none.")
    ] = None,
    method: opt.TrainingMethod = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Most epochs.")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="A tenth of the model's own if not given."),
    ] = None,
    eps: Annotated[float | None, typer.Option("--eps", help="SCAAT's budget in [0, 1].")] = None,
    method_option: MethodOption = None,
    device: opt.Device = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of training; the model's own if not given.")
    ] = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Go on training a finished model for a few epochs with SCAAT, on tiled slides."""
    from pathology_scaat.pipeline.finetune import finetune as step
    from pathology_scaat.training.finetune import FinetuneConfig

    values = {
        "method": method,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "method_options": method_options(eps, method_option),
    }
    folder = needed(out, "--out")
    parent = needed(model, "--model")
    with progress_of(quiet) as reporter:
        result = step(
            cohort(needed(manifest, "--manifest"), pseudonymize, folder),
            folder,
            parent,
            to=to,
            config=checked(FinetuneConfig, values, "finetune options"),
            device=device,
            seed=seed,
            overwrite=overwrite,
            reporter=reporter,
        )
    put_values(out=folder, model=result.bundle_path, nothing_learnt=result.nothing_learnt)
    print_metrics(result.metrics)
    stdout.print(
        f"model: {result.bundle_path}; explain with --model", markup=False, highlight=False,
        soft_wrap=True,
    )  # fmt: skip
    refuse_nothing_learnt(result.nothing_learnt)

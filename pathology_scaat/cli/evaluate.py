"""How far the maps can be trusted: evaluate one model, compare several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import cohort, engine_of, needed, progress_of, refuse_salt_alone
from pathology_scaat.cli.output import Json, put_values, stdout


@app.command(short_help="How far can the maps be trusted? A trust card.")
def evaluate(
    out: opt.Out = None,
    manifest: opt.Manifest = None,
    model: opt.Model = None,
    device: opt.Device = "auto",
    workers: opt.LabelWorkers = None,
    scheduler: opt.Scheduler = None,
    cluster: opt.Cluster = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Measure one model's maps on held-out slides: a trust card."""
    folder = needed(out, "--out")
    refuse_salt_alone(manifest, pseudonymize)
    from pathology_scaat.pipeline.evaluate import evaluate as step

    with progress_of(quiet) as reporter:
        card = step(
            folder,
            manifest=cohort(manifest, pseudonymize, folder) if manifest else None,
            model=model,
            device=device,
            engine=engine_of(workers, scheduler, cluster),
            overwrite=overwrite,
            reporter=reporter,
        )
    put_values(out=folder, folder=folder / "evaluation", trust_card=card.as_dict())
    measured = sum(entry.interval is not None for entry in card.entries)
    text = f"{measured} of {len(card.entries)} measures on {card.measured_on}"
    stdout.print(text, markup=False, highlight=False)
    stdout.print(f"held out: {card.held_out_words}", markup=False, highlight=False, soft_wrap=True)
    for line in (*((card.warning,) if card.warning else ()), *card.slide_notes):
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)
    path = folder / "evaluation" / "trust_card.md"
    stdout.print(f"trust card: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command(short_help="Train several methods and compare their maps.")
def compare(
    config: Annotated[
        Path | None, typer.Argument(help="Arms, seeds and protocol (YAML); defaults without it.")
    ] = None,
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Training seeds, comma-separated: five at least to judge."),
    ] = None,
    device: opt.Device = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of a new split; the run's is kept without.")
    ] = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
    as_json: Json = False,
) -> None:
    """Train several methods on the same patches and compare their maps."""
    folder = needed(out, "--out")
    table = needed(manifest, "--manifest")
    from pathology_scaat.pipeline.evaluate import compare as step
    from pathology_scaat.pipeline.evaluate import load_compare_config

    settings = load_compare_config(config, seeds=opt.numbers(seeds, "--seeds"))
    with progress_of(quiet) as reporter:
        found = step(
            cohort(table, pseudonymize, folder),
            folder,
            config=settings,
            device=device,
            seed=seed,
            overwrite=overwrite,
            reporter=reporter,
        )
    put_values(out=folder, folder=folder / "comparison", comparison=found.as_dict())
    for said in found.read_first:
        stdout.print(said, markup=False, highlight=False, soft_wrap=True)
    for arm in found.arms:
        stdout.print(f"{arm.arm}: {arm.verdict}", markup=False, highlight=False, soft_wrap=True)
    path = folder / "comparison" / "comparison.md"
    stdout.print(f"comparison: {path}", markup=False, highlight=False, soft_wrap=True)

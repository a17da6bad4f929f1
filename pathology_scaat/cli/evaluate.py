"""How far the maps can be trusted: evaluate one model, compare several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import cohort, needed, progress_of, stdout


@app.command()
def evaluate(
    out: opt.Out = None,
    manifest: opt.Manifest = None,
    model: opt.Model = None,
    device: opt.Device = "auto",
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Measure one model's maps on held-out slides: a trust card."""
    folder = needed(out, "--out")
    from pathology_scaat.pipeline.evaluate import evaluate as verb

    with progress_of(quiet) as reporter:
        card = verb(
            folder,
            manifest=cohort(manifest, pseudonymize, folder) if manifest else None,
            model=model,
            device=device,
            overwrite=overwrite,
            reporter=reporter,
        )
    measured = sum(entry.interval is not None for entry in card.entries)
    text = f"{measured} of {len(card.entries)} measures on {card.n_images} images"
    stdout.print(text, markup=False, highlight=False)
    path = folder / "evaluation" / "trust_card.md"
    stdout.print(f"trust card: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def compare(
    config: Annotated[
        Path | None, typer.Argument(help="Arms, seeds and protocol (YAML); defaults without it.")
    ] = None,
    manifest: opt.Manifest = None,
    out: opt.Out = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    pseudonymize: opt.Pseudonymize = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Train several methods on the same patches and compare their maps."""
    folder = needed(out, "--out")
    table = needed(manifest, "--manifest")
    from pathology_scaat.pipeline.evaluate import compare as verb
    from pathology_scaat.pipeline.evaluate import load_compare_config

    settings = load_compare_config(config)
    with progress_of(quiet) as reporter:
        verb(
            cohort(table, pseudonymize, folder),
            folder,
            config=settings,
            device=device,
            seed=seed or 0,
            overwrite=overwrite,
            reporter=reporter,
        )
    path = folder / "comparison" / "comparison.md"
    stdout.print(f"comparison: {path}", markup=False, highlight=False, soft_wrap=True)

"""``scaat review`` and ``scaat import-review``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import cohort
from pathology_scaat.cli.output import Json, put_values, stdout
from pathology_scaat.system.rounding import decimals


def _say(text: str) -> None:
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command(short_help="See, judge and correct maps in the browser.")
def review(
    out: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    manifest: opt.Manifest = None,
    model: opt.Model = None,
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1; any free one if 0.")] = 0,
    tunnel_port: Annotated[
        list[int] | None,
        typer.Option("--tunnel-port", help="Local port of an ssh -L tunnel that leads here."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the link and open nothing.")
    ] = False,
    pseudonymize: opt.Pseudonymize = None,
) -> None:
    """Review slides and maps in the browser: see, judge, correct."""
    from pathology_scaat.pipeline.review import review as step

    def ready(link: str) -> None:
        _say(f"open this link (it works once): {link}")
        if manifest is None:
            _say("no --manifest was given: maps and regions are shown, the slides are not")
        _say("Ctrl-C ends it; verdicts are in review/verdicts.csv, saved one by one")
        if not no_browser:
            import webbrowser

            webbrowser.open(link)

    step(
        out,
        manifest=cohort(manifest, pseudonymize, out) if manifest else None,
        model=model,
        port=port,
        tunnel_ports=tuple(tunnel_port or ()),
        on_ready=ready,
    )


@app.command("import-review", short_help="Labels for the next training from verdicts.")
def import_review(
    out: Annotated[Path, typer.Argument(help="Output folder with review/verdicts.csv.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for the labels; OUT/review/labels if none.")
    ] = None,
    negative_class: Annotated[
        str, typer.Option("--negative-class", help="Class of the regions that were rejected.")
    ] = "Normal",
    as_json: Json = False,
) -> None:
    """Make labels for the next training out of the verdicts, and say how far readers agree."""
    from pathology_scaat.pipeline.review import import_review as step

    done = step(out, to=to, negative_class=negative_class)
    put_values(out=out, labels=done.labels, agreement=done.agreement)
    counts = ", ".join(f"{n} {name}" for name, n in sorted(done.labels.counts.items())) or "none"
    _say(f"labels: {counts}, on {len(done.labels.files)} slide(s)")
    if done.labels.drawn:
        _say(f"{done.labels.drawn} of them drawn by hand, cut out of the regions they lie on")
    if done.labels.contradicted:
        _say(f"{done.labels.contradicted} region(s) or overlaps label nothing: readers disagree")
    if done.labels.gone:
        _say(f"{done.labels.gone} verdict(s) are about regions that the overlays no longer hold")
    for reader, (yes, decided) in done.agreement.confirmed.items():
        _say(f"{reader}: confirmed {yes} of {decided} decided regions (the model marked all)")
    for reader, moved in done.agreement.moved.items():
        _say(
            f"{reader}: {moved.n_changed} of {moved.n_blind} blind answers were changed after the "
            f"map was shown ({moved.to_yes} to yes, {moved.from_yes} away from yes)"
        )
    for pair in done.agreement.pairs:
        interval = (
            ""
            if pair.low != pair.low
            else f" ({decimals(pair.low, 2)} to {decimals(pair.high, 2)})"
        )
        value = "undefined" if pair.kappa != pair.kappa else f"{decimals(pair.kappa, 2)}{interval}"
        _say(
            f"{pair.readers[0]} and {pair.readers[1]}: Cohen's kappa {value}, "
            f"{pair.n_regions} regions of {pair.n_slides} slide(s)"
        )

"""What only looks: info, verify, doctor."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from pathology_scaat.cli import options as opt
from pathology_scaat.cli.app import app
from pathology_scaat.cli.common import cohort, folded, needed
from pathology_scaat.cli.output import Json, put_values, stdout
from pathology_scaat.errors import BatchError, UsageError


@app.command(short_help="Format, levels and µm/px of a slide.")
def info(
    slide: Annotated[str, typer.Argument(help="Slide file, folder or URL.")],
    as_json: Json = False,
    reader: opt.Reader = None,
    mpp: opt.Mpp = None,
    allow_urls: opt.AllowUrls = None,
) -> None:
    """Show a slide's format, levels, µm/px and scanner bounds; nothing that identifies it."""
    from pathology_scaat.pipeline.info import info as step

    report = step(slide, reader=reader or "auto", mpp=mpp)
    put_values(**report.to_dict())
    table = Table(show_header=False, box=None)
    for name, value in report.rows():
        table.add_row(name, value)
    stdout.print(table)


@app.command(short_help="Is every artifact of a run whole?")
def verify(
    out: opt.Out = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Decode no pixels and hash no files.")
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="With --manifest: also read every byte of every slide."),
    ] = False,
    manifest: opt.Manifest = None,
    pseudonymize: opt.Pseudonymize = None,
    quiet: opt.Quiet = False,
    as_json: Json = False,
) -> None:
    """Re-read every artifact of a run and say in one line each what is wrong."""
    from pathology_scaat.pipeline.verify import verify as step

    folder = needed(out, "--out")
    if deep and (quick or manifest is None):
        raise UsageError("--deep", "reads the slides of --manifest", "give it, and no --quick")
    findings = step(
        folder,
        quick=quick,
        manifest=cohort(manifest, pseudonymize, folder) if manifest else None,
        deep=deep,
    )
    faults = [finding for finding in findings if not finding.ok]
    put_values(out=folder, n_artifacts=len(findings), n_faults=len(faults), findings=findings)
    for finding in faults if quiet else findings:
        mark = "ok   " if finding.ok else "FAULT"
        text = f"{mark} {finding.artifact}: {finding.message}"
        stdout.print(text, markup=False, highlight=False, soft_wrap=True)
    if faults:
        raise BatchError(f"{len(faults)} fault(s)", "were found", "they are listed above")
    stdout.print(f"{len(findings)} artifacts are sound", markup=False, highlight=False)


@app.command(short_help="What is installed, and whether it works.")
def doctor(out: opt.Out = None, as_json: Json = False) -> None:
    """Show what is installed, and try it: kernels, a small slide, a picture, the disk; offline."""
    from pathology_scaat.pipeline.doctor import doctor as step

    checks = step(out)
    put_values(checks=checks)
    table = folded()
    for head in range(3):
        table.add_column(overflow="fold", no_wrap=head < 2)
    for check in checks:
        absent = ("FAULT" if check.tried else "MISSING") if check.needed else "-"
        table.add_row("ok" if check.ok else absent, check.name, check.detail)
    stdout.print(table)
    bad = [check for check in checks if check.needed and not check.ok]
    missing = [check.name for check in bad if not check.tried]
    if missing:
        raise UsageError(
            ", ".join(missing), "is missing", "install again with pip install pathology-scaat"
        )
    if bad:
        raise UsageError(", ".join(check.name for check in bad), "does not work", bad[0].detail)

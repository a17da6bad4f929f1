"""Options that several verbs share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pathology_scaat.urls import allow_urls

Manifest = Annotated[
    Path | None,
    typer.Option("--manifest", help="Cohort table (CSV or Parquet) or a folder of slides."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Output folder.")]
Mpp = Annotated[float | None, typer.Option("--mpp", help="µm per pixel of the patches.")]
Mag = Annotated[
    float | None, typer.Option("--mag", help="Alias of --mpp as a magnification: 20 is 0.5 µm/px.")
]
PatchSize = Annotated[
    int | None, typer.Option("--patch-size", help="Side of a patch in pixels at --mpp.")
]
Overlap = Annotated[
    str | None, typer.Option("--overlap", help="Overlap of neighbours: a ratio (0.5) or 64px.")
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help="Class names, comma-separated; others are ignored."),
]
Reader = Annotated[
    str | None,
    typer.Option("--reader", help="Force a reader: tiff, openslide, ngff or tiatoolbox."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Local worker processes; the machine's by default.")
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", help="Address of a running Dask scheduler.")
]
Cluster = Annotated[
    Path | None, typer.Option("--cluster", help="Profile of a job queue (YAML, see pipelines/).")
]
AllowUrls = Annotated[
    str | None,
    typer.Option(
        "--allow-urls",
        metavar="LIST",
        callback=allow_urls,
        help="What slides by URL may do besides: http, private-hosts, redirects (with commas).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of split, training and methods.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Make artifacts anew even where the right ones exist.")
]
Model = Annotated[Path | None, typer.Option("--model", help="Model bundle to apply.")]
Pseudonymize = Annotated[
    Path | None,
    typer.Option(
        "--pseudonymize",
        metavar="SALT",
        help="Give slides and patients pseudonyms; SALT is a file outside of --out.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


def listed(text: str | None) -> list[str] | None:
    """The names of a comma-separated option; None where it was not given."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def tile_overrides(
    mpp: float | None,
    mag: float | None,
    patch_size: int | None,
    overlap: str | None,
    classes: str | None,
    reader: str | None,
) -> dict[str, Any]:
    """The tile settings that the command line names (None where it names nothing)."""
    from pathology_scaat.errors import UsageError
    from pathology_scaat.geometry import mpp_from_magnification

    if mag is not None:
        if mpp is not None:
            raise UsageError("--mag", "says the same as --mpp", "give one of them")
        mpp = mpp_from_magnification(mag)
    return {
        "mpp": mpp,
        "patch_size_px": patch_size,
        "overlap": overlap,
        "class_names": listed(classes),
        "reader": reader,
    }


def engine_overrides(
    workers: int | None, scheduler: str | None, cluster: Path | None
) -> dict[str, Any]:
    """The engine settings that the command line names."""
    return {"workers": workers, "scheduler": scheduler, "cluster": cluster}

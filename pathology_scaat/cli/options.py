"""Options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from pathology_scaat.artifacts.urls import allow_urls
from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.scaat.names import METHODS
from pathology_scaat.slides.readers import reader_choices


def completed(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell completes an option's value to."""
    choices = tuple(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in choices if name.startswith(incomplete)]

    return complete


def completed_list(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell completes the last name of a comma-separated option to."""
    choices = tuple(names)

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in choices if name.startswith(last)]

    return complete


def setting_names(incomplete: str) -> list[str]:
    """Settings whose name begins so, for the shell to complete."""
    from pathology_scaat.pipeline.settings import all_settings

    return [f"{s.name}=" for s in all_settings() if s.name.startswith(incomplete)]


TrainingMethod = Annotated[
    str | None,
    typer.Option(
        "--method",
        help=f"Training method: {', '.join(METHODS.names)}.",
        autocompletion=completed(METHODS.names),
    ),
]
Attribution = Annotated[
    str | None,
    typer.Option(
        "--method",
        help=f"Attribution method: {', '.join(ATTRIBUTIONS.names)}.",
        autocompletion=completed(ATTRIBUTIONS.names),
    ),
]
Backbone = Annotated[
    str | None, typer.Option("--backbone", help="Network: scaat-small, or a model name of timm.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Most epochs.")]
Eps = Annotated[float | None, typer.Option("--eps", help="SCAAT's budget in [0, 1].")]
Manifest = Annotated[
    Path | None,
    typer.Option("--manifest", help="Cohort table (CSV or Parquet) or a folder of slides."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Output folder.")]
Mpp = Annotated[float | None, typer.Option("--mpp", help="µm per pixel of the patches.")]
SlideMpp = Annotated[
    float | None,
    typer.Option(
        "--slide-mpp", help="µm per pixel of slides that state none that can be believed."
    ),
]
AllowUpsampling = Annotated[
    bool,
    typer.Option("--allow-upsampling", help="Let patches be more than twice as fine as the scan."),
]
Mag = Annotated[
    float | None, typer.Option("--mag", help="Alias of --mpp as a magnification: 20 is 0.5 µm/px.")
]
PatchSize = Annotated[
    int | None, typer.Option("--patch-size", help="Side of a patch in pixels at --mpp.")
]
Overlap = Annotated[
    str | None, typer.Option("--overlap", help="Overlap of neighbours: a ratio (0.5) or 64px.")
]
Pixels = Annotated[
    str | None,
    typer.Option(
        "--pixels",
        metavar="lossless|slide-jpeg",
        help="How patches are stored; slide-jpeg: the slide's own JPEG tiles, where it can be.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help="Class names, comma-separated; others are ignored."),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Class to explain; the positive one by default.")
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16",
        help="Arithmetic of the model in explaining; auto: fp32. See docs/applying.md.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", help="Patches explained at once; by the memory if not given."),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the network on a GPU: some 20 s the first time, more patches a second after.",
    ),
]
KeepPatches = Annotated[
    bool,
    typer.Option(
        "--keep-patches",
        help="With --model: also keep the pixels of the patches, which take many times the slide.",
    ),
]
BackgroundClass = Annotated[
    str | None,
    typer.Option(
        "--background-class",
        help="Class of the tissue outside the annotations, on slides that have some.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Local file with the network's weights (safetensors, .pt); never downloaded.",
    ),
]
Trainable = Annotated[
    str | None,
    typer.Option(
        "--trainable", help="What is trained: all, head, last-N blocks, or lora (lora-RANK)."
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        "--features",
        help="Folder of features, one .h5 file a slide (TRIDENT's, CLAM's, STAMP's shape): a head "
        "on them, no pixels are read.",
    ),
]
TargetColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="With --features: the column to learn; label if not given. Several: a head each.",
    ),
]
Grades = Annotated[
    str | None,
    typer.Option("--grades", help="With --features: grades from lowest to highest, by commas."),
]
TimeColumn = Annotated[
    str | None,
    typer.Option("--time", help="With --features and --event: column of the survival time."),
]
EventColumn = Annotated[
    str | None,
    typer.Option(
        "--event",
        help="With --features and --time: column of the event, 1 seen, 0 lost from sight.",
    ),
]
BagsOf = Annotated[
    str | None,
    typer.Option(
        "--bags-of",
        help="Labels of slides: what one bag is, slide or patient (all slides of a patient).",
        autocompletion=completed(("slide", "patient")),
    ),
]
PositiveClass = Annotated[
    str | None,
    typer.Option(
        "--positive-class", help="Class that saliency speaks of; chosen by its name if not given."
    ),
]
DataYears = Annotated[
    bool,
    typer.Option(
        "--data-years", help="Record in the model the years of its scans and training; no finer."
    ),
]
Reader = Annotated[
    str | None,
    typer.Option(
        "--reader",
        help=f"Force a reader: {', '.join(reader_choices())}.",
        autocompletion=completed(reader_choices()),
    ),
]
KeepInk = Annotated[
    bool,
    typer.Option("--keep-ink", help="Count what looks like pen ink as tissue; see docs/tissue.md."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Local worker processes; the machine's by default.")
]
LabelWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Local processes that read the slides' labels; none by default."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", help="Address of a running Dask scheduler, or: local (with a dashboard)."
    ),
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
_DEVICE = typer.Option(
    "--device", help="auto, cpu, cuda or cuda:N.", autocompletion=completed(("auto", "cpu", "cuda"))
)
Device = Annotated[str, _DEVICE]
RunDevice = Annotated[str | None, _DEVICE]
"""Where a pipeline file may name the device as well."""
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of split, training and methods.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Make artifacts anew even where the right ones exist.")
]
OutExistsOk = Annotated[
    bool,
    typer.Option(
        "--out-exists-ok", help="Write into a folder that holds other files, beside them."
    ),
]
Model = Annotated[Path | None, typer.Option("--model", help="Model bundle to apply.")]
Models = Annotated[
    list[Path] | None,
    typer.Option("--model", help="Model bundle to apply; given several times, they vote together."),
]
Ensemble = Annotated[
    bool,
    typer.Option("--ensemble", help="Predict with the models of all folds in OUT/folds together."),
]
Pseudonymize = Annotated[
    Path | None,
    typer.Option(
        "--pseudonymize",
        metavar="SALT",
        help="Give slides and patients pseudonyms; SALT is a file outside of --out.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help="Learn from: slide (one label each, in bags), patch (annotations), mixed (both), copy "
        "(the slide's label on every patch; a control), or auto: slide where there are no "
        "annotations.",
        autocompletion=completed(("auto", "slide", "mixed", "patch", "copy")),
    ),
]
Audit = Annotated[
    str | None,
    typer.Option(
        "--audit",
        help="standard, or full: also paths, user, time.",
        autocompletion=completed(("standard", "full")),
    ),
]
Folds = Annotated[
    int | None,
    typer.Option("--folds", help="Cross-validation by patient: a model for each of so many folds."),
]
PreserveSite = Annotated[
    str | None,
    typer.Option(
        "--preserve-site", metavar="COLUMN", help="Keep equal values of this column in one fold."
    ),
]
TestManifest = Annotated[
    Path | None,
    typer.Option("--test-manifest", help="An external cohort: all of it is tested on."),
]
Prevalence = Annotated[
    float | None,
    typer.Option(
        "--prevalence", help="Share of positive patients at which predictive values are given."
    ),
]
Slides = Annotated[
    str | None,
    typer.Option("--slides", metavar="IDS", help="Only these slides, comma-separated."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting by its name, such as tile.overlap=0.5; see 'scaat config'. Repeatable.",
        autocompletion=setting_names,
    ),
]
Subgroups = Annotated[
    str | None,
    typer.Option(
        "--subgroups",
        metavar="COLUMNS",
        help="Performance also by the values of these columns of the manifest, e.g. site,scanner.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


def numbers(text: str | None, option: str) -> list[int] | None:
    """The whole numbers of a comma-separated option; None where it was not given.

    Raises
    ------
    UsageError
        If anything in it is not a whole number of at least 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(option, f"'{text}' is no list of whole numbers", "write 0,1,2,3,4")
    return [int(part) for part in parts]


def listed(text: str | None) -> list[str] | None:
    """The names of a comma-separated option; None where it was not given."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def slide_list(text: str | None) -> list[str] | None:
    """The ids of ``--slides``; None, which is all of them, only where it was not given.

    Raises
    ------
    UsageError
        If it names none.
    """
    names = listed(text)
    if text is not None and not names:
        raise UsageError("--slides", "names no slide", "write their ids, with commas")
    return names


def tile_overrides(
    mpp: float | None,
    mag: float | None,
    patch_size: int | None,
    overlap: str | None,
    classes: str | None,
    reader: str | None,
    background_class: str | None = None,
    slide_mpp: float | None = None,
    allow_upsampling: bool = False,
    keep_ink: bool = False,
    pixels: str | None = None,
) -> dict[str, Any]:
    """The tile settings that the command line names (None where it names nothing)."""
    from pathology_scaat.geometry import mpp_from_magnification

    if mag is not None:
        if mpp is not None:
            raise UsageError("--mag", "says the same as --mpp", "give one of them")
        mpp = mpp_from_magnification(mag)
    return {
        "mpp": mpp,
        "patch_size_px": patch_size,
        "overlap": overlap,
        "pixels": pixels,
        "class_names": listed(classes),
        "reader": reader,
        "slide_mpp": slide_mpp,
        "allow_upsampling": allow_upsampling or None,
        "tissue": {"drop_ink": False if keep_ink else None},
        "background_class": background_class,
    }


def engine_overrides(
    workers: int | None, scheduler: str | None, cluster: Path | None
) -> dict[str, Any]:
    """The engine settings that the command line names."""
    return {"workers": workers, "scheduler": scheduler, "cluster": cluster}

"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pathology_scaat.artifacts.urls import allow_urls
from pathology_scaat.cli.declare import of, one_of, option, setting_names
from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.scaat.names import METHODS
from pathology_scaat.slides.readers import reader_choices

TrainingMethod = Annotated[
    str | None,
    one_of("train.method", "--method", f"Training method: {', '.join(METHODS.names)}."),
]
Attribution = Annotated[
    str | None,
    one_of(
        "explain.method", "--method", f"Attribution method: auto, {', '.join(ATTRIBUTIONS.names)}."
    ),
]
Backbone = Annotated[
    str | None, of("train.backbone", "--backbone", "Network: scaat-small, or a model name of timm.")
]
Epochs = Annotated[int | None, of("train.epochs", "--epochs", "Most epochs.")]
Eps = Annotated[float | None, option("--eps", "SCAAT's budget in [0, 1].")]
Manifest = Annotated[
    Path | None,
    option("--manifest", "Cohort table (CSV or Parquet) or a folder of slides."),
]
Out = Annotated[Path | None, option("--out", "Output folder.")]
Mpp = Annotated[float | None, of("tile.mpp", "--mpp", "µm per pixel of the patches.")]
SlideMpp = Annotated[
    float | None,
    of(
        "tile.slide_mpp",
        "--slide-mpp",
        "µm per pixel of slides that state none that can be believed.",
    ),
]
AllowUpsampling = Annotated[
    bool,
    of(
        "tile.allow_upsampling",
        "--allow-upsampling",
        "Let patches be more than twice as fine as the scan.",
    ),
]
Mag = Annotated[
    float | None, option("--mag", "Alias of --mpp as a magnification: 20 is 0.5 µm/px.")
]
PatchSize = Annotated[
    int | None, of("tile.patch_size_px", "--patch-size", "Side of a patch in pixels at --mpp.")
]
Overlap = Annotated[
    str | None, of("tile.overlap", "--overlap", "Overlap of neighbours: a ratio (0.5) or 64px.")
]
Pixels = Annotated[
    str | None,
    one_of(
        "tile.pixels",
        "--pixels",
        "How patches are stored: lossless, or slide-jpeg: the slide's own JPEG tiles, where it "
        "can be.",
    ),
]
Classes = Annotated[
    str | None,
    of("tile.class_names", "--classes", "Class names, comma-separated; others are ignored."),
]
Target = Annotated[
    str | None, of("explain.target", "--target", "Class to explain; the positive one by default.")
]
Precision = Annotated[
    str | None,
    option(
        "--precision",
        "Arithmetic of the model in explaining; auto: fp32. See docs/applying.md.",
        metavar="auto|fp32|bf16",
    ),
]
BatchSize = Annotated[
    int | None,
    of(
        "explain.batch_size",
        "--batch-size",
        "Patches explained at once; by the memory if not given.",
    ),
]
Compile = Annotated[
    bool,
    of(
        "explain.compile",
        "--compile",
        "Compile the network on a GPU: some 20 s the first time, more patches a second after.",
    ),
]
KeepPatches = Annotated[
    bool,
    of(
        "keep_patches",
        "--keep-patches",
        "With --model: also keep the pixels of the patches, which take many times the slide.",
    ),
]
BackgroundClass = Annotated[
    str | None,
    of(
        "tile.background_class",
        "--background-class",
        "Class of the tissue outside the annotations, on slides that have some.",
    ),
]
Weights = Annotated[
    Path | None,
    of(
        "train.backbone_weights",
        "--weights",
        "Local file with the network's weights (safetensors, .pt); never downloaded.",
    ),
]
Trainable = Annotated[
    str | None,
    of(
        "train.trainable",
        "--trainable",
        "What is trained: all, head, last-N blocks, or lora (lora-RANK).",
    ),
]
Features = Annotated[
    Path | None,
    option(
        "--features",
        "Folder of features, one .h5 file a slide (TRIDENT's, CLAM's, STAMP's shape): a head "
        "on them, no pixels are read.",
    ),
]
TargetColumns = Annotated[
    list[str] | None,
    option(
        "--target",
        "With --features: the column to learn; label if not given. Several: a head each.",
    ),
]
Grades = Annotated[
    str | None,
    option("--grades", "With --features: grades from lowest to highest, by commas."),
]
TimeColumn = Annotated[
    str | None,
    option("--time", "With --features and --event: column of the survival time."),
]
EventColumn = Annotated[
    str | None,
    option(
        "--event", "With --features and --time: column of the event, 1 seen, 0 lost from sight."
    ),
]
BagsOf = Annotated[
    str | None,
    option(
        "--bags-of",
        "Labels of slides: what one bag is, slide or patient (all slides of a patient).",
        choices=("slide", "patient"),
    ),
]
PositiveClass = Annotated[
    str | None,
    of(
        "train.positive_class",
        "--positive-class",
        "Class that saliency speaks of; chosen by its name if not given.",
    ),
]
DataYears = Annotated[
    bool,
    of(
        "train.data_years",
        "--data-years",
        "Record in the model the years of its scans and training; no finer.",
    ),
]
Reader = Annotated[
    str | None,
    one_of("tile.reader", "--reader", f"Force a reader: {', '.join(reader_choices())}."),
]
KeepInk = Annotated[
    bool,
    option("--keep-ink", "Count what looks like pen ink as tissue; see docs/tissue.md."),
]
Workers = Annotated[
    int | None,
    of("engine.workers", "--workers", "Local worker processes; the machine's by default."),
]
LabelWorkers = Annotated[
    int | None,
    option("--workers", "Local processes that read the slides' labels; none by default."),
]
Scheduler = Annotated[
    str | None,
    of(
        "engine.scheduler",
        "--scheduler",
        "Address of a running Dask scheduler, or: local (with a dashboard).",
    ),
]
Cluster = Annotated[
    Path | None, of("engine.cluster", "--cluster", "Profile of a job queue (YAML, see pipelines/).")
]
AllowUrls = Annotated[
    str | None,
    option(
        "--allow-urls",
        "What slides by URL may do besides: http, private-hosts, redirects (with commas).",
        metavar="LIST",
        callback=allow_urls,
    ),
]
_DEVICE = option("--device", "auto, cpu, cuda or cuda:N.", choices=("auto", "cpu", "cuda"))
Device = Annotated[str, _DEVICE]
RunDevice = Annotated[str | None, _DEVICE]
"""Where a pipeline file may name the device as well."""
Seed = Annotated[int | None, of("seed", "--seed", "Seed of split, training and methods.")]
Overwrite = Annotated[
    bool, option("--overwrite", "Make artifacts anew even where the right ones exist.")
]
OutExistsOk = Annotated[
    bool,
    option("--out-exists-ok", "Write into a folder that holds other files, beside them."),
]
Model = Annotated[Path | None, option("--model", "Model bundle to apply.")]
Models = Annotated[
    list[Path] | None,
    option("--model", "Model bundle to apply; given several times, they vote together."),
]
Ensemble = Annotated[
    bool,
    option("--ensemble", "Predict with the models of all folds in OUT/folds together."),
]
Pseudonymize = Annotated[
    Path | None,
    option(
        "--pseudonymize",
        "Give slides and patients pseudonyms; SALT is a file outside of --out.",
        metavar="SALT",
    ),
]
Labels = Annotated[
    str | None,
    one_of(
        "train.labels",
        "--labels",
        "Learn from: slide (one label each, in bags), patch (annotations), mixed (both), copy "
        "(the slide's label on every patch; a control), or auto: slide where there are no "
        "annotations.",
    ),
]
Audit = Annotated[
    str | None,
    one_of("audit", "--audit", "standard, or full: also paths, user, time."),
]
Folds = Annotated[
    int | None,
    of("folds", "--folds", "Cross-validation by patient: a model for each of so many folds."),
]
PreserveSite = Annotated[
    str | None,
    of(
        "preserve_site",
        "--preserve-site",
        "Keep equal values of this column in one fold.",
        metavar="COLUMN",
    ),
]
TestManifest = Annotated[
    Path | None,
    of("test_manifest", "--test-manifest", "An external cohort: all of it is tested on."),
]
Prevalence = Annotated[
    float | None,
    of(
        "prevalence",
        "--prevalence",
        "Share of positive patients at which predictive values are given.",
    ),
]
Slides = Annotated[
    str | None,
    option("--slides", "Only these slides, comma-separated.", metavar="IDS"),
]
Set = Annotated[
    list[str] | None,
    option(
        "--set",
        "Any setting by its name, such as tile.overlap=0.5; see 'scaat config'. Repeatable.",
        autocompletion=setting_names,
        metavar="NAME=VALUE",
    ),
]
Subgroups = Annotated[
    str | None,
    of(
        "subgroups",
        "--subgroups",
        "Performance also by the values of these columns of the manifest, e.g. site,scanner.",
        metavar="COLUMNS",
    ),
]
Quiet = Annotated[bool, option("--quiet", "-q", "Print results and errors only.")]


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
    """The tile settings that the command line names (None where it names nothing).

    Raises
    ------
    UsageError
        If both µm/px and a magnification are given.
    """
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

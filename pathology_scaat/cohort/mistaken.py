"""What a path is that was given for something else, and what to give instead."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pathology_scaat.artifacts.output_folder import FOLDERS, is_output_folder
from pathology_scaat.cohort.folder import SLIDE_ENDINGS
from pathology_scaat.errors import UsageError

MAX_LOOK = 10_000
"""Entries of a folder that are looked at."""
_CONFIG_BYTES = 4 << 20


class Kind(StrEnum):
    """What a file or folder is, as far as it can be told at a glance."""

    SLIDE = "a slide"
    SLIDES = "a folder of slides"
    TABLE = "a table"
    ARCHIVE = "an archive"
    WEIGHTS = "a file of weights"
    ANNOTATIONS = "a file of annotations"
    BUNDLE = "a model bundle"
    BUNDLE_FILE = "a file of a model bundle"
    OUTPUT = "the output folder of a run"
    OUTPUT_PART = "a part of an output folder"
    OUTPUT_ABOVE = "a folder that holds an output folder"
    FEATURES = "a folder of features"
    FOLDER = "a folder"
    FILE = "a file"


_BY_ENDING = (
    (Kind.SLIDE, SLIDE_ENDINGS),
    (Kind.TABLE, (".csv", ".tsv", ".xlsx")),
    (Kind.ARCHIVE, (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")),
    (Kind.WEIGHTS, (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx")),
    (Kind.ANNOTATIONS, (".geojson", ".geojson.gz", ".xml")),
)


def _is_bundle(path: Path) -> bool:
    try:
        with (path / "config.json").open("rb") as stream:
            head = stream.read(_CONFIG_BYTES)
    except OSError:
        return False
    return b'"pathology_scaat.model"' in head or b'"pathology_scaat.head"' in head


def _names(folder: Path) -> list[str]:
    names: list[str] = []
    try:
        for entry in folder.iterdir():
            names.append(entry.name)
            if len(names) == MAX_LOOK:
                break
    except OSError:
        return []
    return sorted(names)


def kind_of(path: Path) -> Kind | None:
    """What a path is; None where nothing is there."""
    name = path.name.lower()
    if path.is_file():
        if _is_bundle(path.parent):
            return Kind.BUNDLE_FILE
        return next((kind for kind, endings in _BY_ENDING if name.endswith(endings)), Kind.FILE)
    if not path.is_dir():
        return None
    if _is_bundle(path):
        return Kind.BUNDLE
    names = _names(path)
    lowered = [each.lower() for each in names]
    if any(each.endswith(SLIDE_ENDINGS) for each in lowered) and not _is_part(path):
        return Kind.SLIDES
    if _output_below(path):
        return Kind.OUTPUT_ABOVE
    if is_output_folder(path):
        return Kind.OUTPUT
    if _is_part(path):
        return Kind.OUTPUT_PART
    if any(each.endswith((".h5", ".hdf5")) for each in lowered):
        return Kind.FEATURES
    return Kind.FOLDER


def _is_part(path: Path) -> bool:
    return path.name in (*FOLDERS, "folds") and is_output_folder(path.absolute().parent)


def _output_below(path: Path) -> str:
    """The output folder in a folder, by its name: that of a demo lies beside its slides."""
    below = path / "results"
    return below.name if not (path / "slides.csv").is_file() and is_output_folder(below) else ""


def _model_in(path: Path) -> str:
    return next((n for n in ("model", "finetuned", "head") if _is_bundle(path / n)), "")


PIPELINE_FILE = "a pipeline file"


def not_a_pipeline_file(path: Path, wanted: str = PIPELINE_FILE) -> tuple[str, str] | None:
    """What is wrong and what to do where a file of settings was asked for; None for other files."""
    kind = kind_of(path)
    if wanted != PIPELINE_FILE:
        problem = f"is {kind}, not {wanted}"
        rest = "'scaat config --compare' prints one; slides go by --manifest, results by --out"
        return None if kind is None or kind is Kind.FILE else (problem, rest)
    shown = path.name or str(path)
    remedy = {
        Kind.SLIDE: "give slides by --manifest: the folder that they lie in, or a table of them",
        Kind.SLIDES: f"give it by --manifest {shown}",
        Kind.TABLE: f"give the table of the slides by --manifest {shown}",
        Kind.ARCHIVE: "unpack it, and give what is in it",
        Kind.WEIGHTS: "make a bundle of it with 'scaat import-model', and give that by --model",
        Kind.ANNOTATIONS: "name annotations in the table of the slides (annotation_path)",
        Kind.BUNDLE: f"give it by --model {shown}",
        Kind.BUNDLE_FILE: "give the folder that it lies in by --model",
        Kind.OUTPUT: f"to run it again give {shown}/run.json; to write into it, --out {shown}",
        Kind.OUTPUT_PART: "to run it again give the run.json beside it",
        Kind.OUTPUT_ABOVE: f"to run it again give {shown}/{_output_below(path)}/run.json",
        Kind.FEATURES: "heads on features are made by 'scaat train --features'",
        Kind.FOLDER: "give a YAML file, and folders by their options (--manifest, --model, --out)",
    }.get(kind or Kind.FILE)
    return None if remedy is None else (f"is {kind}, not a pipeline file", remedy)


def not_a_bundle(path: Path) -> tuple[str, str] | None:
    """What is wrong and what to do where a bundle was asked for; None where nothing is known."""
    kind = kind_of(path)
    made = "give the folder 'scaat train' made"
    shown = path.name or str(path)
    if kind is None or kind in (Kind.BUNDLE, Kind.FOLDER):
        return None
    model = _model_in(path) if kind is Kind.OUTPUT else ""
    below = _output_below(path) if kind is Kind.OUTPUT_ABOVE else ""
    if below and (inside := _model_in(path / below)):
        model = f"{below}/{inside}"
    remedy = {
        Kind.WEIGHTS: "make a bundle of it with 'scaat import-model'",
        Kind.ARCHIVE: "unpack it, and give the folder",
        Kind.BUNDLE_FILE: "give the folder that it lies in",
    }.get(kind, f"give the model in it: {shown}/{model}" if model else made)
    return f"is {kind}, not a model bundle", remedy


def not_a_table(path: Path) -> tuple[str, str] | None:
    """What is wrong and what to do where a table was asked for; None for other files."""
    if path.is_dir():
        return "is a folder, not a table", "give the file (CSV, Excel or Parquet)"
    remedy = {
        Kind.SLIDE: "give the folder that it lies in, or a table with a row for it",
        Kind.ARCHIVE: "unpack it, and give the folder or the table in it",
        Kind.WEIGHTS: "give a folder of slides, or a table of them",
        Kind.BUNDLE_FILE: "give a folder of slides, or a table of them",
        Kind.ANNOTATIONS: "give the folder of its slide, or a table (annotation_path)",
    }.get(kind_of(path) or Kind.FILE)
    return None if remedy is None else (f"is {kind_of(path)}, not a table of slides", remedy)


def not_features(path: Path) -> tuple[str, str]:
    """What is wrong and what to do where a folder of features was asked for and holds none."""
    kind = kind_of(path)
    if kind is None:
        return f"'{path.name}' is not there", "give the folder with one .h5 file a slide"
    if not path.is_dir():
        return f"'{path.name}' is {kind}, not a folder", "give the folder with one .h5 file a slide"
    names = _names(path)
    problem = f"'{path.name}' holds no features (.h5)"
    if any(name.lower().endswith(".pt") for name in names):
        problem = f"'{path.name}' holds .pt files, and features are read from .h5 files"
        return problem, "CLAM writes h5_files beside pt_files: give the folder that both lie in"
    below = [name for name in names if kind_of(path / name) is Kind.FEATURES][:3]
    if below:
        return problem, f"give the folder in it: {' or '.join(below)}"
    return problem, "give the folder with one .h5 file a slide"


def not_weights(path: Path, wanted: str = "a file of weights") -> tuple[str, str]:
    """What is wrong and what to do where a model's file or folder was asked for."""
    kind, remedy = kind_of(path), "correct the path"
    if kind is None:
        return "is not there", remedy
    if kind is Kind.BUNDLE:
        return f"is a model bundle already, not {wanted}", "give it by --model as it is"
    return f"is {kind}, not {wanted}", remedy


def not_an_output_folder(path: Path, without: str = "holds no run") -> tuple[str, str]:
    """What is wrong and what to do where the output folder of a run was asked for.

    Parameters
    ----------
    path : Path
        That holds none, or not what was looked for.
    without : str
        What is said of a folder of which nothing else is known.
    """
    kind = kind_of(path)
    remedy = "give the output folder of 'scaat run'"
    if kind is None:
        return "is not there", remedy
    if kind in (Kind.OUTPUT, Kind.FOLDER):
        return without, remedy
    if kind is Kind.OUTPUT_ABOVE:
        return without, f"give the output folder in it: {path.name}/{_output_below(path)}"
    if kind is Kind.OUTPUT_PART or _is_part(path):
        return f"{without}: it is {kind}", "give the folder that it lies in"
    return f"{without}: it is {kind}", remedy


def require_output_folder(path: Path) -> None:
    """Refuse a file, a bundle or a part of an output folder given for an output folder.

    A folder that is there and holds nothing that is known passes: who looks into it says what
    is missing.

    Raises
    ------
    UsageError
        If it is one.
    """
    kind = kind_of(path)
    passed = (None, Kind.OUTPUT, Kind.FOLDER, Kind.SLIDES, Kind.FEATURES)
    if kind not in passed or (kind is Kind.SLIDES and not path.is_dir()):
        problem, remedy = not_an_output_folder(path)
        raise UsageError(path.name or "--out", problem, remedy)

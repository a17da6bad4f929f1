"""What heads on features predict, and the folders that they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.cohort.columns import COLUMNS
from pathology_scaat.errors import UsageError
from pathology_scaat.pipeline.head_cohort import LABEL
from pathology_scaat.training.heads.config import Target

HEAD = "head"
TARGETS = "targets"
FOLDS = "folds"


def targets_of(
    columns: Sequence[str],
    grades: Sequence[str] = (),
    time: str | None = None,
    event: str | None = None,
) -> tuple[Target, ...]:
    """What is asked for on the command line, as targets.

    Raises
    ------
    UsageError
        If the options do not go together.
    """
    if (time is None) != (event is None):
        raise UsageError(
            "--time" if time is None else "--event", "is missing", "survival needs both columns"
        )
    if time is not None and event is not None:
        if columns or grades:
            raise UsageError("--time", "is for survival alone", "leave --target and --grades out")
        return (Target(kind="survival", column=time, event_column=event),)
    if grades and len(columns) > 1:
        raise UsageError("--grades", "are of one column", "give one --target with --grades")
    names = [LABEL if c.casefold() in (LABEL, *COLUMNS[LABEL]) else c for c in columns or (LABEL,)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("--target", f"names '{twice[0]}' twice", "name each column once")
    if grades:
        if len(set(grades)) < 2 or len(set(grades)) < len(grades):
            raise UsageError("--grades", "are not two or more different ones", "e.g. G1,G2,G3")
        return (Target(kind="grades", column=names[0], names=tuple(grades)),)
    return tuple(Target(column=name) for name in names)


def fold_heads(folder: Path) -> dict[int, Path]:
    """The heads of cross-validation that a folder holds, by fold."""
    found = {
        int(path.parent.name): path
        for path in (folder / FOLDS).glob(f"*/{HEAD}")
        if path.is_dir() and path.parent.name.isdecimal()
    }
    return dict(sorted(found.items()))


def fold_head(folder: Path, fold: int) -> Path:
    """Where the head of a fold lies."""
    return folder / FOLDS / str(fold) / HEAD


def head_folders(out: Path) -> tuple[Path, ...]:
    """Folders below ``out`` that hold a head each, or those of folds; itself among them."""
    found = [out, *sorted(p for p in (out / TARGETS).glob("*") if p.is_dir())]
    return tuple(folder for folder in found if (folder / HEAD).is_dir() or fold_heads(folder))


def refuse_other_heads(folder: Path, n_folds: int | None) -> None:
    """Refuse a folder with heads of another kind: which of them predicts would be a guess.

    Raises
    ------
    UsageError
        If it holds a head of all slides and folds are asked for, or the other way round, or the
        heads of more folds.
    """
    there = fold_heads(folder)
    if n_folds is None and there:
        found = f"holds heads of {len(there)} folds"
    elif n_folds is not None and (folder / HEAD).is_dir():
        found = "holds a head of no fold"
    elif n_folds is not None and any(fold >= n_folds for fold in there):
        found = f"holds heads of more than {n_folds} folds"
    else:
        return
    raise UsageError("--out", found, "give another folder, or remove them first")


def target_folder(out: Path, target: Target, n_targets: int) -> Path:
    """Where the head of one target of several goes; of a single one ``out`` itself."""
    if n_targets == 1:
        return out
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in target.column).strip(".")
    return out / TARGETS / (name or "_")


def refuse_slide_models(out: Path) -> None:
    """Refuse a folder that holds a model of pixels: predictions of both would be the same files.

    Raises
    ------
    UsageError
    """
    if Workspace(out).model.is_dir() or next((out / FOLDS).glob("*/model"), None) is not None:
        raise UsageError(
            "--out",
            "holds a model of slides, whose predictions would be replaced",
            "give heads on features a folder of their own",
        )

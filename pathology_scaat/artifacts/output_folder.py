"""The output folder: where each artifact of a run lies, and whose folder it is.

A name is no proof of ownership: a folder called ``model`` may be anybody's. So an output folder
of this program carries a marker, and a folder with other content is taken only where the user
says so, and only where none of the names that are needed is taken. Below it, no folder may be a
link: what is written or removed there would be somebody's elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pathology_scaat.artifacts.atomic import is_own_folder
from pathology_scaat.artifacts.output_names import tissue_name
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.system.fsync import make_folder
from pathology_scaat.system.locks import describe_os_error
from pathology_scaat.system.own_files import new_file, read_own

MARKER_NAME: Final = ".pathology_scaat.json"
_MARKER: Final = {"schema": "pathology_scaat.output_folder", "schema_version": 1}
_MARK = b"pathology_scaat"

ARTIFACT_FOLDERS: Final = ("patches", "saliency", "maps")
FOLDERS: Final = (
    *ARTIFACT_FOLDERS, "tissue", "model", "model.training", "models", "finetuned",
    "finetuned.training", "overlays", "logs",
    "evaluation", "comparison", "annotations", "report", "head", "targets",
    "contributions", "features", "disagreement",
)  # fmt: skip
"""Folders that stages make in an output folder."""

_STATUS_HEAD = (b"slide_id", b"tile", b"explain", b"stitch", b"export", b"reason")

RUN_LOG_NAME: Final = "run.log"
"""What the commands on the folder did, and how long it took."""

FILES: Final = ("run.json", "slides.csv", RUN_LOG_NAME)
_LITTER: Final = {".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", ".nfs", ".snapshot"}
"""What systems put into folders by themselves."""
PREDICTIONS_NAME = "predictions.csv"
SUMS_NAME = "predictions.sha256"
"""SHA-256 of the predictions and of what was measured with them."""

_SHOWN = 3


@dataclass(frozen=True)
class Workspace:
    """Paths inside one output folder; knows names, touches nothing."""

    out: Path

    @property
    def model(self) -> Path:
        return self.out / "model"

    @property
    def finetuned(self) -> Path:
        """A model that was fine-tuned from another one."""
        return self.out / "finetuned"

    def fold_model(self, fold: int) -> Path:
        """Model of one fold of cross-validation."""
        return self.out / "folds" / str(fold) / "model"

    @property
    def overlays(self) -> Path:
        return self.out / "overlays"

    def tissue(self, slide_id: str) -> Path:
        return self.out / "tissue" / tissue_name(slide_id)

    def patches(self, slide_id: str) -> Path:
        return self.out / "patches" / f"{slide_id}.zarr"

    def saliency(self, slide_id: str) -> Path:
        return self.out / "saliency" / f"{slide_id}.zarr"

    def map(self, slide_id: str) -> Path:
        return self.out / "maps" / f"{slide_id}.ome.zarr"

    def slide_ids_with(self, stage: str) -> tuple[str, ...]:
        """Ids of the slides that have a whole artifact of a stage, sorted."""
        folder, suffix = {
            "tile": ("patches", ".zarr"),
            "explain": ("saliency", ".zarr"),
            "stitch": ("maps", ".ome.zarr"),
        }[stage]
        names = (path.name for path in (self.out / folder).glob(f"*{suffix}"))
        return tuple(sorted(name.removesuffix(suffix) for name in names))


def _has_marker(out: Path) -> bool:
    try:
        value = json.loads(read_own(out / MARKER_NAME, 4096))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("schema") == _MARKER["schema"]


def _is_older_run(out: Path, entries: list[Path]) -> bool:
    """Whether a folder without a marker was made by a version that wrote none."""
    for record in (out / "run.json", out / "results" / "run.json"):
        with suppress(OSError):
            if _MARK in read_own(record, 1 << 20):
                return True
    with suppress(OSError):
        head = read_own(out / "slides.csv", 1000)
        if all(word in head for word in _STATUS_HEAD):
            return True
    stores = [
        store
        for entry in entries
        if entry.name in ARTIFACT_FOLDERS and entry.is_dir()
        for store in entry.iterdir()
        if not store.name.startswith(".")
    ]
    return bool(stores) and all(map(is_own_folder, stores))


def is_output_folder(path: Path) -> bool:
    """Whether a folder is one that runs write their results into, by what lies in it."""
    return _has_marker(path) or _is_older_run(path, [])


def require_no_links(out: Path, folders: Sequence[str] = FOLDERS) -> None:
    """Refuse an output folder in which a stage's folder is a link.

    Raises
    ------
    UsageError
        If one is.
    """
    for name in folders:
        if (out / name).is_symlink():
            raise UsageError(
                "--out",
                f"'{name}' in it is a link to another folder",
                "make it a folder, or give --out on the disk that it points to",
            )


def claim_output(out: Path, *, exists_ok: bool = False, folders: Sequence[str] = FOLDERS) -> None:
    """Make an output folder, or make sure that the one that is there may be written into.

    Parameters
    ----------
    out : Path
        Absent, empty, of an earlier run, or (with `exists_ok`) with other content beside which
        there is room.
    exists_ok : bool
        Write into a folder that holds other people's files; they stay as they are.
    folders : sequence of str
        Names of the folders that will be made in it.

    Raises
    ------
    UsageError
        If the folder holds what this program did not make and `exists_ok` is not set, if a name
        that is needed is taken, or if a folder of ours is a link.
    StoreError
        If it cannot be made.
    """
    if out.is_file():
        raise UsageError("--out", f"'{out.name}' is a file, not a folder", "give another name")
    try:
        make_folder(out)
        entries = sorted(out.iterdir())
    except OSError as error:
        raise StoreError(
            out.name or "--out",
            f"cannot be written ({describe_os_error(error)})",
            "check its permissions and free space, or give another --out",
        ) from None
    require_no_links(out, folders)
    if _has_marker(out):
        return
    foreign = [
        entry for entry in entries if entry.name not in _LITTER and entry.name != MARKER_NAME
    ]
    if foreign and not _is_older_run(out, foreign):
        if not exists_ok:
            raise UsageError(
                "--out",
                f"'{out.name}' holds what this program did not make ({_listed(foreign)})",
                "give a new folder, or --out-exists-ok to write beside it",
            )
        taken = [entry for entry in foreign if entry.name in (*folders, *FILES)]
        if taken:
            raise UsageError(
                "--out",
                f"'{out.name}' already holds {_listed(taken)}, which this program did not make",
                "move it away, or give another folder",
            )
    # A folder that became read-only may hold all that is asked for: who has to write says so.
    with suppress(OSError):
        (out / MARKER_NAME).unlink(missing_ok=True)  # a link, or damaged
        new_file(out / MARKER_NAME, (json.dumps(_MARKER, sort_keys=True) + "\n").encode())


def _listed(entries: list[Path]) -> str:
    names = ", ".join(entry.name for entry in entries[:_SHOWN])
    return f"{names}, …" if len(entries) > _SHOWN else names

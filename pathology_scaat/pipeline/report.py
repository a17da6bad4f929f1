"""``scaat report``: model card, reporting checklists and provenance of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pathology_scaat.artifacts.atomic import write_json, write_text_if_changed
from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_names import CRATE_NAME, REPORT_SUMS
from pathology_scaat.artifacts.run_record import FILE_NAME as RUN_NAME
from pathology_scaat.errors import UsageError
from pathology_scaat.evaluation.report.checklist import (
    Answer,
    all_answers,
    checklist_json,
    checklist_markdown,
)
from pathology_scaat.evaluation.report.model_card import (
    CARD_NAME,
    bundle_of,
    model_card,
    write_model_folder,
)
from pathology_scaat.evaluation.report.ro_crate import crate
from pathology_scaat.evaluation.report.run_files import RunFiles
from pathology_scaat.training.bundle_reading import read_bundle_config

FOLDER: Final = "report"


@dataclass(frozen=True)
class Reported:
    """What was written.

    Attributes
    ----------
    files : tuple of Path
    checklists : dict of str to tuple of Answer
        Items of each checklist with what the run knows of them.
    notes : tuple of str
        What was left out, and why.
    """

    files: tuple[Path, ...]
    checklists: dict[str, tuple[Answer, ...]]
    notes: tuple[str, ...]


def report(out: Path, *, model: Path | None = None, model_folder: Path | None = None) -> Reported:
    """Write ``out/report`` and ``out/ro-crate-metadata.json`` from what the run left.

    Parameters
    ----------
    out : Path
        Output folder of a run; nothing of it is computed anew.
    model : Path, optional
        The bundle, where the run was given one.
    model_folder : Path, optional
        Folder to make for the model as Hugging Face has it.

    Raises
    ------
    UsageError
        If the folder holds no run, or no model is there for ``model_folder``.
    StoreError, BundleError
        If a file is damaged or was altered.
    ExportError
        If ``model_folder`` is there already.
    """
    bundle = bundle_of(out, model)
    files = RunFiles.read(out, model)
    if model_folder is not None and bundle is None:
        raise UsageError("--model-folder", "needs a model", "give the bundle with --model")
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    notes = list(files.notes)
    if bundle is not None:
        config = read_bundle_config(bundle)
        write_text_if_changed(folder / CARD_NAME, model_card(config, files))
        written.append(folder / CARD_NAME)
    else:
        (folder / CARD_NAME).unlink(missing_ok=True)
        notes.append("There is no model bundle in the folder: no model card (give --model).")
    found = all_answers(files)
    write_text_if_changed(folder / "checklist.md", checklist_markdown(found, notes))
    write_json(folder / "checklist.json", checklist_json(found, notes))
    written += [folder / "checklist.md", folder / "checklist.json"]
    write_sums(folder, REPORT_SUMS, [path.name for path in written])
    if RUN_NAME in files.found:
        write_json(out / CRATE_NAME, crate(files))
        written.append(out / CRATE_NAME)
    else:
        (out / CRATE_NAME).unlink(missing_ok=True)
        notes.append(f"There is no {RUN_NAME} (stages run one by one): no RO-Crate.")
    if model_folder is not None and bundle is not None:
        written.append(write_model_folder(bundle, model_folder, files))
    return Reported(tuple(written), found, tuple(notes))

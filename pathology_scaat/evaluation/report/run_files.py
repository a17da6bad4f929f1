"""The files of a run that documents are made of, each read once and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pathology_scaat.artifacts.checksums import CHECKSUM_MISMATCH, text_problem
from pathology_scaat.artifacts.run_record import FILE_NAME as RUN_NAME
from pathology_scaat.artifacts.status import FILE_NAME as SLIDES_NAME
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import STAGES
from pathology_scaat.cohort.mistaken import not_an_output_folder
from pathology_scaat.errors import StoreError, UsageError
from pathology_scaat.evaluation.performance.predictions import HOW_NAME
from pathology_scaat.evaluation.performance.report_files import PERFORMANCE_NAME
from pathology_scaat.saliency.attributions import AUTO
from pathology_scaat.saliency.methods_of_maps import method_words, methods_of_maps
from pathology_scaat.training.bundle_reading import CONFIG_NAME, read_bundle_config
from pathology_scaat.training.run_bundles import bundle_of_results

TRUST_CARD: Final = "evaluation/trust_card.json"
NOTES: Final = "notes.json"
_CHECKED: Final = (RUN_NAME, PERFORMANCE_NAME, HOW_NAME, NOTES)


@dataclass(frozen=True)
class Fact:
    """One thing that a run knows, and where from.

    Attributes
    ----------
    text : str
    source : str
        File in the output folder and the key in it: ``run.json: config.tile.mpp``.
    """

    text: str
    source: str


@dataclass
class RunFiles:
    """The JSON files and the status table of a run.

    Attributes
    ----------
    out : Path
    found : dict of str to dict
        Content by name of file; what is not there is not in it.
    slides : list of dict
        Rows of ``slides.csv``.
    model_file : str
        Name of the model's configuration among ``found``; empty where there is none.
    notes : list of str
        What was left out, and why.
    """

    out: Path
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    slides: list[dict[str, str]] = field(default_factory=list)
    model_file: str = ""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, out: Path, model: Path | None = None) -> RunFiles:
        """Read what is there.

        Parameters
        ----------
        out : Path
            Output folder of a run.
        model : Path, optional
            The bundle, where it is not in the folder.

        Raises
        ------
        UsageError
            If the folder holds no run.
        StoreError
            If a file is damaged or was altered.
        """
        rows = StatusTable(out).rows() if out.is_dir() else []
        if not rows:
            raise UsageError("OUT", *not_an_output_folder(out))
        files = cls(out, slides=rows)
        for name in (*_CHECKED, TRUST_CARD):
            if (out / name).is_file():
                files.found[name] = _read(out / name, has_checksum=name in _CHECKED)
        files._find_model(model)
        files._leave_out_other_models()
        if files.model.get("imported"):
            files.notes.append(
                "The model was trained elsewhere: on what, and how, is not known here. Parts and "
                "counts of slides are of this run, not of its training."
            )
        elif files.get(RUN_NAME, "config.model"):
            files.notes.append(
                "The run was given its model: parts and counts of slides are of this run, not of "
                "the training of the model."
            )
        elif other := files._other_settings():
            files.notes.append(
                f"{RUN_NAME} asks for a training that the model is not of ({other}): the last run "
                "did not come to its end, or the model was trained after it. What is said by "
                f"{RUN_NAME} is of that run, and maybe not of the model and its maps."
            )
        return files

    @property
    def is_unfinished(self) -> bool:
        """Whether the last run did not come to its end: slides wait, or the model is another's."""
        if self._other_settings():
            return True
        if self.get(RUN_NAME, "config.folds"):
            return False  # slides in no fold wait for ever
        rows = [row for row in self.slides if row["in_manifest"] != "no"]
        states = [[row[stage] for stage in STAGES] for row in rows]
        return any("pending" in one and not {"failed", "skipped"} & set(one) for one in states)

    def _other_settings(self) -> str:
        """Settings of the training in which run and model differ, in words; empty where none do."""
        asked, model = self.get(RUN_NAME, "config.train"), self.model
        given = self.get(RUN_NAME, "config.model") or model.get("imported")
        if not isinstance(asked, dict) or not model or given:
            return ""
        mine = {**(model.get("training") or {}),
                "method": model.get("method"), "backbone": model.get("backbone")}  # fmt: skip
        both = {**asked, "seed": self.get(RUN_NAME, "config.seed")}
        return ", ".join(
            f"{name} {both[name]}, the model {mine[name]}"
            for name in ("method", "backbone", "epochs", "seed")
            if None not in (both.get(name), mine.get(name)) and both[name] != mine[name]
        )

    @classmethod
    def of_bundle(cls, bundle: Path) -> RunFiles:
        """What a bundle alone says."""
        files = cls(bundle)
        files._find_model(bundle)
        return files

    def _find_model(self, given: Path | None) -> None:
        path = given if given is not None else bundle_of_results(self.out)
        if path is None or not (path / CONFIG_NAME).is_file():
            return
        name = "model bundle" if given is not None else path.relative_to(self.out).as_posix()
        self.model_file = f"{name}/{CONFIG_NAME}"
        read_bundle_config(path)  # refuses one that was altered
        self.found[self.model_file] = _read(path / CONFIG_NAME, has_checksum=False)
        if self.model_file.startswith("folds/"):
            other = (self.out / "model" / CONFIG_NAME).is_file()
            self.notes.append(
                "Cross-validation: one model per fold; settings are those of the first fold's "
                "model, which all folds share, and "
                + ("the model of all slides in the folder is of another run."
                   if other else "there is no model of all slides.")
            )  # fmt: skip

    def _leave_out_other_models(self) -> None:
        """What was measured of another model says nothing of this one."""
        mine = self.model.get("fingerprint")
        if not mine:
            return
        measured = self.get(PERFORMANCE_NAME, "prediction.models") or self.get(HOW_NAME, "models")
        names = [m.get("fingerprint") for m in measured or ()]
        if names and mine not in names:
            for name in (PERFORMANCE_NAME, HOW_NAME):
                self._drop(name, "is of another model than the bundle")
        stated = self.get(TRUST_CARD, "model_fingerprint")
        if stated is not None and stated != mine:
            self._drop(TRUST_CARD, "is of another model than the bundle")

    def _drop(self, name: str, why: str) -> None:
        if self.found.pop(name, None) is not None:
            self.notes.append(f"{name} {why} and is left out.")

    @property
    def model(self) -> dict[str, Any]:
        """The bundle's configuration; empty where there is none."""
        return self.found.get(self.model_file, {})

    def get(self, name: str, keys: str) -> Any:
        """A value by its dotted keys; None where it is not there."""
        value: Any = self.found.get(name)
        for key in keys.split("."):
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return None
        return value

    def fact(self, name: str, keys: str, text: str = "{}") -> list[Fact]:
        """A value as a fact, in words; none where it is not there."""
        value = self.get(name, keys)
        if value is None or value in ({}, [], ""):
            return []
        return [Fact(text.format(shown(value)), f"{name}: {keys}")]

    def run(self, keys: str, text: str = "{}") -> list[Fact]:
        """A setting of the run."""
        return self.fact(RUN_NAME, f"config.{keys}", text)

    def of_model(self, keys: str, text: str = "{}") -> list[Fact]:
        """Something that the bundle says."""
        return self.fact(self.model_file, keys, text) if self.model_file else []

    def method_of_maps(self, text: str = "{}") -> list[Fact]:
        """The attribution method: of the maps that are here, or else as the run was told.

        Stages that were done one by one may have made maps by another than that of ``run.json``.
        """
        if here := methods_of_maps(self.out):
            said = method_words(here)
            alone = text.format(next(iter(here))) if len(here) == 1 else f"maps by {said}"
            return [Fact(alone, "saliency: method of each slide")]
        key = "explain.method"
        if self.get(RUN_NAME, f"config.{key}") != AUTO:
            return self.run(key, text)
        recorded = self.of_model("reference_settings.method", text)
        return recorded or [Fact(text.format("gradient"), f"{RUN_NAME}: config.{key}")]

    def of_slides(self, text: str, column: str) -> list[Fact]:
        """Something counted in the table of slides."""
        return [Fact(text, f"{SLIDES_NAME}: {column}")]


def shown(value: Any) -> str:
    """A value of JSON in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def _read(path: Path, *, has_checksum: bool) -> dict[str, Any]:
    remedy = "see 'scaat verify', then make it again"
    if has_checksum and text_problem(path) == CHECKSUM_MISMATCH:
        raise StoreError(path.name, CHECKSUM_MISMATCH, remedy)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise StoreError(path.name, "cannot be read", remedy) from None
    if not isinstance(value, dict):
        raise StoreError(path.name, "is not what its name says", remedy)
    return value

"""A whole run as one value: what ``scaat run`` reads from YAML and the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pathology_scaat.artifacts import run_record
from pathology_scaat.artifacts.redaction import PATH_MARK
from pathology_scaat.cohort.mistaken import not_a_pipeline_file
from pathology_scaat.errors import ConfigError
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.patches.config import TileConfig
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.system.names import did_you_mean
from pathology_scaat.training.config import TrainConfig

MAX_CONFIG_BYTES = 1 << 20
"""A pipeline file is a page of text; more is a mistake or an attack."""

MAX_PROBLEMS = 50
"""Complaints about one file that a message holds."""

RUN_OVERLAP = "0.5"
"""Where a run differs from ``tile`` alone: maps need overlap to have no block edges."""


class RunConfig(BaseModel):
    """Everything that decides the result of a run, and where it goes."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    manifest: Path = Field(description="cohort table (CSV or Parquet) or a folder of slides")
    out: Path = Field(description="output folder")
    model: Path | None = Field(None, description="bundle to apply; without it one is trained")
    keep_patches: bool = Field(
        False,
        description="keep the patches' pixels where a model is applied; training always keeps them",
    )
    seed: int = Field(0, ge=0, description="seed of the split, the training and the methods")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    pseudonymize: Path | None = Field(
        None, description="file of the salt, outside of out: slides and patients get pseudonyms"
    )
    audit: Literal["standard", "full"] = Field(
        "standard", description="full also records paths, user, host and time in run.json"
    )
    folds: int | None = Field(
        None, ge=3, le=100, description="cross-validation: so many models, one for each fold"
    )
    preserve_site: str | None = Field(
        None, description="column of the manifest whose values are kept within one fold"
    )
    test_manifest: Path | None = Field(
        None, description="another cohort, all of which is tested on"
    )
    subgroups: tuple[str, ...] = Field(
        (), description="columns of the manifest by whose values performance is given as well"
    )
    prevalence: float | None = Field(
        None, gt=0, lt=1, description="share of positive patients where predictive values are for"
    )
    tile: TileConfig = Field(
        default_factory=lambda: TileConfig(overlap=RUN_OVERLAP),
        description="as for tile alone, but with half overlap unless set otherwise",
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    explain: ExplainConfig = Field(default_factory=ExplainConfig)
    stitch: StitchConfig = Field(default_factory=StitchConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.folds is not None and self.model is not None:
            raise ValueError("folds train models, and a model to apply is given: leave one out")
        if self.test_manifest is not None and self.model is not None:
            raise ValueError(
                "test_manifest is for a model that is trained on the manifest: leave model out"
            )
        if self.preserve_site is not None and self.folds is None:
            raise ValueError("preserve_site is for folds: give folds as well")
        return self

    @field_validator("tile", mode="before")
    @classmethod
    def _half_overlap(cls, value: Any) -> Any:
        """An overlap that was not given is a run's, from Python as from the command line."""
        if isinstance(value, Mapping):
            return {"overlap": RUN_OVERLAP, **value}
        if isinstance(value, TileConfig) and "overlap" not in value.model_fields_set:
            return value.model_copy(update={"overlap": RUN_OVERLAP})
        return value


_NO_ALIASES = "aliases are not accepted"
_TWICE = "stands there twice"


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: no pipeline needs them, and nested ones fill any memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, _NO_ALIASES)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As the loader does it, but of two lines for one setting neither wins unsaid."""
        if isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in names:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key.value}' {_TWICE}", key.start_mark
                    )
                names.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, wanted: str = "a pipeline file") -> dict[str, Any]:
    """Read a YAML mapping from a file; ``wanted`` is what it should be, for the message.

    Raises
    ------
    ConfigError
        If the file is missing, too large, not YAML, or not a mapping.
    """
    try:
        if other := not_a_pipeline_file(path, wanted):
            raise ConfigError(path.name, *other)
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(
                path.name,
                "is larger than 1 MiB, which no file of settings is",
                f"give {wanted} (YAML)",
            )
        text = path.read_text(encoding="utf-8-sig")
        value = yaml.load(text, Loader=_PlainLoader)  # noqa: S506  (a SafeLoader)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(
            path.name, f"cannot be read ({error.strerror})", "check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None))
        if problem == _NO_ALIASES:
            where = f" for a pipeline ({_NO_ALIASES})"
        elif problem.endswith(_TWICE):
            where += f" ({problem})"
        raise ConfigError(path.name, f"is not valid YAML{where}", "correct it") from None
    if not isinstance(value, dict):
        raise ConfigError(path.name, "holds no settings", "write 'name: value' lines")
    return value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``over`` on top; None in ``over`` means not given."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        elif value is not None:
            result[key] = value
    return result


def validation_error(
    subject: str,
    error: ValidationError,
    model: type[BaseModel] | None = None,
    more: Mapping[str, str] | None = None,
) -> ConfigError:
    """All complaints of pydantic as one sentence; with the model, unknown names get a proposal.

    ``more`` are complaints of others, by setting; they come first.
    """
    complaints = [
        _problem(complaint, model)
        for complaint in error.errors(include_url=False, include_context=False)
    ]
    return _error_of(subject, [*_worded(more or {}), *complaints])


def _worded(problems: Mapping[str, str]) -> list[str]:
    return [f"'{name[:60]}' {problem}" for name, problem in problems.items()]


def _error_of(subject: str, problems: Sequence[str]) -> ConfigError:
    shown = "; ".join(problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        shown += f"; and {len(problems) - MAX_PROBLEMS} more"
    return ConfigError(subject, shown, "correct them" if len(problems) > 1 else "correct it")


def _problem(complaint: Any, model: type[BaseModel] | None) -> str:
    """One complaint: which setting, what is wrong, and what was probably meant."""
    setting = ".".join(str(part) for part in complaint["loc"]) or "settings"
    problem = complaint["msg"].removeprefix("Value error, ")
    if complaint["type"] == "missing":
        problem = (
            f"is missing, give --{setting}" if setting in ("manifest", "out") else "is missing"
        )
    elif complaint["type"] == "extra_forbidden":
        names = _settings_beside(complaint["loc"], model)
        meant = did_you_mean(str(complaint["loc"][-1]), names) or _elsewhere(
            str(complaint["loc"][-1]), model
        )
        known = f"known here: {', '.join(sorted(names))}" if names else ""
        problem = f"is not a setting ({meant or known})" if meant or known else "is not a setting"
    elif complaint["type"] == "literal_error" and isinstance(complaint["input"], str):
        choices = re.findall(r"'([^']*)'", problem)
        meant = did_you_mean(complaint["input"], choices)
        problem = f"'{complaint['input'][:60]}' is none of {', '.join(choices)}" + (
            f" ({meant})" if meant else ""
        )
    elif complaint["type"] == "string_type" and isinstance(complaint["input"], bool):
        problem = (
            "is true or false, which YAML reads out of Yes, No, on and off; put the text into "
            "quotes"
        )
    between = " " if problem.startswith("is missing") else ": "
    return f"'{setting}'{between}{problem}"


def _settings_beside(setting: tuple[Any, ...], model: type[BaseModel] | None) -> list[str]:
    """The names of the settings of the group in which an unknown one stands."""
    here: Any = model
    for part in setting[:-1]:
        field = getattr(here, "model_fields", {}).get(part)
        here = getattr(field, "annotation", None)
    return list(getattr(here, "model_fields", {}))


def _dotted_names(model: Any, above: str = "") -> Iterator[str]:
    """Names of all settings of a model, with the groups that they stand in."""
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _dotted_names(field.annotation, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _elsewhere(name: str, model: type[BaseModel] | None) -> str:
    """A setting of another group by the very name, as a question; "" if there is none."""
    if model is None:
        return ""
    found = [full for full in _dotted_names(model) if full.rpartition(".")[2] == name]
    return f"did you mean {' or '.join(repr(full) for full in found)}?" if found else ""


def _given(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Names of the settings that the command line gives a value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _given(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}"


def _with_chosen(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``over`` on top; None is a value here."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _with_chosen(below, value)
        result[key] = value
    return result


def _hidden_paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Names of the settings whose path a run record left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _hidden_paths(value, f"{above}{key}.")
        elif value == PATH_MARK:
            yield f"{above}{key}"


def load_run_config(
    path: Path | None,
    overrides: Mapping[str, Any],
    chosen: Mapping[str, Any] | None = None,
    problems: Mapping[str, str] | None = None,
) -> RunConfig:
    """A run's settings from a YAML file, with command line options on top.

    The file may also be the ``run.json`` of an earlier run: the same settings again, with the
    paths that it does not keep given as options.

    Relative paths in the file are relative to the working directory, as on the command line.

    Parameters
    ----------
    path : Path or None
        Pipeline file or run record.
    overrides : mapping
        Options of the command line, nested as in the file; None is not given.
    chosen : mapping, optional
        What ``--set`` names (:func:`pathology_scaat.pipeline.settings.chosen`); it wins over the
        file, and must not contradict an option.
    problems : mapping of str to str, optional
        What is wrong with ``--set`` already; reported together with all the rest.

    Raises
    ------
    ConfigError
        If settings are missing, unknown or impossible; the message names them all.
    """
    wrong = dict(problems or {})
    base = read_yaml(path) if path else {}
    subject = path.name if path else "options"
    if base.get("schema") == run_record.SCHEMA_NAME:
        base = run_record.settings_to_repeat(base)
    options = set(_given(overrides))
    for name in _given(chosen or {}):
        if name in options:
            wrong[name] = "is given by an option and by --set; give one of them"
    values = _with_chosen(merged(base, overrides), chosen or {})
    if hidden := list(_hidden_paths(values)):
        named = ", ".join(f"'{name}'" for name in hidden)
        asked = ", ".join(f"--{name}" for name in hidden)
        what = "was a path" if len(hidden) == 1 else "were paths"
        raise ConfigError(
            subject, f"{named} {what}, which the record does not keep", f"give {asked}"
        )
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise validation_error(subject, error, RunConfig, wrong) from None
    if wrong:
        raise _error_of(subject, _worded(wrong))
    return config

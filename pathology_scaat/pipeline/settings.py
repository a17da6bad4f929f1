"""Every setting of a run: its name, default, range and sentence, read off the settings' models.

What can be set is written once, in the pydantic models; the reference in the documentation, the
schema for editors, ``scaat config`` and ``--set`` all read it here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from pathology_scaat.pipeline.config import RunConfig

SCHEMA_FILE = "settings.schema.json"
"""Name of the schema in ``pipelines/``, as the pipeline files there refer to it."""

NONE = "none"
"""How no value is written on the command line; ``null`` in YAML."""

_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
}


@dataclass(frozen=True)
class Setting:
    """One setting of a pipeline file.

    Attributes
    ----------
    name : str
        With the groups that it stands in: ``tile.tissue.mpp``.
    kind : str
        What a value is: a number, a text, a path, a list, ...
    default : Any
        JSON-like; of a required setting None.
    required : bool
        Whether a run cannot do without it.
    nullable : bool
        Whether it may be without a value.
    choices : tuple of str
        The values it takes, where only some can be.
    bounds : str
        Its range in words; empty where every value will do.
    sentence : str
        What it does.
    """

    name: str
    kind: str
    default: Any
    required: bool
    nullable: bool
    choices: tuple[str, ...]
    bounds: str
    sentence: str

    @property
    def allowed(self) -> str:
        """Choices, or kind and range, in words."""
        text = " | ".join(self.choices) if self.choices else self.kind
        if self.choices and self.kind == "list":
            text = f"list of {text}"
        if self.bounds:
            text += f", {self.bounds}"
        return f"{text}, or {NONE}" if self.nullable else text

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "default": self.default,
            "required": self.required,
            "nullable": self.nullable,
            "choices": list(self.choices),
            "range": self.bounds,
            "description": self.sentence,
        }


@dataclass(frozen=True)
class Group:
    """Settings that stand together in a pipeline file; the name of the outermost is empty."""

    name: str
    sentence: str
    settings: tuple[Setting, ...]


def default_config() -> RunConfig:
    """A run's settings where none is given; its two required paths are examples."""
    return RunConfig(manifest=Path("cohort.csv"), out=Path("out"))


def groups(config: RunConfig | None = None) -> tuple[Group, ...]:
    """All settings, by group, in the order of the models.

    Parameters
    ----------
    config : RunConfig, optional
        Whose values stand for the defaults; those of a run without any setting if None.
    """
    values = (config or default_config()).model_dump(mode="json")
    return tuple(_groups("", RunConfig, values, _sentence_of(RunConfig)))


@cache
def all_settings() -> tuple[Setting, ...]:
    """Every setting, outermost first."""
    return tuple(setting for group in groups() for setting in group.settings)


def _sentence_of(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def group_model(annotation: Any) -> type[BaseModel] | None:
    """The annotation itself if it is a class of settings, as ``TileConfig`` is; else None.

    Such a field groups settings: ``tile.mpp`` is the field ``mpp`` of the class of ``tile``.
    """
    is_group = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_group else None


def _groups(
    prefix: str, model: type[BaseModel], values: Mapping[str, Any], sentence: str,
    whole: Mapping[str, Any] | None = None,
) -> Iterator[Group]:  # fmt: skip
    # The outermost model's schema holds those of all inside it: each of its own costs as much.
    whole = model.model_json_schema() if whole is None else whole
    schema = whole.get("$defs", {}).get(model.__name__, whole)["properties"]
    below: list[Iterator[Group]] = []
    own = []
    for name, field in model.model_fields.items():
        inner = group_model(field.annotation)
        if inner is not None:
            inner_sentence = _sentence_of(inner)
            below.append(_groups(f"{prefix}{name}.", inner, values[name], inner_sentence, whole))
            continue
        default = None if field.is_required() else values[name]
        own.append(
            _setting(f"{prefix}{name}", schema[name], default, field.is_required(),
                     field.description or "")
        )  # fmt: skip
    yield Group(prefix.rstrip("."), sentence, tuple(own))
    for inner_groups in below:
        yield from inner_groups


def _setting(name: str, node: dict[str, Any], default: Any, required: bool, text: str) -> Setting:
    shapes = node.get("anyOf", [node])
    shape = next((s for s in shapes if s.get("type") != "null"), node)
    named = shape.get("type", "")
    named = named[0] if isinstance(named, list) else named
    kind = "path" if shape.get("format") == "path" else _KINDS.get(named, "value")
    choices = node.get("enum") or shape.get("enum") or shape.get("items", {}).get("enum") or ()
    return Setting(
        name, kind, default, required, any(s.get("type") == "null" for s in shapes),
        tuple(choices), _bounds(shape), " ".join(text.split()).rstrip("."),
    )  # fmt: skip


def _bounds(shape: Mapping[str, Any]) -> str:
    low, high = shape.get("minimum"), shape.get("maximum")
    above, below = shape.get("exclusiveMinimum"), shape.get("exclusiveMaximum")
    parts = []
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    if low is not None:
        parts.append(f"{_number(low)} or more")
    if above is not None:
        parts.append(f"more than {_number(above)}")
    if high is not None:
        parts.append(f"{_number(high)} at most")
    if below is not None:
        parts.append(f"less than {_number(below)}")
    return " and ".join(parts)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else f"{value:g}"


def as_yaml(config: RunConfig | None = None) -> str:
    """A whole pipeline file: each setting with its value, and above it what it does.

    Parameters
    ----------
    config : RunConfig, optional
        Whose values are written; the defaults if None, with the required paths left to fill in.
    """
    given = config.model_dump(mode="json") if config else None
    head = f"# yaml-language-server: $schema={SCHEMA_FILE}"
    return "\n".join([head, *_yaml_lines(groups(config), given)]) + "\n"


def compare_groups() -> tuple[Group, ...]:
    """The settings of a comparison, by group; those of its trainings among them."""
    from pathology_scaat.evaluation.compare_methods import CompareConfig

    values = CompareConfig().model_dump(mode="json")
    return tuple(_groups("", CompareConfig, values, _sentence_of(CompareConfig)))


def compare_as_yaml() -> str:
    """A whole file for ``scaat compare``: each setting with its default, and what it does."""
    return "\n".join(["# For scaat compare", *_yaml_lines(compare_groups(), None)]) + "\n"


def _yaml_lines(found: Sequence[Group], given: Mapping[str, Any] | None) -> list[str]:
    lines: list[str] = []
    for group in found:
        depth = group.name.count(".") + 1 if group.name else 0
        indent = "  " * depth
        if group.name:
            lines += ["", f"{'  ' * (depth - 1)}# {group.sentence}"]
            lines.append(f"{'  ' * (depth - 1)}{group.name.rpartition('.')[2]}:")
        for setting in group.settings:
            leaf = setting.name.rpartition(".")[2]
            lines.append(f"{indent}# {setting.sentence} [{setting.allowed}]")
            if setting.required:
                lines.append(f"{indent}{leaf}: {_yaml(given[leaf])}" if given else f"# {leaf}: ...")
            else:
                lines.append(f"{indent}{leaf}: {_yaml(setting.default)}")
    return lines


def _yaml(value: Any) -> str:
    # JSON is YAML; the dumper of YAML would end a bare scalar with a document mark.
    return "null" if value is None else json.dumps(value, ensure_ascii=False)


def as_markdown() -> str:
    """The reference of settings for the documentation."""
    lines = [
        "# Settings",
        "",
        "<!-- Made by `scaat config --markdown`; a test compares. Change the models instead. -->",
        "",
        "Every setting of `scaat run`, in a pipeline file (`scaat run pipeline.yaml`) or on the "
        "command line (`--set tile.overlap=0.5`, as often as wanted; it wins over the file). "
        "`scaat config` prints a whole file with all of them, `scaat config --schema` the JSON "
        "schema by which an editor completes and checks it. `none` on the command line is `null` "
        "in YAML.",
    ]
    of_compare = [g for g in compare_groups() if g.name.partition(".")[0] != "train"]
    for group, whole in (
        *((group, "The run") for group in groups()),
        *((group, "A comparison: `scaat compare`") for group in of_compare),
    ):
        title = f"`{group.name}`" if group.name else whole
        lines += ["", f"## {title}", "", f"{group.sentence}", ""]
        if not group.name and whole != "The run":
            lines += ["In a file for `scaat compare`; `scaat config --compare` prints a whole one. "
                      "`train` is that of a run, the same for all arms.", ""]  # fmt: skip
        lines += ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
        for setting in group.settings:
            default = "*required*" if setting.required else f"`{_shown(setting.default)}`"
            lines.append(
                f"| `{setting.name}` | {default} | {_cell(setting.allowed)} | "
                f"{_cell(setting.sentence)} |"
            )
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if value is None:
        return NONE
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a pipeline file.

    What a run needs may also stand on the command line, so nothing is required here.
    """
    schema = RunConfig.model_json_schema()
    schema.pop("required", None)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Pipeline of scaat run",
    }
    tile = schema["$defs"]["TileConfig"]["properties"]
    tile["overlap"] |= {"default": default_config().tile.overlap}
    for name in ("tile", "train", "explain", "stitch", "export", "engine"):
        model = group_model(RunConfig.model_fields[name].annotation)
        if model is not None:
            schema["properties"][name].setdefault("description", _sentence_of(model))
    return schema


def chosen(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that ``--set name=value`` names, and what is wrong with any of them.

    Values stay texts for pydantic to read, but for lists (``a,b`` or ``[a, b]``), mappings
    (``{a: 1}``) and ``none``.

    Returns
    -------
    values : dict
        Nested as in a pipeline file; unknown names are in it, for the models to refuse.
    problems : dict of str to str
        What cannot be read at all, by what was written.
    """
    # Most runs name none, and reading the models takes longer than reading the command line.
    known = {setting.name: setting for setting in all_settings()} if words else {}
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not all(name.split(".")):
            problems[word] = "is not NAME=VALUE, such as tile.overlap=0.5"
            continue
        *above, leaf = name.split(".")
        section = values
        for part in above:
            inner = section.setdefault(part, {})
            if not isinstance(inner, dict):
                break
            section = inner
        else:
            if leaf in section:
                problems[name] = "is set twice"
                continue
            try:
                section[leaf] = _value(text.strip(), known.get(name))
            except (yaml.YAMLError, ValueError, RecursionError):
                problems[name] = f"'{text[:60]}' cannot be read"
            continue
        problems[name] = "is set twice"
    return values, problems


def _value(text: str, setting: Setting | None) -> Any:
    if setting is None:  # an option of a method, say; or unknown
        return yaml.safe_load(text) if text else ""
    if setting.nullable and text.casefold() in (NONE, "null", ""):
        return None
    if setting.kind == "list":
        if text.startswith("["):
            return yaml.safe_load(text)
        return [part.strip() for part in text.split(",") if part.strip()]
    if setting.kind == "mapping":
        return yaml.safe_load(text)
    return text

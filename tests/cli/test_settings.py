"""Every setting is printed, typed, checked and documented from one place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pathology_scaat.cli import app, run_command
from pathology_scaat.errors import ConfigError
from pathology_scaat.evaluation.compare_methods import CompareConfig
from pathology_scaat.pipeline.config import RUN_OVERLAP, RunConfig, load_run_config
from pathology_scaat.pipeline.evaluate import load_compare_config
from pathology_scaat.pipeline.settings import (
    SCHEMA_FILE,
    all_settings,
    as_markdown,
    as_yaml,
    chosen,
    default_config,
    json_schema,
)

ROOT = Path(__file__).resolve().parents[2]
PATHS: dict[str, Any] = {"manifest": "m.csv", "out": "o"}
SETTINGS = {setting.name: setting for setting in all_settings()}


def run(*words: str) -> int:
    return run_command(lambda: app([*words], standalone_mode=False))


def schema_problems(document: Any) -> list[str]:
    import jsonschema  # takes seconds, in the process that needs it

    validator = jsonschema.validators.validator_for(json_schema())(json_schema())
    validator.check_schema(json_schema())
    return [problem.message for problem in validator.iter_errors(document)]


def load(*words: str, path: Path | None = None) -> RunConfig:
    return load_run_config(path, PATHS if path is None else {}, *chosen(words))


def value_of(config: RunConfig, name: str) -> Any:
    found: Any = config.model_dump(mode="json")
    for part in name.split("."):
        found = found[part]
    return found


def test_the_committed_reference_and_schema_are_the_generated_ones() -> None:
    command = "scaat config --markdown > docs/settings.md"
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == as_markdown(), command
    command = "scaat config --schema > pipelines/settings.schema.json"
    committed = json.loads((ROOT / "pipelines" / SCHEMA_FILE).read_text(encoding="utf-8"))
    assert committed == json_schema(), command


def test_a_comparison_is_printed_whole_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("config", "--compare") == 0
    path = tmp_path / "compare.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_compare_config(path) == CompareConfig()
    assert run("config", "--compare", "--schema") == 2
    assert "give it alone" in capsys.readouterr().err


def test_every_setting_has_a_sentence_and_what_it_takes() -> None:
    assert len(SETTINGS) > 100
    for setting in SETTINGS.values():
        assert len(setting.sentence) > 8, setting.name
        assert setting.kind != "value", setting.name


def test_what_is_printed_is_a_whole_pipeline_file_of_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("config") == 0
    printed = capsys.readouterr().out
    assert printed == as_yaml()
    (tmp_path / "p.yaml").write_text(printed, encoding="utf-8")
    assert load_run_config(tmp_path / "p.yaml", PATHS) == load()
    assert not schema_problems(yaml.safe_load(printed))


def test_the_quickstart_holds_the_defaults_and_passes_its_schema() -> None:
    path = ROOT / "pipelines" / "quickstart.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert not schema_problems(yaml.safe_load(text))
    assert load(path=path) == default_config()
    # What is commented out there are settings as well.
    uncommented = re.sub(r"(?m)^( *)# ( *[a-z_]+:)", r"\1\2", text)
    assert len(yaml.safe_load(uncommented)) > len(yaml.safe_load(text))
    assert not schema_problems(yaml.safe_load(uncommented))


def test_the_schema_refuses_what_a_run_refuses() -> None:
    for wrong in ({"tile": {"mp": 1}}, {"train": {"method": "scat"}}, {"seed": -1}):
        assert schema_problems(wrong)
    assert not schema_problems({"tile": {"overlap": 0.5}})


def test_the_stages_alone_and_a_run_have_the_same_defaults_but_for_the_overlap() -> None:
    config = default_config()
    for name in ("tile", "train", "explain", "stitch", "export", "engine"):
        group = getattr(config, name)
        alone = type(group)()
        differing = {
            key for key in type(group).model_fields if getattr(group, key) != getattr(alone, key)
        }
        assert differing == ({"overlap"} if name == "tile" else set())
    assert config.tile.overlap == RUN_OVERLAP


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if not s.required])
def test_every_setting_can_be_set_to_what_it_is(name: str) -> None:
    default = value_of(load(), name)
    if default is None:
        text = "none"
    elif isinstance(default, list):
        text = ",".join(default)
    else:
        text = default if isinstance(default, str) else json.dumps(default)
    assert load(f"{name}={text}") == load()


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("tile.overlap=0.25", "tile.overlap", "0.25"),
        ("tile.overlap=64px", "tile.overlap", "64px"),
        ("tile.mpp = 2", "tile.mpp", 2.0),
        ("train.grad-clip=none", "train.grad_clip", None),
        ("train.compile=true", "train.compile", True),
        ("train.class_balance=none", "train.class_balance", "none"),
        ("export.formats=png,csv", "export.formats", ["png", "csv"]),
        ("export.formats=[png]", "export.formats", ["png"]),
        ("tile.class_names=Normal, Tumor grade 1", "tile.class_names", ["Normal", "Tumor grade 1"]),
        ("tile.tissue.drop_ink=no", "tile.tissue.drop_ink", False),
        ("train.method_options={eps: 0.1}", "train.method_options", {"eps": 0.1}),
        ("train.method_options.eps=0.1", "train.method_options", {"eps": 0.1}),
        ("manifest=other.csv", "manifest", "other.csv"),
    ],
)
def test_a_setting_of_the_command_line_has_its_type(word: str, name: str, value: Any) -> None:
    paths = {key: path for key, path in PATHS.items() if not word.startswith(key)}
    assert value_of(load_run_config(None, paths, *chosen([word])), name) == value


def test_set_wins_over_the_file_and_not_over_an_option(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("manifest: a.csv\nout: o\ntile: {mpp: 1, overlap: 0.25}\n")
    assert load("tile.mpp=2", path=path).tile.mpp == 2
    assert load("tile.mpp=2", path=path).tile.overlap == "0.25"
    with pytest.raises(ConfigError, match="by an option and by --set"):
        load_run_config(path, {"tile": {"mpp": 4}}, *chosen(["tile.mpp=2"]))


def test_all_mistakes_are_reported_at_once_with_what_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text("manifest: a.csv\nout: o\ntile: {mp: 1}\ntrain: {method: scat, "
                              "positive_class: Yes}\n")  # fmt: skip
    words = ("overlapp", "tile.overlapp=0.5", "epochs=3", "train.patience=0", "seed=x")
    assert run("run", "p.yaml", *(part for word in words for part in ("--set", word))) == 2
    said = " ".join(capsys.readouterr().err.split())
    for part in (
        "'overlapp' is not NAME=VALUE",
        "'tile.mp': is not a setting (did you mean 'mpp'?)",
        "'tile.overlapp': is not a setting (did you mean 'overlap'?)",
        "'epochs': is not a setting (did you mean 'train.epochs'?)",
        "did you mean 'scaat'?",
        "'train.positive_class': is true or false, which YAML reads out of Yes",
        "'train.patience'",
        "'seed'",
    ):
        assert part in said, part
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1", "seed=2"], "is set twice"),
        (["tile=1", "tile.mpp=2"], "is set twice"),
        (["=3"], "is not NAME=VALUE"),
        (["train.method_options={"], "cannot be read"),
        (["train.method_options=" + "[" * 5000], "cannot be read"),
        (["seed.x=1"], "'seed'"),
        (["tile=1"], "'tile'"),
    ],
)
def test_what_cannot_be_set_is_said(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(*words)


def test_a_setting_that_stands_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("manifest: a.csv\nout: o\ntrain:\n  epochs: 3\n  epochs: 30\n")
    with pytest.raises(ConfigError, match=r"line 5 .'epochs' stands there twice"):
        load_run_config(path, {})


def test_config_prints_the_settings_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("tile: {mpp: 1.0}\n")
    assert run("config", str(path), "--set", "seed=7") == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["tile"]["mpp"], found["seed"], found["tile"]["overlap"]) == (1.0, 7, "0.5")
    assert run("config", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["settings"]
    assert {one["name"] for one in listed} == set(SETTINGS)
    assert run("config", "--json", "--schema") == 2
    assert run("config", str(path), "--set", "tile.mp=7") == 2

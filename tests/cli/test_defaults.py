"""The command line and the Python functions have the same defaults, every one of them."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pathology_scaat.cli import app
from pathology_scaat.evaluation.compare_methods import CompareConfig
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.patches.config import TileConfig
from pathology_scaat.pipeline.config import RunConfig, load_run_config
from pathology_scaat.saliency.config import ExplainConfig
from pathology_scaat.stitching.config import StitchConfig
from pathology_scaat.training.config import TrainConfig
from pathology_scaat.training.finetune import FinetuneConfig

COMMANDS: dict[str, tuple[list[str], str, type[BaseModel] | None]] = {
    "tile": (["--manifest", "m.csv", "--out", "o"], "tile", TileConfig),
    "train": (["--manifest", "m.csv", "--out", "o"], "train", TrainConfig),
    "finetune": (
        ["--manifest", "m.csv", "--out", "o", "--model", "m"],
        "finetune",
        FinetuneConfig,
    ),
    "explain": (["--out", "o"], "explain", ExplainConfig),
    "stitch": (["--out", "o"], "stitch", StitchConfig),
    "export": (["--out", "o"], "export", ExportConfig),
    "evaluate": (["--out", "o"], "evaluate", ProtocolConfig),
    "compare": (["--manifest", "m.csv", "--out", "o"], "evaluate", CompareConfig),
    "run": (["--manifest", "m.csv", "--out", "o"], "run", None),
    "verify": (["--out", "o"], "verify", None),
    "demo": (["d"], "demo", None),
    "info": (["slide.svs"], "info", None),
    "doctor": ([], "doctor", None),
    "predict": (["--manifest", "m.csv", "--out", "o"], "predict", None),
    "review": (["o"], "review", None),
    "import-review": (["o"], "review", None),
}
NOT_FUNCTIONS_OF_THE_PIPELINE = {
    "import-annotations",
    "make-manifest",
    "config",
    "import-model",
    "report",
}


class StopHereError(Exception):
    """Raised where the function would begin."""


def names_of_commands() -> set[str]:
    found = set()
    for command in app.registered_commands:
        assert command.callback is not None
        found.add(command.name or command.callback.__name__)
    return found


def test_every_command_is_compared() -> None:
    assert names_of_commands() - NOT_FUNCTIONS_OF_THE_PIPELINE == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_defaults_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, module_name, settings = COMMANDS[name]
    module = importlib.import_module(f"pathology_scaat.pipeline.{module_name}")
    attribute = name.replace("-", "_")
    function = getattr(module, attribute)
    parameters = inspect.signature(function).parameters
    called: dict[str, Any] = {}

    def record(*args: Any, **kwargs: Any) -> None:
        called.update(inspect.signature(function).bind(*args, **kwargs).arguments)
        raise StopHereError

    monkeypatch.setattr(module, attribute, record)
    with pytest.raises(StopHereError):
        app([name, *arguments], standalone_mode=False)
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty or key in ("reporter", "on_ready"):
            continue
        given = called.get(key, parameter.default)
        stands_for = {"config": settings, "engine": EngineConfig}.get(key)
        if parameter.default is None and stands_for is not None:
            assert given in (None, stands_for()), key
        else:
            assert given == parameter.default, key
    if name == "run":
        assert called["config"] == RunConfig(manifest=Path("m.csv"), out=Path("o"))


def test_a_run_from_python_overlaps_as_one_from_the_command_line() -> None:
    """The reviewed fault: 0 from Python, one half from the command line."""
    paths: dict[str, Any] = {"manifest": Path("m.csv"), "out": Path("o")}
    for tile in ({}, {"tile": {"mpp": 1.0}}, {"tile": TileConfig(mpp=1.0)}):
        assert RunConfig(**paths, **tile).tile.overlap == "0.5"
        if not isinstance(tile.get("tile"), TileConfig):
            assert load_run_config(None, {**paths, **tile}).tile.overlap == "0.5"
    for tile in ({"overlap": "0"}, TileConfig(overlap="0")):
        assert RunConfig(**paths, tile=tile).tile.overlap == "0"

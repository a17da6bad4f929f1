"""Options that set a setting of a pipeline file say and take what the setting does."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, get_args

import pytest

from pathology_scaat.cli import map_options, options
from pathology_scaat.cli.declare import SETTINGS, completed_list, setting_names
from pathology_scaat.pipeline.settings import all_settings

TYPES = {
    "text": str,
    "path": Path,
    "list": str,  # by commas
    "number": float,
    "whole number": int,
    "true or false": bool,
}
SETTING_OF = {setting.name: setting for setting in all_settings()}
DECLARED: dict[int, Any] = {
    id(get_args(alias)[1]): get_args(alias)[0]
    for module in (options, map_options)
    for alias in vars(module).values()
    if len(get_args(alias)) == 2 and hasattr(alias, "__metadata__")
}


def type_of(annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not types.NoneType)
    return annotation


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_an_option_takes_what_its_setting_takes(name: str) -> None:
    option, setting = SETTINGS[name], SETTING_OF[name]
    assert type_of(DECLARED[id(option)]) is TYPES[setting.kind]
    assert [choice for choice in setting.choices if choice not in option.help] == []
    if setting.choices:
        assert option.autocompletion("") == list(setting.choices)
    else:
        assert option.autocompletion is None


def test_a_shell_completes_the_last_of_several() -> None:
    assert completed_list(lambda: ("png", "csv"))("csv,p") == ["csv,png"]
    assert SETTINGS["export.formats"].autocompletion("png,figure,c") == ["png,figure,csv"]
    assert setting_names("stitch.w") == ["stitch.window=", "stitch.weighting=",
                                         "stitch.weight_threshold="]  # fmt: skip

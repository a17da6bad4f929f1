"""Every setting of maps and exports has an option, and reaches the configuration."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from pathology_scaat.cli import map_options as mopt
from pathology_scaat.cli.stages import export, stitch
from pathology_scaat.export.config import ExportConfig
from pathology_scaat.pipeline.config import merged
from pathology_scaat.stitching.config import StitchConfig

RENAMED = {"mpp": "map_mpp"}
NO_OPTION = {"memory_budget_bytes"}  # never changes a result


@pytest.mark.parametrize(("verb", "config"), [(stitch, StitchConfig), (export, ExportConfig)])
def test_every_setting_has_an_option(verb: Any, config: Any) -> None:
    options = set(inspect.signature(verb).parameters)
    settings = {RENAMED.get(name, name) for name in config.model_fields} - NO_OPTION
    assert settings <= options


def test_what_is_named_reaches_the_configuration() -> None:
    values = mopt.map_overrides(2.5, "0.4", "threshold", 0.7, "flat")
    found = StitchConfig(**merged({}, values))
    assert (found.mpp, found.ngff, found.weighting) == (2.5, "0.4", "threshold")
    assert (found.weight_threshold, found.window) == (0.7, "flat")
    values = mopt.export_overrides(" csv, png ,", "full", 0.2, True, max_tiles=7, region_mpp=None)
    export_config = ExportConfig(**merged({}, values))
    assert export_config.formats == ("csv", "png")
    assert (export_config.max_tiles, export_config.region_mpp) == (7, ExportConfig().region_mpp)
    assert export_config.identified
    assert ExportConfig(**merged({}, mopt.export_overrides(None, None, None, False))) == (
        ExportConfig()
    )

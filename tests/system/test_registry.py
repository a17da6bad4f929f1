"""Registries: names once, near misses named, and a package that adds its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat.names import METHODS
from pathology_scaat.system.registry import Registry

PLUG_IN = """
from pathology_scaat.scaat.methods.plain import Plain

class Louder(Plain):
    pass

def broken():
    raise AssertionError
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is installed as pip installs one: a module and its metadata."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "scaat_plug_in.py").write_text(PLUG_IN)
    info = site / "scaat_plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scaat-plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        textwrap.dedent(
            """
            [pathology_scaat.methods]
            louder = scaat_plug_in:Louder
            absent = scaat_plug_in_that_is_gone:Nothing
            scaat = scaat_plug_in:Louder
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(site))
    return site


def test_every_built_in_method_can_be_imported() -> None:
    assert [METHODS.load(name) for name in METHODS.names]


def test_a_package_adds_a_method_and_cannot_replace_ours(plug_in: Path) -> None:
    registry = Registry("training method", "pathology_scaat.methods")
    registry.register("scaat", "pathology_scaat.scaat.scaat:SCAAT", "ours")
    assert registry.names == ("scaat", "louder", "absent")
    assert registry.load("louder").__name__ == "Louder"
    assert registry.load("scaat").__name__ == "SCAAT"
    with pytest.raises(UsageError, match="scaat-plug-in cannot be imported"):
        registry.load("absent", "--method")


def test_a_near_miss_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'scaat'"):
        METHODS.load("SCAT", "--method")
    with pytest.raises(ValueError, match="did you mean 'sgt'"):
        METHODS.check("sgtt")


def test_the_command_line_knows_a_method_that_a_package_adds(plug_in: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "pathology_scaat", "train", "--help"],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert "louder" in shown.stdout

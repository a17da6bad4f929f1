"""The page that describes the packages and the contract that is checked say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_drawing_of_the_packages_is_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    layers = [
        {name.strip().removeprefix("pathology_scaat.") for name in layer.split("|")}
        for layer in contract["layers"]
    ]
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawing = page.split("```")[3]
    # Names stand on the left; what is right of column 60 says what they are for.
    rows = [re.findall(r"([a-z_]+)(?:/|\.py)", line[:60]) for line in drawing.splitlines()]
    table = [set(row) for row in rows if row]
    assert table[-1] == {"geometry", "errors"}
    assert table[:-1] == layers[:-2]


def test_every_package_is_in_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = str(settings["tool"]["importlinter"]["contracts"])
    root = ROOT / "pathology_scaat"
    packages = [p.parent.name for p in root.glob("*/__init__.py")]
    loose = [p.stem for p in root.glob("*.py") if not p.stem.startswith("__")]
    assert sorted(loose) == ["errors", "geometry"]
    assert [p for p in [*packages, *loose] if f"pathology_scaat.{p}" not in text] == []

"""The page that describes the packages and the contract that is checked say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_rooms_is_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    layers = [
        {name.strip().removeprefix("pathology_scaat.") for name in layer.split("|")}
        for layer in contract["layers"]
    ]
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    table = [
        {name.strip("/").removesuffix(".py") for name in re.findall(r"`([\w./]+)`", row)}
        for row in rows
    ]
    assert table[-1] == {"geometry", "errors"}
    assert table[:-1] == layers[:-2]


def test_every_room_is_in_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = str(settings["tool"]["importlinter"]["contracts"])
    package = ROOT / "pathology_scaat"
    rooms = [p.parent.name for p in package.glob("*/__init__.py")]
    loose = [p.stem for p in package.glob("*.py") if not p.stem.startswith("__")]
    assert sorted(loose) == ["errors", "geometry"]
    assert [room for room in [*rooms, *loose] if f"pathology_scaat.{room}" not in text] == []

"""Every GeoJSON that any test writes is judged as QuPath would judge it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pathology_scaat.export.qupath.validator import geojson_problems


@pytest.fixture(autouse=True)
def qupath_takes_every_geojson(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check what lies in the test's ``tmp_path`` at its end (except in folders named ``bad``)."""
    if "tmp_path" not in request.fixturenames:
        yield
        return
    folder: Path = request.getfixturevalue("tmp_path")
    yield
    for path in sorted(folder.rglob("*.geojson*")):
        if "bad" not in path.parts:
            assert geojson_problems(path) == [], path.name

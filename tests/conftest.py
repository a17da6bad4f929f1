"""What tests share: where the real slides are, and how much each test may use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Before NumPy or torch are loaded: the processes of xdist would each take every core, and spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["saliency_fixtures"]

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("default")

# Hashes of slides are remembered for each session of tests apart.
os.environ["SCAAT_CACHE_DIR"] = tempfile.mkdtemp(prefix="scaat-tests-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: two processes then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def find_data_dir() -> Path | None:
    """The folder of real slides: SCAAT_DATA, else shared/data beside the checkout."""
    named = os.environ.get("SCAAT_DATA")
    candidates = [Path(named)] if named else []
    candidates.append(Path(__file__).resolve().parents[2] / "shared" / "data")
    return next((path for path in candidates if (path / "slides").is_dir()), None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    path = find_data_dir()
    if path is None:
        pytest.skip("the real slides are not here: set SCAAT_DATA to their folder")
    return path

"""What tests share: where the real slides are, and how much each test may use."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
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

MEMORY_DISK = Path("/dev/shm")
ENOUGH_BYTES = 6 << 30
"""Free there, and allowed to this process, before the tests begin; or else a real disk is used."""

LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where a container's memory is limited, below ``/sys/fs/cgroup``."""


def memory_disk() -> Path | None:
    """A disk in memory that is large enough and may hold programs, if there is one.

    Nearly all that the product writes is synced, and a sync of a real disk takes milliseconds:
    that is most of what many tests wait for.
    """
    if not (MEMORY_DISK.is_dir() and os.access(MEMORY_DISK, os.W_OK)):
        return None
    state = os.statvfs(MEMORY_DISK)
    available = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable")
    )
    limits = [Path("/sys/fs/cgroup") / name for name in LIMITS]
    allowed = [int(n) for p in limits if p.is_file() and (n := p.read_text().strip()).isdigit()]
    free = min(state.f_bavail * state.f_frsize, available, *allowed)
    return None if free < ENOUGH_BYTES or state.f_flag & os.ST_NOEXEC else MEMORY_DISK


def is_of_nobody(folder: Path) -> bool:
    """Whether no session of tests holds a folder any more: that of a killed or failed one."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, another user's, or none of ours
        return False
    return True


# One folder for all that a session of tests leaves, and for all its processes: those of xdist
# are told of it. Who names a folder (TMPDIR, --basetemp) gets that one.
IS_FIRST_PROCESS = "SCAAT_TESTS_FOLDER" not in os.environ
if IS_FIRST_PROCESS:
    # What a session before left in memory would stay there.
    for left in MEMORY_DISK.glob("scaat-*"):
        if is_of_nobody(left):
            shutil.rmtree(left, ignore_errors=True)
    disk = None if "TMPDIR" in os.environ else memory_disk()
    os.environ["SCAAT_TESTS_FOLDER"] = tempfile.mkdtemp(prefix="scaat-", dir=disk)
FOLDER = Path(os.environ["SCAAT_TESTS_FOLDER"])
if IS_FIRST_PROCESS:
    # held until this process ends, however it does: a number, which no collector complains about
    LOCK = os.open(FOLDER / "new", os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(LOCK, fcntl.LOCK_EX)
    (FOLDER / "new").rename(FOLDER / "lock")
    (FOLDER / "tmp").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(FOLDER / "tmp")
    # Hashes of slides are remembered for each session of tests apart.
    os.environ["SCAAT_CACHE_DIR"] = str(FOLDER / "cache")


def pytest_configure(config: pytest.Config) -> None:
    if IS_FIRST_PROCESS and not config.option.basetemp:
        config.option.basetemp = str(FOLDER / "t")  # short: sockets are made below it


def pytest_report_header() -> str:
    return f"temporary files: {FOLDER} (removed when all tests pass, or else by the next tests)"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if IS_FIRST_PROCESS and exitstatus in (0, 5):
        os.close(LOCK)
        shutil.rmtree(FOLDER, ignore_errors=True)


def pytest_collection_finish() -> None:
    """What was collected stays: no later collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


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

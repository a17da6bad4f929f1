"""Disks without hard links or folder syncs, machines without a home: it works, or it is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_slides import make_cohort
from forked_command import run_forked
from reliability_tools import read_status

import pathology_scaat

HERE = Path(__file__).resolve().parent
SMALL = ("--mpp", "1.0", "--patch-size", "32", "--epochs", "2", "--workers", "0")
PACKAGE = Path(pathology_scaat.__file__).resolve().parent


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    made = tmp_path_factory.mktemp("shim") / "odd_disk.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(made), str(HERE / "odd_disk.c"), "-ldl"]
    subprocess.run(command, check=True)
    return made


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"))


def scaat(
    *words: object, environment: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return run_forked(words, environment=environment, folder=cwd)


def on_disk(shim: Path, root: Path, without: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(shim), "DISK_ROOT": str(root), "DISK_WITHOUT": without}


@pytest.mark.slow
@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_disk_without_links_syncs_or_exchange_holds_a_whole_run(
    shim: Path, cohort: Path, tmp_path: Path, ngff: str
) -> None:
    disk = tmp_path / "Disk Smith"
    disk.mkdir()
    odd = on_disk(shim, disk, "link foldersync exchange")
    words = ("run", "--manifest", cohort, "--out", "out", "--ngff", ngff, *SMALL)
    done = scaat(*words, environment=odd, cwd=disk)
    assert done.returncode == 0, done.stderr + done.stdout
    assert {row["export"] for row in read_status(disk / "out")} == {"done"}
    again = scaat("stitch", "--out", "out", "--ngff", ngff, "--overwrite", "--workers", "0",
                  environment=odd, cwd=disk)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert not list((disk / "out").rglob("*.partial*"))
    verified = run_forked(["verify", "--out", "out"], folder=disk)
    assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("flock", "is on a file system without locks (No locks available, ENOLCK)"),
        ("replace", "is on a disk where nothing can be replaced by renaming (File exists, EEXIST)"),
    ],
)
def test_a_disk_that_cannot_hold_results_is_refused_before_tiling(
    shim: Path, cohort: Path, tmp_path: Path, without: str, words: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = scaat("tile", "--manifest", cohort, "--out", disk / "out", "--workers", "0",
                 environment=on_disk(shim, disk, without), cwd=tmp_path)  # fmt: skip
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (disk / "out" / "patches").exists()
    done = scaat("doctor", "--out", disk, environment=on_disk(shim, disk, without), cwd=tmp_path)
    assert "FAULT" in done.stdout
    assert words in done.stdout.replace("\n", " ") or words.split(" (")[0][:30] in done.stdout


def test_the_doctor_says_what_a_disk_lacks(shim: Path, tmp_path: Path) -> None:
    done = scaat("doctor", "--out", tmp_path, cwd=tmp_path,
                 environment=on_disk(shim, tmp_path, "link foldersync exchange"))  # fmt: skip
    for words in ("no hard links", "no syncing of folders", "no exchange of names"):
        assert words in done.stdout
    assert "FAULT" not in done.stdout
    assert not list(tmp_path.iterdir())


# --- an installation that cannot be written, and nobody at home ------------------------------

NOBODY = ("unshare", "--user", "--map-user=54321", "--map-group=54321")
"""A user that no table knows and that has no privileges."""


@pytest.fixture(scope="module")
def installation() -> Iterator[Path]:
    """The package where nobody can write, without anything compiled."""
    probe = [*NOBODY, sys.executable, "-c", "pass"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("no user namespace can be made here")
    top = Path(tempfile.mkdtemp(prefix="scaat-read-only-"))
    shutil.copytree(
        PACKAGE, top / "site" / "pathology_scaat", ignore=shutil.ignore_patterns("__pycache__")
    )
    folders = [top / "site", *(p for p in (top / "site").rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield top
    for folder in folders:
        folder.chmod(0o755)
    shutil.rmtree(top)


def nobody(
    installation: Path, cwd: Path, *words: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NOBODY, sys.executable, "-m", "pathology_scaat", *map(str, words)],
        capture_output=True, text=True, timeout=280, cwd=cwd, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installation / "site"),
             "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("has_home", [False, True], ids=["no home", "a read-only home"])
def test_a_whole_run_without_a_home(
    installation: Path, cohort: Path, tmp_path: Path, has_home: bool
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    if has_home:
        environment["HOME"] = str(installation / "site")
    done = nobody(installation, tmp_path, "run", "--manifest", cohort, "--out", "out", *SMALL,
                  **environment)  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Matplotlib" not in done.stderr
    assert {row["export"] for row in read_status(tmp_path / "out")} == {"done"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tmp"]  # no folder "~"
    assert list(temporary.rglob("*.nbi"))  # kernels were kept for the next process


def test_kernels_are_compiled_without_any_cache(installation: Path, tmp_path: Path) -> None:
    """Neither home nor temporary folder: every process compiles for itself."""
    code = (
        "import tempfile; tempfile.gettempdir = lambda: '/nonexistent'\n"
        "from pathology_scaat.tissue.kernels import measure_pixels, count\n"
        "from pathology_scaat.slides.block_mean import block_mean\n"
        "from pathology_scaat.patches import resample\n"
        "import numpy as np\n"
        "from pathology_scaat.system.compiled import cache_location\n"
        "mean = block_mean(np.full((9, 9, 3), 7, np.uint8), 3).mean()\n"
        "print(mean, cache_location(measure_pixels))\n"
    )
    done = subprocess.run(
        [*NOBODY, sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installation / "site"), 
             "HOME": str(installation / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7.0 compiled anew by each process")


def test_the_doctor_tries_what_a_container_lacks(installation: Path, tmp_path: Path) -> None:
    done = nobody(installation, tmp_path, "doctor", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept in a temporary folder" in done.stdout
    for trial in ("a slide, tiled", "a map, written", "pictures", "a network"):
        assert f"ok  {trial}" in done.stdout.replace("     ", "  ")


@pytest.mark.parametrize("how", ["open to others", "a link", "a file"])
def test_a_folder_of_somebody_else_is_no_cache(how: str, tmp_path: Path) -> None:
    """What lies in it would be run."""
    folder = tmp_path / f"pathology-scaat-{os.geteuid()}"
    if how == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    elif how == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    else:
        folder.write_text("x")
    code = "from pathology_scaat.system.home import private_temporary_folder as f; print(f())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "None"

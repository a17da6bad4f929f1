"""The tutorials: each notebook runs, in the order of the index, and tells nothing of this machine.

The executed copies go to ``SCAAT_EXECUTED_NOTEBOOKS``, where the documentation site takes them
from, or else to a folder of the test. What runs notebooks takes seconds to load, and is loaded by
the process that needs it.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
NAMES = re.findall(r"^([a-z_]+)$", (FOLDER / "index.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("SCAAT_EXECUTED_NOTEBOOKS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("executed")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all: the last tutorial reads what the first has made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        yield tmp_path_factory.mktemp("tutorials")


def test_the_index_names_every_notebook() -> None:
    assert sorted(NAMES) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    import nbformat

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def texts(value: Any) -> Iterator[str]:
    """All texts of an output but its pictures."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if not str(key).startswith("image/"):
                yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, work: Path, executed: Path) -> None:
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    sockets = {"transport": "ipc", "ip": str(work / name[:8])}  # no port is opened
    pipes = Config({"KernelManager": sockets})
    resources = {"metadata": {"path": str(work)}}
    limits = {"timeout": 1400, "startup_timeout": 240}
    NotebookClient(notebook, resources=resources, config=pipes, **limits).execute()
    said = "\n".join(texts([cell.get("outputs", []) for cell in notebook.cells]))
    user = getpass.getuser()
    for secret in (str(work), str(FOLDER), socket.gethostname(), f"/home/{user}", "/tmp/"):
        assert secret not in said, f"{name} tells {secret}"
    assert "Warning" not in said
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    nbformat.write(notebook, executed / f"{name}.ipynb")

"""What CONTRIBUTING.md names: ``nox -s lint types contracts tests docs``.

Sessions run in the environment that nox was started from, which holds what they need
(``pip install -c constraints.txt -e ".[test,docs,dev]"``): the versions are those of constraints.txt,
and nothing is installed twice. Only ``workflows`` makes an environment of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "contracts", "tests", "docs"]

TOOLS = Path(sys.executable).parent
EXECUTED = Path("build") / "notebooks"


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and form of the source."""
    session.run(f"{TOOLS}/ruff", "check", ".", external=True)
    session.run(f"{TOOLS}/ruff", "format", "--check", ".", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly."""
    session.run(f"{TOOLS}/mypy", external=True)


@nox.session
def contracts(session: nox.Session) -> None:
    """A package imports only what stands below it."""
    session.run(f"{TOOLS}/lint-imports", external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, or those that are named after ``--``."""
    session.run(sys.executable, "-m", "pytest", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site in build/site; a link that leads nowhere is an error."""
    session.run(
        sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", "build/site",
        env={"SCAAT_EXECUTED_NOTEBOOKS": str(EXECUTED.absolute())}, external=True,
    )  # fmt: skip
    session.run(sys.executable, "docs/check_site.py", "build/site", external=True)


@nox.session(venv_backend="venv")
def workflows(session: nox.Session) -> None:
    """The Snakemake example, run on two drawn slides."""
    session.install("snakemake>=9")
    session.run(
        sys.executable, "-m", "pytest", "-n", "0", "tests/docs/test_workflows.py",
        env={"SNAKEMAKE": f"{session.bin}/snakemake"}, external=True,
    )  # fmt: skip

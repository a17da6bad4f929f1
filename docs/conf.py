"""The documentation site: ``sphinx-build -W -c docs . build/site`` in the folder of the project.

The source folder is the whole project, so that a link to ``../ARCHITECTURE.md`` or into
``benchmarks/`` leads to the same place on the site as in the repository, and is checked.
Nothing is loaded from the network, neither while building nor by a page of the site.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pathology_scaat import __version__

ROOT = Path(__file__).resolve().parents[1]

project = "pathology_scaat"
author = "the pathology_scaat authors"
project_copyright = "the pathology_scaat authors, Apache-2.0"
version = release = __version__

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "*.md",
    "data_manifests/README.md",
    "benchmarks/README.md",
    "benchmarks/evidence/**",
    "benchmarks/results/*/*.md",
]
exclude_patterns = [
    ".*", "**/.*", "build", "dist", "tests", "pathology_scaat", "pipelines", "containers",
    "**/__pycache__", "README.md",
]  # fmt: skip
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# -- Markdown and notebooks
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
# Notebooks are kept without outputs. The test that runs them leaves executed copies in the folder
# of this variable; where it is not set, the site shows them as they are kept.
nb_execution_mode = "off"
EXECUTED = os.environ.get("SCAAT_EXECUTED_NOTEBOOKS")

# -- the reference
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# -- HTML
html_theme = "furo"
html_title = f"pathology_scaat {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}


def _executed(app: Any, name: str, source: list[str]) -> None:
    """The executed copy of a notebook in the place of the kept one."""
    if EXECUTED and name.startswith("docs/tutorials/"):
        copy = Path(EXECUTED) / f"{Path(name).name}.ipynb"
        if copy.is_file():
            source[0] = copy.read_text(encoding="utf-8")


def _start_page(app: Any, error: Exception | None) -> None:
    """``index.html`` at the top of the site leads to the first page."""
    if error is None and app.builder.format == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def _settings(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A list of the fields of a settings class, from what pydantic knows of them."""
    if what != "class" or not issubclass(obj, BaseModel):
        return
    lines.append("")
    for field, info in obj.model_fields.items():
        default = "required" if info.is_required() else f"``{info.get_default()!r}``"
        if info.default_factory is not None:
            default = "see there"
        lines.append(f"* ``{field}`` ({default}): {info.description or ''}".rstrip(": "))


def _own_members(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Nothing of pydantic's, whose fields :func:`_settings` lists."""
    owner = getattr(obj, "__qualname__", "")
    is_pydantic = name.startswith(("model_", "_")) or "BaseModel" in owner
    return True if is_pydantic else None


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _settings)
    app.connect("autodoc-skip-member", _own_members)
    app.connect("source-read", _executed)
    app.connect("build-finished", _start_page)

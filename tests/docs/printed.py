"""Every ``scaat`` command that README and documentation print, and the real application."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import typer

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "*.md", "docs/**/*.md", "docs/**/*.ipynb", "data_manifests/*.md", "benchmarks/README.md",
    "benchmarks/evidence/README.md", ".github/*.md", "pipelines/*.yaml", "pipelines/Snakefile",
    "pipelines/*.nf", "containers/*",
)  # fmt: skip
HISTORY = {"CHANGELOG.md"}
"""Speaks of commands as they were."""

_COMMAND = re.compile(r"(?:^|[\s(|&;`'\"/])scaat[ \t]+([^\n]*)")


@dataclass(frozen=True)
class Printed:
    """One command as a page prints it: without ``scaat``, and whether it is there to be copied."""

    page: str
    text: str
    is_whole: bool

    @property
    def arguments(self) -> list[str]:
        plain = re.sub(r"\$?\{(TILE|TRAIN|params\.(tile|train))\}", "", self.text)  # more options
        plain = re.sub(
            r"'?\$?\{[^}]*\}'?|\"?\$\w+\"?", "1", plain
        )  # values, of workflows and shells
        if not self.is_whole:
            plain = re.sub(r"[\[\]…]|\.\.\.", " ", plain)  # [--quick]
        return shlex.split(plain)


def pages() -> list[Path]:
    found = {p for pattern in PAGES for p in ROOT.glob(pattern) if p.is_file()}
    return sorted(p for p in found if p.name not in HISTORY)


def text_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return text


def _blocks(page: Path, text: str) -> tuple[str, str]:
    """The code of a page (fenced or indented; all of a file that is code), and its prose."""
    if page.suffix not in (".md", ".ipynb"):
        return text, ""
    code = [m.group(2) for m in re.finditer(r"^( *)```\w*\n(.*?)^ *```", text, re.M | re.S)]
    rest = re.sub(r"^( *)```.*?^ *```", "", text, flags=re.M | re.S)
    code += re.findall(r"^(?: {4}|\t)(.*)$", rest, re.M)
    return "\n".join(code), re.sub(r"^(?: {4}|\t).*$", "", rest, flags=re.M)


def printed() -> Iterator[Printed]:
    """All of them, page by page; prose counts where it stands in backquotes."""
    for page in pages():
        name = page.relative_to(ROOT).as_posix()
        code, prose = _blocks(page, text_of(page))
        for line in code.splitlines():
            for found in _COMMAND.finditer(line):
                text = re.split(r"\s+#|\s*(?:&&|\|\||[|;])\s", found.group(1))[0].strip()
                if re.match(r"-{0,2}[a-z]", text):
                    yield Printed(name, text.rstrip("\"' \\"), is_whole=True)
        for span in re.findall(r"`([^`\n]+)`", prose):
            for found in _COMMAND.finditer(span):
                yield Printed(name, found.group(1).strip(), is_whole=False)


@cache
def application() -> click.Group:
    from pathology_scaat.cli import app

    group: Any = typer.main.get_command(app)
    return group  # type: ignore[no-any-return]


def options_of(command: click.Command) -> set[str]:
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


def all_options() -> set[str]:
    group = application()
    found = options_of(group)
    return found.union(*(options_of(command) for command in group.commands.values()))

"""Names in Markdown: what would be taken for HTML, or for the end of a cell, stays text."""

from __future__ import annotations

import re

_TAG = re.compile(r"(?<!\\)<(?=[A-Za-z/!?])")


def without_tags(text: str) -> str:
    r"""Markdown in which nothing is HTML: a class may be named ``<none>``, or hold a tag.

    Examples
    --------
    >>> without_tags("predicted <none>, p <0.05, grade <b>3</b>")
    'predicted \\<none>, p <0.05, grade \\<b>3\\</b>'
    """
    return _TAG.sub(r"\\<", text)


def cell(text: str) -> str:
    r"""A value in a Markdown table; of several lines one is made.

    Examples
    --------
    >>> cell("grade 1|2")
    'grade 1\\|2'
    """
    return " ".join(text.replace("|", "\\|").split("\n"))

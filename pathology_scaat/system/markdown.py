"""Names in Markdown: what a browser would take for HTML stays text."""

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

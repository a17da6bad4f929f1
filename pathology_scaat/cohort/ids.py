"""Slide and patient ids: the one text of a manifest that becomes a file name.

An id names files in the output folder, cells in ``slides.csv`` and objects in QuPath, on
Linux, Windows and macOS. What could leave the folder, be taken for a formula by a
spreadsheet, or not exist on one of these systems is refused, with a sentence that says why.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from pathology_scaat.errors import ManifestError
from pathology_scaat.system.names import name_key

MAX_ID_CHARACTERS = 120
MAX_ID_BYTES = 180
"""UTF-8 bytes: file systems allow 255 a name, and suffixes of ours need the rest."""

_FORBIDDEN = set('/\\<>:"|?*')
_FORMULA_START = ("=", "+", "-", "@")
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}
_REMEDY = "give the slide another slide_id in the manifest"


def _shown(text: str) -> str:
    """The id as a message may show it: one line, no control characters, not too long."""
    visible = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return visible if len(visible) <= 60 else f"{visible[:57]}..."


def id_problem(text: str) -> str | None:
    """What makes a text unusable as an id, in words, or None where nothing does."""
    if not text.strip():
        return "is empty"
    if not text.isprintable():
        return "contains a control or invisible character"
    if bad := sorted(_FORBIDDEN.intersection(text)):
        return f"contains {' '.join(bad)}, which cannot stand in a file name"
    if text != text.strip() or text.startswith(".") or text.endswith("."):
        return "begins or ends with a space or a dot"
    if text.startswith(_FORMULA_START):
        return "begins with a character that spreadsheets take for a formula (= + - @)"
    if text.split(".")[0].strip().casefold() in _RESERVED:
        return "is a device name on Windows"
    if ".partial-" in text or text.endswith(".lease"):
        return "looks like the name of an unfinished file"
    if len(text) > MAX_ID_CHARACTERS or len(text.encode()) > MAX_ID_BYTES:
        return f"is longer than {MAX_ID_CHARACTERS} characters or {MAX_ID_BYTES} bytes"
    return None


def safe_id(text: str, what: str = "slide_id") -> str:
    """An id as given, in Unicode normal form C, or an error that says what is wrong.

    Raises
    ------
    ManifestError
        If the id cannot be a file name everywhere (path separators, leading dots, control
        characters, Windows device names, over-long) or would be a spreadsheet formula.
    """
    normal = unicodedata.normalize("NFC", text)
    if problem := id_problem(normal):
        raise ManifestError(f"{what} '{_shown(normal)}'", problem, _REMEDY)
    return normal


def id_from_name(stem: str) -> str:
    """A safe id made from a file's stem, for slides that were given none.

    A stem that is a safe id is kept as it is. Where characters had to be replaced or cut, a
    piece of the stem's SHA-256 is added, so that two different stems never meet in one id.
    """
    normal = unicodedata.normalize("NFC", stem)
    if id_problem(normal) is None:
        return normal
    cleaned = re.sub(r"[^\w.()\[\] -]+", "_", normal)
    cleaned = re.sub(r"\.partial-", "_", cleaned).strip(" ._-")
    kept = cleaned[:60].encode()[: MAX_ID_BYTES - 20].decode(errors="ignore").strip(" ._-")
    mark = hashlib.sha256(normal.encode(errors="surrogatepass")).hexdigest()[:8]
    candidate = f"{kept}_{mark}" if kept else f"slide_{mark}"
    return candidate if id_problem(candidate) is None else f"slide_{mark}"


def id_key(text: str) -> str:
    """Two ids with one key would be one file on a system that ignores case, or look alike."""
    return name_key(text)

"""Nobody exposed: pseudonyms, the salt that makes them, and text without names in it.

What may be known of a slide is a whitelist (:class:`pathology_scaat.slides.base.SlideInfo`).
This module is for the rest: ids, messages, logs and run records.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pathology_scaat.errors import AnnotationError, ExportError, ScaatError, SlideError, UsageError
from pathology_scaat.system.fsync import sync_file, sync_folder
from pathology_scaat.system.locks import describe_os_error
from pathology_scaat.system.own_files import new_file, open_own

SALT_BYTES = 32
PSEUDONYM_HEX = 16
"""64 bits: two of a million slides meet with a chance of 3 in 100 million."""

PATH_MARK = "<path>"
_TOO_COMMON = {"root", "user", "admin", "ubuntu", "runner", "docker", "local", "localhost", "app"}

# An absolute POSIX path of at least two parts, a Windows drive or UNC path, a file URI. In
# quotes a path may hold spaces; outside of them it ends at one.
_QUOTED_PATH = re.compile(
    r"""(?P<quote>["'`])(?:file:)?(?:[A-Za-z]:[\\/]|\\\\|/)(?:(?!(?P=quote))[^\n])*(?P=quote)"""
)
_BARE_PATH = re.compile(
    r"""(?<![\w./:<])(?:file:/{1,3}(?=\S)|[A-Za-z]:[\\/]|\\\\(?=\w)|/(?=[^\s/'"]+/))[^\s'"<>|,;]*(?<![:.)\]])"""
)


# "[Errno 1] Operation not permitted: 'out/Smith, J/map' -> 'x'": relative, but a path all the same.
_OS_ERROR_PATH = re.compile(
    r"""(\[(?:Errno|WinError) -?\d+\][^\n'"]*|(?<=<path>['"]) -> )(['"])(?:(?!\2)[^\n])*\2"""
)


def pseudonymize(value: str, salt: bytes) -> str:
    """Pseudonym of a slide or patient: the head of HMAC-SHA256(salt, value), RFC 2104.

    The same value and salt always give the same pseudonym; without the salt nobody can go
    back from it, nor test whether a slide he has is in the cohort.

    Raises
    ------
    UsageError
        If the salt is shorter than :data:`SALT_BYTES`.
    """
    if len(salt) < SALT_BYTES:
        raise UsageError("salt", f"has fewer than {SALT_BYTES} bytes", "let the program make one")
    return f"s{hmac.new(salt, value.encode(), hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]}"


def load_salt(path: Path, out_dir: Path) -> bytes:
    """Read the salt, or make it on first use with access for its owner only.

    Parameters
    ----------
    path : Path
        File of the salt, 64 hex digits.
    out_dir : Path
        Output folder; a salt in it would travel with the pseudonyms and undo them.

    Raises
    ------
    UsageError
        If the file lies in the output folder, can be read by others, or is not a salt.
    """
    name = path.name
    try:
        real, out = path.resolve(), out_dir.resolve()
    except (OSError, RuntimeError):
        raise UsageError(name, "cannot be reached (a loop of links)", "name another file") from None
    # The name given and the file that it leads to: neither may travel with the outputs.
    named = path.parent.resolve() / path.name
    if real.is_relative_to(out) or named.is_relative_to(out):
        raise UsageError(name, "lies in the output folder", "keep the salt apart from the outputs")
    try:
        with suppress(FileExistsError):
            new_file(real, (secrets.token_hex(SALT_BYTES) + "\n").encode(), 0o600)
            sync_file(real)
            sync_folder(real.parent)
        descriptor = open_own(real, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            if os.name == "posix" and os.fstat(descriptor).st_mode & 0o077:
                raise UsageError(name, "can be read by other users", f"run: chmod 600 {name}")
            salt = bytes.fromhex(file.read(1000).decode("ascii").strip())
    except OSError as error:
        raise UsageError(
            name, f"cannot be read or made ({describe_os_error(error)})", "name another file"
        ) from None
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        salt = b""
    if len(salt) < SALT_BYTES:
        raise UsageError(name, "is not a salt (64 hex digits)", "name a new file; it will be made")
    return salt


@cache
def _local_names() -> tuple[tuple[str, str], ...]:
    """User, host and home folder of this process with what stands for them, longest first."""
    names: dict[str, str] = {}
    # A container may have no table of users: then there is no name to hide.
    with suppress(OSError, KeyError, ImportError):
        names[getpass.getuser()] = "<user>"
    host = socket.gethostname()
    names |= {host: "<host>", host.split(".")[0]: "<host>"}
    names[Path(os.path.expanduser("~")).name] = "<user>"  # "~" where there is no home
    return tuple(
        (name, mark)
        for name, mark in sorted(names.items(), key=lambda pair: -len(pair[0]))
        if len(name) >= 3 and name.casefold() not in _TOO_COMMON
    )


_LETTER = r"[^\W\d_]"


class Redactor:
    """Removes paths, users, hosts and given names from text.

    Parameters
    ----------
    hide : iterable of (str, str)
        Names to replace, and what to put there: a slide's path or file name and its id.
    """

    def __init__(self, hide: Iterable[tuple[str, str]] = ()) -> None:
        self._hidden: dict[str, str] = {}
        for name, replacement in hide:
            self.hide(name, replacement)

    def hide(self, name: str, replacement: str = PATH_MARK) -> None:
        """Replace a name wherever it occurs from now on."""
        if name:
            self._hidden[name] = replacement
            self._hidden[repr(name)[1:-1]] = replacement

    def hide_path(self, path: Path, replacement: str) -> None:
        """Replace a file's path, name, stem and folder wherever they occur."""
        self.hide(str(path), replacement)
        self.hide(path.name, replacement)
        if len(path.stem) >= 4:
            self.hide(path.stem, replacement)
        self.hide(str(path.parent) if len(path.parent.parts) > 1 else "", PATH_MARK)

    def __call__(self, text: str) -> str:
        for name in sorted(self._hidden, key=len, reverse=True):
            replacement = self._hidden[name]
            if name in text and name != replacement:
                # A file called "dicom" must not garble "highdicom": a bare word is a whole word.
                pattern = re.escape(name)
                if name.isalpha():
                    pattern = rf"(?<!{_LETTER}){pattern}(?!{_LETTER})"
                text = re.sub(pattern, replacement.replace("\\", r"\\"), text)
        for _ in range(2):  # the second name of a rename stands behind the first
            text = _OS_ERROR_PATH.sub(lambda m: f"{m[1]}{m[2]}{PATH_MARK}{m[2]}", text)
        text = _QUOTED_PATH.sub(lambda m: f"{m['quote']}{PATH_MARK}{m['quote']}", text)
        text = _BARE_PATH.sub(PATH_MARK, text)
        for name, mark in _local_names():
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", mark, text)
        return text


def redact(text: str) -> str:
    """Text without absolute paths, the user's name and the host's name."""
    return Redactor()(text)


class RedactingFormatter(logging.Formatter):
    """A log formatter whose every line, tracebacks too, has gone through a redactor."""

    def __init__(self, redactor: Redactor, pattern: str = "%(levelname)s %(message)s") -> None:
        super().__init__(pattern)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor(super().format(record))


_NAMED_BY_FILE: dict[type[ScaatError], str] = {
    SlideError: "slide",
    AnnotationError: "annotation file",
    ExportError: "export",  # it may be the slide's file that cannot be exported
}


def reason_for(error: ScaatError) -> str:
    """The sentence of an error as ``slides.csv`` may hold it: without the file's name.

    The row says which slide it is; a file name may hold a patient's name.
    """
    redactor = Redactor()
    subject = next((word for kind, word in _NAMED_BY_FILE.items() if isinstance(error, kind)), "")
    if subject:
        # Sentences of ours set names in quotes; a bare stem may be any word of the sentence.
        redactor.hide(error.subject, subject)
        redactor.hide(f"'{Path(error.subject).stem}'", f"of the {subject}")
        sentence = f"{subject}: {error.problem}"
    else:
        sentence = f"{error.subject}: {error.problem}"
    return redactor(f"{sentence}; {error.remedy}." if error.remedy else f"{sentence}.")


PATH_SETTINGS = frozenset(
    {
        "manifest",
        "test_manifest",
        "out",
        "model",
        "pseudonymize",
        "cluster",
        "scheduler",
        "backbone_weights",
    }
)
"""Settings that name a file, a folder or a host: a user's name in them is one."""

_WORD = re.compile(r"[\w+-]+")


def scrub(value: Any, *, names_a_path: bool = False) -> Any:
    """A JSON-like value in which every path is replaced by ``<path>`` and text is redacted.

    For configurations: numbers, words and relative names stay as they are. A setting of one
    word is a choice (``hann``, ``viridis``), also where a user is called so.

    Parameters
    ----------
    value
        Mappings, sequences, text, numbers, paths.
    names_a_path : bool
        Whether the value is that of one of `PATH_SETTINGS`.
    """
    if isinstance(value, os.PathLike):
        return PATH_MARK
    if isinstance(value, dict):
        return {
            str(key): scrub(item, names_a_path=names_a_path or key in PATH_SETTINGS)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub(item, names_a_path=names_a_path) for item in value]
    if isinstance(value, str):
        is_path = (
            os.path.isabs(value) or value.startswith("~") or re.match(r"[A-Za-z]:[\\/]", value)
        )
        if is_path:
            return PATH_MARK
        return value if _WORD.fullmatch(value) and not names_a_path else redact(value)
    return value

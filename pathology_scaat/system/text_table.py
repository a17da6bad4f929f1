"""A table as text, however a spreadsheet program has saved it.

The same file may come back as UTF-8 with or without a byte order mark, as UTF-16 or as
Windows-1252, with commas, semicolons or tabs; with Excel's own ``sep=`` line before it.
"""

from __future__ import annotations

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
DELIMITERS = ",;\t|"


class NotTextError(ValueError):
    """Bytes that are no table of text; the message says what they are."""


def decode_table(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The text of a table with ``\\n`` at the line ends, and notes on how it was read.

    Raises
    ------
    NotTextError
        If it is no text.
    """
    notes: tuple[str, ...] = ()
    if raw.startswith(_UTF16):
        try:
            text = raw.decode("utf-16")
        except UnicodeDecodeError:
            raise NotTextError("is damaged UTF-16 text") from None
    elif b"\0" in raw:
        raise NotTextError("is not a text table")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            # What a spreadsheet in Western Europe saves as plain CSV.
            text = raw.decode("cp1252", errors="replace")
            notes = ("read as Windows-1252, not UTF-8",)
    if "\0" in text:
        raise NotTextError("is not a text table")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def split_delimiter(text: str) -> tuple[str, str, int]:
    """The separator of a table's cells, the table, and how many lines came before it.

    Parameters
    ----------
    text : str
        Not blank, with ``\\n`` at the line ends.
    """
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        # Excel's own way to say which separator follows.
        return first.strip()[4], rest, 1
    heading = next(line for line in text.split("\n") if line.strip())
    delimiter = max(DELIMITERS, key=lambda d: (_outside_quotes(heading, d), d == ","))
    return delimiter, text, 0


def _outside_quotes(line: str, delimiter: str) -> int:
    return sum(part.count(delimiter) for part in line.split('"')[::2])

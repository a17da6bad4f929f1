"""Whether three separate channels are red, green and blue, and in which order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pathology_scaat.slides.images import RefusedError

_NAMES = (
    re.compile(r"(r|red)", re.IGNORECASE),
    re.compile(r"(g|green)", re.IGNORECASE),
    re.compile(r"(b|blue)", re.IGNORECASE),
)
_UNNAMED = re.compile(r"((channel|ch|c)?[\s:_-]*\d+([\s:_-]+\d+)*|rgb|brightfield)?", re.IGNORECASE)
"""Names that say nothing: empty, "Channel 0", "Channel:0:1"."""

_PURE = (0xFF0000, 0x00FF00, 0x0000FF)
MAX_NAME = 24


@dataclass(frozen=True)
class Channel:
    """A channel as the file describes it; ``colour`` is 0xRRGGBB."""

    name: str = ""
    colour: int | None = None
    fluorescent: bool = False


@dataclass(frozen=True)
class RgbOrder:
    """Which channel is red, green and blue, and a note where that was assumed."""

    order: tuple[int, int, int]
    notes: tuple[str, ...] = ()


def hex_colour(text: object) -> int | None:
    """0xRRGGBB of "FF0000" or "#FF0000"."""
    cleaned = str(text).lstrip("#") if isinstance(text, str) else ""
    try:
        return int(cleaned, 16) if len(cleaned) == 6 else None
    except ValueError:
        return None


def rgb_order(channels: Sequence[Channel]) -> RgbOrder:
    """The order of three 8-bit channels that together are a brightfield picture.

    Names decide before colours: DAPI, FITC and TRITC are often shown in pure blue, green and
    red. Channels without names or colours are read as red, green, blue, which is noted.

    Raises
    ------
    RefusedError
        If they are channels of something else.
    """
    if any(channel.fluorescent for channel in channels):
        raise RefusedError(f"is fluorescence ({_listed(channels)}), not brightfield RGB")
    if len(channels) != 3:
        raise RefusedError(
            f"has {len(channels)} separate channels{_named(channels)}, not red, green and blue"
        )
    names = [channel.name.strip() for channel in channels]
    by_name = _permutation(
        [next((i for i, p in enumerate(_NAMES) if p.fullmatch(n)), None) for n in names]
    )
    if by_name is not None:
        return RgbOrder(by_name)
    if not all(_UNNAMED.fullmatch(name) for name in names):
        raise RefusedError(f"has three channels named {_listed(channels)}, not red, green and blue")
    by_colour = _permutation(
        [_PURE.index(c.colour) if c.colour in _PURE else None for c in channels]
    )
    if by_colour is not None:
        return RgbOrder(by_colour)
    stated = {c.colour for c in channels if c.colour is not None}
    if len(stated) > 1:
        raise RefusedError("has three channels whose colours are not red, green and blue")
    return RgbOrder(
        (0, 1, 2), ("its three channels have no names; they are read as red, green, blue",)
    )


def _permutation(found: Sequence[int | None]) -> tuple[int, int, int] | None:
    """Where red, green and blue lie, if each was found once."""
    if sorted(i for i in found if i is not None) != [0, 1, 2] or len(found) != 3:
        return None
    return found.index(0), found.index(1), found.index(2)


def _listed(channels: Sequence[Channel]) -> str:
    names = [c.name[:MAX_NAME] if c.name.isprintable() else "" for c in channels]
    known = [name for name in names if name]
    if not known:
        return f"{len(channels)} channels"
    return ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")


def _named(channels: Sequence[Channel]) -> str:
    return f" ({_listed(channels)})" if any(c.name for c in channels) else ""

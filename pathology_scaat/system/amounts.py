"""Bytes and durations in words."""

from __future__ import annotations

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def in_bytes(n_bytes: float) -> str:
    """A number of bytes for people ("1.5 GB")."""
    power = 0
    while n_bytes >= 1000 and power < len(_UNITS) - 1:
        n_bytes /= 1000
        power += 1
    return f"{n_bytes:.3g} {_UNITS[power]}"


def in_time(seconds: float) -> str:
    """A duration for people."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    whole = max(round(seconds), 1)
    return f"{whole} second{'' if whole == 1 else 's'}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds ("0:12:31")."""
    whole = int(max(seconds, 0))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"

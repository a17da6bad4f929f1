"""Numbers for people, rounded so that what is nearly 0 or nearly 1 is not called 0 or 1."""

from __future__ import annotations

import math

MOST_DIGITS = 6


def decimals(value: float, digits: int = 3) -> str:
    """A number with so many decimals, and more where these would call it 0 or 1 though it is not.

    Examples
    --------
    >>> decimals(0.91234), decimals(0.99962), decimals(1.0), decimals(0.0002), decimals(0.0)
    ('0.912', '0.9996', '1.000', '0.0002', '0.000')
    >>> decimals(1 - 1e-9), decimals(1e-9)
    ('>0.999999', '<0.000001')
    """
    for more in range(digits, MOST_DIGITS + 1):
        text = f"{value:.{more}f}"
        if float(text) not in (0.0, 1.0) or float(text) == value:
            return text
    if 0 < value < 1:
        return ">0.999999" if value > 0.5 else "<0.000001"
    return f"{value:.{digits}f}"


def significant(value: float, digits: int = 4) -> str:
    """A number of so many digits, and more where these would call it 1 though it is less.

    It stays a number that programs read.

    Examples
    --------
    >>> significant(0.25), significant(0.99998), significant(1.0), significant(0.0000321)
    ('0.25', '0.99998', '1', '3.21e-05')
    """
    for more in range(digits, 18):
        text = f"{value:.{more}g}"
        if not 0 < value < 1 or float(text) < 1:
            break
    return text


def done_percent(done: float, total: float) -> str:
    """How much of a work is done, rounded down: 100 % is all of it.

    Examples
    --------
    >>> done_percent(997, 1000), done_percent(1000, 1000), done_percent(0, 0)
    ('99 %', '100 %', '0 %')
    """
    return f"{math.floor(100 * done / max(total, 1) + 1e-9)} %"


def percent(share: float, digits: int = 0) -> str:
    """A share in percent; 0 and 100 stand for none and all alone.

    Examples
    --------
    >>> percent(0.254), percent(0.0), percent(0.004), percent(0.996), percent(1.0)
    ('25%', '0%', 'less than 1%', 'more than 99%', '100%')
    >>> percent(0.0004, 1), percent(0.9996, 1)
    ('less than 0.1%', 'more than 99.9%')
    """
    text = f"{share:.{digits}%}"
    step = 10.0**-digits
    if 0 < share < 1 and float(text[:-1]) == 0:
        return f"less than {step:.{digits}f}%"
    if 0 < share < 1 and float(text[:-1]) == 100:
        return f"more than {100 - step:.{digits}f}%"
    return text

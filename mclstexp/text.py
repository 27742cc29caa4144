"""Text that many messages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

MOST_DIGITS = 18
"""Of a whole number that 64 bits hold."""


def duplicates(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, in order of first appearance."""
    return [value for value, n in Counter(values).items() if n > 1]


def some(names: Iterable[str], limit: int = 8) -> str:
    """Join names with commas, the first few of many.

    Examples
    --------
    >>> some(["A1", "A2", "B1"], limit=2)
    'A1, A2 and 1 more'
    """
    listed = list(names)
    head = ", ".join(listed[:limit])
    return head if len(listed) <= limit else f"{head} and {len(listed) - limit} more"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "slide"), counted(1200, "spot")
    ('1 slide', '1,200 spots')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def is_whole(text: str) -> bool:
    """Whether a text is a whole number, of the digits 0 to 9 and not absurdly many.

    Examples
    --------
    >>> is_whole("12"), is_whole("-1"), is_whole("\u00b2"), is_whole("9" * 30)
    (True, False, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS

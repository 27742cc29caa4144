"""Text that many messages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


def duplicates(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, in order of first appearance."""
    return [value for value, n in Counter(values).items() if n > 1]


def shorten(names: Sequence[str], limit: int = 8) -> str:
    """Join names, the first few of many."""
    head = ", ".join(names[:limit])
    return head if len(names) <= limit else f"{head} and {len(names) - limit} more"


some = shorten

"""Text that many messages share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<![\w.'-])\d+(?:\.\d+)?(?![\w'])")
"""A number that stands alone: not a part of a name, and not quoted."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins so is computed by Excel, LibreOffice and Google Sheets."""

MOST_DIGITS = 18
"""Of a whole number that 64 bits hold."""


def duplicates(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, in order of first appearance."""
    listed = list(values)
    if len(set(listed)) == len(listed):  # of a million bins: counting takes five times as long
        return []
    return [value for value, n in Counter(listed).items() if n > 1]


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


def duration(seconds: float) -> str:
    """Return how long something takes, as a person would say it.

    Examples
    --------
    >>> duration(4.2), duration(200), duration(7000)
    ('4 s', '3 min', '1.9 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def gathered(lines: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Return what is said of several names, whatever its numbers, once, with the names and the numbers' ranges.

    Examples
    --------
    >>> gathered([("A1", "1 of 346 spots dropped."), ("A2", "3 of 325 spots dropped."), ("B1", "no patient.")])
    [(['A1', 'A2'], '1 to 3 of 325 to 346 spots dropped.'), (['B1'], 'no patient.')]
    """
    groups: dict[str, dict[str, str]] = {}
    for name, text in lines:
        groups.setdefault(_NUMBER.sub("#", text), {})[name] = text
    return [(list(texts), _with_ranges(list(texts.values()))) for texts in groups.values()]


def _with_ranges(texts: list[str]) -> str:
    """Return the text of all, each number as the range that it has in them."""
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ranges = iter([_range(sorted(set(column), key=float)) for column in columns])
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def harmless(value: object) -> object:
    """Return a cell of a CSV file: text that a spreadsheet would compute gets an apostrophe before it.

    A carriage return, which would begin a row of its own there, becomes a space.

    Examples
    --------
    >>> harmless("=1+1"), harmless("ERBB2"), harmless(-0.5)
    ("'=1+1", 'ERBB2', -0.5)
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")
    return f"'{text}" if value.startswith(_FORMULA) else text


def is_whole(text: str) -> bool:
    """Whether a text is a whole number, of the digits 0 to 9 and not absurdly many.

    Examples
    --------
    >>> is_whole("12"), is_whole("-1"), is_whole("\u00b2"), is_whole("9" * 30)
    (True, False, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


def size(n_bytes: float) -> str:
    """Return a number of bytes in the unit that suits it.

    Examples
    --------
    >>> size(900), size(1_250_000), size(20e9)
    ('900 B', '1.2 MB', '20.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            break
        n_bytes /= 1000
    return f"{n_bytes:,.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"


def parse_size(text: str) -> int:
    """Return the bytes that a text such as ``5GB``, ``500 MB`` or ``1e9`` names.

    Raises
    ------
    ValueError
        When it is no number with one of the units B, kB, MB, GB and TB.

    Examples
    --------
    >>> parse_size("5GB"), parse_size("1.5 kB")
    (5000000000, 1500)
    """
    plain = text.strip().upper()
    for power, unit in enumerate(("KB", "MB", "GB", "TB"), start=1):
        if plain.endswith(unit):
            return _whole(plain.removesuffix(unit), 1000**power)
    return _whole(plain.removesuffix("B"), 1)


def _whole(number: str, factor: int) -> int:
    value = float(number) * factor
    if not 0 <= value < 2**63:
        raise ValueError(f"{value} bytes are no size")
    return int(value)

"""Options that are numbers, refused as they are parsed where they lie outside their range."""

import math
from typing import Any

import typer

from mclstexp.config.ranges import Range


def number(*names: str, limits: Range, help: str) -> Any:
    """Return an option that takes a number of a range; NaN and infinity are in none."""
    low = None if limits.above else _plain(limits.low)
    high = None if limits.below else _plain(limits.high)
    return typer.Option(*names, help=help, min=low, max=high, callback=lambda value: _within(value, limits))


def _plain(value: float) -> float | None:
    """Return a whole end as the whole number that it is shown as; None for no end."""
    if math.isinf(value):
        return None
    return int(value) if float(value).is_integer() else value


def _within(value: float | None, limits: Range) -> float | None:
    """Refuse what the ends alone let pass: NaN, infinity, and an end that does not belong to the range."""
    if value is not None and value not in limits:
        raise typer.BadParameter(f"it is {value:,}; {limits.needed} is needed.")
    return value

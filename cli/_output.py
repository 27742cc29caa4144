"""Where output goes: data to stdout, progress and notes to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mclstexp.cli._voice import VOICE

if TYPE_CHECKING:
    from mclstexp.types import Progress


def emit(text: str) -> None:
    """Print data for the user or the next program."""
    sys.stdout.write(f"{text}\n")


def emit_json(value: Any) -> None:
    """Print data as one JSON document."""
    emit(json.dumps(value, indent=2, default=str))


def note(text: str) -> None:
    """Say something about the run."""
    VOICE.note(text)


def progress() -> "Progress":
    """Return what draws a bar a step on a terminal, and tells long steps in lines elsewhere."""
    return VOICE.progress()


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None, repeated: int = 1
) -> str:
    """Lay out rows under a header; numbers to the right, floats with four decimals.

    Parameters
    ----------
    header, rows
        Names of the columns, and their values.
    width
        Characters a line may have: columns that find no room go on in a further table below, with an empty line
        between the two. None puts no limit.
    repeated
        How many of the first columns each of these tables begins with.
    """
    lines = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(header))]
    return "\n\n".join(
        "\n".join(
            "  ".join(line[i].rjust(widths[i]) if numeric[i] else line[i].ljust(widths[i]) for i in columns).rstrip()
            for line in lines
        )
        for columns in _columns_by_width(widths, width, repeated)
    )


def _columns_by_width(widths: Sequence[int], limit: int | None, repeated: int) -> list[list[int]]:
    """Divide columns into groups that fit the limit, each beginning with the first ``repeated`` ones."""
    groups = [list(range(repeated))]
    for column in range(repeated, len(widths)):
        taken = sum(widths[i] + 2 for i in groups[-1]) + widths[column]
        if limit is not None and taken > limit and len(groups[-1]) > repeated:
            groups.append(list(range(repeated)))
        groups[-1].append(column)
    return groups


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

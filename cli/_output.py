"""Where output goes: data to stdout, progress and notes to stderr."""

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from mclstexp.errors import MclstexpWarning

if TYPE_CHECKING:
    from mclstexp.progress import ProgressBar


def emit(text: str) -> None:
    """Print data for the user or the next program."""
    sys.stdout.write(f"{text}\n")


def emit_json(value: Any) -> None:
    """Print data as one JSON document."""
    emit(json.dumps(value, indent=2, default=str))


def note(text: str) -> None:
    """Say something about the run."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def listen() -> None:
    """Print what the library says through warnings and logging, a line each, on stderr."""
    warnings.simplefilter("always", MclstexpWarning)
    plain = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, MclstexpWarning):
            note(str(message))
        else:
            plain(message, category, filename, lineno, file, line)

    if not getattr(plain, "of_mst", False):
        show.of_mst = True  # type: ignore[attr-defined]
        warnings.showwarning = show
    logger = logging.getLogger("mclstexp")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes())


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def progress() -> "ProgressBar":
    """Return what draws a bar a step on a terminal, and tells long steps in a line elsewhere."""
    from mclstexp.progress import ProgressBar

    return ProgressBar()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows under a header; numbers to the right, floats with four decimals."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(header))]
    lines = []
    for line in [list(header), *cells]:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

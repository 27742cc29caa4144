"""Where output goes: data to stdout, progress and notes to stderr."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


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


def progress(label: str) -> Progress | None:
    """Return a callback that draws a bar on a terminal, or None when stderr is piped."""
    if not sys.stderr.isatty():
        return None

    def draw(done: int, total: int) -> None:
        filled = round(30 * done / max(total, 1))
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{label} [{'#' * filled}{'.' * (30 - filled)}] {done}/{total}{end}")
        sys.stderr.flush()

    return draw

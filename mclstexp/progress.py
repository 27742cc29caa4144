"""Progress of long steps: the library calls back, the caller decides what it looks like."""

from __future__ import annotations

import sys
import time
from typing import Any

SLOW_SECONDS = 5.0
"""A step that took longer is worth a line where no bar can be drawn."""


class ProgressBar:
    """A progress bar a step, drawn by tqdm on a terminal or in a notebook.

    Where stderr is no terminal (a log, a pipe) nothing is drawn: a step that took long is told in one line at its end.

    Examples
    --------
    >>> from mclstexp import ProgressBar
    >>> show = ProgressBar()
    >>> show("encoding C2", 187, 187)  # what the library does for you: on_progress=ProgressBar()
    """

    def __init__(self) -> None:
        self._step = ""
        self._bar: Any = None
        self._started = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` parts of a step are done."""
        if step != self._step:
            self.close()
            self._step, self._started = step, time.monotonic()
            self._bar = _bar(step, total)
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        if done >= total:
            if self._bar is None and time.monotonic() - self._started > SLOW_SECONDS:
                sys.stderr.write(f"{step}: {total} in {time.monotonic() - self._started:.0f} s\n")
            self.close()

    def close(self) -> None:
        """End the bar of the current step."""
        if self._bar is not None:
            self._bar.close()
        self._step, self._bar = "", None


def _bar(step: str, total: int) -> Any:
    """Return a bar, or None where there is nobody to look at one."""
    if not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        return None
    from tqdm.auto import tqdm

    return tqdm(desc=step, total=total, leave=True, dynamic_ncols=True)

"""Progress of long steps: the library calls back, the caller decides what it looks like."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mclstexp.text import duration

if TYPE_CHECKING:  # the command loads this module at its start, and no array library with it
    from mclstexp.types import Progress

SLOW_SECONDS = 5.0
"""A step that took longer is worth a line where no bar can be drawn."""

QUIET_SECONDS = 15.0
"""A step that goes on says so once in so many seconds where no bar can be drawn."""


class ProgressBar:
    """A progress bar a step, drawn by tqdm on a terminal or in a notebook.

    Where stderr is no terminal (a log, a pipe) nothing is drawn: `ProgressLines` says it in lines.

    Parameters
    ----------
    lines
        What says it where no bar can be drawn; None writes lines to stderr.

    Examples
    --------
    >>> from mclstexp import ProgressBar
    >>> show = ProgressBar()
    >>> show("encoding C2", 187, 187)  # what the library does for you: on_progress=ProgressBar()
    """

    def __init__(self, lines: Progress | None = None) -> None:
        self._step = ""
        self._bar: Any = None
        self._lines = lines or ProgressLines()

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` parts of a step are done."""
        if not draws_bars():
            self._lines(step, done, total)
            return
        if step != self._step:
            self.close()
            self._step, self._bar = step, _bar(step, total)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the bar of the current step."""
        if self._bar is not None:
            self._bar.close()
        self._step, self._bar = "", None


class ProgressLines:
    """Progress as lines for a log: each with the time since the start, and an estimate of what is left.

    A step that ends within 5 s and soon after the last line says nothing; one that goes on says so every 15 s.

    Parameters
    ----------
    say
        Takes each line; None writes it to stderr, and flushes.
    slow, every
        Seconds from which the end of a step is said, and between two lines of one that goes on.
    clock
        Tells the seconds since the start; None counts from now.

    Examples
    --------
    >>> told = ProgressLines(print, slow=0)
    >>> told("reading slides", 35, 35)
    [0:00] reading slides: 35 in 0 s
    """

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        *,
        slow: float = SLOW_SECONDS,
        every: float = QUIET_SECONDS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        start = time.monotonic()
        self._say, self._slow, self._every = say or _to_stderr, slow, every
        self._clock = clock or (lambda: time.monotonic() - start)
        self._step, self._started, self._first = "", 0.0, 0
        self._said = self._clock()

    def __call__(self, step: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` parts of a step are done, and say so where it is time to."""
        now = self._clock()
        if step != self._step or done < self._first:
            self._step, self._started, self._first = step, now, done
        took, silent = now - self._started, now - self._said
        if done >= total:
            if took >= self._slow or silent >= self._every:
                self._tell(now, f"{step}: {total:,} in {duration(took)}")
            self._step = ""
        elif silent >= self._every and took > 0:
            left = (total - done) * took / (done - self._first) if done > self._first else None
            about = "" if left is None else f", about {duration(left)} left"
            self._tell(now, f"{step}: {done:,} of {total:,}{about}")

    def _tell(self, now: float, text: str) -> None:
        self._said = now
        self._say(f"[{elapsed(now)}] {text}")


class Whole:
    """Many parts told as one step: a bar, or an estimate, over all slides in place of one for each.

    Parameters
    ----------
    step
        Name of the whole.
    total
        How many parts it has, over everything that it goes through.
    on_progress
        Who is told; None for nobody.

    Examples
    --------
    >>> whole = Whole("encoding 2 slides", 300, lambda step, done, total: print(done, "of", total))
    >>> for n_spots in (100, 200):
    ...     part = whole.part(n_spots)  # what goes through these spots is given it as its own on_progress
    ...     part("encoding C2", n_spots, n_spots)
    100 of 300
    300 of 300
    """

    def __init__(self, step: str, total: int, on_progress: Progress | None) -> None:
        self._step, self._total, self._on_progress = step, total, on_progress
        self._before, self._next, self._told = 0, 0, 0

    def part(self, size: int) -> Progress:
        """Begin with the next ``size`` parts, and return what their own progress is told to."""
        self._before, self._next = self._next, self._next + size
        before = self._before

        def told(step: str, done: int, total: int) -> None:
            self._tell(before + round(size * done / max(total, 1)))

        return told

    def finish(self) -> None:
        """End the step where its last parts had nothing to tell, as slides whose features are cached."""
        if 0 < self._told < self._total:
            self._tell(self._total)

    def _tell(self, done: int) -> None:
        self._told = done
        if self._on_progress is not None:
            self._on_progress(self._step, done, self._total)


def elapsed(seconds: float) -> str:
    """Return a time since the start as minutes and seconds, or hours too.

    Examples
    --------
    >>> elapsed(65), elapsed(3 * 3600 + 62)
    ('1:05', '3:01:02')
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def draws_bars() -> bool:
    """Whether somebody looks: stderr is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _bar(step: str, total: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(desc=step, total=total, leave=True, dynamic_ncols=True)

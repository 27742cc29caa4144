"""What the command says on stderr and in its log: how much (--verbose, --quiet), and that it is still at work."""

import contextlib
import logging
import os
import platform
import re
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mclstexp import __version__
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.progress import ProgressBar, ProgressLines, draws_bars, elapsed

if TYPE_CHECKING:
    from mclstexp.types import Progress

SILENCE = 60.0
"""Seconds without a line after which the command says that it is still at work."""

LOG = logging.getLogger("mclstexp")

_STAMP, _STAMP_BYTES = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ "), 40
"""How every log of this program begins."""


class Voice:
    """How one run of the command speaks: to the console at its level, and to a log file if there is one."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.quiet = self.verbose = False
        self.last, self.spoke, self.resting = "", self.started, False
        self.file: _LogFile | None = None

    def clock(self) -> float:
        """Seconds since the command started."""
        return time.monotonic() - self.started

    def configure(self, *, verbose: bool, quiet: bool, log_file: Path | None) -> None:
        """Take the options; one that was given before the command holds, too."""
        self.verbose, self.quiet = self.verbose or verbose, self.quiet or quiet
        if log_file is not None:
            self.close()
            self.file = _LogFile(log_file)
            LOG.addHandler(self.file)
            self.write(
                f"mst {__version__}, Python {platform.python_version()}: {shlex.join(sys.argv[1:])}", logging.DEBUG
            )

    def close(self) -> None:
        """End the log file."""
        if self.file is not None:
            self.write(f"ended after {elapsed(self.clock())}", logging.DEBUG)
            if self.file is not None:  # which a full disk may have ended just now
                LOG.removeHandler(self.file)
                self.file.close()
                self.file = None

    def note(self, text: str, level: int = logging.INFO) -> None:
        """Say a line here and in the log file."""
        self.console(text, level)
        self.write(text, level)

    def write(self, text: str, level: int = logging.INFO) -> None:
        """Write a line to the log file alone."""
        if self.file is not None:
            values = {"msg": text, "levelno": level, "levelname": logging.getLevelName(level)}
            self.file.handle(logging.makeLogRecord(values))

    def console(self, text: str, level: int = logging.INFO) -> None:
        """Print a line on stderr, unless it is not asked for."""
        wanted = logging.ERROR if self.quiet else logging.DEBUG if self.verbose else logging.INFO
        if level < wanted:
            return
        self.spoke = time.monotonic()
        prefix = f"[{elapsed(self.clock())}] " if self.verbose and not text.startswith("[") else ""
        sys.stderr.write(f"{prefix}{text}\n")
        sys.stderr.flush()

    def progress(self) -> "Progress":
        """Return what is told of progress: bars on a terminal, lines elsewhere and in the log file."""
        slow, every = (0.0, 1.0) if self.verbose else (5.0, 15.0)
        lines = ProgressLines(self.note, slow=slow, every=every, clock=self.clock)
        bars = ProgressBar(lines)
        to_file = ProgressLines(self.write, slow=0.0, clock=self.clock)

        def told(step: str, done: int, total: int) -> None:
            self.last = step
            if draws_bars():
                self.spoke = time.monotonic()
                to_file(step, done, total)
            if not (draws_bars() and self.quiet):
                bars(step, done, total)

        return told

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Say once a minute what is being done while nothing else is said."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(min(SILENCE, 5.0)):
                if not self.resting and time.monotonic() - self.spoke >= SILENCE:
                    self.spoke = time.monotonic()
                    doing = f": {self.last}" if self.last else ""
                    self.note(f"[{elapsed(self.clock())}] still at work{doing}")

        thread = threading.Thread(target=beat, name="mst-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=1.0)


class _Console(logging.Handler):
    """What the library and the command log, through the voice of this run."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text.startswith("["):
            VOICE.last = text
        VOICE.console(text, record.levelno)


class _LogFile(logging.FileHandler):
    """A log file with times, added to; one that can no longer be written says so once and ends."""

    def __init__(self, path: Path) -> None:
        try:
            _check_log(path)
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(
                f"The log file {path} cannot be written: {error.strerror}; name another with --log-file."
            ) from error
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.setLevel(logging.DEBUG)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        LOG.removeHandler(self)
        VOICE.file = None
        with contextlib.suppress(OSError):  # what waits in its buffer cannot be written either
            self.close()
        VOICE.console(f"The log file {self.baseFilename} ends here: {error}.", logging.WARNING)


def _check_log(path: Path) -> None:
    """Refuse a pipe that nobody reads, which would be waited for, and a file that is no log, which would be spoilt."""
    if path.is_fifo():
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # ENXIO where nobody reads
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(_STAMP_BYTES)
    if start and not _STAMP.match(start):
        raise InputError(f"{path} is no log, and is not written to; name another file with --log-file.")


VOICE = Voice()
"""How this run speaks."""


def listen() -> None:
    """Begin to speak, with the usual voice: what the library says through warnings and logging, a line each."""
    VOICE.close()
    VOICE.__init__()  # type: ignore[misc]
    warnings.simplefilter("always", MclstexpWarning)
    if not getattr(warnings.showwarning, "of_mst", False):
        warnings.showwarning = _showing(warnings.showwarning)
    LOG.setLevel(logging.DEBUG)
    if not any(isinstance(handler, _Console) for handler in LOG.handlers):
        LOG.addHandler(_Console())


def _showing(plain: Callable[..., None]) -> Callable[..., None]:
    """Return what shows warnings: ours as a line, those of other libraries as ever, unless --quiet."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, MclstexpWarning):
            LOG.warning("%s", message)
        elif not VOICE.quiet:
            plain(message, category, filename, lineno, file, line)

    show.of_mst = True  # type: ignore[attr-defined]
    return show

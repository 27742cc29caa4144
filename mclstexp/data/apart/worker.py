"""The process that tries files: started when first needed, asked one file at a time, replaced when a file ends it."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from mclstexp.notes import warn
from mclstexp.types import StrPath

SCRIPT = Path(__file__).with_name("script.py")

SECONDS, BYTES_PER_SECOND = 60.0, 10_000_000
"""How long a file may take: this, and as long again for each so many bytes of it."""


def try_hdf5(path: StrPath) -> None:
    """Have an HDF5 file read in another process first; every file once, unless it changes.

    Parameters
    ----------
    path
        A regular file.

    Raises
    ------
    OSError
        When it cannot be read, ends the process, takes longer or needs more memory than a file of its size may, or
        leads into other files. The text is the reason.

    Examples
    --------
    >>> import h5py
    >>> with h5py.File("whole.h5", "w") as file:
    ...     file["values"] = [1, 2, 3]
    >>> try_hdf5("whole.h5")
    """
    about = Path(path).stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError("it is no regular file")
    identity = (os.path.realpath(path), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    with _lock:
        if identity in _passed:
            return
        reason = _ask(os.path.realpath(path), SECONDS + about.st_size / BYTES_PER_SECOND)
        if reason:
            raise OSError(reason)
        _passed.add(identity)


def try_ahead(path: StrPath) -> None:
    """Begin to try a file that `try_hdf5` will be asked about, while this process loads what reads it."""
    if os.name != "nt":
        threading.Thread(target=_try_quietly, args=(path,), name="mclstexp-try-ahead", daemon=True).start()


def _try_quietly(path: StrPath) -> None:
    with suppress(OSError, ValueError):  # whoever opens the file asks again, and is told
        try_hdf5(path)


@contextmanager
def opened_hdf5(path: StrPath) -> Iterator[Any]:
    """Open an HDF5 file for reading that `try_hdf5` has let pass.

    Raises
    ------
    OSError
        As `try_hdf5`.
    """
    import h5py

    try_hdf5(path)
    with h5py.File(path, "r") as file:
        yield file


class _Process:
    """The other process, and its two pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is this process's; the other one ends with its stdin
        )
        self._stdin = cast(IO[bytes], self.process.stdin)
        self._stdout = cast(IO[bytes], self.process.stdout)
        self._send([entry for entry in sys.path if entry])

    def _send(self, value: object) -> None:
        self._stdin.write(json.dumps(value).encode() + b"\n")
        self._stdin.flush()

    def ask(self, path: str, seconds: float) -> str | None:
        """Return the reason against a file, "" for none; None when no answer came in time or the process ended."""
        self._send({"path": path, "seconds": seconds})
        line, limit = b"", time.monotonic() + 5 * seconds  # the process has its own limit; it may have to wait
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(timeout=max(0.0, limit - time.monotonic())):
                    return None
                part = os.read(self._stdout.fileno(), 2**16)
                if not part:
                    return None
                line += part
        return str(json.loads(line).get("reason", ""))

    def end(self) -> int:
        """End the process, where it has not ended; return its exit code."""
        self.close()
        try:
            return self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def close(self) -> None:
        """Close this side of the pipes."""
        for stream in (self._stdin, self._stdout):
            with suppress(BrokenPipeError):  # what it did not take any more
                stream.close()


_lock = threading.Lock()
_passed: set[tuple[object, ...]] = set()
_running: _Process | None = None


def _ask(path: str, seconds: float) -> str:
    global _running
    if not sys.executable or os.name == "nt":
        warn(f"{path} is opened without being tried in another process first: there is no way to limit one here.")
        return ""
    for attempt in range(2):  # a process that somebody else has ended is started again, once
        if _running is None:
            _running = _Process()
        try:
            reason = _running.ask(path, seconds)
        except BrokenPipeError:
            _running.end()
            _running = None
            continue
        if reason is not None:
            return reason
        code, _running = _running.end(), None
        if code != -signal.SIGKILL or attempt:
            return _of_end(code, seconds)
    return "the process in which files are tried first cannot be started"


def _of_end(code: int, seconds: float) -> str:
    """Say what an end of the other process means."""
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return f"reading it takes more than {seconds:.0f} s"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"it crashes the HDF5 library ({name})"


def _forget_parent() -> None:
    """Let go, in a forked process, of the one that the parent talks to."""
    global _lock, _running
    if _running is not None:
        _running.close()
    _lock, _running = threading.Lock(), None


@atexit.register
def _end() -> None:
    """Let the other process end, and wait for it."""
    if _running is not None:
        _running.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)

"""One writer at a time. The kernel holds the lock, so a crash releases it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from mclstexp.errors import LockedError

LOCK_FILE = ".lock"


@contextmanager
def writer_lock(root: Path, command: str) -> Iterator[None]:
    """Hold the reference's writer lock for the block.

    Raises
    ------
    LockedError
        When another process holds it; the message names that process.
    """
    handle = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"Reference {root} is being written by {_holder(handle)}; wait until it has finished."
            ) from error
        _sign(handle, command)
        yield
    finally:
        os.close(handle)


def _sign(handle: int, command: str) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(holder).encode(), 0)


def _holder(handle: int) -> str:
    try:
        holder = json.loads(os.pread(handle, 65536, 0))
        return f"process {holder['pid']} on {holder['host']} ({holder['command']}) since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"

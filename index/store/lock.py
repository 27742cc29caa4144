"""Writers and the repair: several may write at once, but nothing is taken away while somebody writes.

No commit depends on this lock. The kernel holds it, so that a crash releases it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mclstexp.errors import LockedError
from mclstexp.index.store.place import LOCK_FILE, Place


@contextmanager
def writing(place: Place, command: str, *, alone: bool = False) -> Iterator[None]:
    """Hold the reference's lock for the block, together with other writers or alone.

    An object store has no locks; there nothing is held.

    Raises
    ------
    InputError
        When the reference is published and only read.
    LockedError
        When the wish to be alone meets a writer, or a writer meets who wished to be alone; the message names it.
    """
    place.require_writable()
    if place.local is None:
        yield
        return
    handle = os.open(place.local / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"Reference {place} is in use by {_holder(handle)}; wait until it has finished."
            ) from error
        _sign(handle, command)
        yield
    finally:
        os.close(handle)


def writer_is_busy(place: Place) -> bool:
    """Say whether somebody writes at this moment."""
    if place.local is None:
        return False
    try:
        handle = os.open(place.local / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


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

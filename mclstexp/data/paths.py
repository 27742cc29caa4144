"""Paths that people give: a file is needed, and whatever else they name is called by its name."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from mclstexp.errors import InputError
from mclstexp.types import StrPath

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_file(path: StrPath, what: str) -> Path:
    """Return the path of a regular file.

    Parameters
    ----------
    path
        What the user gave.
    what
        What it should be, for the message: "Image", "Coordinates", ...

    Raises
    ------
    InputError
        When it is missing or unreadable; when it is a folder, a device or a URL, it is called that.
    """
    plural = what.endswith("s")
    if is_url(path):
        raise InputError(
            f"{what} {os.fspath(path)} {'are' if plural else 'is'} at a URL; download the file and give its path."
        )
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        raise InputError(f"{what} {path} {'do' if plural else 'does'} not exist.") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}.") from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
        raise InputError(f"{what} {path}: this is {kind}; a file is needed.")
    return path


def is_url(path: StrPath) -> bool:
    """Whether a path is a URL, also one whose slashes a path object has joined."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)) is not None

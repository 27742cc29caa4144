"""Paths that people give: a file is needed, and whatever else they name is called by its name."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from mclstexp.errors import InputError
from mclstexp.types import StrPath

MOST_TEXT_BYTES = 100_000_000
"""A list, a table of settings or a model's history is smaller by far."""

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
        raise InputError(f"{what} {path} {'do' if plural else 'does'} not exist; correct the path.") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}; correct the path.") from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
        raise InputError(f"{what} {path}: this is {kind}; a file is needed.")
    return path


def read_text(path: StrPath, what: str) -> str:
    """Return the text of a small file that the user gave: UTF-8, with a byte order mark or without.

    Parameters
    ----------
    path, what
        As in `require_file`.

    Raises
    ------
    InputError
        As `require_file`, and when it cannot be read, is no text, or is larger than ``MOST_TEXT_BYTES``.
    """
    path = require_file(path, what)
    try:
        size = path.stat().st_size
        if size > MOST_TEXT_BYTES:
            raise InputError(f"{what} {path}: {size:,} bytes; at most {MOST_TEXT_BYTES:,} are expected of such a file.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: byte {error.start} is no UTF-8; save the file as text in UTF-8.") from error
    if "\0" in text:
        raise InputError(f"{what} {path} holds NUL bytes and so is no text; copy it again or save it as text.")
    return text


def read_json(path: StrPath, what: str) -> Any:
    """Return the value of a small JSON file that the user gave.

    Raises
    ------
    InputError
        As `read_text`, and when it is no JSON, or nested too deeply.
    """
    text = read_text(path, what)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} {path}: no valid JSON ({error}); correct it or copy it again.") from error


def is_url(path: StrPath) -> bool:
    """Whether a path is a URL, also one whose slashes a path object has joined."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)) is not None

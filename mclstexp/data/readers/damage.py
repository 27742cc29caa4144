"""Damaged files become one line, whichever library meets the damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mclstexp.errors import InputError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what damaged HDF5, MEX and text files raise into an InputError that names the file."""
    import zlib

    try:
        yield
    except (
        OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError,
        RuntimeError, zlib.error,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or of another kind: {reason}.") from error

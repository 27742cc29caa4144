"""Damaged files become one line, whichever library meets the damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mclstexp.data.paths import require_file
from mclstexp.errors import InputError


@contextmanager
def reading(path: Path, *, folder: bool = False) -> Iterator[None]:
    """Turn what damaged HDF5, MEX and text files raise into an InputError that names the file.

    A pipe or a device, which would be read for ever, is refused first; so is a folder, where none is expected.
    """
    import zlib

    if not (folder and path.is_dir()):
        require_file(path, "File")
    try:
        yield
    except (
        OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError,
        RuntimeError, zlib.error,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or of another kind: {reason.rstrip('.')}; copy it again.") from error

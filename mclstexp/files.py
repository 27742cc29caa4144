"""Writing files so that an interruption leaves the old state or the new one, never half of either."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mclstexp.errors import ExistsAlreadyError, InputError, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.EIO, errno.ENOTDIR}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal of a write into a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageError(f"No space left on the disk of {path}; free some, or write elsewhere.") from error
        if error.errno in _NOT_ALLOWED:
            raise StorageError(f"{path} cannot be written: {os.strerror(error.errno or 0)}.") from error
        raise


def check_output(path: Path, *, force: bool) -> None:
    """Refuse, before any work, an output that exists or whose parent folder does not.

    Raises
    ------
    ExistsAlreadyError, InputError
        The output exists and ``force`` is not set; the parent folder is missing.
    """
    if path.exists() and not force:
        raise ExistsAlreadyError(f"{path} exists already; give --force to replace it, or another -o.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"The folder {path.absolute().parent} does not exist; make it first, or give another -o.")


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block ends without an error."""
    check_output(path, force=force)
    with storage_errors(path):
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.absolute().parent))
    try:
        with storage_errors(path):
            yield work
            work.chmod(0o755)
            _swap(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary file's path beside ``path`` that becomes ``path`` when the block ends without an error."""
    check_output(path, force=force)
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        with storage_errors(path):
            yield work
            work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks.

    Raises
    ------
    InputError
        When the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _swap(work: Path, path: Path) -> None:
    if not path.exists():
        work.replace(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.absolute().parent))
    path.replace(old / "old")
    work.replace(path)
    shutil.rmtree(old, ignore_errors=True)

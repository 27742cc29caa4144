"""Files and folders that are whole or not there: atomic writes, hashes, and the system's refusals as one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mclstexp.errors import ExistsAlreadyError, InputError, StorageError

TEMPORARY = ".tmp-"
"""Every file and folder that is still being written has a name that begins with this."""

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EFBIG: "a file would grow past the size limit (ulimit -f, or the file system's)",
    errno.EACCES: "permission is denied; make the folder writable, or work on a copy",
    errno.EPERM: "the operation is not permitted; make the folder writable, or work on a copy",
    errno.EROFS: "the file system is read-only; work on a copy",
    errno.ENOENT: "a file or folder vanished while it was in use",
    errno.EIO: "the disk reports an input/output error; check it",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, and a file is needed",
    errno.ELOOP: "a link leads back to itself; remove it",
    errno.ENXIO: "it is no regular file, and one is needed",
}
_TEXTS = {
    "No space left": errno.ENOSPC,
    "os error 28": errno.ENOSPC,
    "Disk quota": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Permission denied": errno.EACCES,
    "not permitted": errno.EPERM,
    "Read-only file system": errno.EROFS,
    "No such file": errno.ENOENT,
    "not found": errno.ENOENT,
    "Not found": errno.ENOENT,
    "Input/output error": errno.EIO,
    "Too many levels of symbolic links": errno.ELOOP,
    "is a directory": errno.EISDIR,
}


def storage_error(error: BaseException, place: str | Path) -> StorageError:
    """Return the one-line error for what the operating system refused, directly or through a library's own words."""
    text = str(error)
    code = error.errno if isinstance(error, OSError) and error.errno in _REASONS else None
    if code is None:
        code = next((number for part, number in _TEXTS.items() if part in text), None)
    reason = _REASONS[code] if code is not None else (text.splitlines() or [type(error).__name__])[0][:300]
    named = getattr(error, "filename", None)
    detail = f" ({named})" if named and code == errno.ENOENT else ""
    return StorageError(f"{place}: {reason}{detail}.")


@contextmanager
def storage_errors(place: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into `StorageError`.

    Lance, FAISS and safetensors report them as ``OSError``, ``RuntimeError``, ``ValueError`` or an error of their own,
    with the reason in the text.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, place) from error
    except (RuntimeError, ValueError, SafetensorError) as error:
        if any(part in str(error) for part in _TEXTS):
            raise storage_error(error, place) from error
        raise


class FromRecords(Exception):
    """Carries what the caller's records raised past the handlers of the reference's own errors."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in blocks.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_input(path: Path) -> str:
    """SHA-256 of a file that the user gave, or of a folder: of its files' names and digests.

    Raises
    ------
    InputError
        When the file cannot be read.
    """
    try:
        if not path.is_dir():
            return sha256_file(path)
        digests = {file.relative_to(path).as_posix(): sha256_file(file) for file in files_below(path)}
        return hashlib.sha256(canonical_json(digests).encode()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def files_below(folder: Path) -> set[Path]:
    """Every file below a folder; none when there is no such folder."""
    return {Path(root) / name for root, _, names in os.walk(folder) for name in names}


def sync_file(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place, on the disk, when the block ends without error."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_file(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def digested(values: dict[str, Any]) -> bytes:
    """Return plain values as JSON that carries its own digest."""
    digest = sha256_bytes(canonical_json(values).encode())
    return (canonical_json({**values, "digest": digest}) + "\n").encode()


def parse_digested(data: bytes) -> dict[str, Any] | None:
    """Return the values of `digested`; None when the bytes are not those that it returned."""
    try:
        values: dict[str, Any] = json.loads(data)
        del values["digest"]
        return values if data == digested(values) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_digested(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as JSON that carries its own digest."""
    write_atomic(path, digested(values))


def read_digested(path: Path) -> dict[str, Any] | None:
    """Read what `write_digested` wrote; None when it is missing or not byte for byte what was written."""
    try:
        return parse_digested(path.read_bytes())
    except OSError:
        return None


def check_output(path: Path, *, force: bool) -> None:
    """Refuse, before any work, an output that exists or whose parent folder does not.

    Raises
    ------
    ExistsAlreadyError, InputError, StorageError
        The output exists and ``force`` is not set; the parent folder is missing; no file can have this name.
    """
    with storage_errors(path):
        exists, has_parent = path.exists(), path.absolute().parent.is_dir()
    if exists and not force:
        raise ExistsAlreadyError(f"{path} exists already; give --force to replace it, or another -o.")
    if not has_parent:
        raise InputError(f"The folder {path.absolute().parent} does not exist; make it first, or give another -o.")


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block ends without an error."""
    check_output(path, force=force)
    with storage_errors(path):
        work = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.absolute().parent))
    try:
        with storage_errors(path):
            yield work
            work.chmod(0o755)
            with _set_aside(path):
                work.replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def folder_in_place(path: Path, *, force: bool = False) -> Iterator[None]:
    """Make ``path`` a new folder for the block; when the block fails it is gone, and what was there is back."""
    check_output(path, force=force)
    with _set_aside(path):
        with storage_errors(path):
            path.mkdir()
        yield


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary file's path beside ``path`` that becomes ``path`` when the block ends without an error."""
    check_output(path, force=force)
    with storage_errors(path), replacing(path) as work:
        yield work


@contextmanager
def _set_aside(path: Path) -> Iterator[None]:
    """Move what is at ``path`` out of the way for the block; when the block fails it is back, and what it made gone."""
    with storage_errors(path):
        aside = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.absolute().parent))
    old = aside / "old"
    try:
        if path.exists():
            with storage_errors(path):
                path.replace(old)
        try:
            yield
        except BaseException:
            if path.exists():
                path.replace(aside / "failed")
            if old.exists():
                old.replace(path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)

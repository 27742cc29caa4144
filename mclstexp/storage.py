"""Files that are whole or not there: atomic writes, hashes, and the operating system's refusals as one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mclstexp.errors import StorageError

TEMPORARY = ".tmp-"
"""Every file that is still being written has this in its name."""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sync_file(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends without error."""
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


def write_digested(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as JSON that carries its own digest."""
    digest = sha256_bytes(canonical_json(values).encode())
    write_atomic(path, (canonical_json({**values, "digest": digest}) + "\n").encode())


def read_digested(path: Path) -> dict[str, Any] | None:
    """Read what `write_digested` wrote; None when it is missing or not byte for byte what was written."""
    try:
        data = path.read_bytes()
        values: dict[str, Any] = json.loads(data)
        digest = values.pop("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if digest != sha256_bytes(canonical_json(values).encode()):
        return None
    return values if data == (canonical_json({**values, "digest": digest}) + "\n").encode() else None


def files_below(folder: Path) -> set[Path]:
    """Every file below a folder; none when there is no such folder."""
    return {Path(root) / name for root, _, names in os.walk(folder) for name in names}


_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EFBIG: "a file would grow past the size limit (ulimit -f, or the file system's)",
    errno.EACCES: "permission is denied; make the folder writable, or work on a copy",
    errno.EPERM: "the operation is not permitted; make the folder writable, or work on a copy",
    errno.EROFS: "the file system is read-only; work on a copy",
    errno.ENOENT: "a file or folder vanished; run mst verify",
    errno.EIO: "the disk reports an input/output error; check it, then run mst verify",
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
}


def storage_error(error: BaseException, root: Path) -> StorageError:
    """Return the one-line error for what the operating system, Lance or FAISS refused."""
    text = str(error)
    code = error.errno if isinstance(error, OSError) and error.errno in _REASONS else None
    if code is None:
        code = next((number for part, number in _TEXTS.items() if part in text), None)
    reason = _REASONS[code] if code is not None else (text.splitlines() or [type(error).__name__])[0][:300]
    named = getattr(error, "filename", None)
    place = f" ({named})" if named and code == errno.ENOENT else ""
    return StorageError(f"Reference {root}: {reason}{place}.")


class FromRecords(Exception):
    """Carries what the caller's records raised past the handlers of the reference's own errors."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into `StorageError`.

    Lance and FAISS report them as ``OSError``, ``RuntimeError`` or ``ValueError`` with the reason in the text.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, root) from error
    except (RuntimeError, ValueError) as error:
        if any(part in str(error) for part in _TEXTS):
            raise storage_error(error, root) from error
        raise

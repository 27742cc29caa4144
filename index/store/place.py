"""Where a reference lies: a local folder or an object store's URI, and its small files there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from mclstexp.errors import FormatError, InputError, StorageError
from mclstexp.index.store import remote
from mclstexp.storage import FromRecords, files_below, sha256_bytes, storage_errors, write_atomic

TABLE = "spots"
TABLE_FOLDER = f"{TABLE}.lance"
HASHES = "hashes"
GENES = "genes"
MODELS = "models"
DERIVED = "derived"
LOCK_FILE = ".lock"
EXPRESSION = "expression"
"""Of a published reference without counts: the panel's expression, which nothing can derive any more."""
PUBLISHED, CARD = "published.json", "README.md"
OWN = {TABLE_FOLDER, HASHES, GENES, MODELS, DERIVED, LOCK_FILE, EXPRESSION, PUBLISHED, CARD}
"""Everything that a reference's folder holds."""


def _is_irregular(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, a device or the like, or a link that leads nowhere but to itself."""
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return False  # it vanished, as what a writer is at does, or is a link to nothing
    except OSError:
        return True
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class Place:
    """A reference's folder or URI.

    Parameters
    ----------
    target
        A local path, or a URI such as ``s3://bucket/reference``.
    options
        Storage options of an object store as LanceDB names them (``aws_access_key_id``, ``region``, ``endpoint``,
        ``allow_http``, ...); what is not given comes from the environment.
    origin
        Where a local folder is the copy of what is published elsewhere: its address, by which it is called.

    Raises
    ------
    InputError, FormatError
        Another URI than that of an object store's folder; a folder of a reference that is a link.
    """

    def __init__(
        self, target: str | os.PathLike[str], options: Mapping[str, str] | None = None, *, origin: str = ""
    ) -> None:
        text = os.fspath(target)
        self.options = {name.lower(): value for name, value in (options or {}).items()}
        self.origin = origin
        self._reached = False
        self.local = None if "://" in text else Path(text)
        self.uri = text.rstrip("/") if self.local is None else text
        if self.local is not None:
            _refuse_links(self.local)
        else:
            remote.check_uri(self.uri)

    def __str__(self) -> str:
        return self.origin or self.uri

    @property
    def root(self) -> Path | str:
        """The local folder, or the URI; of a copy the address of what it is a copy of."""
        return self.origin or (self.uri if self.local is None else self.local)

    def require_writable(self) -> None:
        """Refuse to change what is published: others check it by the hashes that were published with it.

        Raises
        ------
        InputError
            Names the command that makes a copy of one's own.
        """
        if self.origin or self.read(PUBLISHED) is not None:
            raise InputError(
                f"{self} is published and only read; a copy of your own can be changed: "
                f"mst fetch reference {self} -o my-reference/"
            )

    def check_files(self) -> None:
        """Refuse a local reference in which something is neither a file nor a folder: reading a pipe would never end.

        Raises
        ------
        FormatError
            Naming the first.
        """
        waiting = [] if self.local is None else [str(self.local)]
        while waiting:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif _is_irregular(entry):
                        raise FormatError(f"Reference {self}: {entry.path} is no regular file; restore a copy.")

    @property
    def table_uri(self) -> str:
        """URI of the Lance table."""
        return f"{self.uri}/{TABLE_FOLDER}"

    @cached_property
    def _files(self) -> tuple[Any, str]:
        """The file system, and the path of the reference in it."""
        if self.local is not None:
            from pyarrow import fs

            return fs.LocalFileSystem(), str(self.local.absolute())
        return remote.file_system(self.uri, self.options)

    @cached_property
    def storage_options(self) -> dict[str, str] | None:
        """What LanceDB is told of an object store; what it lacks comes from the environment."""
        return None if self.local is not None else {**remote.TIMES, **self.options}

    def check_reachable(self) -> None:
        """Refuse an object store that cannot be used; it is looked at once.

        Raises
        ------
        InputError, StorageError
            An unencrypted address that was not allowed; no such bucket, wrong credentials, no answer.
        """
        if self.local is None and not self._reached:
            files, root = self._files
            remote.check_reachable(self.uri, files, root, self.options)
            self._reached = True

    def refusal(self, error: BaseException) -> StorageError | None:
        """Return the one line for what an object store or the network refused; None for anything else."""
        return None if self.local is not None else remote.refusal(error, self.uri, self.options)

    def read(self, name: str) -> bytes | None:
        """Return a small file's bytes; None when there is none."""
        files, root = self._files
        try:
            with files.open_input_stream(f"{root}/{name}") as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError:
            if self.local is not None and (self.local / name).is_dir():
                return None
            raise

    def write(self, name: str, data: bytes) -> None:
        """Write a small file so that a reader sees all of it or nothing."""
        if self.local is not None:
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
            return
        files, root = self._files
        with files.open_output_stream(f"{root}/{name}") as stream:
            stream.write(data)

    def put_file(self, source: Path, name: str) -> None:
        """Copy a local file to an object store, a block at a time, so that a reader sees all of it or nothing."""
        files, root = self._files
        with source.open("rb") as handle, files.open_output_stream(f"{root}/{name}") as stream:
            while block := handle.read(2**24):
                stream.write(block)

    def fetch_file(self, name: str, target: Path) -> bool:
        """Copy a file to a local one, a block at a time; return whether there is one."""
        files, root = self._files
        try:
            with files.open_input_stream(f"{root}/{name}") as stream, target.open("wb") as handle:
                while block := stream.read(2**24):
                    handle.write(block)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        return True

    def put_folder(self, source: Path, name: str) -> None:
        """Copy the files of a local folder to ``name``; one that is there already stays as it is."""
        present = set(self.names(name))
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            target = f"{name}/{path.relative_to(source).as_posix()}"
            if target not in present:
                self.write(target, path.read_bytes())

    def names(self, folder: str = "") -> list[str]:
        """Paths, below the reference, of every file below a folder."""
        from pyarrow import fs

        if self.local is not None:  # never into a folder that a link leads to
            return sorted(path.relative_to(self.local).as_posix() for path in files_below(self.local / folder))
        files, root = self._files
        selector = fs.FileSelector(f"{root}/{folder}".rstrip("/"), allow_not_found=True, recursive=True)
        listed = files.get_file_info(selector)
        return sorted(item.path[len(root) + 1 :] for item in listed if item.type == fs.FileType.File)

    def sha256(self, name: str) -> str | None:
        """SHA-256 of a file; None when there is none."""
        files, root = self._files
        digest = hashlib.sha256()
        try:
            with files.open_input_stream(f"{root}/{name}") as stream:
                while block := stream.read(2**22):
                    digest.update(block)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError:
            if self.local is not None and (self.local / name).is_dir():
                return None
            raise
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Remove a file; none need be there."""
        files, root = self._files
        try:
            files.delete_file(f"{root}/{name}")
        except FileNotFoundError:
            return

    def derived(self, reference_id: str) -> Path:
        """Local folder for what can be derived again from the table."""
        if self.local is not None:
            return self.local / DERIVED
        import platformdirs

        known = sha256_bytes(f"{self.uri} {reference_id}".encode())[:20]
        return Path(platformdirs.user_cache_dir("mclstexp")) / "references" / known

    def model(self, digest: str) -> Path:
        """Local folder of the copy of a model; of an object store's it is fetched once."""
        return self.kept_folder(f"{MODELS}/{digest[:20]}", digest)

    def kept_folder(self, name: str, key: str) -> Path:
        """Local path of a folder; of an object store's its files are fetched once, into a folder by ``key``."""
        if self.local is not None:
            return self.local / name
        folder = self.derived(key)
        for path in self.names(name):
            target = folder / path
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, self.read(path) or b"")
        return folder / name

    def require_parent(self) -> None:
        """Refuse a local folder whose parent does not exist."""
        if self.local is not None and not self.local.absolute().parent.is_dir():
            raise InputError(
                f"The folder {self.local.absolute().parent} does not exist; make it first, or give another -o."
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Report what the storage refuses in one line; what the caller's records raise passes as it is."""
        try:
            with storage_errors(self.root), self._refusals():
                yield
        except FromRecords as passed:
            raise passed.error from None

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            refused = self.refusal(error)
            if refused is None:
                raise
            raise refused from error


def _refuse_links(root: Path) -> None:
    """Refuse a reference with a folder that is a link: what is written or removed in it would lie elsewhere.

    The reference's own folder may be one.

    Raises
    ------
    FormatError
        Names the link, and where it leads.
    """
    names = [root / name for name in sorted(OWN)]
    for folder in (TABLE_FOLDER, MODELS):
        with suppress(OSError):
            names += sorted((root / folder).iterdir())
    for path in names:
        if path.is_symlink():
            raise FormatError(
                f"{root} is not to be trusted: {path.relative_to(root)} is a link to {path.readlink()}, and a "
                "reference's own folders are none; put a copy in its place."
            )

"""The local copy of what is published elsewhere: fetched once, checked by hashes, whole or not used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mclstexp.errors import FormatError, InputError, StorageError, UnreachableError
from mclstexp.index.published.address import Address, is_published
from mclstexp.index.published.manifest import Manifest, parse_manifest
from mclstexp.index.published.sources import Source, Stored, source_of
from mclstexp.index.store.matrix import locked
from mclstexp.index.store.place import PUBLISHED, Place
from mclstexp.notes import inform, warn
from mclstexp.storage import files_below, new_folder, sha256_bytes, storage_errors, write_atomic
from mclstexp.text import counted, size
from mclstexp.types import Progress

ABOUT = "about.json"
COPIES = 2
"""Of one address so many versions are kept: another process may still read the one before the newest."""

SPARE_BYTES = 2**26
"""What a copy leaves free on the disk."""


def copies_folder() -> Path:
    """Return the folder of all copies, in the user's cache."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("mclstexp")) / "published"


@dataclass(frozen=True)
class Copy:
    """The copies of one address: where they are and how large they are together."""

    uri: str
    folder: Path
    n_bytes: int


def copies() -> list[Copy]:
    """List what was fetched."""
    listed = []
    for about in sorted(copies_folder().glob(f"*/{ABOUT}")):
        values = _read_about(about)
        if values is not None:
            sizes = {path.stat().st_ino: path.stat().st_size for path in files_below(about.parent)}
            listed.append(Copy(values["uri"], about.parent, sum(sizes.values())))
    return listed


def clear_copies() -> int:
    """Remove every copy; return their bytes."""
    n_bytes = sum(copy.n_bytes for copy in copies())
    with storage_errors(copies_folder()):
        shutil.rmtree(copies_folder(), ignore_errors=True)
    return n_bytes


def local_copy(
    uri: str, options: Mapping[str, str] | None = None, *, on_progress: Progress | None = None
) -> tuple[Path, str]:
    """Return the folder of a whole copy of what is published at an address, and the address as it is called.

    What is lacking is fetched, from where an earlier call stopped. Where nobody answers, the copy that is there is
    taken, which is said.

    Parameters
    ----------
    uri
        ``hf://owner/name@revision`` or ``https://host/folder``.
    options
        ``allow_http=true`` allows addresses without encryption, ``endpoint`` names another hub.
    on_progress
        Called while files are fetched.

    Raises
    ------
    InputError, FormatError
        The address cannot be used; what is published there is none, or not to be trusted.
    DownloadError, StorageError
        It is not there, refused, or not what was published; nobody answers and there is no whole copy; the disk is
        full.
    """
    address = Address.parse(uri, options)
    home = copies_folder() / sha256_bytes(f"{address.uri} {address.endpoint or ''}".encode())[:20]
    source = source_of(address)
    try:
        manifest = parse_manifest(source.manifest(), address.uri)
    except UnreachableError as error:
        folder = _kept(home)
        if folder is None:
            raise
        warn(f"{address.uri} cannot be asked for its newest version, so the copy that was fetched before is used: "
             f"{str(error).rstrip('.')}.")  # fmt: skip
        return folder, address.uri
    folder = home / manifest.digest[:20]
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
    with locked(home):
        if not _is_whole(folder, manifest):
            _fetch(source, manifest, folder, address.uri, on_progress)
        with storage_errors(home):
            write_atomic(home / ABOUT, json.dumps({"uri": address.uri, "folder": folder.name}).encode())
            _prune(home, folder)
    return folder, address.uri


def _kept(home: Path) -> Path | None:
    """Return the folder of the copy that was used last, where it is whole."""
    values = _read_about(home / ABOUT)
    if values is None:
        return None
    folder = home / Path(values["folder"]).name
    try:
        manifest = parse_manifest((folder / PUBLISHED).read_bytes(), str(folder))
    except (OSError, FormatError):
        return None
    return folder if manifest.digest[:20] == folder.name and _is_whole(folder, manifest) else None


def _read_about(path: Path) -> dict[str, str] | None:
    try:
        values = json.loads(path.read_bytes())
        return {"uri": str(values["uri"]), "folder": str(values["folder"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether a copy was finished, and every file still has its size. Hashes were compared when it was fetched."""
    if not (folder / PUBLISHED).is_file():
        return False
    try:
        return all((folder / file.path).stat().st_size == file.size for file in manifest.files)
    except OSError:
        return False


def _fetch(source: Source, manifest: Manifest, folder: Path, uri: str, on_progress: Progress | None) -> None:
    """Fetch what is lacking; the manifest is written when all is there."""
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        (folder / PUBLISHED).unlink(missing_ok=True)
        _share(manifest, folder)
        lacking = [file for file in manifest.files if not (folder / file.path).is_file()]
        n_bytes = sum(file.size for file in lacking)
        free = shutil.disk_usage(folder).free
    if n_bytes + SPARE_BYTES > free:
        raise StorageError(
            f"{uri} has {size(n_bytes)} to fetch, and {size(free)} are free in {folder.parent.parent}; free some "
            "space, or name another cache with $XDG_CACHE_HOME."
        )
    inform(f"{uri}: {size(n_bytes)} in {counted(len(lacking), 'file')} are fetched, once, into {folder}")
    source.fetch(manifest.files, folder, on_progress)
    with storage_errors(folder):
        write_atomic(folder / PUBLISHED, manifest.to_bytes())


def _share(manifest: Manifest, folder: Path) -> None:
    """Take over from other versions the files that are the same; they are compared with their hash like all others."""
    there: dict[str, Path] = {}
    for other in _versions(folder.parent):
        if other == folder:
            continue
        try:
            old = parse_manifest((other / PUBLISHED).read_bytes(), str(other))
        except (OSError, FormatError):
            continue
        there |= {file.sha256: other / file.path for file in old.files}
    for file in manifest.files:
        target, held = folder / file.path, there.get(file.sha256)
        if held is None or not held.is_file() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(held, target)
        except OSError:  # a file system without links costs the space twice
            shutil.copyfile(held, target)


def _versions(home: Path) -> Iterator[Path]:
    yield from sorted((path for path in home.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)


def _prune(home: Path, used: Path) -> None:
    others = [path for path in _versions(home) if path != used]
    for path in others[: max(0, len(others) - (COPIES - 1))]:
        shutil.rmtree(path, ignore_errors=True)


def fetch_reference(
    target: str | os.PathLike[str],
    output: Path,
    *,
    options: Mapping[str, str] | None = None,
    force: bool = False,
    on_progress: Progress | None = None,
) -> Manifest:
    """Copy what is published to a folder, which is then a reference of one's own.

    It can grow where counts were not left out.

    Parameters
    ----------
    target
        Its address, or the folder or object store that it lies in.
    output
        The folder to write, wholly or not at all.

    Raises
    ------
    InputError, FormatError, DownloadError, ExistsAlreadyError, StorageError
        As `local_copy`; the output exists and ``force`` is not set.
    """
    text = os.fspath(target)
    with new_folder(output, force=force) as work:
        if is_published(text):
            folder, _ = local_copy(text, options, on_progress=on_progress)
            source = Stored(Place(folder))
        else:
            if "://" not in text and not Path(text).is_dir():
                raise InputError(f"There is no folder {text}; name what mst publish wrote, or its address.")
            source = Stored(Place(text, options))
        manifest = parse_manifest(source.manifest(), text)
        source.fetch(manifest.files, work, on_progress)
    return manifest

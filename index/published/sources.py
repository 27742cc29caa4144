"""Fetching what is published: from the hub, from a web server, or from a folder or bucket at hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from mclstexp.data.fetch.download import RemoteFile, fetch_bytes, fetch_files, require_host
from mclstexp.data.fetch.hub import hub_file, hub_listed, hub_refusals
from mclstexp.errors import DownloadError, InputError
from mclstexp.index.published.address import Address
from mclstexp.index.published.manifest import MOST_BYTES, PublishedFile
from mclstexp.index.store.place import PUBLISHED, Place
from mclstexp.storage import storage_errors
from mclstexp.types import Progress

HUB_PARTS = ".hub"
"""Folder, inside the one that is filled, of files that the hub's client has not finished."""


class Source(Protocol):
    """Where files are fetched from."""

    def manifest(self) -> bytes:
        """Return the bytes of ``published.json``.

        Raises
        ------
        UnreachableError, DownloadError
            Nobody answers; it is refused or not there.
        """
        ...

    def fetch(self, files: Sequence[PublishedFile], folder: Path, on_progress: Progress | None) -> None:
        """Put files into a folder, each checked by its hash.

        Raises
        ------
        DownloadError
            When one cannot be had, or is not what was published.
        """
        ...


def source_of(address: Address) -> Source:
    """Return what fetches from an address."""
    return Hub(address) if address.repository else Web(address)


class Web:
    """A folder behind a web server."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def manifest(self) -> bytes:
        """Return the bytes of ``published.json``."""
        return fetch_bytes(f"{self.address.uri}/{PUBLISHED}", "the list of what is published", MOST_BYTES)

    def fetch(self, files: Sequence[PublishedFile], folder: Path, on_progress: Progress | None) -> None:
        """Put files into a folder."""
        base = self.address.uri
        remote = [RemoteFile(f.path, f"{base}/{quote(f.path)}", f.size, f.sha256) for f in files]
        fetch_files(remote, folder, force=True, on_progress=on_progress)


class Hub:
    """A dataset of the Hugging Face hub, at the commit that its revision named when it was asked."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @cached_property
    def _api(self) -> Any:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.address.endpoint)
        require_host(str(api.endpoint))
        return api

    @cached_property
    def _commit(self) -> str:
        name, revision = self.address.repository, self.address.revision
        with hub_refusals(name):
            return str(self._api.dataset_info(name, revision=revision, expand=["sha"]).sha)

    def manifest(self) -> bytes:
        """Return the bytes of ``published.json``."""
        import tempfile

        name = self.address.repository
        with hub_refusals(name):
            listed = list(hub_listed(self._api, name, [PUBLISHED], self._commit))
        if not listed:
            raise DownloadError(f"{self.address.uri} is no published reference: the dataset has no {PUBLISHED}.")
        if (listed[0].size or 0) > MOST_BYTES:
            raise DownloadError(f"{self.address.uri}: {PUBLISHED} has over {MOST_BYTES:,} bytes.")
        with tempfile.TemporaryDirectory() as scratch:
            hub_file(self._api, name, PUBLISHED, self._commit, Path(scratch))
            return (Path(scratch) / PUBLISHED).read_bytes()

    def fetch(self, files: Sequence[PublishedFile], folder: Path, on_progress: Progress | None) -> None:
        """Put files into a folder, none of which the hub says to be another than the manifest does."""
        name, parts = self.address.repository, folder / HUB_PARTS
        wanted = {file.path: RemoteFile(file.path, file.path, file.size, file.sha256) for file in files}
        with hub_refusals(name):
            told = {file.path: file for file in hub_listed(self._api, name, list(wanted), self._commit)}
        for path, file in wanted.items():
            said = told.get(path)
            if said is None or said.size != file.size or said.sha256 not in (None, file.sha256):
                raise DownloadError(f"{self.address.uri}: {path} is not what {PUBLISHED} says; nothing was fetched.")
        done, total = 0, sum(file.size or 0 for file in wanted.values())
        for path, file in wanted.items():
            target = folder / path
            with storage_errors(target):
                if not (target.is_file() and file.fits(target)):
                    hub_file(self._api, name, path, self._commit, parts)
                    if not file.fits(parts / path):
                        (parts / path).unlink()
                        raise DownloadError(f"{self.address.uri}: {path} is not what was published; it was not kept.")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (parts / path).replace(target)
            done += file.size or 0
            if on_progress is not None:
                on_progress("kB fetched", done // 1000, total // 1000)
        shutil.rmtree(parts, ignore_errors=True)


class Stored:
    """A published reference in a folder or an object store that this machine reaches as it is."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def manifest(self) -> bytes:
        """Return the bytes of ``published.json``."""
        self.place.check_reachable()
        data = self.place.read(PUBLISHED)
        if data is None:
            raise InputError(f"{self.place} is no published reference: it has no {PUBLISHED}.")
        return data

    def fetch(self, files: Sequence[PublishedFile], folder: Path, on_progress: Progress | None) -> None:
        """Put files into a folder."""
        if self.place.local is not None:
            self.place.check_files()
            below = [(file, self.place.local.absolute() / file.path) for file in files]
            linked = next((path for _, path in below if _is_linked(path, self.place.local)), None)
            if linked is not None:
                raise DownloadError(f"{self.place} is not to be trusted: {linked} is a link or missing.")
            remote = [RemoteFile(file.path, str(path), file.size, file.sha256) for file, path in below]
            fetch_files(remote, folder, force=True, on_progress=on_progress)
            return
        for done, file in enumerate(files, start=1):
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.place.errors(), storage_errors(target):
                there = self.place.fetch_file(file.path, target)
            if not there:
                raise DownloadError(f"{self.place}: {file.path} is missing, and {PUBLISHED} names it.")
            if not RemoteFile(file.path, "", file.size, file.sha256).fits(target):
                target.unlink()
                raise DownloadError(f"{self.place}: {file.path} is not what was published; it was not kept.")
            if on_progress is not None:
                on_progress("files fetched", done, len(files))


def _is_linked(path: Path, root: Path) -> bool:
    """Whether a file is none, or is one behind a link inside the folder."""
    if not path.is_file():
        return True
    while path != root.absolute():
        if path.is_symlink():
            return True
        path = path.parent
    return False

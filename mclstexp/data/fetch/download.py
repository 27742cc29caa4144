"""Files over HTTP: resumed where they stopped, checked by their hash, in their place whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mclstexp.errors import DownloadError, ExistsAlreadyError, UnreachableError
from mclstexp.storage import sha256_file, storage_errors
from mclstexp.text import counted, some
from mclstexp.types import Progress

PARTS = ".parts"
"""Folder, inside the one that is filled, of files that are not whole yet; readers pass over its name."""

TIMEOUT_S = 30.0
ATTEMPTS = 5
PAUSE_S = 0.5
"""Before the second attempt; each further one waits twice as long."""

_BLOCK = 2**18
_MOST_JSON = 2**28


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes
    ----------
    path
        Where it goes, below the folder that is filled.
    url
        Where it is published, or its path for a copy.
    size
        Bytes, None where nobody says.
    sha256
        SHA-256 of its content in hexadecimal, None where it is not known.
    git_sha1
        Its name in git, a SHA-1 of size and content; None where it is not known.
    """

    path: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def hashed(self) -> bool:
        """Whether its content can be checked."""
        return self.sha256 is not None or self.git_sha1 is not None

    def fits(self, path: Path) -> bool:
        """Whether a file on the disk has the size of this one, and its content by either hash that is known."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return False
        if not self.hashed:
            return True
        return sha256_file(path) == self.sha256 or (self.git_sha1 is not None and git_name(path) == self.git_sha1)


@dataclass(frozen=True)
class FetchedFiles:
    """What a call of ``fetch`` did, or would do.

    Attributes
    ----------
    folder
        The folder that was filled.
    files
        Every file of the choice.
    fetched, kept
        How many were fetched, and how many were there already.
    """

    folder: Path
    files: tuple[RemoteFile, ...]
    fetched: int = 0
    kept: int = 0

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size or 0 for file in self.files)

    def __repr__(self) -> str:
        return f"FetchedFiles({str(self.folder)!r}, {counted(len(self.files), 'file')}, {self.size / 1e6:,.1f} MB)"


def git_name(path: Path) -> str:
    """Return a file's name in git: the SHA-1 of its size and content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def fetch_files(
    files: Sequence[RemoteFile], folder: Path, *, force: bool = False, on_progress: Progress | None = None
) -> FetchedFiles:
    """Fetch what is not there yet.

    Parameters
    ----------
    files
        What to fetch; a ``url`` without a scheme is a path, which is copied.
    folder
        The folder to fill; made where it does not exist.
    force
        Replace files of another content.
    on_progress
        Called with "kB fetched", how many are there, and how many there are.

    Raises
    ------
    DownloadError
        When a file is not there, not what was published, or the network fails more than ``ATTEMPTS`` times; what came
        of it is kept for the next call, except where its content is wrong.
    ExistsAlreadyError
        When a file of another content is there and ``force`` is not set.
    StorageError
        When the disk is full or may not be written.
    """
    total = sum(file.size or 0 for file in files)
    report = _Report(on_progress, total)
    n_kept = 0
    for file in files:
        target = folder / file.path
        with storage_errors(target):
            there = target.is_file()
            if there and file.fits(target):
                n_kept += 1
                report.add(target.stat().st_size)
                continue
            if there and not force:
                raise ExistsAlreadyError(f"{target} is another file than the published one; --force replaces it.")
            part = folder / PARTS / file.path
            part.parent.mkdir(parents=True, exist_ok=True)
            _whole(file, part, report)
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
    with storage_errors(folder):
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return FetchedFiles(folder, tuple(files), len(files) - n_kept, n_kept)


def fetch_bytes(url: str, what: str, most: int) -> bytes:
    """Fetch a small file.

    Raises
    ------
    UnreachableError
        When nobody answers, or a server that fails.
    DownloadError
        When it cannot be had, or has more bytes than ``most``.
    """
    require_host(url)
    try:
        with _open(url, 0) as answer:
            data = bytes(answer.read(most + 1))
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise _unreachable(url, error) from error
        raise _refused(error, url, what) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(url, error) from error
    if len(data) > most:
        raise DownloadError(f"{url} has over {most:,} bytes, which {what} never has; nothing of it was kept.")
    return data


def fetch_json(url: str, what: str) -> Any:
    """Fetch a JSON document.

    Raises
    ------
    DownloadError
        When it cannot be had or is none.
    """
    data = fetch_bytes(url, what, _MOST_JSON)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DownloadError(f"{url} answered with something else than {what}: {error}.") from error


def require_host(url: str) -> None:
    """Refuse at once a host whose name is unknown, which libraries would try for a minute; a proxy knows names itself.

    Raises
    ------
    DownloadError
        When there is no such name: most often, there is no network.
    """
    address = urlparse(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise DownloadError(f"{url} is no address of the web (--endpoint): http:// or https:// is needed.")
    if urllib.request.getproxies().get(address.scheme):
        return
    try:
        socket.getaddrinfo(address.hostname, None)
    except OSError as error:
        raise _unreachable(url, error) from error


class _Report:
    def __init__(self, on_progress: Progress | None, total: int) -> None:
        self._call, self._total, self._done = on_progress, total, 0

    def add(self, n: int) -> None:
        self._done += n
        if self._call:
            self._call("kB fetched", min(self._done, self._total) // 1000, self._total // 1000)


def _whole(file: RemoteFile, part: Path, report: _Report) -> None:
    """Make the part the whole file, or raise."""
    if not urlparse(file.url).scheme:
        shutil.copyfile(file.url, part)
        report.add(part.stat().st_size)
        resumed = False
    else:
        resumed = _download(file, part, report)
    if file.fits(part):
        return
    found = f"{part.stat().st_size} bytes"
    part.unlink()
    if resumed:  # the beginning was of another version
        report.add(-(file.size or 0))
        _whole(file, part, report)
        return
    expected = f"SHA-256 {file.sha256}" if file.sha256 else f"git {file.git_sha1}" if file.git_sha1 else "its size"
    raise DownloadError(
        f"{file.url} is not what was published: {found} that do not have {expected}"
        f"{f' and {file.size} bytes' if file.size else ''}; nothing of it was kept."
    )


def _download(file: RemoteFile, part: Path, report: _Report) -> bool:
    """Fetch into the part, from where it ends; whether there was something of it before."""
    held = part.stat().st_size if part.is_file() else 0
    report.add(held)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            _append(file, part, report)
            if file.size is None or part.stat().st_size >= file.size:
                return held > 0
            problem: Exception = http.client.IncompleteRead(b"")
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return held > 0
            if error.code < 500:
                raise _refused(error, file.url, "the file") from error
            problem = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = error
    raise _unreachable(file.url, problem, kept=part.is_file())


def _append(file: RemoteFile, part: Path, report: _Report) -> None:
    begin = part.stat().st_size if part.is_file() else 0
    if file.size is not None and begin >= file.size:
        return
    with _open(file.url, begin) as answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if begin and not resumed:  # a server that knows no ranges sends all again
            report.add(-begin)
        with part.open("ab" if resumed else "wb") as target:
            for block in iter(lambda: answer.read(_BLOCK), b""):
                target.write(block)
                report.add(len(block))
                if file.size is not None and target.tell() > file.size:  # it is refused; it must not fill the disk
                    break
            target.flush()
            os.fsync(target.fileno())


def _open(url: str, begin: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "mclstexp", **({"Range": f"bytes={begin}-"} if begin else {})}
    opener = urllib.request.build_opener(_SameHost)
    answer: http.client.HTTPResponse = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    return answer


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a server to its other addresses, and to no other server."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlparse(req.full_url), urlparse(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise DownloadError(
                f"{req.full_url} leads to another server, {new.scheme}://{new.netloc}; name that address yourself if "
                "you trust it."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refused(error: urllib.error.HTTPError, url: str, what: str) -> DownloadError:
    if error.code == http.HTTPStatus.NOT_FOUND:
        return DownloadError(f"{url} does not exist (404): {what} was moved or removed.")
    if error.code in (http.HTTPStatus.FORBIDDEN, http.HTTPStatus.TOO_MANY_REQUESTS):
        return DownloadError(
            f"{url} was refused ({error.code} {error.reason}): it is not open to everybody, or there were too many "
            "requests, so try in an hour."
        )
    return DownloadError(f"{url} was refused ({error.code} {error.reason}).")


def _unreachable(url: str, error: BaseException, *, kept: bool = False) -> UnreachableError:
    reason = getattr(error, "reason", None) or error
    text = " ".join(str(reason).split()) or type(error).__name__
    rest = " What came is kept; the same command goes on from there." if kept else ""
    return UnreachableError(
        f"{urlparse(url).hostname} cannot be reached ({text}); check the network, or bring the data along.{rest}"
    )


def unhashed(files: Sequence[RemoteFile]) -> str | None:
    """Say of how many files no hash is known, None where all have one."""
    names = [file.path for file in files if not file.hashed]
    return f"no hash known for {counted(len(names), 'file')} ({some(names, 3)}): unchecked." if names else None

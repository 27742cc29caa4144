"""The HER2+ cohort (Andersson et al. 2021) from its repository, github.com/almaan/her2st.

GitHub lists every file with its size and its name in git, which is a hash of its content. Of the files that this
program was developed with, ``her2st.tsv`` has the SHA-256 too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mclstexp.data.fetch.download import FetchedFiles, RemoteFile, fetch_files, fetch_json, unhashed
from mclstexp.errors import DownloadError, InputError
from mclstexp.notes import warn
from mclstexp.storage import sha256_file
from mclstexp.text import some
from mclstexp.types import Progress, StrPath

REPOSITORY = "almaan/her2st"
API, RAW = "https://api.github.com", "https://raw.githubusercontent.com"

_WANTED = re.compile(
    r"(?:data/|res/)?("
    r"ST-cnts/(?P<a>\w+)\.tsv(?:\.gz)?"
    r"|ST-spotfiles/(?P<b>\w+)_selection\.tsv"
    r"|ST-imgs/\w+/(?P<c>\w+)/[^/]+\.jpe?g"
    r"|ST-pat/lbl/(?P<d>\w+)_labeled_coordinates\.tsv"
    r"|ST-cluster/lbl/(?P<e>\w+)-cluster-annotation\.tsv(?:\.gz)?"
    r")",
    re.IGNORECASE,
)
"""Files that the reader reads, below ``data/`` or ``res/`` in the repository."""


def fetch_her2st(
    output: StrPath,
    *,
    source: StrPath | None = None,
    slides: Sequence[str] | None = None,
    revision: str = "HEAD",
    endpoint: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    on_progress: Progress | None = None,
) -> FetchedFiles:
    """Fetch the cohort, in the layout that `read_slides` knows; a call that was interrupted goes on where it stopped.

    Parameters
    ----------
    output
        The folder to fill.
    source
        A folder with a copy of the repository, or of its ``data/``, in place of the network.
    slides
        Sections, such as ``["C2", "C3"]``; default: all.
    revision
        A commit, tag or branch of the repository.
    endpoint
        An address that serves both GitHub's list and its files, in place of GitHub.
    dry_run
        List the files without fetching any.
    force
        Replace files of another content.
    on_progress
        Called with "kB fetched", how many are there, and how many there are.

    Raises
    ------
    DownloadError, ExistsAlreadyError, StorageError
        As `mclstexp.data.fetch.download.fetch_files`.
    InputError
        When the copy holds none of the cohort's files, or a section is unknown.

    Examples
    --------
    >>> import tempfile
    >>> copy = tempfile.TemporaryDirectory()
    >>> Path(copy.name, "ST-cnts").mkdir()
    >>> Path(copy.name, "ST-cnts", "C4.tsv.gz").touch()
    >>> fetch_her2st("refs/her2st", source=copy.name, dry_run=True)
    FetchedFiles('refs/her2st', 1 file, 0.0 MB)
    """
    found = _copied(Path(source)) if source is not None else _listed(revision, endpoint)
    files = _chosen(found, slides)
    if dry_run:
        return FetchedFiles(Path(output), files)
    unknown = unhashed(files)
    if unknown:
        warn(unknown)
    done = fetch_files(files, Path(output), force=force, on_progress=on_progress)
    changed = [file.path for file in files if file.sha256 and sha256_file(done.folder / file.path) != file.sha256]
    if changed:
        warn(f"{len(changed)} files ({some(changed, 3)}) are others than those that this program was developed with.")
    return done


def _listed(revision: str, endpoint: str | None) -> list[RemoteFile]:
    """List the repository's files, by GitHub's own list."""
    api, raw = (endpoint.rstrip("/"),) * 2 if endpoint else (API, RAW)
    answer = fetch_json(f"{api}/repos/{REPOSITORY}/git/trees/{quote(revision)}?recursive=1", "GitHub's list of files")
    entries = answer.get("tree") if isinstance(answer, dict) else None
    if not isinstance(entries, list) or answer.get("truncated"):
        raise DownloadError(f"{api} did not list the files of {REPOSITORY}: {str(answer)[:80]}.")
    known = _known()
    return [
        _remote(name, f"{raw}/{REPOSITORY}/{quote(revision)}/{quote(entry['path'])}", known, entry)
        for entry, name in _wanted(entries, lambda entry: str(entry.get("path", "")))
        if entry.get("type") == "blob"
    ]


def _copied(source: Path) -> list[RemoteFile]:
    if not source.is_dir():
        raise InputError(f"{source} (--from) is no folder.")
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    known = _known()
    entries = _wanted(paths, lambda path: path.relative_to(source).as_posix())
    files = [_remote(name, str(path.absolute()), known, {"size": path.stat().st_size}) for path, name in entries]
    if not files:
        raise InputError(f"{source} (--from) holds no files of the HER2+ cohort: ST-cnts/A1.tsv.gz and the like.")
    return files


def _wanted(entries: Iterable[Any], path_of: Any) -> list[tuple[Any, str]]:
    """Return the entries that the reader reads, with their place in the layout; of two of one place the first."""
    places: dict[str, Any] = {}
    for entry in entries:
        match = _WANTED.fullmatch(path_of(entry))
        if match:
            places.setdefault(match[1], entry)
    return [(places[name], name) for name in sorted(places)]


def _remote(name: str, url: str, known: dict[str, tuple[int, str]], entry: dict[str, Any]) -> RemoteFile:
    size, sha256 = known.get(name, (None, None))
    return RemoteFile(name, url, entry.get("size", size), sha256, entry.get("sha"))


def _known() -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by path."""
    text = resources.files("mclstexp.data.fetch").joinpath("her2st.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {path: (int(size), sha256) for path, size, sha256 in rows}


def _chosen(files: list[RemoteFile], slides: Sequence[str] | None) -> tuple[RemoteFile, ...]:
    sections = {_section(file.path) for file in files if file.path.startswith("ST-cnts/")}
    unknown = [name for name in slides or () if name not in sections]
    if unknown:
        raise InputError(f"The HER2+ cohort has no section {unknown[0]!r}; it has {some(sorted(sections), 40)}.")
    wanted = set(slides) if slides is not None else sections  # labels of a section without counts are of no use
    return tuple(file for file in files if _section(file.path) in wanted)


def _section(path: str) -> str:
    match = _WANTED.fullmatch(path)
    return next((name for name in match.groups()[1:] if name), "") if match else ""

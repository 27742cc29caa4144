"""Where a publication goes: a folder, an object store, a dataset of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mclstexp.data.fetch.download import require_host
from mclstexp.data.fetch.hub import hub_refusals
from mclstexp.errors import DownloadError, ExistsAlreadyError, FormatError
from mclstexp.index.published.address import Address
from mclstexp.index.published.manifest import FOLDERS, Manifest, PublishedFile, parse_manifest
from mclstexp.index.store.place import CARD, PUBLISHED, TABLE_FOLDER, Place
from mclstexp.types import Progress

_LATE = (f"{TABLE_FOLDER}/_versions/", CARD)
"""What is written when all else is there, just before the manifest: with it a copy can be opened."""


@dataclass(frozen=True)
class Sent:
    """How many files a publication wrote, and how many were there already."""

    sent: int
    kept: int


def check_target(before: Manifest | None, manifest: Mapping[str, Any], where: str, *, force: bool) -> None:
    """Refuse to replace what was made from another reference.

    Raises
    ------
    ExistsAlreadyError
        When ``force`` is not set.
    """
    if before is None or force:
        return
    ours, theirs = (about["made_from"].get("reference_id") for about in (manifest, before.about))
    if ours != theirs:
        raise ExistsAlreadyError(
            f"{where} is published from another reference ({str(theirs)[:12]}, this is {str(ours)[:12]}); --force "
            "replaces it, or name another address."
        )


def published_at(place: Place) -> Manifest | None:
    """Return what is published in a folder or object store; None where nothing is.

    Raises
    ------
    FormatError
        When its manifest cannot be read.
    """
    data = place.read(PUBLISHED)
    return None if data is None else parse_manifest(data, str(place))


def send_to_store(
    tree: Path, manifest: Manifest, place: Place, before: Manifest | None, *, on_progress: Progress | None = None
) -> Sent:
    """Write a tree into an object store, in the place of what was published there ``before``.

    What is there already stays, and the manifest comes last.

    Raises
    ------
    ExistsAlreadyError
        Something else is there.
    """
    with place.errors():
        present = set(place.names())
        if before is None:
            _check_remains(present, manifest, place)
        known = {file.path: file for file in before.files} if before is not None else {}
        files = sorted(manifest.files, key=lambda file: (file.path.startswith(_LATE), file.path))
        kept = 0
        for done, file in enumerate(files, start=1):
            if file.path in present and _is_same(place, file, known.get(file.path)):
                kept += 1
            else:
                place.put_file(tree / file.path, file.path)
            if on_progress is not None:
                on_progress("files published", done, len(files))
        place.put_file(tree / PUBLISHED, PUBLISHED)
        for path in sorted(known.keys() - {file.path for file in manifest.files}):
            place.remove(path)
    return Sent(len(files) - kept, kept)


def _check_remains(present: set[str], manifest: Manifest, place: Place) -> None:
    """Refuse a folder that holds anything but what an earlier run of this publication left."""
    ours = {file.path for file in manifest.files}
    for name in sorted(present - ours):
        if name.startswith(f"{TABLE_FOLDER}/_") or not name.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
            raise ExistsAlreadyError(f"{place} holds {name}, which is not of this publication; name another address.")
    for file in manifest.files:
        if file.path in present and "/_versions/" in file.path and place.sha256(file.path) != file.sha256:
            raise ExistsAlreadyError(f"{place} is a reference that was not published; name another address.")


def _is_same(place: Place, file: PublishedFile, known: PublishedFile | None) -> bool:
    """Whether a file that is there is this one: as its manifest says, or else by its hash."""
    return known == file if known is not None else place.sha256(file.path) == file.sha256


class HubTarget:
    """A dataset of the hub, written in one commit.

    Parameters
    ----------
    address
        The dataset.
    private
        Whether a dataset that is made is seen by its owner alone.
    """

    def __init__(self, address: Address, *, private: bool = False) -> None:
        from huggingface_hub import HfApi

        self.address, self.private = address, private
        self.api: Any = HfApi(endpoint=address.endpoint)
        require_host(str(self.api.endpoint))

    def published(self) -> Manifest | None:
        """Return what is published there; None where nothing is, or no dataset yet.

        Raises
        ------
        DownloadError, FormatError
            The hub refuses; its manifest cannot be read.
        """
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

        from mclstexp.index.published.sources import Hub

        name = self.address.repository
        with hub_refusals(name):
            try:
                listed = self.api.list_repo_files(name, repo_type="dataset", revision=self.address.revision)
            except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
                return None
        if PUBLISHED not in listed:
            strange = sorted(set(listed) - {".gitattributes", CARD})
            if strange:
                raise ExistsAlreadyError(f"{self.address.uri} is a dataset of something else: it holds {strange[0]}.")
            return None
        return parse_manifest(Hub(self.address).manifest(), self.address.uri)

    def send(self, tree: Path, manifest: Manifest, before: Manifest | None) -> Sent:
        """Upload a tree, in one commit; what the hub has already is not sent again.

        Raises
        ------
        DownloadError
            The hub refuses: no token, no right to write, ...
        """
        name = self.address.repository
        known = set() if before is None else set(before.files)
        with hub_refusals(name):
            try:
                self.api.create_repo(name, repo_type="dataset", private=self.private, exist_ok=True)
                if self.address.revision != "main":
                    self.api.create_branch(name, repo_type="dataset", branch=self.address.revision, exist_ok=True)
                self.api.upload_folder(
                    repo_id=name,
                    repo_type="dataset",
                    revision=self.address.revision,
                    folder_path=str(tree),
                    commit_message=f"Reference {manifest.about['reference_id'][:12]}",
                    delete_patterns=[f"{folder}/*" for folder in FOLDERS],
                )
            except ValueError as error:  # what the hub's client finds wrong before it sends anything
                raise DownloadError(f"{self.address.uri}: {str(error).splitlines()[0][:200]}") from error
        kept = sum(file in known for file in manifest.files)
        return Sent(len(manifest.files) - kept, kept)


def has_published(folder: Path) -> Manifest | None:
    """Return what is published in a folder, if it is a publication that can be read."""
    try:
        return published_at(Place(folder))
    except FormatError:
        return None

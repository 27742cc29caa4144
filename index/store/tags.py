"""Tags: names of versions, kept by Lance, their hashes by us."""

from __future__ import annotations

import re

from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.index.store import table as tables
from mclstexp.index.store.hashes import write_record
from mclstexp.index.store.lock import writing
from mclstexp.index.store.place import HASHES, TABLE_FOLDER, Place
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import Table
from mclstexp.text import is_whole

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


def tags_of(table: Table) -> dict[str, int]:
    """Tags and their versions."""
    listed = table.read(lambda ds: ds.tags.list())
    return {name: int(values["version"]) for name, values in sorted(listed.items())}


def write_tag(place: Place, name: str, version: int, *, force: bool = False) -> None:
    """Name a version.

    Raises
    ------
    ExistsAlreadyError
        When the tag exists and ``force`` is not set.
    """
    if not _TAG.fullmatch(name):
        raise InputError(f"Tag {name!r} cannot be used; a letter, then letters, digits, '.', '_' and '-' are needed.")
    with place.errors(), writing(place, "mst tag"):
        newest = Snapshot.at(place)
        resolve_version(newest, version)
        present = tags_of(newest.table)
        if name in present and not force:
            raise ExistsAlreadyError(f"Tag {name} exists already, for version {present[name]}; --force moves it.")
        if name in present:
            newest.table.dataset.tags.update(name, version)
        else:
            newest.table.dataset.tags.create(name, version)
        write_record(place, tag_record(name), [tag_file(name)])


def remove_tag(place: Place, name: str) -> None:
    """Forget a tag; the version stays.

    Raises
    ------
    InputError
        When there is no such tag.
    """
    with place.errors(), writing(place, "mst tag"):
        newest = Snapshot.at(place)
        _require_tag(newest, name)
        newest.table.dataset.tags.delete(name)
        place.remove(tag_record(name))


def tag_file(name: str) -> str:
    """Path of Lance's file of a tag."""
    return f"{TABLE_FOLDER}/_refs/tags/{name}.json"


def tag_record(name: str) -> str:
    """Path of the record of a tag's hash."""
    return f"{HASHES}/tag-{name}.json"


def _require_tag(newest: Snapshot, name: str) -> int:
    present = tags_of(newest.table)
    if name not in present:
        known = ", ".join(present) or "none"
        raise InputError(f"Reference {newest.root} has no tag {name!r}; tags: {known}. mst history lists the versions.")
    return present[name]


def resolve_version(newest: Snapshot, version: int | str) -> int:
    """Return the number of a version that is given by number or tag.

    Raises
    ------
    InputError
        When there is no such version or tag.
    """
    if isinstance(version, str) and is_whole(version):
        version = int(version)
    number = _require_tag(newest, version) if isinstance(version, str) else version
    if number != newest.version and newest.place.sha256(tables.manifest_name(number)) is None:
        raise InputError(
            f"Reference {newest.root} has no version {number}; the newest is {newest.version}. mst history lists them."
        )
    return number

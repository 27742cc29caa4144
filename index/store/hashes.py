"""SHA-256 of every file, kept beside the table: a record a version, written when the version has been committed.

A version's record also holds copies of Lance's manifest and transaction, a tag's of its file: they are small, and a
version is lost without them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from mclstexp.errors import FormatError
from mclstexp.index.store.place import HASHES, TABLE_FOLDER, Place
from mclstexp.index.store.table import Table, manifest_name
from mclstexp.storage import canonical_json, sha256_bytes

COPIED = ("/_versions/", "/_transactions/", "/_refs/")
"""Folders of the table whose files are copied into the records."""


@dataclass
class VersionRecord:
    """Path to SHA-256 of the files that a version or a model brought, and path to bytes of the smallest of them."""

    files: dict[str, str] = field(default_factory=dict)
    copies: dict[str, bytes] = field(default_factory=dict)


def record_name(version: int) -> str:
    """Path of a version's record."""
    return f"{HASHES}/{version:08d}.json"


def read_record(place: Place, name: str) -> VersionRecord | None:
    """Read a record; None when it is missing.

    Raises
    ------
    FormatError
        When it is not byte for byte what was written.
    """
    data = place.read(name)
    if data is None:
        return None
    try:
        values = json.loads(data)
        digest = values.pop("digest")
        if digest != sha256_bytes(canonical_json(values).encode()) or data != _bytes(values):
            raise ValueError("digest")
        copies = {path: base64.b64decode(text) for path, text in values["copies"].items()}
        return VersionRecord(dict(values["files"]), copies)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"Reference {place}: {name} is damaged; run mst verify --repair.") from error


def _bytes(values: dict[str, object]) -> bytes:
    return (canonical_json({**values, "digest": sha256_bytes(canonical_json(values).encode())}) + "\n").encode()


def write_record(place: Place, name: str, files: Iterable[str]) -> None:
    """Hash files and keep the hashes."""
    record = VersionRecord()
    for path in sorted(files):
        digest = place.sha256(path)
        if digest is not None:
            record.files[path] = digest
        if digest is not None and any(folder in path for folder in COPIED):
            record.copies[path] = place.read(path) or b""
    copies = {path: base64.b64encode(data).decode() for path, data in record.copies.items()}
    place.write(name, _bytes({"files": record.files, "copies": copies}))


def record_version(table: Table, also: Iterable[str] = ()) -> None:
    """Keep the hashes of the files that a version uses and the version before it did not, and of others beside them."""
    listed = tracked_files(table, max(table.version - 1, 1))
    new = listed.get(table.version, set()) - listed.get(table.version - 1, set())
    write_record(table.place, record_name(table.version), [*new, *also])


def tracked_files(table: Table, first: int) -> dict[int, set[str]]:
    """Version to the files that it uses, of the table's versions from ``first`` on."""
    rows = table.read(lambda ds: ds.tracked_files(min_version=first).read_all().to_pylist())
    versions: dict[int, set[str]] = {}
    for row in rows:
        versions.setdefault(int(row["version"]), set()).add(f"{TABLE_FOLDER}/{row['path']}")
    return versions


def check_manifest(place: Place, version: int) -> str:
    """Compare a version's file with its hash, where one is kept; return its SHA-256.

    Raises
    ------
    FormatError
        When they differ.
    """
    name = manifest_name(version)
    digest = place.sha256(name)
    record = read_record(place, record_name(version))
    if digest is None or (record is not None and record.files.get(name) not in (None, digest)):
        raise FormatError(f"Reference {place}: version {version} of the table is damaged; run mst verify --repair.")
    return digest

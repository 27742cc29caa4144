"""Tags: names of versions, kept in the manifest."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.index.store.lock import writer_lock
from mclstexp.index.store.manifest import MANIFEST, Manifest, commit_manifest, history_path, read_manifest
from mclstexp.storage import storage_errors

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


def write_tag(root: Path, name: str, version: int, *, force: bool = False) -> None:
    """Name a version. The manifest is written again; its version stays."""
    if not _NAME.fullmatch(name):
        raise InputError(f"Tag {name!r} cannot be used: a letter first, then letters, digits, '.', '_' and '-'.")
    with storage_errors(f"Reference {root}"), writer_lock(root, "mst tag"):
        newest = read_manifest(root / MANIFEST, root)
        resolve_version(root, newest, version)
        if name in newest.tags and not force:
            raise ExistsAlreadyError(f"Tag {name} exists already, for version {newest.tags[name]}; --force moves it.")
        commit_manifest(root, replace(newest, tags={**newest.tags, name: version}))


def resolve_version(root: Path, newest: Manifest, version: int | str) -> int:
    """Return the number of a version that is given by number or tag.

    Raises
    ------
    InputError
        When there is no such version or tag.
    """
    if isinstance(version, str) and version.isdecimal():
        version = int(version)
    if isinstance(version, str):
        if version not in newest.tags:
            known = ", ".join(sorted(newest.tags)) or "none"
            raise InputError(f"Reference {root} has no tag {version!r}; tags: {known}. mst history lists the versions.")
        version = newest.tags[version]
    earlier = newest.first_version <= version < newest.version and history_path(root, version).exists()
    if version != newest.version and not earlier:
        raise InputError(
            f"Reference {root} has no version {version}; the newest is {newest.version}. mst history lists them."
        )
    return version

"""Tags: names of versions, a small file each."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mclstexp.errors import ExistsAlreadyError, FormatError, InputError
from mclstexp.index.files import canonical_json, storage_errors, write_atomic
from mclstexp.index.format import MANIFEST, TAGS, Manifest, history_path, read_manifest
from mclstexp.index.lock import writer_lock

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


def read_tags(root: Path) -> dict[str, int]:
    """Tags and their versions, by name.

    Raises
    ------
    FormatError
        When a tag is damaged.
    """
    return {path.stem: read_tag(path, root) for path in sorted((root / TAGS).glob("*.json")) if path.name[0] != "."}


def read_tag(path: Path, root: Path) -> int:
    """Read one tag's version."""
    try:
        values = json.loads(path.read_bytes())
        name, version = values["tag"], values["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, root) from error
    if name != path.stem or not isinstance(version, int):
        raise _damaged(path, root)
    return version


def _damaged(path: Path, root: Path) -> FormatError:
    return FormatError(f"Reference {root}: tag {path.stem} is damaged; set it again with mst tag --force.")


def write_tag(root: Path, name: str, version: int, *, force: bool = False) -> None:
    """Name a version."""
    if not _NAME.fullmatch(name):
        raise InputError(f"Tag {name!r} cannot be used: a letter first, then letters, digits, '.', '_' and '-'.")
    with storage_errors(root), writer_lock(root, "mst tag"):
        newest = read_manifest(root / MANIFEST, root)
        resolve_version(root, newest, version)
        path = root / TAGS / f"{name}.json"
        if path.exists() and not force:
            raise ExistsAlreadyError(
                f"Tag {name} exists already, for version {read_tags(root).get(name)}; --force moves it."
            )
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, (canonical_json({"tag": name, "version": version}) + "\n").encode())


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
        tags = read_tags(root)
        if version not in tags:
            known = ", ".join(sorted(tags)) or "none"
            raise InputError(f"Reference {root} has no tag {version!r}; tags: {known}. mst history lists the versions.")
        version = tags[version]
    earlier = newest.first_version <= version < newest.version and history_path(root, version).exists()
    if version != newest.version and not earlier:
        raise InputError(
            f"Reference {root} has no version {version}; the newest is {newest.version}. mst history lists them."
        )
    return version

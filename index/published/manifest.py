"""``published.json``: every file of a published reference with its size and SHA-256, and what was left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mclstexp.errors import FormatError
from mclstexp.index.store.place import CARD, EXPRESSION, GENES, HASHES, MODELS, PUBLISHED, TABLE_FOLDER
from mclstexp.storage import canonical_json, sha256_bytes

FORMAT, FORMAT_VERSION = "mclstexp-published", 1
MOST_BYTES = 2**26
"""A manifest that is larger is not read: it would list over 300,000 files."""

FOLDERS = (TABLE_FOLDER, GENES, MODELS, HASHES, EXPRESSION, "derived")
"""Folders below which a published file may lie."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published reference: its path below the folder, its bytes and their SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is published.

    Attributes
    ----------
    about
        ``reference_id``, ``made_from`` (``reference_id`` and ``version``), ``left_out``, ``patients_renamed``, title,
        licence, numbers of slides and spots, ...
    files
        Every file but the manifest, by path.
    """

    about: Mapping[str, Any]
    files: tuple[PublishedFile, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def left_out(self) -> list[str]:
        """What was left out: "counts", "images"."""
        return list(self.about["left_out"])

    def to_bytes(self) -> bytes:
        """Return the text of ``published.json``."""
        files = [vars(file) for file in self.files]
        values = {"format": FORMAT, "format_version": FORMAT_VERSION, **self.about, "files": files}
        return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of what is published, whatever the spaces in its manifest."""
        return sha256_bytes(canonical_json({**self.about, "files": [vars(file) for file in self.files]}).encode())


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest from elsewhere, and trust nothing in it.

    Raises
    ------
    FormatError
        When it is none, of another version, or names a file that may not be there.
    """
    try:
        values = json.loads(data)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"it does not say {FORMAT}")
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where} is no published reference: {PUBLISHED} cannot be read ({_short(error)})."
        ) from error
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{where} is published in format version {version!r:.40}, this program reads {FORMAT_VERSION}; update "
            "mclstexp."
        )
    del values["format"]
    try:
        files = tuple(_file(item) for item in values.pop("files"))
        _check_about(values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(
            f"{where} is not to be trusted: {PUBLISHED} is damaged or forged ({_short(error)})."
        ) from error
    _check_names([file.path for file in files], where)
    return Manifest(values, tuple(sorted(files, key=lambda file: file.path)))


def _file(item: Any) -> PublishedFile:
    path, size, digest = item["path"], item["size"], item["sha256"]
    if not isinstance(path, str) or isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**50:
        raise ValueError(f"a file {path!r:.60} of {size!r:.30} bytes")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ValueError(f"{path!r:.60} has no SHA-256")
    return PublishedFile(path, size, digest)


def _check_about(values: dict[str, Any]) -> None:
    if not isinstance(values["reference_id"], str) or not isinstance(values["made_from"]["version"], int):
        raise ValueError("it does not say what it was made from")
    if not isinstance(values["left_out"], list) or not set(values["left_out"]) <= {"counts", "images"}:
        raise ValueError(f"left out is {values['left_out']!r:.60}")
    canonical_json(values)


def _check_names(names: list[str], where: str) -> None:
    """Refuse names that leave the folder, hide, or lie where no file of a reference does."""
    folders = {"/".join(name.split("/")[:depth]).lower() for name in names for depth in range(1, name.count("/") + 1)}
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        wrong = not all(_PART.fullmatch(part) for part in parts) or len(name) > 400
        wrong = wrong or (name != CARD and (parts[0] not in FOLDERS or len(parts) < 2))
        if wrong or name.lower() in seen or name.lower() in folders:
            raise FormatError(f"{where} is not to be trusted: {PUBLISHED} names a file {name!r:.80}.")
        seen.add(name.lower())


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

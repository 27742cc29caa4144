"""The reference on disk: file names, manifest, format version, migrations. `docs/format.md` is its description."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.segment import Segment
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.storage import canonical_json, write_atomic

FORMAT = "mclstexp-reference"

FORMAT_VERSION = 1

MANIFEST = "manifest.json"

HISTORY = "history"

CACHE = "cache"

MODELS = "models"

TABLE_FOLDER = re.compile(r"(spots|slides)(-\d+)?\.lance")


@dataclass(frozen=True)
class TableVersion:
    """Which Lance table, which of its versions, and the SHA-256 of that version's file."""

    path: str
    version: int
    sha256: str


@dataclass(frozen=True, eq=False)
class Manifest:
    """One commit: everything that a reader needs to see one whole state.

    ``first_version`` is the oldest version that can still be opened; ``new_files`` maps each file that this commit
    wrote or took over to its SHA-256.
    """

    reference_id: str
    version: int
    time: str
    message: str
    command: str
    package_version: str
    identity: ReferenceIdentity
    spots: TableVersion
    slides: TableVersion
    n_spots: int
    n_slides: int
    next_row_id: int
    index_choice: str
    segments: tuple[Segment, ...]
    new_files: dict[str, str]
    first_version: int = 1
    tags: dict[str, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the file's bytes; the digest covers all other fields."""
        values = {
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "identity": self.identity.to_json(),
            "spots": dataclasses.asdict(self.spots),
            "slides": dataclasses.asdict(self.slides),
            "segments": [dataclasses.asdict(segment) for segment in self.segments],
        }
        values = json.loads(json.dumps(values))
        values["digest"] = hashlib.sha256(canonical_json(values).encode()).hexdigest()
        return _text(values)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Manifest:
        """Rebuild from plain JSON values of the current format version."""
        own = {f.name: values[f.name] for f in dataclasses.fields(cls)}
        own["identity"] = ReferenceIdentity.from_json(values["identity"])
        own["spots"] = TableVersion(**values["spots"])
        own["slides"] = TableVersion(**values["slides"])
        own["segments"] = tuple(Segment.from_json(item) for item in values["segments"])
        return cls(**own)


def _text(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Format version to the named function that turns its manifest into that of the next version."""


def read_manifest(path: Path, root: Path) -> Manifest:
    """Read a manifest, check its digest, and bring it to the current format version.

    Raises
    ------
    InputError
        When there is none: the folder is not a reference.
    FormatError
        When it is damaged, or of a newer format version.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{root} is not a reference: it has no {path.relative_to(root)}.") from error
    except IsADirectoryError as error:
        raise FormatError(f"Reference {root}: {path.relative_to(root)} is a folder; run mst verify.") from error
    try:
        values = json.loads(data)
        if values["format"] != FORMAT:
            raise FormatError(f"{root} is not a reference: its manifest says {values['format']!r}.")
        found = int(values["format_version"])
        exact = found != FORMAT_VERSION or data == _text(values)
        digest = values.pop("digest")
        if not exact or digest != hashlib.sha256(canonical_json(values).encode()).hexdigest():
            raise FormatError(f"Reference {root}: {path.relative_to(root)} is damaged; run mst verify --repair.")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"Reference {root}: {path.relative_to(root)} is damaged; run mst verify --repair.") from error
    if found > FORMAT_VERSION:
        raise FormatError(
            f"Reference {root} has format version {found}, this program reads up to {FORMAT_VERSION}; update mclstexp."
        )
    for version in range(found, FORMAT_VERSION):
        values = MIGRATIONS[version](values)
    try:
        return Manifest.from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"Reference {root}: {path.relative_to(root)} lacks or garbles a field ({error}); run mst verify --repair."
        ) from error


def history_path(root: Path, version: int) -> Path:
    """Path of a commit's record."""
    return root / HISTORY / f"{version:08d}.json"


def commit_manifest(root: Path, manifest: Manifest) -> None:
    """Write the commit's record, then the manifest: the second replace is the one moment of the commit."""
    data = manifest.to_bytes()
    write_atomic(history_path(root, manifest.version), data)
    write_atomic(root / MANIFEST, data)


def model_folder(root: Path, identity: ReferenceIdentity) -> Path:
    """Folder for a copy of the model that an identity stands for."""
    return root / MODELS / identity.model_digest[:20]

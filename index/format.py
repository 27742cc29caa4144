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

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.errors import FormatError, InputError, MismatchError
from mclstexp.index.files import canonical_json, write_atomic
from mclstexp.types import FloatArray, GenePanel, SpotTable

FORMAT = "mclstexp-reference"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
HISTORY = "history"
INDEX = "index"
CACHE = "cache"
MODELS = "models"
TABLE_FOLDER = re.compile(r"(spots|slides)(-\d+)?\.lance")

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of row ids, ascending and apart."""


@dataclass(frozen=True, eq=False)
class ReferenceIdentity:
    """What a model and a reference must agree on.

    Attributes
    ----------
    model_digest
        Hash of the model's weights and configuration.
    embed_dim
        Length of an embedding.
    panel
        The model's gene panel.
    settings
        Plain JSON values: patch spec, spot context rule, normalisation, key mix and whatever else makes embeddings.
    """

    model_digest: str
    embed_dim: int
    panel: GenePanel
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model_digest": self.model_digest,
            "embed_dim": self.embed_dim,
            "panel": {"digest": self.panel.digest, "symbols": self.panel.symbols, "ensembl": self.panel.ensembl},
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ReferenceIdentity:
        """Rebuild from plain JSON values."""
        panel = GenePanel(tuple(values["panel"]["symbols"]), tuple(values["panel"]["ensembl"]))
        if panel.digest != values["panel"]["digest"]:
            raise FormatError("The manifest's gene panel does not match its digest; run mst verify.")
        return cls(values["model_digest"], int(values["embed_dim"]), panel, dict(values["settings"]))

    def differences(self, other: ReferenceIdentity) -> list[tuple[str, str, str]]:
        """Name, own value and other value of all that differs; the model comes last, as it hides the others."""
        found = []
        if self.embed_dim != other.embed_dim:
            found.append(("embedding length", str(self.embed_dim), str(other.embed_dim)))
        if self.panel != other.panel:
            found.append(("gene panel", _panel_name(self.panel), _panel_name(other.panel)))
        ours, theirs = (json.loads(canonical_json(side.settings)) for side in (self, other))
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                found.append((key.replace("_", " "), canonical_json(ours.get(key)), canonical_json(theirs.get(key))))
        if self.model_digest != other.model_digest:
            found.append(("model", self.model_digest[:12], other.model_digest[:12]))
        return found

    def check(self, other: ReferenceIdentity, root: Path) -> None:
        """Refuse another model, panel, patch spec or spot context than the reference's.

        Raises
        ------
        MismatchError
            With the name of what differs, both values, and what helps.
        """
        found = self.differences(other)
        if not found:
            return
        name, ours, theirs = found[0]
        more = f" ({len(found) - 1} more differ: {', '.join(item[0] for item in found[1:])})" if found[1:] else ""
        raise MismatchError(
            f"Reference {root} was built with {name} {ours}, but this model has {theirs}{more}; "
            "use the reference's model, or build a reference of this one with mst build-index."
        )


def _panel_name(panel: GenePanel) -> str:
    return f"{panel.digest[:12]} ({len(panel)} genes)"


@dataclass(frozen=True, eq=False)
class SlideRecord:
    """What one slide brings to a reference.

    Attributes
    ----------
    content_hash
        Hash of counts, coordinates, genes and image (`content_hash`).
    sources
        Path to SHA-256 of every file that the slide was read from.
    image_path
        Path of the image, or None.
    mpp, mpp_source
        Pixel size in um and where it came from, or None.
    spot_context
        Text of the rule by which a spot's neighbours enter its embedding.
    spot_ids, xy_px, array_row, array_col, labels
        As in `SpotTable`.
    embedding
        ``(n, d)`` float32 of unit length: the key that queries meet.
    image_embedding
        ``(n, d)`` float32 of unit length of the spots' own patches, or None where there is no image.
    counts
        ``(n, len(genes))`` CSR of raw counts of every measured gene.
    """

    slide_id: str
    patient: str
    cohort: str
    content_hash: str
    spot_ids: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    array_row: NDArray[np.int64]
    array_col: NDArray[np.int64]
    embedding: FloatArray
    counts: sparse.csr_matrix
    genes: GenePanel
    image_embedding: FloatArray | None = None
    labels: NDArray[np.str_] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    image_path: str | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    spot_context: str = ""

    def __post_init__(self) -> None:
        if not self.slide_id or not self.content_hash:
            raise InputError("A reference slide needs a name and a content hash.")
        spots = SpotTable(
            self.spot_ids, self.xy_px, self.array_row, self.array_col, self.counts, self.genes, self.labels
        )
        for name in ("spot_ids", "xy_px", "array_row", "array_col"):
            object.__setattr__(self, name, getattr(spots, name))
        counts = sparse.csr_matrix(self.counts, copy=True)
        counts.sum_duplicates()
        counts.eliminate_zeros()
        object.__setattr__(self, "counts", counts)
        if not len(spots):
            raise InputError(f"Slide {self.slide_id} has no spots.")
        if counts.nnz and counts.data.max() >= 2**32:
            raise InputError(f"Slide {self.slide_id} has a count of {counts.data.max():g}; the largest is {2**32 - 1}.")
        for name in ("embedding", "image_embedding"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, unit_rows(values, f"Slide {self.slide_id}: {name}", len(spots)))

    def __len__(self) -> int:
        return len(self.spot_ids)


def unit_rows(values: FloatArray, what: str, n: int | None = None) -> FloatArray:
    """Return embeddings as contiguous ``(n, d)`` float32.

    Raises
    ------
    InputError
        When the shape is wrong, a value is not finite, or a row is not of unit length within 1e-3.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 2 or (n is not None and len(array) != n):
        raise InputError(f"{what} has shape {array.shape}, expected ({n if n is not None else 'n'}, embed_dim).")
    norms = np.linalg.norm(array, axis=1)
    bad = int((~(np.abs(norms - 1) < 1e-3)).sum())
    if bad:
        raise InputError(f"{what}: {bad} of {len(array)} rows are not finite or not of unit length.")
    return array


def content_hash(spots: SpotTable, image_sha256: str | None = None) -> str:
    """Hash a slide's content: spot ids, coordinates, genes, counts and image; not its name or place.

    The order of the spots and of the genes does not matter.
    """
    if spots.counts is None or spots.genes is None:
        raise InputError("The content hash of a reference slide needs counts.")
    rows = np.argsort(spots.spot_ids, kind="stable")
    symbols = np.asarray(spots.genes.symbols)
    columns = np.argsort(symbols, kind="stable")
    counts = sparse.csr_matrix(spots.counts[rows][:, columns])
    counts.sum_duplicates()
    counts.eliminate_zeros()
    digest = hashlib.sha256()
    for part in (
        "\n".join(spots.spot_ids[rows].tolist()).encode(),
        "\n".join(symbols[columns].tolist()).encode(),
        spots.xy_px[rows].astype("<f8").tobytes(),
        counts.indptr.astype("<i8").tobytes(),
        counts.indices.astype("<i8").tobytes(),
        counts.data.astype("<i8").tobytes(),
        (image_sha256 or "").encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Segment:
    """An immutable part of the search index: the keys of some rows, and an inverted file over them where it pays.

    ``keys`` is a ``(n, d)`` little-endian float32 ``.npy`` whose rows are the row ids of ``ranges`` in order.
    """

    keys: str
    keys_sha256: str
    ranges: Ranges
    ivf: str | None = None
    ivf_sha256: str | None = None
    kind: str = "flat"
    nprobe: int = 0
    recall: float | None = None
    recall_k: int | None = None
    trained_on: int = 0

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def files(self) -> dict[str, str]:
        """Path (below the reference) to SHA-256."""
        files = {self.keys: self.keys_sha256}
        if self.ivf is not None and self.ivf_sha256 is not None:
            files[self.ivf] = self.ivf_sha256
        return files

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Segment:
        """Rebuild from plain JSON values."""
        return cls(**{**values, "ranges": tuple((int(a), int(b)) for a, b in values["ranges"])})


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


def merge_ranges(ranges: list[tuple[int, int]]) -> Ranges:
    """Sort ranges and join those that touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif stop > start:
            merged.append((start, stop))
    return tuple(merged)

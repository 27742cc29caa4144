"""The two Lance tables: schemas, and the few operations on them. The only importer of lance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.ranges import Ranges
from mclstexp.index.store.counts import encode_counts, width_for
from mclstexp.index.store.manifest import TableVersion
from mclstexp.index.store.record import SlideRecord
from mclstexp.panel import GenePanel
from mclstexp.storage import sha256_file, storage_errors
from mclstexp.types import FloatArray

T = TypeVar("T")
_UNREADABLE = (OSError, RuntimeError, ValueError, pa.ArrowException)
SPOTS = "spots"
SLIDES = "slides"
BATCH_ROWS = 4096
_ZSTD = {b"lance-encoding:compression": b"zstd"}


def spots_schema(dim: int) -> pa.Schema:
    """Return the schema of the table with a row a spot."""
    vector = pa.list_(pa.float32(), dim)
    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("slide_id", pa.string(), nullable=False),
            pa.field("patient", pa.string(), nullable=False),
            pa.field("cohort", pa.string(), nullable=False),
            pa.field("spot_id", pa.string(), nullable=False),
            pa.field("array_row", pa.int64(), nullable=False),
            pa.field("array_col", pa.int64(), nullable=False),
            pa.field("x_px", pa.float64(), nullable=False),
            pa.field("y_px", pa.float64(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("total_counts", pa.int64(), nullable=False),
            pa.field("panel_counts", pa.int64(), nullable=False),
            pa.field("embedding", vector, nullable=False),
            pa.field("image_embedding", vector),
            pa.field("count_genes", pa.large_binary(), nullable=False, metadata=_ZSTD),
            pa.field("count_values", pa.large_binary(), nullable=False, metadata=_ZSTD),
        ]
    )


SLIDES_SCHEMA = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("cohort", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("row_start", pa.int64(), nullable=False),
        pa.field("n_spots", pa.int64(), nullable=False),
        pa.field("n_genes", pa.int64(), nullable=False),
        pa.field("genes_digest", pa.string(), nullable=False),
        pa.field("gene_width", pa.string(), nullable=False),
        pa.field("value_width", pa.string(), nullable=False),
        pa.field("total_counts", pa.int64(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("has_image", pa.bool_(), nullable=False),
        pa.field("image_path", pa.string()),
        pa.field("mpp", pa.float64()),
        pa.field("mpp_source", pa.string()),
        pa.field("spot_context", pa.string(), nullable=False),
        pa.field("sources", pa.string(), nullable=False),
        pa.field("added", pa.string(), nullable=False),
        pa.field("added_version", pa.int64(), nullable=False),
        pa.field("genes", pa.large_string(), nullable=False, metadata=_ZSTD),
        pa.field("ensembl", pa.large_string(), nullable=False, metadata=_ZSTD),
    ]
)
SLIDE_COLUMNS = [name for name in SLIDES_SCHEMA.names if name not in ("genes", "ensembl")]
FILTER_COLUMNS = [name for name in spots_schema(1).names if not name.startswith(("count_", "embedding", "image_"))]


@dataclass(frozen=True)
class SlideEntry:
    """A slide of the reference: its row of the table `slides`, without the gene names."""

    slide_id: str
    patient: str
    cohort: str
    content_hash: str
    row_start: int
    n_spots: int
    n_genes: int
    genes_digest: str
    gene_width: str
    value_width: str
    total_counts: int
    n_bytes: int
    has_image: bool
    image_path: str | None
    mpp: float | None
    mpp_source: str | None
    spot_context: str
    sources: str
    added: str
    added_version: int

    @property
    def rows(self) -> tuple[int, int]:
        """Half-open range of the slide's row ids."""
        return self.row_start, self.row_start + self.n_spots

    @cached_property
    def source_hashes(self) -> dict[str, str]:
        """Path to SHA-256 of the files that the slide was read from."""
        return dict(json.loads(self.sources))


def describe(record: SlideRecord, row_start: int, *, added: str, version: int, n_bytes: int) -> SlideEntry:
    """Return the slide's entry."""
    largest = int(record.counts.data.max()) if record.counts.nnz else 0
    return SlideEntry(
        slide_id=record.slide_id,
        patient=record.patient,
        cohort=record.cohort,
        content_hash=record.content_hash,
        row_start=row_start,
        n_spots=len(record),
        n_genes=len(record.genes),
        genes_digest=record.genes.digest,
        gene_width=width_for(max(len(record.genes) - 1, 0)),
        value_width=width_for(largest),
        total_counts=int(record.counts.data.sum(dtype=np.float64)),
        n_bytes=n_bytes,
        has_image=record.image_embedding is not None,
        image_path=record.image_path,
        mpp=record.mpp,
        mpp_source=record.mpp_source,
        spot_context=record.spot_context,
        sources=json.dumps(record.sources, sort_keys=True),
        added=added,
        added_version=version,
    )


def spot_batch(record: SlideRecord, row_start: int, panel: GenePanel) -> pa.RecordBatch:
    """Return the slide's spots as one record batch of `spots_schema`."""
    n, dim = record.embedding.shape
    schema = spots_schema(dim)
    largest = int(record.counts.data.max()) if record.counts.nnz else 0
    genes, values = encode_counts(record.counts, width_for(max(len(record.genes) - 1, 0)), width_for(largest))
    position = record.genes.position
    in_panel = np.zeros(len(record.genes), dtype=np.float64)
    in_panel[[position[symbol] for symbol in panel.symbols if symbol in position]] = 1
    counts = record.counts.astype(np.float64)
    image = record.image_embedding
    columns: dict[str, Any] = {
        "row_id": np.arange(row_start, row_start + n, dtype=np.int64),
        "slide_id": [record.slide_id] * n,
        "patient": [record.patient] * n,
        "cohort": [record.cohort] * n,
        "spot_id": record.spot_ids.tolist(),
        "array_row": record.array_row,
        "array_col": record.array_col,
        "x_px": record.xy_px[:, 0],
        "y_px": record.xy_px[:, 1],
        "label": [None] * n if record.labels is None else [str(value) for value in record.labels],
        "total_counts": np.asarray(counts.sum(axis=1)).ravel().astype(np.int64),
        "panel_counts": np.asarray(counts @ in_panel).ravel().astype(np.int64),
        "embedding": _vectors(record.embedding),
        "image_embedding": pa.nulls(n, pa.list_(pa.float32(), dim)) if image is None else _vectors(image),
        "count_genes": genes,
        "count_values": values,
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _vectors(values: FloatArray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def slides_table(entries: Sequence[SlideEntry], panels: dict[str, GenePanel]) -> pa.Table:
    """Return rows of the table `slides`; ``panels`` maps a digest to its genes."""
    rows = [
        {
            **{name: getattr(entry, name) for name in SLIDE_COLUMNS},
            "genes": "\n".join(panels[entry.genes_digest].symbols),
            "ensembl": "\n".join(panels[entry.genes_digest].ensembl),
        }
        for entry in entries
    ]
    return pa.Table.from_pylist(rows, schema=SLIDES_SCHEMA)


def matrix(column: pa.ChunkedArray, dim: int) -> FloatArray:
    """Return a column of vectors as ``(n, dim)`` float32; null becomes NaN."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = []
    for chunk in chunks:
        inner = chunk.values.slice(chunk.offset * dim, len(chunk) * dim)
        values = np.asarray(inner, dtype=np.float32).reshape(-1, dim)
        if chunk.null_count:
            values = np.where(np.asarray(chunk.is_null())[:, None], np.float32(np.nan), values)
        parts.append(values)
    return np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)


class LanceTable:
    """One version of a Lance table below a reference."""

    def __init__(self, root: Path, table: TableVersion) -> None:
        self.root = root
        self.table = table

    @cached_property
    def dataset(self) -> Any:
        """The dataset at its version."""
        import lance

        path = self.root / self.table.path
        self._check_version()
        try:
            return lance.dataset(str(path), version=self.table.version)
        except (ValueError, OSError, RuntimeError) as error:
            raise FormatError(
                f"Reference {self.root}: table {self.table.path} has no readable version {self.table.version}; "
                "run mst verify."
            ) from error

    def _check_version(self) -> None:
        file = listed_versions(self.root, self.table.path).get(self.table.version)
        if self.table.sha256 and (file is None or sha256_file(file) != self.table.sha256):
            raise FormatError(
                f"Reference {self.root}: version {self.table.version} of table {self.table.path} is missing or "
                "damaged; run mst verify."
            )

    def read(self, call: Callable[[Any], T]) -> T:
        """Run a read on the dataset; what Lance cannot read is reported as damage."""
        dataset = self.dataset
        try:
            return call(dataset)
        except BaseException as error:
            # What Lance's Rust code gave up on arrives as a BaseException of a type that cannot be imported.
            if not isinstance(error, _UNREADABLE) and type(error).__name__ != "PanicException":
                raise
            reason = (str(error).splitlines() or ["?"])[0][:200]
            raise FormatError(
                f"Reference {self.root}: table {self.table.path} cannot be read ({reason}); run mst verify."
            ) from error

    def take(self, offsets: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Read the rows at ascending, different offsets."""
        if not len(offsets):
            return self.read(lambda ds: ds.scanner(columns=list(columns), limit=0).to_table())
        if len(offsets) == int(offsets[-1] - offsets[0]) + 1:
            first, n = int(offsets[0]), len(offsets)
            return self.read(lambda ds: ds.to_table(columns=list(columns), offset=first, limit=n))
        return self.read(lambda ds: ds.take(offsets.tolist(), columns=list(columns)))

    def batches(self, columns: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Read the whole table in order."""
        columns = list(columns)
        found = self.read(lambda ds: ds.to_batches(columns=columns, batch_size=batch_rows, scan_in_order=True))
        while (batch := self.read(lambda _: next(found, None))) is not None:
            yield batch

    def where(self, condition: str) -> NDArray[np.int64]:
        """Row ids of the rows that meet an SQL condition.

        Raises
        ------
        InputError
            When the condition cannot be understood.
        """
        try:
            found = self.dataset.to_table(columns=["row_id"], filter=condition)
        except BaseException as error:
            if not isinstance(error, _UNREADABLE) and type(error).__name__ != "PanicException":
                raise
            reason = (str(error).splitlines() or ["?"])[0].split(", /")[0][:200]
            raise InputError(
                f"Condition {condition!r} cannot be used: {reason}; columns: {', '.join(FILTER_COLUMNS)}."
            ) from error
        return np.asarray(found["row_id"], dtype=np.int64)


def create_table(root: Path, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> TableVersion:
    """Write a new Lance table in one commit."""
    return _write(root, path, schema, batches, "create")


def append(root: Path, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> TableVersion:
    """Append rows in one Lance commit."""
    return _write(root, path, schema, batches, "append")


def _write(root: Path, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], mode: str) -> TableVersion:
    import lance

    failure: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        # Lance reports what a Python iterator raises as text; keep the error itself.
        try:
            yield from batches
        except BaseException as error:
            failure.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(schema, guarded())
    options = {"enable_stable_row_ids": True} if mode == "create" else {}
    try:
        with storage_errors(f"Reference {root}"):
            dataset = lance.write_dataset(reader, str(root / path), mode=mode, max_bytes_per_file=2**33, **options)
    except Exception:
        if failure:
            raise failure[0] from None
        raise
    return table_version(root, path, int(dataset.version))


def delete_rows(root: Path, table: TableVersion, condition: str) -> TableVersion:
    """Delete rows in one Lance commit."""
    with storage_errors(f"Reference {root}"):
        dataset = LanceTable(root, table).dataset
        dataset.delete(condition)
        return table_version(root, table.path, int(dataset.version))


def listed_versions(root: Path, path: str) -> dict[int, Path]:
    """Versions of a Lance table and their files, committed by a manifest or not.

    Lance names them by 2^64 - 1 - version in twenty digits, so that a listing begins with the newest.
    """
    found = {}
    for file in (root / path / "_versions").glob("*.manifest"):
        if file.stem.isdigit():
            number = int(file.stem)
            found[2**64 - 1 - number if len(file.stem) == 20 else number] = file
    return found


def latest_version(root: Path, path: str) -> int:
    """Return the newest version of a Lance table, committed by a manifest or not; 0 when there is none."""
    return max(listed_versions(root, path), default=0)


def table_version(root: Path, path: str, version: int) -> TableVersion:
    """Return a version with the hash of its file."""
    return TableVersion(path, version, sha256_file(listed_versions(root, path)[version]))


def hinted_version(hint: Path) -> int | None:
    """Return the version that Lance's pointer names; None when it cannot be read."""
    try:
        return int(json.loads(hint.read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def restore(root: Path, table: TableVersion) -> TableVersion:
    """Make an earlier version the newest, as a version of its own."""
    import lance

    with storage_errors(f"Reference {root}"):
        lance.dataset(str(root / table.path), version=table.version).restore()
        return table_version(root, table.path, latest_version(root, table.path))


def compact(root: Path, table: TableVersion, target_rows: int) -> TableVersion:
    """Join small fragments and drop deleted rows for good."""
    with storage_errors(f"Reference {root}"):
        dataset = LanceTable(root, table).dataset
        dataset.optimize.compact_files(target_rows_per_fragment=target_rows, num_threads=1)
        return table_version(root, table.path, latest_version(root, table.path))


def range_condition(ranges: Ranges) -> str:
    """Return the SQL condition that selects row ids in ranges."""
    return " OR ".join(f"(row_id >= {start} AND row_id < {stop})" for start, stop in ranges)

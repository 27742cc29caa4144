"""The columns of the table `spots`: what belongs to a spot, and what belongs to its slide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from mclstexp.index.store.counts import encode_counts, width_for
from mclstexp.index.store.genes import genes_digest
from mclstexp.index.store.record import SlideRecord
from mclstexp.panel import GenePanel
from mclstexp.types import FloatArray

BATCH_ROWS = 4096
_ZSTD = {b"lance-encoding:compression": b"zstd"}

_OF_SLIDE = [
    pa.field("n_spots", pa.int64(), nullable=False),
    pa.field("content_hash", pa.string(), nullable=False),
    pa.field("n_genes", pa.int64(), nullable=False),
    pa.field("genes_digest", pa.string(), nullable=False),
    pa.field("gene_width", pa.string(), nullable=False),
    pa.field("value_width", pa.string(), nullable=False),
    pa.field("n_bytes", pa.int64(), nullable=False),
    pa.field("has_image", pa.bool_(), nullable=False),
    pa.field("image_path", pa.string()),
    pa.field("image_sha256", pa.string()),
    pa.field("mpp", pa.float64()),
    pa.field("mpp_source", pa.string()),
    pa.field("spot_context", pa.string(), nullable=False),
    pa.field("sources", pa.string(), nullable=False),
    pa.field("added", pa.string(), nullable=False),
]
_NAMES = [pa.field(name, pa.string(), nullable=False) for name in ("slide_id", "patient", "cohort")]
SLIDE_COLUMNS = [field.name for field in (*_NAMES, *_OF_SLIDE)]
"""Columns that are the same in every row of a slide; compressed they take less than a byte a spot."""


def spots_schema(dim: int, metadata: Mapping[bytes, bytes] | None = None) -> pa.Schema:
    """Return the schema of the table for embeddings of length ``dim``.

    ``embedding`` is the only column of vectors, so that LanceDB's search need not be told which to take.
    """
    return pa.schema(
        [
            *_NAMES,
            pa.field("spot_id", pa.string(), nullable=False),
            pa.field("array_row", pa.int64(), nullable=False),
            pa.field("array_col", pa.int64(), nullable=False),
            pa.field("x_px", pa.float64(), nullable=False),
            pa.field("y_px", pa.float64(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("total_counts", pa.int64(), nullable=False),
            pa.field("panel_counts", pa.int64(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("image_embedding", pa.binary(4 * dim)),
            pa.field("count_genes", pa.large_binary(), nullable=False, metadata=_ZSTD),
            pa.field("count_values", pa.large_binary(), nullable=False, metadata=_ZSTD),
            *_OF_SLIDE,
        ],
        metadata=dict(metadata or {}),
    )


FILTER_COLUMNS = [
    field.name for field in spots_schema(1) if not field.name.startswith(("count_", "embedding", "image_e"))
]


@dataclass(frozen=True)
class SlideEntry:
    """A slide of the reference: what its rows say of it, and where they are.

    Attributes
    ----------
    row_start, n_spots
        The ids of the slide's spots are ``row_start`` to ``row_start + n_spots - 1``, in the slide's own order.
    added, added_version
        Time and version of the commit that brought the slide.
    total_counts
        Sum of all its counts.
    n_bytes
        Size of its rows before compression.
    """

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
    image_sha256: str | None
    mpp: float | None
    mpp_source: str | None
    spot_context: str
    sources: str
    added: str
    added_version: int

    @property
    def rows(self) -> tuple[int, int]:
        """Half-open range of the ids of the slide's spots."""
        return self.row_start, self.row_start + self.n_spots

    @property
    def content(self) -> tuple[str, str, str]:
        """What two slides of one name must share to be the same."""
        return self.content_hash, self.patient, self.cohort

    @cached_property
    def source_hashes(self) -> dict[str, str]:
        """Path to SHA-256 of the files that the slide was read from."""
        return dict(json.loads(self.sources))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def spot_batch(record: SlideRecord, panel: GenePanel, added: str) -> pa.RecordBatch:
    """Return a slide's rows as one record batch of `spots_schema`."""
    n, dim = record.embedding.shape
    largest = int(record.counts.data.max()) if record.counts.nnz else 0
    gene_width, value_width = width_for(max(len(record.genes) - 1, 0)), width_for(largest)
    genes, values = encode_counts(record.counts, gene_width, value_width)
    position = record.genes.position
    in_panel = np.zeros(len(record.genes), dtype=np.float64)
    in_panel[[position[symbol] for symbol in panel.symbols if symbol in position]] = 1
    counts = record.counts.astype(np.float64)
    image = record.image_embedding
    columns: dict[str, Any] = {
        "spot_id": record.spot_ids.tolist(),
        "array_row": record.array_row,
        "array_col": record.array_col,
        "x_px": record.xy_px[:, 0],
        "y_px": record.xy_px[:, 1],
        "label": [None] * n if record.labels is None else [str(value) for value in record.labels],
        "total_counts": np.asarray(counts.sum(axis=1)).ravel().astype(np.int64),
        "panel_counts": np.asarray(counts @ in_panel).ravel().astype(np.int64),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(record.embedding.ravel()), dim),
        "image_embedding": pa.nulls(n, pa.binary(4 * dim)) if image is None else _binary(image),
        "count_genes": genes,
        "count_values": values,
    }
    schema = spots_schema(dim)
    own = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    of_slide = {
        **{name: getattr(record, name) for name in ("slide_id", "patient", "cohort", "content_hash")},
        **{name: getattr(record, name) for name in ("image_path", "mpp", "mpp_source", "spot_context")},
        "n_spots": n,
        "n_genes": len(record.genes),
        "genes_digest": genes_digest(record.genes),
        "gene_width": gene_width,
        "value_width": value_width,
        "n_bytes": sum(array.nbytes for array in own.values()),
        "has_image": image is not None,
        "image_sha256": record.sources.get(record.image_path or ""),
        "sources": json.dumps(record.sources, sort_keys=True),
        "added": added,
    }
    same = {name: pa.repeat(pa.scalar(value, schema.field(name).type), n) for name, value in of_slide.items()}
    return pa.RecordBatch.from_arrays([{**own, **same}[field.name] for field in schema], schema=schema)


def _binary(values: FloatArray) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * values.shape[1]), len(values), [None, data])


def matrix(column: pa.ChunkedArray | pa.Array, dim: int) -> FloatArray:
    """Return a column of embeddings, vectors or bytes, as ``(n, dim)`` float32; null becomes NaN."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_chunk(chunk, dim) for chunk in chunks]
    return np.concatenate(parts) if parts else np.zeros((0, dim), np.float32)


def _chunk(chunk: pa.Array, dim: int) -> FloatArray:
    if isinstance(chunk, pa.FixedSizeListArray):
        values = np.asarray(chunk.values.slice(chunk.offset * dim, len(chunk) * dim), dtype=np.float32)
    else:
        data = chunk.buffers()[1]
        if data is None:
            return np.full((len(chunk), dim), np.nan, np.float32)
        values = np.frombuffer(data, "<f4", len(chunk) * dim, chunk.offset * dim * 4)
    values = values.reshape(-1, dim)
    if chunk.null_count:
        values = np.where(np.asarray(chunk.is_null())[:, None], np.float32(np.nan), values)
    return values

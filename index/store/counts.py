"""How a spot's raw counts lie in the table: two byte strings, little-endian, that zstd compresses well.

``count_genes`` holds the ascending columns (into the slide's measured genes) of the non-zero counts, each as the
difference to the one before; ``count_values`` holds the counts. The widths belong to the slide.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.errors import FormatError

WIDTHS = ("u1", "u2", "u4")


def width_for(largest: int) -> str:
    """Return the narrowest unsigned type that holds a value."""
    return next(width for width in WIDTHS if largest <= np.iinfo(width).max)


def encode_counts(counts: sparse.csr_matrix, gene_width: str, value_width: str) -> tuple[pa.Array, pa.Array]:
    """Encode ``(n, n_genes)`` canonical CSR counts as two large-binary columns of n values."""
    indptr = counts.indptr.astype(np.int64)
    steps = np.diff(counts.indices.astype(np.int64), prepend=0)
    starts = indptr[:-1][np.diff(indptr) > 0]
    steps[starts] = counts.indices[starts]
    return _binary(steps, indptr, gene_width), _binary(counts.data, indptr, value_width)


def _binary(values: NDArray[np.generic], indptr: NDArray[np.int64], width: str) -> pa.Array:
    offsets = indptr * np.dtype(width).itemsize
    data = values.astype(f"<{width}").tobytes()
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(indptr) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def decode_counts(
    genes: pa.ChunkedArray, values: pa.ChunkedArray, widths: tuple[str, str], n_genes: int
) -> sparse.csr_matrix:
    """Decode the two columns into ``(n, n_genes)`` float32 CSR counts.

    Raises
    ------
    FormatError
        When the bytes contradict each other or the number of genes.
    """
    steps, indptr = _numbers(genes, widths[0])
    data, indptr_values = _numbers(values, widths[1])
    if not np.array_equal(indptr, indptr_values):
        raise FormatError("The stored counts are damaged: genes and values differ in number; run mst verify.")
    running = np.cumsum(steps, dtype=np.int64)
    before = np.concatenate([[0], running])[indptr[:-1]]
    columns = running - np.repeat(before, np.diff(indptr))
    if len(columns) and columns.max() >= n_genes:
        raise FormatError("The stored counts are damaged: a gene is out of range; run mst verify.")
    parts = (data.astype(np.float32), columns.astype(np.int32), indptr)
    return sparse.csr_matrix(parts, shape=(len(indptr) - 1, n_genes))


def _numbers(column: pa.ChunkedArray, width: str) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.large_binary())
    itemsize = np.dtype(width).itemsize
    _, offset_buffer, data_buffer = array.buffers()
    if not len(array):
        return np.zeros(0, f"<{width}"), np.zeros(1, np.int64)
    offsets = np.frombuffer(offset_buffer, np.int64, len(array) + 1, 8 * array.offset)
    start, stop = int(offsets[0]), int(offsets[-1])
    if (stop - start) % itemsize or np.any((offsets - start) % itemsize):
        raise FormatError("The stored counts are damaged: a broken number; run mst verify.")
    count = (stop - start) // itemsize
    data = np.frombuffer(data_buffer, f"<{width}", count, start) if count else np.zeros(0, f"<{width}")
    return data, (offsets - start) // itemsize

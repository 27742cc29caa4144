"""MatrixMarket files, as 10x writes them: read in Python, because SciPy's reader ends the process on damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from scipy import sparse

from mclstexp.data.readers.damage import reading
from mclstexp.data.tables import open_binary
from mclstexp.errors import InputError

_LINE_BYTES = 4096
"""No line of a header is longer."""


def read_mtx(path: Path, shape: tuple[int, int]) -> sparse.csc_matrix:
    """Read ``matrix.mtx`` (also gzipped): whole, and of the size that the names beside it have.

    Parameters
    ----------
    path
        The file.
    shape
        How many features and barcodes the files beside it name.

    Returns
    -------
    ``shape`` CSC float32; entries that occur twice are summed.

    Raises
    ------
    InputError
        When it is no MatrixMarket file of coordinates, of another size, or damaged.
    """
    import pandas as pd

    with reading(path), open_binary(path) as file:
        rows, columns, n = _header(file, path)
        if (rows, columns) != shape:
            raise other_size(path, (rows, columns), shape)
        if n > rows * columns:
            raise _damaged(path, f"its header says {n} entries in a matrix of {rows} x {columns}")
        if n == 0:
            return sparse.csc_matrix(shape, dtype=np.float32)
        kinds = {"row": np.int64, "column": np.int64, "value": np.float64}
        body = pd.read_csv(file, sep=r"\s+", header=None, names=list(kinds), dtype=kinds, comment="%", engine="c")
        if len(body) != n:
            raise _damaged(path, f"its header says {n} entries, and it has {len(body)}")
        if not isinstance(body.index, pd.RangeIndex) or body["value"].isna().any():
            raise _damaged(path, "not every line has a row, a column and a value")
        row, column = body["row"].to_numpy() - 1, body["column"].to_numpy() - 1
        if min(row.min(), column.min()) < 0 or row.max() >= rows or column.max() >= columns:
            raise _damaged(path, f"it has entries outside its {rows} x {columns}")
        return sparse.csc_matrix((body["value"].to_numpy(dtype=np.float32), (row, column)), shape=shape)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged: {why}; copy it again.")


def other_size(path: Path, shape: tuple[int, ...], named: tuple[int, int]) -> InputError:
    """Return the error for a matrix that does not fit its names."""
    return InputError(
        f"{path} holds a matrix of {shape}, but {named[0]} features and {named[1]} barcodes are named beside it; copy "
        "all three again."
    )


def _header(file: IO[bytes], path: Path) -> tuple[int, int, int]:
    """Rows, columns and entries; the file is left at the first entry."""
    banner = file.readline(_LINE_BYTES).decode("latin-1").lower().split()
    if banner[:3] != ["%%matrixmarket", "matrix", "coordinate"] or banner[4:] != ["general"]:
        raise _damaged(path, "it is no MatrixMarket file, or its first line is not that of a sparse matrix")
    if banner[3] not in ("integer", "real"):
        raise InputError(f"{path} holds {banner[3]} values; counts are needed.")
    line = b"%"
    while line.startswith(b"%") or (line and not line.strip()):
        line = file.readline(_LINE_BYTES)
    cells = line.split()
    if len(cells) != 3 or not all(cell.isdigit() and len(cell) < 16 for cell in cells):
        raise _damaged(path, "its header has no line of rows, columns and entries")
    rows, columns, n = (int(cell) for cell in cells)
    return rows, columns, n

"""Positions as Parquet: up to millions of bins, so typed columns and no text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mclstexp.data.paths import require_file
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.positions.lattice import VISIUM_PITCH_UM
from mclstexp.errors import InputError
from mclstexp.text import some

_ROW, _COLUMN, _Y, _X = "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"
_COLUMNS = ("barcode", "in_tissue", _ROW, _COLUMN, _Y, _X)

_BIN = re.compile(r"s_(\d{3})um_")
"""How Space Ranger names a bin: ``s_016um_00012_00034-1``."""


def parse_bins(path: Path) -> Coordinates:
    """Read ``tissue_positions.parquet``, those under tissue alone.

    Parameters
    ----------
    path
        Columns barcode, in_tissue, array_row, array_col, pxl_row_in_fullres, pxl_col_in_fullres, as Space Ranger writes
        them (10x: Space Ranger outputs, spatial outputs).

    Raises
    ------
    InputError
        When the file is damaged or no regular file, lacks a column, or has no bin under tissue.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    require_file(path, "Positions")
    try:
        names = parquet.read_schema(path).names
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r}; it has {some(map(repr, names))}.")
        table = parquet.read_table(path, columns=list(_COLUMNS))
        under = table.filter(pc.equal(table["in_tissue"].cast(pa.int64()), 1))
        if not len(under):
            raise InputError(f"{path.name} has no spots under tissue: {len(table)} rows, in_tissue 1 in none.")
        array = np.column_stack([under[name].cast(pa.int64()).to_numpy() for name in (_ROW, _COLUMN)])
        xy = np.column_stack([under[name].cast(pa.float64()).to_numpy() for name in (_X, _Y)])
        ids = np.asarray(under["barcode"].cast(pa.string()).to_numpy(), dtype=np.str_)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0].rstrip('.')}; copy it again.") from error
    size = _BIN.match(str(ids[0]))
    dropped = len(table) - len(under)
    notes = (f"{dropped} of {len(table)} spots are off the tissue and were dropped.",) if dropped else ()
    return Coordinates(ids, xy, array, pitch_um=float(size[1]) if size else VISIUM_PITCH_UM, notes=notes)

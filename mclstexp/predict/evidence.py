"""The neighbours' table of a prediction: every spot's reference spots, and the file that they lie in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mclstexp.data.anndata_file import reason
from mclstexp.data.apart.worker import opened_hdf5
from mclstexp.data.sizes import refuse_parquet_bomb
from mclstexp.errors import InputError
from mclstexp.storage import sha256_input
from mclstexp.types import StrPath

NEIGHBOUR_SCHEMA = pa.schema(
    [
        ("query_spot", pa.string()),
        ("rank", pa.int32()),
        ("row_id", pa.int64()),
        ("cohort", pa.string()),
        ("patient", pa.string()),
        ("slide", pa.string()),
        ("spot_id", pa.string()),
        ("array_row", pa.int64()),
        ("array_col", pa.int64()),
        ("x_px", pa.float64()),
        ("y_px", pa.float64()),
        ("similarity", pa.float32()),
        ("weight", pa.float32()),
        ("label", pa.string()),
    ]
)
"""Columns of the neighbours' table: a row for each query spot and neighbour, ``rank`` 1 the most similar."""

_LATER = ("label",)
"""Columns that earlier predictions lack: null in what is read of them."""

SHOWN = (
    "patient", "slide", "spot", "similarity", "weight", "label", "cohort",
    "array_row", "array_col", "x_px", "y_px", "row_id",
)  # fmt: skip


def lacking(table: pa.Table) -> list[str]:
    """Return the columns that a table of neighbours must have, and that this one has not."""
    return [name for name in NEIGHBOUR_SCHEMA.names if name not in (*table.column_names, *_LATER)]


def completed(table: pa.Table) -> pa.Table:
    """Return a table of neighbours with every column; what an earlier program did not write is null."""
    for name in _LATER:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, NEIGHBOUR_SCHEMA.field(name).type))
    return table


def neighbours_path(path: Path) -> Path:
    """Name of the neighbours' file beside a prediction: ``a.h5ad`` has ``a.neighbours.parquet``."""
    path = Path(path)
    if path.suffix != ".h5ad":
        raise InputError(f"A prediction is an .h5ad file, got {path.name!r}; give it that suffix.")
    return path.with_name(f"{path.stem}.neighbours.parquet")


def neighbours_of(prediction: StrPath, spot: str) -> pa.Table:
    """Return the neighbours that a spot's prediction was made from, the most similar first, from its files.

    Raises
    ------
    InputError
        When a file is missing or damaged, the two are not of one run, or there is no such spot.
    """
    path = Path(prediction)
    beside = neighbours_path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; mst query writes it.")
    table = read_neighbours(beside)
    check_one_run(path, beside, _stated_digest(path))
    return spot_neighbours(table, spot, beside.name)


def spot_neighbours(table: pa.Table, spot: str, name: str) -> pa.Table:
    """Return a spot's rows of a table of neighbours, by rank."""
    rows = table.filter(pc.equal(table["query_spot"], spot))
    if not rows.num_rows:
        known = pc.unique(table["query_spot"])
        examples = ", ".join(known.slice(0, 5).to_pylist())
        raise InputError(f"{name} has no spot {spot!r}; it has {len(known)} spots, for example {examples}.")
    return rows.sort_by("rank")


def _stated_digest(path: Path) -> str:
    """Read what an ``.h5ad`` says of its neighbours' file, and nothing else of it."""
    try:
        with opened_hdf5(path) as file:
            return str(file["uns/mclstexp/neighbours_sha256"].asstr()[()])
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a prediction of mst query, or is damaged ({reason(error)}); copy it."
        ) from error


def check_one_run(path: Path, beside: Path, stated: str) -> None:
    """Refuse a neighbours' file that is not of the prediction's run, by the digest that the prediction states."""
    if stated != sha256_input(beside):
        raise InputError(f"{beside.name} is not of the same run as {path.name}; repeat mst query with --force.")


def read_neighbours(path: Path) -> pa.Table:
    """Read a neighbours' file; refuse one that is missing, damaged or of another kind."""
    if not path.is_file():
        raise InputError(f"{path} is missing: it belongs beside its .h5ad; repeat mst query or copy both files.")
    try:
        refuse_parquet_bomb(path)
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({reason(error)}); copy it again.") from error
    absent = lacking(table)
    if absent:
        raise InputError(
            f"{path} is not a table of neighbours: it lacks the columns {', '.join(absent)}; copy it again."
        )
    return completed(table)

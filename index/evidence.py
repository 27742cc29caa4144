"""What the reference knows of the spots that a prediction came from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mclstexp.config import Normalisation
from mclstexp.errors import InputError, MismatchError
from mclstexp.index.source import StoreSource
from mclstexp.index.store.store import ReferenceStore
from mclstexp.types import FloatArray


def check_rows(store: ReferenceStore, neighbours: pa.Table) -> None:
    """Refuse a reference whose rows are not the spots that a prediction names.

    Raises
    ------
    MismatchError
        When a row is missing or another spot's; names it.
    """
    ids = neighbours["row_id"].to_numpy()
    positions = store.rows.positions(ids)
    there = np.flatnonzero(positions >= 0)
    found = store.spots(ids[there], ["slide_id", "spot_id"])
    named = [f"{slide} {spot}" for slide, spot in zip(*_names(neighbours, "slide"), strict=True)]
    stored = [f"{slide} {spot}" for slide, spot in zip(*_names(found, "slide_id"), strict=True)]
    wrong = [i for i, name in zip(there.tolist(), stored, strict=True) if name != named[i]]
    missing = np.flatnonzero(positions < 0).tolist()
    if not wrong and not missing:
        return
    row = (wrong or missing)[0]
    held = stored[there.tolist().index(row)] if wrong else "not there"
    raise MismatchError(
        f"Reference {store.root} (version {store.version}) is not what the prediction was made from: row {ids[row]} is "
        f"{held}, and {named[row]} in the prediction; name the right one with --reference."
    )


def _names(table: pa.Table, slide: str) -> tuple[list[str], list[str]]:
    return table[slide].to_pylist(), table["spot_id"].to_pylist()


def values_of(store: ReferenceStore, neighbours: pa.Table, gene: str, rule: Normalisation) -> FloatArray:
    """Return a gene's expression at rows of a table of neighbours.

    Returns
    -------
    ``(n,)`` float32, on the scale of ``rule``; NaN where the gene was not measured.

    Raises
    ------
    InputError, MismatchError
        When no slide measured the gene; when the rows are other spots in this reference.
    """
    check_rows(store, neighbours)
    column = store.genes.find(gene)
    if column is None:
        store.require_counts(f"Gene {gene!r}")
        near = store.genes.near(gene)
        hint = f"near: {', '.join(near)}" if near else "mst info --genes lists them"
        raise InputError(f"Gene {gene!r} is not among the {len(store.genes):,} genes of {store.root}; {hint}.")
    panel = store.genes.subset([column])
    source, ids = StoreSource(store, "cpu"), neighbours["row_id"].to_numpy()
    values = np.full(len(ids), np.nan, dtype=np.float32)
    for block in source.expression(ids[None], panel, rule) if len(ids) else ():
        values = block.values[block.rows[0], 0].astype(np.float32)
    measured = source.measured(panel)[source.slide_of(ids), 0]
    return np.where(measured, values, np.float32(np.nan))

"""LanceDB's own search: the index of the table where it has one, otherwise its comparison. Imports lancedb."""

from __future__ import annotations

from typing import Any

import numpy as np

from mclstexp.index.search.ranges import Ranges
from mclstexp.types import BoolArray, FloatArray, IdArray

MOST_RANGES = 1000
"""Ranges of ids that a filter may be written in; a filter of more pieces is left to the caller."""


def open_table(folder: str, name: str, version: int, options: dict[str, str] | None) -> Any:
    """Open one version of a table with lancedb."""
    import lancedb

    table = lancedb.connect(folder, storage_options=options).open_table(name)
    table.checkout(version)
    return table


def build_index(table: Any) -> None:
    """Build LanceDB's index over the column ``embedding`` in a commit of its own; LanceDB gives it no message."""
    from lancedb.index import IvfSq

    table.checkout_latest()
    table.create_index("embedding", config=IvfSq(distance_type="cosine"))


def ranges_of(mask: BoolArray) -> Ranges:
    """Return the ranges of ids that a mask allows."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


class LanceBackend:
    """Asks the table itself, in batches.

    Parameters
    ----------
    table
        A lancedb table at one version, with stable row ids and a column ``embedding``.
    live
        ``(n_ids,)`` truth by id: the rows of that version.
    """

    name = "lancedb"
    certain = False
    most = 2**31
    least = 0

    def __init__(self, table: Any, live: BoolArray) -> None:
        self.table = table
        self.n_live = int(live.sum())

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Return LanceDB's nearest; its distance depends on the index, so that only the ids are of use."""
        ids = np.full((len(query), k), -1, dtype=np.int64)
        similarity = np.full((len(query), k), -np.inf, dtype=np.float32)
        search = self.table.search(list(query), vector_column_name="embedding").distance_type("cosine")
        if n_allowed < self.n_live:
            ranges = ranges_of(allowed)
            if len(ranges) > MOST_RANGES:
                return ids, similarity
            condition = " OR ".join(f"(_rowid >= {start} AND _rowid < {stop})" for start, stop in ranges)
            search = search.where(condition, prefilter=True)
        nearest = search.limit(k).select(["_distance"]).with_row_id(True).to_arrow()
        number = np.zeros(len(nearest), dtype=np.int64)
        if "query_index" in nearest.column_names:
            number = np.asarray(nearest["query_index"], dtype=np.int64)
        order = np.argsort(number, kind="stable")
        place = np.arange(len(nearest)) - np.searchsorted(number[order], number[order])
        keep = place < k
        ids[number[order][keep], place[keep]] = np.asarray(nearest["_rowid"], dtype=np.int64)[order][keep]
        similarity[number[order][keep], place[keep]] = 1 - np.asarray(nearest["_distance"], np.float32)[order][keep]
        return ids, similarity

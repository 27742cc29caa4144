"""Expression of reference spots from their counts in the table, as float16."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import normalise
from mclstexp.index.store.schema import SlideEntry
from mclstexp.panel import GenePanel
from mclstexp.types import IdArray

HalfArray = NDArray[np.float16]


COPY_GB = "MST_COPY_GB"
"""Name of the environment variable with the largest size of the copy of the panel's expression."""
DEFAULT_COPY_GB = 8.0


def beyond_limit(size: int) -> str:
    """Return why a copy of so many bytes is not made, or ""; beyond the limit counts are read from the table.

    Examples
    --------
    >>> beyond_limit(10_000_000_000)
    'it would take 10.0 GB, and its limit is 8 GB; MST_COPY_GB=11 makes it'
    """
    text = os.environ.get(COPY_GB, "")
    try:
        limit = float(text) if text else DEFAULT_COPY_GB
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        return f"{COPY_GB} is {text!r}, and a number of gigabytes is needed, such as {COPY_GB}=20"
    if size <= 1e9 * limit:
        return ""
    return f"it would take {size / 1e9:.1f} GB, and its limit is {limit:g} GB; {COPY_GB}={int(size / 1e9) + 1} makes it"


@dataclass(frozen=True, eq=False)
class SlideCounts:
    """Counts of some spots of one slide.

    ``where`` says which of the asked rows these are; ``counts`` is ``(len(where), n_genes)`` float32 CSR.
    """

    entry: SlideEntry
    where: IdArray
    counts: sparse.csr_matrix
    total_counts: IdArray
    panel_counts: IdArray


@dataclass(frozen=True, eq=False)
class ExpressionRows:
    """Expression of some spots, sparse, so that any block of genes can be laid out at little cost."""

    n_rows: int
    n_genes: int
    parts: tuple[tuple[IdArray, sparse.csc_matrix], ...]

    def dense(self, start: int, stop: int) -> HalfArray:
        """Return ``(n_rows, stop - start)`` float16 of a block of genes; 0 where not measured."""
        block = np.zeros((self.n_rows, stop - start), dtype=np.float16)
        for where, values in self.parts:
            part = slice(int(values.indptr[start]), int(values.indptr[stop]))
            columns = np.repeat(np.arange(stop - start), np.diff(values.indptr[start : stop + 1]))
            block[where[values.indices[part]], columns] = values.data[part]
        return block


def read_expression(
    pieces: Iterable[SlideCounts], panels: Mapping[str, GenePanel], n_rows: int, genes: GenePanel, rule: Normalisation
) -> ExpressionRows:
    """Normalise counts and keep the given genes."""
    parts = []
    for piece in pieces:
        panel = panels[piece.entry.genes_digest]
        target = np.array([genes.position.get(symbol, -1) for symbol in panel.symbols], dtype=np.int64)
        totals = piece.panel_counts if rule.total == "panel" else piece.total_counts
        per_row = np.diff(piece.counts.indptr)
        rows = np.repeat(np.arange(len(piece.where)), per_row)
        columns = target[piece.counts.indices]
        keep = columns >= 0
        spot_totals = totals[rows[keep]].astype(np.float64)
        values = normalise(piece.counts.data[keep][:, None], spot_totals, rule)[:, 0]
        shape = (len(piece.where), len(genes))
        parts.append((piece.where, sparse.csc_matrix((values, (rows[keep], columns[keep])), shape=shape)))
    return ExpressionRows(n_rows, len(genes), tuple(parts))

"""Expression of reference spots: from the table, or from a memory-mapped float16 copy that is made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.types import FloatArray, GenePanel

if TYPE_CHECKING:
    from mclstexp.index.store import ReferenceStore

IdArray = NDArray[np.int64]


def log_normalise(counts: NDArray[np.floating], totals: NDArray[np.floating], rule: Normalisation) -> FloatArray:
    """Return ``log(1 + counts / totals * target_sum)`` as float32; 0 where a total is 0. Shapes broadcast."""
    share = np.divide(counts, totals, out=np.zeros(np.broadcast_shapes(counts.shape, totals.shape)), where=totals > 0)
    value = np.log1p(share * rule.target_sum)
    return np.asarray(value / np.log(10.0) if rule.log == "log10" else value, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class ExpressionRows:
    """Expression of some spots: CSR parts a slide, so that any block of genes can be laid out at little cost."""

    n_rows: int
    genes: GenePanel
    parts: tuple[tuple[IdArray, IdArray, NDArray[np.float16], IdArray], ...]

    def dense(self, start: int, stop: int) -> NDArray[np.float16]:
        """Return ``(n_rows, stop - start)`` float16 of a block of genes; 0 where not measured."""
        block = np.zeros((self.n_rows, stop - start), dtype=np.float16)
        for where, indptr, values, columns in self.parts:
            inside = (columns >= start) & (columns < stop)
            rows = np.repeat(where, np.diff(indptr))[inside]
            block[rows, columns[inside] - start] = values[inside]
        return block


def read_expression(store: ReferenceStore, row_ids: IdArray, genes: GenePanel, rule: Normalisation) -> ExpressionRows:
    """Read the expression of ascending, different row ids from the table, rounded to float16."""
    parts = []
    for piece in store.counts(row_ids):
        panel = store.panels[piece.entry.genes_digest]
        target = np.array([genes.position.get(symbol, -1) for symbol in panel.symbols], dtype=np.int64)
        totals = piece.panel_counts if rule.total == "panel" else piece.total_counts
        per_row = np.diff(piece.counts.indptr)
        values = log_normalise(piece.counts.data, np.repeat(totals, per_row).astype(np.float64), rule)
        columns = target[piece.counts.indices]
        keep = columns >= 0
        kept = np.concatenate([[0], np.cumsum(keep)])[piece.counts.indptr]
        parts.append((piece.where, kept, values[keep].astype(np.float16), columns[keep]))
    return ExpressionRows(len(row_ids), genes, tuple(parts))

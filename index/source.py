"""A store as the predictor sees it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.index.search.backend import Search
from mclstexp.index.store.store import ReferenceStore
from mclstexp.notes import warn
from mclstexp.panel import GenePanel
from mclstexp.predict.source import Depth, ExpressionBlock, Neighbours
from mclstexp.types import BoolArray, Device, FloatArray, HalfArray, IdArray

GENE_BLOCK = 1024
QUERY_BLOCK = 256
ROWS_AT_A_TIME = 12_800
"""Reference spots whose counts are held at once; with blocks of genes it bounds the memory of a query."""


class StoreSource:
    """One version of a reference on disk, as a `NeighbourSource`.

    Slides are numbered by name, so that no sum over them depends on the order in which they were added.

    Parameters
    ----------
    store
        The version to predict from.
    device
        Where to search.
    search
        What finds the neighbours.
    use_copy
        Whether the float16 copy of the panel's expression may serve; without it counts are read from the table.
    """

    def __init__(
        self, store: ReferenceStore, device: Device = "auto", *, search: Search = "faiss", use_copy: bool = True
    ) -> None:
        self.store, self.device, self._search, self._use_copy = store, device, search, use_copy

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.store.n_spots

    @cached_property
    def depth_summary(self) -> Depth:
        """Typical total counts."""
        median, of_slide = self.store.median_depths
        return Depth(median, of_slide[self._by_name])

    @cached_property
    def _by_name(self) -> IdArray:
        """Positions in the store's entries of the slides in the order of their names."""
        entries = self.store.entries
        return np.array(sorted(range(len(entries)), key=lambda i: entries[i].slide_id), dtype=np.int64)

    @cached_property
    def _number(self) -> IdArray:
        """Number of the slide at each position in the store's entries."""
        return np.argsort(self._by_name)

    def search(self, query: FloatArray, k: int, *, allowed: BoolArray | None = None) -> Neighbours:
        """Return the k nearest allowed spots; warns where not all was searched as asked."""
        index = self.store.index(self.device, self._search)
        neighbours = index.search(query, k, allowed=allowed)
        if index.note:
            warn(index.note)
        return neighbours

    def keys(self, ids: IdArray) -> FloatArray:
        """Return the keys ``(*ids.shape, d)``; NaN for -1."""
        return self.store.index(self.device).keys(ids).reshape(*ids.shape, -1)

    def measured(self, genes: GenePanel) -> BoolArray:
        """Return ``(slides, genes)`` which slide measured which gene."""
        panels, entries = self.store.panels, self.store.slides()
        known = {
            digest: np.array([symbol in panel.position for symbol in genes.symbols], dtype=bool)
            for digest, panel in panels.items()
        }
        return np.stack([known[entry.genes_digest] for entry in entries])

    def depth(self, ids: IdArray) -> NDArray[np.float64]:
        """Return total counts, of the shape of ids; 0 for -1."""
        present = ids >= 0
        unique, inverse = np.unique(ids[present], return_inverse=True)
        total = np.asarray(self.store.spots(unique, ["total_counts"])["total_counts"], dtype=np.float64)
        depth = np.zeros(ids.shape)
        depth[present] = total[inverse]
        return depth

    def slide_of(self, ids: IdArray) -> IdArray:
        """Return the number of each spot's slide; -1 for -1."""
        return np.where(ids >= 0, self._number[self.store.slide_numbers(ids)], -1)

    def spots_of(self, slide: int) -> IdArray:
        """Return the ids of a slide's spots, in the slide's own order."""
        return np.arange(*self.store.entries[self._by_name[slide]].rows)

    def expression(self, ids: IdArray, genes: GenePanel, rule: Normalisation) -> Iterator[ExpressionBlock]:
        """Yield expression: the panel's from the memory-mapped copy, any other gene or scale from the table."""
        copy = self._copy(genes, rule)
        step = QUERY_BLOCK if copy is not None else max(1, ROWS_AT_A_TIME // max(ids.shape[1], 1))
        for start in range(0, len(ids), step):
            queries = slice(start, min(start + step, len(ids)))
            # Padding has no weight; any row that is there stands in for it.
            asked = np.where(ids[queries] < 0, ids[queries].max(), ids[queries])
            if copy is not None:
                yield _from_copy(queries, asked, copy, len(genes))
            else:
                yield from self._from_table(queries, asked, genes, rule)

    def _copy(self, genes: GenePanel, rule: Normalisation) -> tuple[HalfArray, IdArray | None] | None:
        """Return the copy's values and the columns to take of them (None: all in order), where the copy serves."""
        store, panel = self.store, self.store.identity.panel
        columns = panel.columns(genes)
        if not self._use_copy or rule != store.normalisation or not len(genes) or (columns < 0).any():
            return None
        problem = store.fill_cache()
        if problem:
            warn(f"There is no copy of the expression, so the neighbours' counts are read from the table: {problem}")
            return None
        return store.expression_cache.values(), None if genes == panel else columns

    def _from_table(
        self, queries: slice, asked: IdArray, genes: GenePanel, rule: Normalisation
    ) -> Iterator[ExpressionBlock]:
        unique, inverse = np.unique(asked, return_inverse=True)
        rows = inverse.reshape(asked.shape)
        expression = self.store.expression(unique, genes, rule)
        for first in range(0, len(genes), GENE_BLOCK):
            block = slice(first, min(first + GENE_BLOCK, len(genes)))
            yield ExpressionBlock(queries, block, expression.dense(block.start, block.stop), rows)


def _from_copy(queries: slice, asked: IdArray, copy: tuple[HalfArray, IdArray | None], n_genes: int) -> ExpressionBlock:
    values, columns = copy
    if columns is None:
        return ExpressionBlock(queries, slice(0, n_genes), values, asked)
    unique, inverse = np.unique(asked, return_inverse=True)
    part = np.ascontiguousarray(values[unique][:, columns])
    return ExpressionBlock(queries, slice(0, n_genes), part, inverse.reshape(asked.shape))

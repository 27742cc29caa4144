"""Where neighbours come from: what a reference must offer so that the one predictor can use it.

The store on disk (`mclstexp.index.source.StoreSource`) and the reference in memory
(`mclstexp.predict.memory.MemoryReference`) fulfil `NeighbourSource`; everything else of a prediction is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.panel import GenePanel
from mclstexp.types import BoolArray, FloatArray, IdArray

NEAREST = 20
"""Neighbours whose mean similarity says how near a patch is to the reference."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest reference spots of each query, best first.

    Attributes
    ----------
    ids
        ``(n, k)`` int64 ids of spots; -1 only where fewer than k remain.
    similarity
        ``(n, k)`` float32 cosine similarity; 0 at padding.
    """

    ids: IdArray
    similarity: FloatArray

    def first(self, k: int) -> Neighbours:
        """Return the k nearest of them."""
        return Neighbours(self.ids[:, :k], self.similarity[:, :k])

    def padded(self, k: int) -> Neighbours:
        """Return k columns, the last without a neighbour where there are fewer."""
        lacking = ((0, 0), (0, max(0, k - self.ids.shape[1])))
        return Neighbours(np.pad(self.ids, lacking, constant_values=-1), np.pad(self.similarity, lacking))

    def mean_similarity(self) -> FloatArray:
        """Return ``(n,)`` mean similarity of each query's neighbours; -1 for a query without any."""
        present = self.ids >= 0
        total = np.where(present, self.similarity, 0.0).sum(axis=1, dtype=np.float64)
        number = present.sum(axis=1)
        return np.asarray(np.where(number > 0, total / np.maximum(number, 1), -1.0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class ExpressionBlock:
    """Expression of the neighbours of some queries, for some genes.

    Attributes
    ----------
    queries, genes
        Which rows of the asked ids, and which of the asked genes.
    values
        ``(m, genes)`` float16 or float32 expression of reference spots, memory-mapped or not; 0 where not measured.
    rows
        ``(queries, k)`` row of ``values`` of each neighbour; any row where there is none.
    """

    queries: slice
    genes: slice
    values: NDArray[np.floating]
    rows: IdArray


@dataclass(frozen=True, eq=False)
class Depth:
    """Total counts: the median over all spots, and ``(slides,)`` the median over each slide's."""

    median: float
    of_slide: NDArray[np.float64]


class NeighbourSource(Protocol):
    """A reference, seen by the predictor. Slides are numbered from 0; ids are int64, -1 where there is no neighbour."""

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        ...

    @property
    def depth_summary(self) -> Depth:
        """Typical total counts."""
        ...

    def search(self, query: FloatArray, k: int, *, allowed: BoolArray | None = None) -> Neighbours:
        """Return the k nearest allowed spots of unit vectors ``(n, d)``; ``allowed`` is truth by id."""
        ...

    def keys(self, ids: IdArray) -> FloatArray:
        """Return the keys ``(*ids.shape, d)`` float32; NaN for -1."""
        ...

    def expression(self, ids: IdArray, genes: GenePanel, rule: Normalisation) -> Iterator[ExpressionBlock]:
        """Yield the expression of neighbours ``(n, k)``, in blocks that fit in memory and cover all of it once."""
        ...

    def measured(self, genes: GenePanel) -> BoolArray:
        """Return ``(slides, genes)`` which slide measured which gene."""
        ...

    def depth(self, ids: IdArray) -> NDArray[np.float64]:
        """Return total counts, of the shape of ids; 0 for -1."""
        ...

    def slide_of(self, ids: IdArray) -> IdArray:
        """Return the number of each spot's slide; -1 for -1."""
        ...

    def spots_of(self, slide: int) -> IdArray:
        """Return the ids of a slide's spots, in the slide's own order."""
        ...


def pair_similarity(query: FloatArray, keys_of: Callable[[IdArray], FloatArray], ids: IdArray) -> FloatArray:
    """Cosine similarity of each query ``(n, d)`` and its ``(n, m)`` spots, the same bits in any company."""
    scores = np.empty(ids.shape, dtype=np.float32)
    step = max(1, 16_384 // max(ids.shape[1], 1))
    for start in range(0, len(query), step):
        block = ids[start : start + step]
        keys = keys_of(block).reshape(*block.shape, query.shape[1])
        np.einsum("qd,qkd->qk", query[start : start + step], keys, out=scores[start : start + step])
    return np.clip(scores, -1.0, 1.0, out=scores)

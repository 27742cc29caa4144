"""Nearest reference spots: candidates from a backend, scored again exactly, ties cut by slide and spot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.backend import Backend
from mclstexp.index.search.exact import ExactBackend
from mclstexp.index.search.vectors import unit_rows
from mclstexp.predict.source import Neighbours, pair_similarity
from mclstexp.types import BoolArray, FloatArray, IdArray

QUERY_BLOCK = 512

TIE_TOLERANCE = 4e-6
"""Matrix products round differently from block to block: candidates this close are scored again."""


class SpotIndex:
    """Search over the keys of a reference.

    Parameters
    ----------
    keys
        ``(n_ids, d)`` float32 of unit length whose row is the spot's id.
    live
        ``(n_ids,)`` truth by id: the spots of this version.
    tie_rank
        Ids to a number that orders spots of equal similarity, whatever the order in which they were added.
    backend
        What finds candidates; None compares with every key.
    note
        What was assumed when the backend was chosen, or "".
    """

    def __init__(
        self,
        keys: FloatArray,
        live: BoolArray,
        *,
        tie_rank: Callable[[IdArray], IdArray],
        backend: Backend | None = None,
        note: str = "",
    ) -> None:
        self._keys = keys
        self.live = live
        self.n_live = int(live.sum())
        self.tie_rank = tie_rank
        self.oracle = ExactBackend(keys)
        self.backend: Backend = backend or self.oracle
        self.note = note

    def __len__(self) -> int:
        return self.n_live

    @property
    def dim(self) -> int:
        """Length of a key."""
        return int(self._keys.shape[1])

    def keys(self, row_ids: IdArray) -> FloatArray:
        """Return ``(n, d)`` keys of ids in their order; NaN for -1.

        Raises
        ------
        InputError
            For an id that this version does not have.
        """
        ids = np.asarray(row_ids, dtype=np.int64).ravel()
        inside = (ids >= 0) & (ids < len(self.live))
        known = inside & self.live[np.where(inside, ids, 0)]
        if not np.all(known | (ids == -1)):
            raise InputError(f"Row id {ids[~known & (ids != -1)][0]} is not in the index.")
        if known.all():
            return np.asarray(self._keys[ids])
        keys = np.full((len(ids), self.dim), np.nan, dtype=np.float32)
        keys[known] = self._keys[ids[known]]
        return keys

    def search(self, query: FloatArray, k: int, *, allowed: BoolArray | None = None, exact: bool = False) -> Neighbours:
        """Find the k nearest allowed spots of each query.

        Parameters
        ----------
        query
            ``(n_query, d)`` float32 of unit length.
        k
            Number of neighbours.
        allowed
            Truth by id; None allows every spot of this version, and no mask allows another.
        exact
            Compare with every key, whatever the backend.
        """
        query = unit_rows(query, "The query embedding")
        if query.shape[1] != self.dim:
            raise InputError(f"Query embeddings have length {query.shape[1]}, the reference's {self.dim}.")
        if k < 1:
            raise InputError(f"The number of neighbours is {k}; at least 1 is needed.")
        mask = self.live if allowed is None else _fitted(allowed, len(self.live)) & self.live
        n_allowed = self.n_live if allowed is None else int(mask.sum())
        n_found = min(k, n_allowed)
        ids = np.full((len(query), k), -1, dtype=np.int64)
        similarity = np.zeros((len(query), k), dtype=np.float32)
        find = self._exact if exact or n_allowed <= self.backend.least else self._by_backend
        for start in range(0, len(query) if n_found else 0, QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            ids[part, :n_found], similarity[part, :n_found] = find(query[part], n_found, mask, n_allowed)
        return Neighbours(ids, similarity)

    def _by_backend(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        if self.backend.certain:
            return self._certain(self.backend, query, k, allowed, n_allowed)
        wanted = k + max(16, k // 4)
        if wanted > self.backend.most:
            return self._exact(query, k, allowed, n_allowed)
        try:
            candidates, _ = self.backend.candidates(query, wanted, allowed, n_allowed)
        except FormatError as error:
            self.note = f"{error} Until then every key is compared."
            self.backend = self.oracle
            return self._exact(query, k, allowed, n_allowed)
        ids, scores = self._rescore(query, candidates)
        short = ~np.isfinite(scores[:, k - 1]) if scores.shape[1] >= k else np.ones(len(query), dtype=bool)
        near, similarity = np.full((len(query), k), -1, dtype=np.int64), np.zeros((len(query), k), np.float32)
        near[~short], similarity[~short] = ids[~short, :k], scores[~short, :k]
        if short.any():
            near[short], similarity[short] = self._exact(query[short], k, allowed, n_allowed)
        return near, similarity

    def _exact(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        return self._certain(self.oracle, query, k, allowed, n_allowed)

    def _certain(
        self, backend: Backend, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int
    ) -> tuple[IdArray, FloatArray]:
        """Take a few more than k, score them pair by pair, and ask again where a tie may be cut."""
        row_ids = np.full((len(query), k), -1, dtype=np.int64)
        similarity = np.zeros((len(query), k), dtype=np.float32)
        todo = np.arange(len(query))
        fetch = k + 16
        while len(todo):
            fetch = min(fetch, n_allowed)
            source = backend if fetch <= backend.most else self.oracle
            candidates, rough = source.candidates(query[todo], fetch, allowed, n_allowed)
            ids, scores = self._rescore(query[todo], candidates)
            row_ids[todo], similarity[todo] = ids[:, :k], scores[:, :k]
            if fetch == n_allowed:
                break
            todo = todo[rough.min(axis=1) >= scores[:, k - 1] - TIE_TOLERANCE]
            fetch *= 4
        return row_ids, similarity

    def _rescore(self, query: FloatArray, ids: IdArray) -> tuple[IdArray, FloatArray]:
        """Order candidates by exact similarity, then by tie rank."""
        scores = pair_similarity(query, self.keys, ids)
        scores = np.where(ids >= 0, scores, -np.inf).astype(np.float32)
        ranks = self.tie_rank(np.maximum(ids, 0).ravel()).reshape(ids.shape)
        order = np.lexsort((ranks, -scores), axis=1)
        return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _fitted(mask: BoolArray, size: int) -> BoolArray:
    """Return a mask cut or padded to a size."""
    return np.pad(mask, (0, max(0, size - len(mask))))[:size]

"""Nearest reference spots: exact search, and inverted files whose candidates are scored again exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from mclstexp.device import resolve_device
from mclstexp.errors import InputError
from mclstexp.index.search.ivf import EXACT_ROWS
from mclstexp.index.search.keys import unit_rows
from mclstexp.index.search.ranges import Ranges, RowRanges
from mclstexp.index.search.segment import LoadedSegment
from mclstexp.predict.source import Neighbours, pair_similarity
from mclstexp.types import BoolArray, Device, FloatArray, IdArray

Method = Literal["auto", "exact", "inverted"]

KEY_BLOCK = 65_536

QUERY_BLOCK = 512

TIE_TOLERANCE = 4e-6
"""Matrix products round differently from block to block: candidates this close are scored again."""


class SpotIndex:
    """Search over the keys of a reference.

    Parameters
    ----------
    segments
        Parts that together hold every live row once.
    live
        Ranges of the row ids that exist in this version.
    tie_rank
        Row ids to a number that orders spots of equal similarity, whatever the order in which they were added.
    device
        ``auto`` takes a GPU when torch sees one.
    """

    def __init__(
        self,
        segments: Sequence[LoadedSegment],
        live: Ranges,
        *,
        dim: int,
        tie_rank: Callable[[IdArray], IdArray],
        device: Device = "auto",
    ) -> None:
        self.segments = list(segments)
        self.dim = dim
        self.live = RowRanges(live)
        self.tie_rank = tie_rank
        self.device = resolve_device(device).type
        self._n_ids = max((stop for segment in segments for _, stop in segment.segment.ranges), default=0)

    def __len__(self) -> int:
        return len(self.live)

    @property
    def exact(self) -> bool:
        """Whether every search is exact."""
        return all(segment.inverted is None for segment in self.segments)

    @cached_property
    def _live_mask(self) -> BoolArray | None:
        """Truth by row id, or None when every indexed row is live."""
        if sum(len(segment.rows) for segment in self.segments) == len(self.live):
            return None
        return self.live.mask(self._n_ids)

    def keys(self, row_ids: IdArray) -> FloatArray:
        """Return ``(n, d)`` keys of row ids in their order; NaN for -1."""
        flat = np.asarray(row_ids, dtype=np.int64).ravel()
        keys = np.full((len(flat), self.dim), np.nan, dtype=np.float32)
        missing = flat >= 0
        for segment in self.segments:
            positions = segment.rows.positions(flat)
            here = positions >= 0
            if here.all():
                return np.asarray(segment.keys[positions])
            keys[here] = segment.keys[positions[here]]
            missing &= ~here
        if missing.any():
            raise InputError(f"Row id {flat[missing][0]} is not in the index.")
        return keys

    def search(
        self, query: FloatArray, k: int, *, allowed: BoolArray | None = None, method: Method = "auto"
    ) -> Neighbours:
        """Find the k nearest allowed spots of each query.

        Parameters
        ----------
        query
            ``(n_query, d)`` float32 of unit length.
        k
            Number of neighbours.
        allowed
            Truth by row id; None allows every live row.
        method
            ``auto`` searches inverted files where the reference has them and enough rows are allowed; ``exact``
            compares with every key, ``inverted`` never does unless too few were found.
        """
        query = unit_rows(query, "The query embedding")
        if query.shape[1] != self.dim:
            raise InputError(f"Query embeddings have length {query.shape[1]}, the reference's {self.dim}.")
        if k < 1:
            raise InputError(f"The number of neighbours is {k}; at least 1 is needed.")
        if allowed is not None and self._live_mask is not None:
            allowed = allowed[: self._n_ids] & self._live_mask
        elif allowed is None:
            allowed = self._live_mask
        n_allowed = len(self) if allowed is None else int(allowed.sum())
        k_found = min(k, n_allowed)
        if not k_found or not len(query):
            return _padded(np.zeros((len(query), 0), np.int64), np.zeros((len(query), 0), np.float32), k)
        quick = self.exact or self.device == "cuda" or n_allowed <= EXACT_ROWS
        use_exact = method == "exact" or (quick and method != "inverted")
        parts = []
        for start in range(0, len(query), QUERY_BLOCK):
            block = query[start : start + QUERY_BLOCK]
            parts.append(
                self._exact(block, k_found, allowed, n_allowed)
                if use_exact
                else self._approximate(block, k_found, allowed, n_allowed)
            )
        return _padded(np.concatenate([ids for ids, _ in parts]), np.concatenate([sim for _, sim in parts]), k)

    def _exact(
        self, query: FloatArray, k: int, allowed: BoolArray | None, n_allowed: int
    ) -> tuple[IdArray, FloatArray]:
        """Take a few more than k by matrix product, score them pair by pair, and ask again where a tie may be cut."""
        row_ids = np.full((len(query), k), -1, dtype=np.int64)
        similarity = np.zeros((len(query), k), dtype=np.float32)
        todo = np.arange(len(query))
        fetch = k + 16
        while len(todo):
            fetch = min(fetch, n_allowed)
            ids, rough = self._product(query[todo], fetch, allowed)
            row_ids[todo], similarity[todo], scores = self._rescore(query[todo], ids, k)
            if fetch == n_allowed:
                break
            todo = todo[rough.min(axis=1) >= scores[:, k - 1] - TIE_TOLERANCE]
            fetch *= 4
        return row_ids, similarity

    def _rescore(self, query: FloatArray, ids: IdArray, k: int) -> tuple[IdArray, FloatArray, FloatArray]:
        """Order candidates by exact similarity, then by tie rank; return the best k and all scores, sorted."""
        scores = pair_similarity(query, self.keys, ids)
        scores = np.where(ids >= 0, scores, -np.inf).astype(np.float32)
        ranks = self.tie_rank(np.maximum(ids, 0).ravel()).reshape(ids.shape)
        order = np.lexsort((ranks, -scores), axis=1)
        ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return ids[:, :k], scores[:, :k], scores

    def _product(self, query: FloatArray, k: int, allowed: BoolArray | None) -> tuple[IdArray, FloatArray]:
        """Take the best k by matrix product, block by block of keys."""
        import torch

        target = torch.from_numpy(query).to(self.device)
        best: Any = torch.full((len(query), 0), 0.0, device=self.device)
        ids: Any = torch.zeros((len(query), 0), dtype=torch.int64, device=self.device)
        for segment in self.segments:
            for row_ids, keys in _key_blocks(segment, allowed):
                product = target @ torch.from_numpy(keys).to(self.device).T
                found, where = product.topk(min(k, product.shape[1]), dim=1)
                best = torch.cat([best, found], dim=1)
                ids = torch.cat([ids, torch.from_numpy(row_ids).to(self.device)[where]], dim=1)
                best, where = best.topk(min(k, best.shape[1]), dim=1)
                ids = ids.gather(1, where)
        return ids.cpu().numpy(), best.cpu().numpy()

    def _approximate(
        self, query: FloatArray, k: int, allowed: BoolArray | None, n_allowed: int
    ) -> tuple[IdArray, FloatArray]:
        """Search the inverted files, and the small new segments exactly; search exactly where too few were found."""
        wanted = k + max(16, k // 4)
        flat = [segment for segment in self.segments if segment.inverted is None]
        candidates = []
        if flat:
            part = SpotIndex(flat, (), dim=self.dim, tie_rank=self.tie_rank, device="cpu")
            candidates.append(part._product(query, wanted, allowed)[0])
        widen = max(1.0, len(self) / n_allowed)
        for segment in self.segments:
            if segment.inverted is not None:
                nprobe = int(np.ceil(segment.segment.nprobe * widen))
                candidates.append(segment.inverted.search(query, wanted, nprobe=nprobe, allowed=allowed)[0])
        ids, similarity, scores = self._rescore(query, np.concatenate(candidates, axis=1), k)
        short = ~np.isfinite(scores[:, k - 1])
        if short.any():
            ids[short], similarity[short] = self._exact(query[short], k, allowed, n_allowed)
        return ids, similarity


def _key_blocks(segment: LoadedSegment, allowed: BoolArray | None) -> Any:
    for start in range(0, len(segment.rows), KEY_BLOCK):
        stop = min(start + KEY_BLOCK, len(segment.rows))
        row_ids = segment.rows.row_ids(np.arange(start, stop))
        keys = segment.keys[start:stop]
        if allowed is not None:
            keep = allowed[row_ids]
            if not keep.any():
                continue
            if not keep.all():
                row_ids, keys = row_ids[keep], keys[keep]
        yield row_ids, np.asarray(keys)


def _padded(row_ids: IdArray, similarity: FloatArray, k: int) -> Neighbours:
    n, found = row_ids.shape
    if found == k:
        return Neighbours(row_ids, similarity)
    ids = np.full((n, k), -1, dtype=np.int64)
    scores = np.zeros((n, k), dtype=np.float32)
    ids[:, :found], scores[:, :found] = row_ids, similarity
    return Neighbours(ids, scores)

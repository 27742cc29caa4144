"""The oracle: every query against every allowed key, by blocked matrix products on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mclstexp.types import BoolArray, FloatArray, IdArray

KEY_BLOCK = 65_536

FEW_PRODUCTS = 20_000_000
"""Similarities up to which NumPy picks the best: torch is five times as fast, and takes seconds to load."""


class ExactBackend:
    """Multiplies queries with keys, a block of rows at a time.

    Parameters
    ----------
    keys
        ``(n_ids, d)`` float32 keys whose row is the spot's id.
    """

    name = "exact on the CPU"
    certain = True
    most = 2**62
    least = 0

    def __init__(self, keys: FloatArray) -> None:
        self.keys = keys

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Return the best k by matrix product."""
        if len(query) * n_allowed <= FEW_PRODUCTS:
            return _best_of_few(query, self.keys, k, allowed)
        import torch

        target = torch.from_numpy(query)
        best: Any = torch.full((len(query), 0), 0.0)
        ids: Any = torch.zeros((len(query), 0), dtype=torch.int64)
        for rows, keys in key_blocks(self.keys, allowed):
            product = target @ torch.from_numpy(keys).T
            similarity, where = product.topk(min(k, product.shape[1]), dim=1)
            best = torch.cat([best, similarity], dim=1)
            ids = torch.cat([ids, torch.from_numpy(rows)[where]], dim=1)
            best, where = best.topk(min(k, best.shape[1]), dim=1)
            ids = ids.gather(1, where)
        return ids.numpy(), best.numpy()


def _best_of_few(query: FloatArray, keys: FloatArray, k: int, allowed: BoolArray) -> tuple[IdArray, FloatArray]:
    ids, best = np.zeros((len(query), 0), dtype=np.int64), np.zeros((len(query), 0), dtype=np.float32)
    for rows, block in key_blocks(keys, allowed):
        best = np.concatenate([best, query @ block.T], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(rows, (len(query), len(rows)))], axis=1)
        if best.shape[1] > k:
            chosen = np.argpartition(best, -k, axis=1)[:, -k:]
            ids, best = np.take_along_axis(ids, chosen, axis=1), np.take_along_axis(best, chosen, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(best, order, axis=1)


def key_blocks(keys: FloatArray, allowed: BoolArray, size: int | None = None) -> Iterator[tuple[IdArray, FloatArray]]:
    """Yield blocks of allowed rows: their ids, and their keys without a copy where they follow each other."""
    step = KEY_BLOCK if size is None else size
    ids = np.flatnonzero(allowed)
    for start in range(0, len(ids), step):
        rows = ids[start : start + step]
        first, last = int(rows[0]), int(rows[-1])
        dense = last - first + 1 == len(rows)
        yield rows, np.asarray(keys[first : last + 1] if dense else keys[rows])

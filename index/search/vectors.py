"""Embeddings: checked, and compared pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mclstexp.errors import InputError
from mclstexp.types import FloatArray, IdArray


def unit_rows(values: FloatArray, what: str, n: int | None = None) -> FloatArray:
    """Return embeddings as contiguous ``(n, d)`` float32.

    Raises
    ------
    InputError
        When the shape is wrong, a value is not finite, or a row is not of unit length within 1e-3.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 2 or (n is not None and len(array) != n):
        raise InputError(f"{what} has shape {array.shape}, expected ({n if n is not None else 'n'}, embed_dim).")
    norms = np.linalg.norm(array, axis=1)
    bad = int((~(np.abs(norms - 1) < 1e-3)).sum())
    if bad:
        raise InputError(f"{what}: {bad} of {len(array)} rows are not finite or not of unit length.")
    return array


def pair_similarity(query: FloatArray, keys_of: Callable[[IdArray], FloatArray], ids: IdArray) -> FloatArray:
    """Cosine similarity of each query and its ``(n_query, m)`` rows, the same bits in any company."""
    scores = np.empty(ids.shape, dtype=np.float32)
    step = max(1, 16_384 // max(ids.shape[1], 1))
    for start in range(0, len(query), step):
        block = ids[start : start + step]
        keys = keys_of(block).reshape(*block.shape, query.shape[1])
        np.einsum("qd,qkd->qk", query[start : start + step], keys, out=scores[start : start + step])
    return np.clip(scores, -1.0, 1.0, out=scores)


def brute_force(query: FloatArray, keys: FloatArray, k: int) -> tuple[IdArray, FloatArray]:
    """Compare every query with every key in float64: the oracle of tests."""
    product = query.astype(np.float64) @ keys.astype(np.float64).T
    order = np.argsort(-product, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(product, order, axis=1).astype(np.float32)


def recall_at_k(found: IdArray, truth: IdArray) -> float:
    """Share of the true neighbours that were found."""
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
    return hits / max(truth.size, 1)

"""How much each neighbour counts: by similarity or distance, and by the depth of its spot and slide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import RetrievalConfig
from mclstexp.errors import InputError
from mclstexp.model.space.training_data import shallow_shares
from mclstexp.predict.source import Depth, Neighbours
from mclstexp.types import FloatArray, IdArray

EXACT_MATCH = 1e-12
"""Squared distance (or L1 distance) below which two unit vectors are the same."""

KEYS_AT_A_TIME = 32_768

EVEN = 0.8
"""Share of the neighbours that count effectively, above which no single one matters."""


def neighbour_weights(
    similarity: FloatArray,
    config: RetrievalConfig,
    *,
    ids: IdArray | None = None,
    query: FloatArray | None = None,
    keys: FloatArray | None = None,
) -> FloatArray:
    """Turn similarities into weights whose rows sum to one.

    Parameters
    ----------
    similarity
        ``(n, k)`` float32.
    config
        ``softmax`` of similarity over temperature, or ``inverse_square`` of the L1 or L2 distance.
    ids
        ``(n, k)``; entries of -1 get no weight.
    query, keys
        ``(n, d)`` and ``(n, k, d)`` embeddings, needed for ``inverse_square``.

    Returns
    -------
    FloatArray
        ``(n, k)`` float32; a row without neighbours is all zero. Where 1 / d^2 has no bound, the exact matches share
        the weight evenly, which is its limit.

    Raises
    ------
    InputError
        For missing embeddings.
    """
    present = np.ones(similarity.shape, bool) if ids is None else ids >= 0
    if config.weights == "softmax":
        logits = np.where(present, similarity.astype(np.float64) / config.temperature, -np.inf)
        top = logits.max(axis=1, keepdims=True, initial=-np.inf)
        raw = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
    else:
        if query is None or keys is None:
            raise InputError("Inverse square weights need the embeddings of queries and neighbours.")
        squared = _squared_distance(query, keys, config.distance)
        exact = (squared <= EXACT_MATCH) & present
        raw = np.where(present, 1.0 / np.maximum(squared, EXACT_MATCH), 0.0)
        raw = np.where(exact.any(axis=1, keepdims=True), exact.astype(np.float64), raw)
    total = raw.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(raw, total, out=np.zeros_like(raw), where=total > 0), dtype=np.float32)


def weigh(
    query: FloatArray, neighbours: Neighbours, config: RetrievalConfig, keys_of: Callable[[IdArray], FloatArray]
) -> FloatArray:
    """Return ``(n, k)`` weights of the neighbours; keys are read a block of queries at a time where they are needed."""
    ids, similarity = neighbours.ids, neighbours.similarity
    if config.weights == "softmax":
        return neighbour_weights(similarity, config, ids=ids)
    weights = np.zeros_like(similarity)
    step = max(1, KEYS_AT_A_TIME // ids.shape[1])
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        weights[part] = neighbour_weights(
            similarity[part], config, ids=ids[part], query=query[part], keys=keys_of(ids[part])
        )
    return weights


def by_depth(weights: FloatArray, depth: NDArray[np.float64], slide: IdArray, typical: Depth) -> FloatArray:
    """Return weights ``(n, k)`` times t / (t + median t), t the neighbour's total counts; rows sum to one again.

    A slide whose median is below that of most slides is taken down in proportion, as when a model is trained.

    Parameters
    ----------
    weights, depth, slide
        ``(n, k)`` weights, total counts (0 where there is no neighbour), and number of the slide (-1 where none).
    typical
        The reference's medians.
    """
    share = np.where(slide >= 0, shallow_shares(typical.of_slide)[slide], 0.0)
    weighed = weights * depth / (depth + max(typical.median, 1.0)) * share
    total = weighed.sum(axis=1, keepdims=True)
    return np.where(total > 0, weighed / np.where(total > 0, total, 1.0), weights).astype(np.float32)


def effective_neighbours(weights: FloatArray) -> FloatArray:
    """Return ``(n,)`` float32: 1 / sum of squared weights, 0 where a query has no neighbours."""
    squared = (weights.astype(np.float64) ** 2).sum(axis=1)
    return np.asarray(np.divide(1.0, squared, out=np.zeros_like(squared), where=squared > 0), dtype=np.float32)


def _squared_distance(query: FloatArray, keys: FloatArray, distance: str) -> NDArray[np.float64]:
    result = np.empty(keys.shape[:2], dtype=np.float64)
    for i in range(len(query)):
        difference = np.nan_to_num(keys[i].astype(np.float64)) - query[i].astype(np.float64)
        if distance == "l1":
            result[i] = np.abs(difference).sum(axis=1) ** 2
        else:
            result[i] = np.einsum("kd,kd->k", difference, difference)
    return result

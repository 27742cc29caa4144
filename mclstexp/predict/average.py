"""From neighbours to expression: weights, weighted means and spreads. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import RetrievalConfig
from mclstexp.errors import InputError
from mclstexp.types import FloatArray

EXACT_MATCH = 1e-12
"""Squared distance (or L1 distance) below which two unit vectors are the same."""
SPREAD_VALUES = 500_000
"""Values gathered at a time for the spread: few enough to stay in the processor's cache."""


def neighbour_weights(
    similarity: FloatArray,
    config: RetrievalConfig,
    *,
    row_ids: NDArray[np.int64] | None = None,
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
    row_ids
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
        For a temperature that is not positive, or missing embeddings.
    """
    present = np.ones(similarity.shape, bool) if row_ids is None else row_ids >= 0
    if config.weights == "softmax":
        if not config.temperature > 0:
            raise InputError(f"The temperature is {config.temperature:g}; it must be above 0.")
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


def _squared_distance(query: FloatArray, keys: FloatArray, distance: str) -> NDArray[np.float64]:
    result = np.empty(keys.shape[:2], dtype=np.float64)
    for i in range(len(query)):
        difference = np.nan_to_num(keys[i].astype(np.float64)) - query[i].astype(np.float64)
        if distance == "l1":
            result[i] = np.abs(difference).sum(axis=1) ** 2
        else:
            result[i] = np.einsum("kd,kd->k", difference, difference)
    return result


def effective_neighbours(weights: FloatArray) -> FloatArray:
    """Return ``(n,)`` float32: 1 / sum of squared weights, 0 where a query has no neighbours."""
    squared = (weights.astype(np.float64) ** 2).sum(axis=1)
    return np.asarray(np.divide(1.0, squared, out=np.zeros_like(squared), where=squared > 0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums over neighbours, ``(n, n_genes)`` float32 each; ``squares`` None when it was not asked for."""

    sums: FloatArray
    squares: FloatArray | None


def weighted_sums(
    values: NDArray[np.floating], positions: NDArray[np.int64], weights: FloatArray, *, squares: bool = True
) -> Moments:
    """Sum neighbours' values, weighted.

    Parameters
    ----------
    values
        ``(n_rows, n_genes)`` float16 or float32, memory-mapped or not.
    positions
        ``(n, k)`` rows of ``values``; any row where the weight is 0.
    weights
        ``(n, k)`` float32.
    squares
        Sum the squares as well. Without it one pass at memory speed does; its result is rounded to the type of
        ``values`` once.
    """
    import torch

    table = torch.from_numpy(values)
    where, weight = torch.from_numpy(np.ascontiguousarray(positions)), torch.from_numpy(weights)
    bag = torch.nn.functional.embedding_bag
    if not len(positions) or not positions.shape[1] or not len(values):
        empty = np.zeros((len(positions), values.shape[1]), np.float32)
        return Moments(empty, empty.copy() if squares else None)
    if not squares:
        result = bag(where, table, mode="sum", per_sample_weights=weight.to(table.dtype))
        return Moments(result.float().numpy(), None)
    n, k = positions.shape
    sums = np.empty((n, values.shape[1]), np.float32)
    second = np.empty_like(sums)
    step = max(1, SPREAD_VALUES // max(k * values.shape[1], 1))
    local = torch.arange(step * k).view(step, k)

    def one_block(start: int) -> None:
        block, part = where[start : start + step], weight[start : start + step]
        gathered = table.index_select(0, block.reshape(-1)).float()
        sums[start : start + step] = bag(local[: len(block)], gathered, mode="sum", per_sample_weights=part).numpy()
        gathered.mul_(gathered)
        second[start : start + step] = bag(local[: len(block)], gathered, mode="sum", per_sample_weights=part).numpy()

    _in_threads(one_block, range(0, n, step))
    return Moments(sums, second)


def _in_threads(call: Callable[[int], None], starts: range) -> None:
    """Run blocks in parallel, each on one thread: blocks are too small for torch to divide them further."""
    import torch

    n_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(call, starts):
                pass
    finally:
        torch.set_num_threads(n_threads)


@dataclass(frozen=True, eq=False)
class WeightedMean:
    """Weighted mean and standard deviation of neighbours, ``(n, n_genes)`` float32; NaN where too few measured it.

    ``share`` is the weight of the neighbours that measured the gene, same shape, or None when all did.
    """

    mean: FloatArray
    sd: FloatArray | None
    share: FloatArray | None


def weighted_mean(
    values: NDArray[np.floating],
    positions: NDArray[np.int64],
    weights: FloatArray,
    *,
    share: FloatArray | None = None,
    min_share: float = 0.0,
    sd: bool = True,
) -> WeightedMean:
    """Average neighbours' expression; a neighbour that did not measure a gene takes no part in that gene.

    Parameters
    ----------
    values, positions, weights
        As in `weighted_sums`; values are 0 where a gene was not measured.
    share
        ``(n, n_genes)`` weight of the neighbours that measured each gene; None when all did.
    min_share
        Below this share a gene is missing (NaN).
    """
    moments = weighted_sums(values, positions, weights, squares=sd)
    total = weights.sum(axis=1, keepdims=True) if share is None else share
    enough = (total > 0) & (total >= min_share)
    divisor = np.where(enough, total, 1.0).astype(np.float32)
    mean = np.where(enough, moments.sums / divisor, np.float32(np.nan)).astype(np.float32)
    spread = None
    if moments.squares is not None:
        variance = np.maximum(moments.squares / divisor - mean * mean, 0.0)
        spread = np.where(enough, np.sqrt(variance), np.float32(np.nan)).astype(np.float32)
    return WeightedMean(mean, spread, share)

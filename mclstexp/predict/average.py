"""Weighted means and spreads over neighbours, in bounded memory, wherever their expression lies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.panel import GenePanel
from mclstexp.predict.source import NeighbourSource
from mclstexp.types import BoolArray, FloatArray, IdArray

SPREAD_VALUES = 500_000
"""Values gathered at a time for the spread: few enough to stay in the processor's cache."""

FEW_NEIGHBOURS = 200_000
"""Neighbours of all queries up to which SciPy sums on one thread: torch would take longer to load."""

FEW_VALUES = 20_000_000
"""Values that SciPy's way holds at once, as float32."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums over neighbours, ``(n, n_genes)`` float32 each; ``squares`` None when it was not asked for."""

    sums: FloatArray
    squares: FloatArray | None


def weighted_sums(
    values: NDArray[np.floating],
    positions: NDArray[np.int64],
    weights: FloatArray,
    *,
    squares: bool = True,
    few: bool | None = None,
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
        Sum the squares as well. Without it one pass at memory speed does; where there is much to sum, its result is
        rounded to the type of ``values`` once.
    few
        Whether to sum without torch; None goes by `FEW_NEIGHBOURS`. The last bits differ.
    """
    if not len(positions) or not positions.shape[1] or not len(values):
        empty = np.zeros((len(positions), values.shape[1]), np.float32)
        return Moments(empty, empty.copy() if squares else None)
    if positions.size <= FEW_NEIGHBOURS if few is None else few:
        return _sums_of_few(values, positions, weights, squares)
    return _sums_of_many(values, positions, weights, squares)


def _sums_of_few(
    values: NDArray[np.floating], positions: NDArray[np.int64], weights: FloatArray, squares: bool
) -> Moments:
    """Sum as products with a sparse matrix of the weights, some genes at a time."""
    (n, k), n_genes = positions.shape, values.shape[1]
    rows, local = np.unique(positions, return_inverse=True)
    spread = sparse.csr_matrix((weights.ravel(), local.ravel(), np.arange(0, n * k + 1, k)), shape=(n, len(rows)))
    sums = np.empty((n, n_genes), np.float32)
    second = np.empty_like(sums) if squares else None
    step = max(1, FEW_VALUES // len(rows))
    for start in range(0, n_genes, step):
        genes = slice(start, start + step)
        table = values[rows, genes].astype(np.float32)
        sums[:, genes] = spread @ table
        if second is not None:
            second[:, genes] = spread @ np.square(table, out=table)
    return Moments(sums, second)


def _sums_of_many(
    values: NDArray[np.floating], positions: NDArray[np.int64], weights: FloatArray, squares: bool
) -> Moments:
    import torch

    table = torch.from_numpy(values)
    where, weight = torch.from_numpy(np.ascontiguousarray(positions)), torch.from_numpy(weights)
    bag = torch.nn.functional.embedding_bag
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
    few: bool | None = None,
) -> WeightedMean:
    """Average neighbours' expression; a neighbour that did not measure a gene takes no part in that gene.

    Parameters
    ----------
    values, positions, weights, few
        As in `weighted_sums`; values are 0 where a gene was not measured.
    share
        ``(n, n_genes)`` weight of the neighbours that measured each gene; None when all did.
    min_share
        Below this share a gene is missing (NaN).
    """
    moments = weighted_sums(values, positions, weights, squares=sd, few=few)
    total = weights.sum(axis=1, keepdims=True) if share is None else share
    enough = (total > 0) & (total >= min_share)
    divisor = np.where(enough, total, 1.0).astype(np.float32)
    mean = np.where(enough, moments.sums / divisor, np.float32(np.nan)).astype(np.float32)
    spread = None
    if moments.squares is not None:
        variance = np.maximum(moments.squares / divisor - mean * mean, 0.0)
        spread = np.where(enough, np.sqrt(variance), np.float32(np.nan)).astype(np.float32)
    return WeightedMean(mean, spread, share)


@dataclass(frozen=True, eq=False)
class Average:
    """Expected expression of queries.

    Attributes
    ----------
    mean, sd
        ``(n, n_genes)`` float32; NaN where too few neighbours measured the gene. ``sd`` is None if not asked for.
    missing
        Gene to why it is missing somewhere.
    """

    mean: FloatArray
    sd: FloatArray | None
    missing: dict[str, str]


@dataclass(frozen=True)
class AverageOptions:
    """How neighbours are averaged: the normalisation, the least measured share, and whether the spread is wanted."""

    rule: Normalisation
    min_measured: float = 0.25
    sd: bool = True


def average(
    source: NeighbourSource, ids: IdArray, weights: FloatArray, genes: GenePanel, options: AverageOptions
) -> Average:
    """Average the neighbours' expression.

    Parameters
    ----------
    ids, weights
        ``(n, k)`` neighbours, -1 where there is none, and weights whose rows sum to one.
    """
    n, k = ids.shape
    mean = np.full((n, len(genes)), np.nan, dtype=np.float32)
    sd = np.full_like(mean, np.nan) if options.sd else None
    measured = source.measured(genes)
    share = _measured_share(source.slide_of(ids), weights, measured)
    for block in source.expression(ids, genes, options.rule) if n and k else ():
        result = weighted_mean(
            block.values,
            block.rows,
            weights[block.queries],
            share=None if share is None else share[block.queries, block.genes],
            min_share=options.min_measured,
            sd=options.sd,
            few=ids.size <= FEW_NEIGHBOURS,  # of all queries and genes, so that blocks of them change no bit
        )
        mean[block.queries, block.genes] = result.mean
        if sd is not None and result.sd is not None:
            sd[block.queries, block.genes] = result.sd
    return Average(mean, sd, _missing(mean, genes, np.asarray(measured.any(axis=0)), options.min_measured))


def _measured_share(slide: IdArray, weights: FloatArray, measured: BoolArray) -> FloatArray | None:
    """Return ``(n, n_genes)`` weight of the neighbours that measured each gene; None when all slides measured all."""
    if measured.all():
        return None
    patterns, pattern_of = np.unique(measured, axis=0, return_inverse=True)  # few, however many slides
    group = np.where(slide >= 0, pattern_of.ravel()[slide], -1)
    held = np.stack([np.where(group == i, weights, 0).sum(axis=1) for i in range(len(patterns))], axis=1)
    return np.asarray(held.astype(np.float64) @ patterns, dtype=np.float32)


def _missing(mean: FloatArray, genes: GenePanel, known: BoolArray, min_measured: float) -> dict[str, str]:
    """Gene to the reason why it is missing at some spots."""
    lacking = np.isnan(mean).sum(axis=0)
    reasons = {}
    for column in np.flatnonzero(lacking).tolist():
        reasons[genes.symbols[column]] = (
            f"at {lacking[column]} of {len(mean)} spots the neighbours that measured it hold less than "
            f"{min_measured:.0%} of the weight"
            if known[column]
            else "no slide of the reference measured it"
        )
    return reasons

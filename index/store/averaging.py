"""The weighted mean over reference spots, wherever their expression comes from, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.index.store.expression import HalfArray
from mclstexp.index.store.store import ReferenceStore
from mclstexp.panel import GenePanel
from mclstexp.predict.average import weighted_mean
from mclstexp.types import FloatArray

Progress = Callable[[int, int], None]
IdArray = NDArray[np.int64]

GENE_BLOCK = 1024
QUERY_BLOCK = 256
ROWS_AT_A_TIME = 12_800
"""Reference spots whose counts are held at once; with blocks of genes it bounds the memory of a query."""


@dataclass(frozen=True, eq=False)
class Average:
    """Expected expression of queries.

    Attributes
    ----------
    mean, sd
        ``(n, n_genes)`` float32; NaN where too few neighbours measured the gene. ``sd`` is None if not asked for.
    missing
        Gene to why it is missing somewhere.
    note
        Why the copy of the expression could not be used, or "".
    """

    mean: FloatArray
    sd: FloatArray | None
    missing: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class AverageOptions:
    """How neighbours are averaged: the normalisation, the least measured share, and whether the spread is wanted."""

    rule: Normalisation
    min_measured: float = 0.25
    sd: bool = True
    use_cache: bool = True


def average(
    store: ReferenceStore,
    row_ids: IdArray,
    weights: FloatArray,
    genes: GenePanel,
    options: AverageOptions,
    *,
    on_progress: Progress | None = None,
) -> Average:
    """Average the neighbours' expression.

    The panel's expression comes from the memory-mapped copy, any other gene or normalisation from the table.

    Parameters
    ----------
    row_ids, weights
        ``(n, k)`` neighbours, -1 where there is none, and weights whose rows sum to one.
    """
    n, k = row_ids.shape
    mean = np.full((n, len(genes)), np.nan, dtype=np.float32)
    sd = np.full_like(mean, np.nan) if options.sd else None
    share = measured_share(store, row_ids, weights, genes)
    copy, note = _copy(store, genes, options)
    step = QUERY_BLOCK if copy is not None else max(1, ROWS_AT_A_TIME // max(k, 1))
    for start in range(0, n if k else 0, step):
        part = slice(start, min(start + step, n))
        for block, values, positions in _blocks(store, row_ids[part], genes, options.rule, copy):
            result = weighted_mean(
                values,
                positions,
                weights[part],
                share=None if share is None else share[part, block],
                min_share=options.min_measured,
                sd=options.sd,
            )
            mean[part, block] = result.mean
            if sd is not None and result.sd is not None:
                sd[part, block] = result.sd
        if on_progress is not None:
            on_progress(part.stop, n)
    return Average(mean, sd, missing_genes(store, mean, genes, options.min_measured), note)


def _copy(
    store: ReferenceStore, genes: GenePanel, options: AverageOptions
) -> tuple[tuple[HalfArray, IdArray | None] | None, str]:
    """Return the copy's values and the columns to take of them (None: all in order), where the copy serves."""
    panel = store.identity.panel
    inside = options.rule == store.normalisation and all(symbol in panel.position for symbol in genes.symbols)
    if not options.use_cache or not inside or not len(genes):
        return None, ""
    problem = store.fill_cache()
    if problem:
        return None, f"The copy of the expression could not be written, so counts were read from the table: {problem}"
    columns = None if genes == panel else np.array([panel.position[symbol] for symbol in genes.symbols])
    return (store.expression_cache.values(), columns), ""


def _blocks(
    store: ReferenceStore,
    row_ids: IdArray,
    genes: GenePanel,
    rule: Normalisation,
    copy: tuple[HalfArray, IdArray | None] | None,
) -> Iterator[tuple[slice, HalfArray, IdArray]]:
    """Yield blocks of genes: their columns, the values of some rows, and the row of each neighbour."""
    # Padding has no weight; any row that is there stands in for it.
    asked = np.where(row_ids < 0, row_ids.max(), row_ids)
    if copy is not None and copy[1] is None:
        yield slice(0, len(genes)), copy[0], asked
        return
    unique, inverse = np.unique(asked, return_inverse=True)
    positions = inverse.reshape(asked.shape)
    if copy is not None:
        values, columns = copy
        yield slice(0, len(genes)), np.ascontiguousarray(values[unique][:, columns]), positions
        return
    rows = store.expression(unique, genes, rule)
    for first in range(0, len(genes), GENE_BLOCK):
        block = slice(first, min(first + GENE_BLOCK, len(genes)))
        yield block, rows.dense(block.start, block.stop), positions


def measured_share(store: ReferenceStore, row_ids: IdArray, weights: FloatArray, genes: GenePanel) -> FloatArray | None:
    """Return ``(n, n_genes)`` weight of the neighbours that measured each gene; None when all slides measured all."""
    digests = sorted(store.panels)
    measured = np.array([[symbol in store.panels[digest].position for symbol in genes.symbols] for digest in digests])
    if measured.all():
        return None
    number = {digest: i for i, digest in enumerate(digests)}
    of_slide = np.array([number[entry.genes_digest] for entry in store.entries])
    group = of_slide[np.clip(store.slide_numbers(row_ids), 0, None)]
    held = np.zeros((len(row_ids), len(digests)))
    for i in range(len(digests)):
        held[:, i] = np.where((group == i) & (row_ids >= 0), weights, 0).sum(axis=1)
    return np.asarray(held @ measured, dtype=np.float32)


def missing_genes(store: ReferenceStore, mean: FloatArray, genes: GenePanel, min_measured: float) -> dict[str, str]:
    """Gene to the reason why it is missing at some spots."""
    lacking = np.isnan(mean).sum(axis=0)
    reasons = {}
    for column in np.flatnonzero(lacking):
        symbol = genes.symbols[column]
        if symbol not in store.genes.position:
            reasons[symbol] = "no slide of the reference measured it"
        else:
            reasons[symbol] = (
                f"at {lacking[column]} of {len(mean)} spots the neighbours that measured it hold less than "
                f"{min_measured:.0%} of the weight"
            )
    return reasons

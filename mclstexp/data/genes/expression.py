"""The one place where counts become expression."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.slide import SpotTable
from mclstexp.types import BoolArray, FloatArray


def counts_for(spots: SpotTable, panel: GenePanel) -> tuple[FloatArray, BoolArray]:
    """Align a slide's counts with a panel, by symbol first and by Ensembl id (without version) where that fails.

    Returns
    -------
    ``(n_spots, n_genes)`` float32 raw counts, 0 where not measured, and ``(n_genes,)`` bool: which were measured.

    Raises
    ------
    InputError
        When the spots have no counts, or none of the panel's genes was measured.
    """
    counts, genes = spots.require_counts()
    columns = genes.columns(panel)
    measured = columns >= 0
    if not measured.any():
        raise InputError(
            f"No gene in common: the panel's {len(panel)} genes (such as {panel.symbols[0]}) are not among the "
            f"{len(genes)} measured (such as {genes.symbols[0]})."
        )
    dense = np.zeros((len(spots), len(panel)), dtype=np.float32)
    dense[:, measured] = counts[:, columns[measured]].toarray()
    return dense, measured


def normalise(counts: NDArray[Any], totals: NDArray[Any], normalisation: Normalisation) -> FloatArray:
    """Turn raw counts into expression: ``log(1 + counts / total * target_sum)``.

    Parameters
    ----------
    counts
        ``(n_spots, n_genes)`` raw counts.
    totals
        ``(n_spots,)`` what each spot is divided by; a spot with a total of 0 gives zeros.
    normalisation
        Target sum and logarithm.

    Returns
    -------
    ``(n_spots, n_genes)`` float32.
    """
    totals = np.asarray(totals, dtype=np.float64)
    factor = np.divide(normalisation.target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    logged = np.log1p(np.asarray(counts, dtype=np.float64) * factor[:, None])
    if normalisation.log == "log10":
        logged /= np.log(10.0)
    return np.asarray(logged, dtype=np.float32)


def expression_for(spots: SpotTable, panel: GenePanel, normalisation: Normalisation) -> tuple[FloatArray, BoolArray]:
    """Normalise a slide's counts of a panel; the total is over the panel or over every measured gene.

    Returns
    -------
    ``(n_spots, n_genes)`` float32 expression, 0 where not measured, and ``(n_genes,)`` bool: which were measured.

    Raises
    ------
    InputError
        As ``counts_for``.
    """
    counts, measured = counts_for(spots, panel)
    totals = counts.sum(axis=1, dtype=np.float64)
    if normalisation.total == "all":
        totals = np.asarray(spots.require_counts()[0].sum(axis=1, dtype=np.float64)).ravel()
    return normalise(counts, totals, normalisation), measured

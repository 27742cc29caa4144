"""Measures of prediction intervals, each with its source. Genes are columns; NaN stands for not measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mclstexp.errors import InputError
from mclstexp.metrics import Floats, mean_or_none, paired


def interval_coverage(truth: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> tuple[float, float] | None:
    """Share of measured values inside their interval (bounds included), and the mean width of the intervals.

    Raises
    ------
    InputError
        When a lower bound is above its upper bound.
    """
    x, low = paired(truth, lower)
    x, high = paired(truth, upper)
    known = ~np.isnan(x) & ~np.isnan(low) & ~np.isnan(high)
    if not known.any():
        return None
    crossed = int((low[known] > high[known]).sum())
    if crossed:
        raise InputError(f"{crossed} of {int(known.sum())} prediction intervals have a lower bound above the upper.")
    inside = (x[known] >= low[known]) & (x[known] <= high[known])
    return float(inside.mean()), float((high[known] - low[known]).mean())


def pinball_loss(truth: ArrayLike, lower: ArrayLike, upper: ArrayLike, level: float) -> float | None:
    """Mean of the quantile losses of an interval's two bounds; lower is better, both for narrow and for true ones.

    A bound meant as the quantile ``q`` costs ``q`` a unit where the truth is above it, and ``1 - q`` where it is below
    (Koenker and Bassett 1978); here ``q = (1 - level) / 2`` and ``1 - q``.

    Parameters
    ----------
    truth, lower, upper
        ``(n, G)``.
    level
        Share of the values that the interval is meant to hold.
    """
    x, low = paired(truth, lower)
    x, high = paired(truth, upper)
    tail = (1 - level) / 2
    losses = [np.maximum(q * (x - bound), (q - 1) * (x - bound)) for q, bound in ((tail, low), (1 - tail, high))]
    return mean_or_none((losses[0] + losses[1]) / 2)


def constant_interval(
    truth: ArrayLike, predicted: ArrayLike, spread: ArrayLike, coverage: float
) -> tuple[Floats, Floats]:
    """Return the interval of one width a gene that holds a given share of the measured values.

    It is the prediction plus and minus a factor times the gene's spread, the same factor for all genes and spots; what
    an interval that differs from spot to spot has to beat.

    Parameters
    ----------
    truth, predicted
        ``(n, G)``.
    spread
        ``(G,)`` of each gene on the training side.
    coverage
        Share to hold, 0 to 1.
    """
    x, y = paired(truth, predicted)
    scale = np.asarray(spread, dtype=np.float64)
    known = ~np.isnan(x) & ~np.isnan(y) & (scale > 0)
    apart = np.sort((np.abs(x - y) / np.where(scale > 0, scale, np.nan))[known])
    held = round(coverage * len(apart))
    factor = apart[held - 1] * (1 + 1e-9) if held else 0.0  # the value on the bound is inside in spite of rounding
    return y - factor * scale, y + factor * scale

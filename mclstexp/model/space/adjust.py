"""From the neighbours' mean to the query's place: the local linear correction, and the slide's level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mclstexp.types import FloatArray

GENES_AT_A_TIME = 1024


def coordinates(embedding: FloatArray, radius: float) -> FloatArray:
    """Return the coordinates ``(..., c)`` of unit vectors ``(..., c + 1)``: the sphere seen from its centre."""
    last = np.maximum(embedding[..., -1:], 1e-6)
    return np.asarray(embedding[..., :-1] / last * np.float32(radius), dtype=np.float32)


def relevel(expression: FloatArray, level: FloatArray, *, trust: float) -> FloatArray:
    """Bring the mean over a slide's spots to a level; only the contrast between the spots is the neighbours'.

    Embeddings are relative to their slide, so what its spots' neighbours express on average says nothing of it. Nothing
    goes below zero: the other spots go down so much farther that the mean is kept.

    Parameters
    ----------
    expression
        ``(n, G)`` of the spots of one slide; NaN where unknown.
    level
        ``(G,)`` what the mean should be; NaN where unknown, and the mean stays.
    trust
        So many spots of doubt: the mean of a few spots is not yet that of a slide.
    """
    moved = np.empty_like(expression, dtype=np.float32)
    for start in range(0, expression.shape[1], GENES_AT_A_TIME):
        part = slice(start, start + GENES_AT_A_TIME)
        moved[:, part] = _relevelled(expression[:, part].astype(np.float64), level[part], trust)
    return moved


def _relevelled(values: NDArray[np.float64], level: FloatArray, trust: float) -> NDArray[np.float64]:
    """Move every column alike, but not below zero, so that its mean is its level: found by sorting, exactly."""
    known = np.isfinite(values)
    n = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    wanted = np.where(np.isfinite(level), total + (level * n - total) * n / (n + trust), total)
    descending = -np.sort(np.where(known, -values, np.inf), axis=0)  # what is not known last
    sums = np.cumsum(np.where(np.isfinite(descending), descending, 0), axis=0)
    move = (wanted - sums) / np.arange(1, len(values) + 1)[:, None]  # if so many spots stay above zero
    above = (np.isfinite(descending) & (descending + move > 0)).sum(axis=0)
    chosen = np.take_along_axis(move, np.maximum(above - 1, 0)[None], axis=0)
    return np.where(known, np.where(above > 0, np.maximum(values + chosen, 0), 0), np.nan)


def correct_toward_query(
    expression: FloatArray,
    query: FloatArray,
    neighbours: FloatArray,
    slope: FloatArray,
    *,
    strength: float = 0.5,
) -> FloatArray:
    """Make up for neighbours that lie on average on one side of the query.

    A weighted mean of neighbours is the expression at *their* mean place. This adds ``strength`` of what the linear
    model expects between there and the query's place (local linear regression).

    Parameters
    ----------
    expression
        ``(n, G)`` weighted means of the neighbours' expression.
    query, neighbours
        ``(n, c)`` coordinates of the queries and the weighted means of their neighbours' coordinates.
    slope
        ``(c, G)`` from `SharedSpace.expression_per_coordinate`.
    strength
        From 0 (no correction) to 1.
    """
    return (expression + np.float32(strength) * ((query - neighbours) @ slope)).astype(np.float32)

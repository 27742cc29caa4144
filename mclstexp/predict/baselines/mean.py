"""Means of training spots, and the baseline that predicts nothing else. NaN stands for not measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError, MismatchError
from mclstexp.types import FloatArray, IdArray


class MeanExpression:
    """Every spot gets the mean of all training spots."""

    def __init__(self) -> None:
        self._mean: FloatArray | None = None
        self._left_out: list[FloatArray] = []

    def fit(
        self, features: Sequence[FloatArray], expression: Sequence[FloatArray], fold_of: Sequence[IdArray]
    ) -> MeanExpression:
        """Average the training spots, each gene over the slides that measured it, as `RidgeProbe.fit` takes them."""
        table, folds = np.concatenate(list(expression)), np.concatenate(list(fold_of))
        if not len(table):
            raise InputError("A baseline was given no training spots.")
        self._mean = column_means(table)
        self._left_out = [column_means(table[folds != number]) for number in range(int(folds.max()) + 1)]
        return self

    def predict(self, features: FloatArray) -> FloatArray:
        """Repeat the mean ``(n, G)``."""
        if self._mean is None:
            raise MismatchError("The training mean was asked for before it was fitted.")
        return np.tile(self._mean, (len(features), 1))

    def cross_predict(
        self, features: Sequence[FloatArray], fold_of: Sequence[IdArray], rows: Sequence[IdArray] | None = None
    ) -> list[FloatArray]:
        """Give each training spot the mean of the other folds', as `RidgeProbe.cross_predict` does."""
        chosen = [fold if rows is None else fold[rows[i]] for i, fold in enumerate(fold_of)]
        means = np.stack(self._left_out)
        return [means[fold] for fold in chosen]


def mean_of_rows(expression: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
    """Average the given rows of the expression, ignoring NaN; NaN for a gene that none of all rows knows.

    Where a spot's own rows all lack a gene that others have, the gene's mean over all rows stands in.

    Parameters
    ----------
    expression
        ``(n, G)``.
    rows
        ``(m, k)`` indices.
    """
    result = np.empty((len(rows), expression.shape[1]), dtype=np.float32)
    known = ~np.isnan(expression)
    if known.all():
        for i, row in enumerate(rows):
            result[i] = expression[row].mean(axis=0, dtype=np.float64)
        return result
    filled = np.where(known, expression, np.float32(0.0))
    fallback = column_means(expression)
    for i, row in enumerate(rows):
        n = known[row].sum(axis=0)
        result[i] = np.where(n > 0, filled[row].sum(axis=0, dtype=np.float64) / np.maximum(n, 1), fallback)
    return result


def column_means(expression: FloatArray) -> FloatArray:
    """Mean of each column over what is not NaN; NaN for a column without values."""
    known = ~np.isnan(expression)
    total = np.where(known, expression, np.float32(0.0)).sum(axis=0, dtype=np.float64)
    count = known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)

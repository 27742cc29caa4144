"""Retrieval by image features alone: the mean of the training spots that look most alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import MismatchError
from mclstexp.metrics import Floats
from mclstexp.predict.baselines.features import FeatureBasis
from mclstexp.predict.baselines.mean import mean_of_rows
from mclstexp.types import FloatArray, IdArray

QUERIES_AT_ONCE = 512


class FeatureNeighbours:
    """The mean of the ``k`` training spots nearest by cosine of training-standardised features.

    Parameters
    ----------
    k
        Neighbours; all where there are fewer.
    weights
        ``(F,)`` variance that each feature is brought to; None: the same.
    seed
        Draws landmarks where features are long and spots many.
    """

    def __init__(self, k: int = 200, *, weights: Floats | None = None, seed: int = 0) -> None:
        self.k, self._column_weights, self._seed = k, weights, seed
        self._basis: FeatureBasis | None = None
        self._keys = self._expression = np.zeros((0, 0), dtype=np.float32)
        self._fold_of = np.zeros(0, dtype=np.int64)

    def fit(
        self, features: Sequence[FloatArray], expression: Sequence[FloatArray], fold_of: Sequence[IdArray]
    ) -> FeatureNeighbours:
        """Standardise the training features and keep them at unit length, with arguments as of `RidgeProbe.fit`."""
        self._basis = FeatureBasis.of(features, weights=self._column_weights, seed=self._seed)
        self._keys = np.concatenate([_unit(self._basis(values)) for values in features])
        self._expression, self._fold_of = np.concatenate(list(expression)), np.concatenate(list(fold_of))
        return self

    def predict(self, features: FloatArray) -> FloatArray:
        """Search exactly; ties go to the earlier training spot."""
        return self._mean(features, None)

    def cross_predict(
        self, features: Sequence[FloatArray], fold_of: Sequence[IdArray], rows: Sequence[IdArray] | None = None
    ) -> list[FloatArray]:
        """Predict training spots by those of the other folds, as `RidgeProbe.cross_predict` does."""
        predicted = []
        for i, (values, fold) in enumerate(zip(features, fold_of, strict=True)):
            chosen = slice(None) if rows is None else rows[i]
            asked, numbers = values[chosen], fold[chosen]
            part = np.full((len(asked), self._expression.shape[1]), np.nan, dtype=np.float32)
            for number in np.unique(numbers).tolist():
                allowed = np.flatnonzero(self._fold_of != number)
                if len(allowed):
                    part[numbers == number] = self._mean(asked[numbers == number], allowed)
            predicted.append(part)
        return predicted

    def _mean(self, features: FloatArray, allowed: IdArray | None) -> FloatArray:
        if self._basis is None:
            raise MismatchError("Image retrieval was asked to predict before it was fitted.")
        queries = _unit(self._basis(features))
        keys = self._keys if allowed is None else self._keys[allowed]
        expression = self._expression if allowed is None else self._expression[allowed]
        nearest = np.empty((len(queries), min(self.k, len(keys))), dtype=np.int64)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            block = queries[start : start + QUERIES_AT_ONCE] @ keys.T
            nearest[start : start + len(block)] = highest_in_rows(block, nearest.shape[1])
        return mean_of_rows(expression, nearest)


def highest_in_rows(values: NDArray[np.floating], k: int) -> IdArray:
    """Return the places ``(m, k)`` of each row's ``k`` highest values, ascending; ties go to the earlier."""
    if k >= values.shape[1]:
        return np.tile(np.arange(values.shape[1], dtype=np.int64), (len(values), 1))
    places = np.empty((len(values), k), dtype=np.int64)
    bound = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k]
    for i, row in enumerate(values):
        above = np.flatnonzero(row > bound[i])
        tied = np.flatnonzero(row == bound[i])[: k - len(above)]
        places[i] = np.sort(np.concatenate([above, tied]))
    return places


def _unit(x: FloatArray) -> FloatArray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norm > 0, norm, 1.0), dtype=np.float32)

"""A linear map from features to expression, kept in few directions: one end of what a prediction can be blended of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.linear_features import Features, HeldFeatures
from mclstexp.types import FloatArray

MAX_RANK = 96
"""Directions that a map is kept in; what lies beyond adds little to any gene."""

ARRAYS = ("own", "out", "offset", "bounds")


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Expression ``centred @ own @ out + offset``, within bounds; immutable.

    Attributes
    ----------
    own, out
        ``(F, q)`` and ``(q, G)``.
    offset
        ``(G,)``.
    bounds
        ``(2, G)`` least and largest prediction of each gene.
    """

    own: FloatArray
    out: FloatArray
    offset: FloatArray
    bounds: FloatArray

    @classmethod
    def of(cls, weights: FloatArray, offset: FloatArray, bounds: FloatArray) -> LinearMap:
        """Keep the main directions of weights ``(F, G)``; genes without a fit (NaN) stay unknown."""
        known = np.isfinite(weights).all(axis=0)
        left, size, right = np.linalg.svd(np.where(known, weights, 0.0), full_matrices=False)
        kept = slice(0, MAX_RANK)
        own = left[:, kept] * size[kept]
        return cls(*(np.asarray(part, dtype=np.float32) for part in (own, right[kept], offset, bounds)))

    def __call__(self, centred: FloatArray) -> FloatArray:
        """Return ``(n, G)`` of features ``(n, F)`` less the training slides' mean; NaN for genes without a fit."""
        return self.from_features(HeldFeatures(centred), np.zeros(len(self.own), dtype=np.float32))

    def from_features(self, features: Features, origin: FloatArray) -> FloatArray:
        """Return the same of features that are not centred, and the training slides' mean ``(F,)``."""
        predicted = features.product(origin, self.own) @ self.out + self.offset
        return np.asarray(np.clip(predicted, *self.bounds), dtype=np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that rebuild it."""
        return {f"linear.{name}": getattr(self, name) for name in ARRAYS}

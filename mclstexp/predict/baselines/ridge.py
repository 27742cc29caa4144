"""Ridge regression of many genes on common features, from sums alone: solved for many penalties at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve

from mclstexp.metrics import Floats
from mclstexp.types import FloatArray


@dataclass(frozen=True, eq=False)
class Sums:
    """Numbers, sums and products of features ``x`` ``(n, p)`` and targets ``y`` ``(n, g)`` over some spots."""

    n: int
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def of(cls, x: FloatArray | Floats, y: FloatArray | Floats) -> Sums:
        """Sum in float64."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        return cls(len(x), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y)

    def plus(self, other: Sums) -> Sums:
        """Return the sums over the spots of both."""
        return Sums(self.n + other.n, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy)

    def minus(self, other: Sums) -> Sums:
        """Return the sums over this one's spots without the other's."""
        return Sums(self.n - other.n, self.x - other.x, self.y - other.y, self.xx - other.xx, self.xy - other.xy)

    def centred(self) -> tuple[Floats, Floats]:
        """Return the products of the deviations from the means: ``(p, p)`` and ``(p, g)``."""
        return self.xx - np.outer(self.x, self.x) / self.n, self.xy - np.outer(self.x, self.y) / self.n

    def solve(self, strength: float, slope: float = 1.0) -> tuple[Floats, Floats]:
        """Return weights ``(p, g)``, times the slope, and offset ``(g,)``; as `Ridge`, without its decomposition."""
        weights = np.zeros((len(self.x), len(self.y)))
        gram, cross = self.centred()
        penalty = strength * _unit(gram, self.n)
        if penalty > 0:
            weights = slope * solve(gram + penalty * np.eye(len(gram)), cross, assume_a="pos")
        return weights, (self.y - self.x @ weights) / self.n


class Ridge:
    """Ridge regression with an unpenalised intercept, solved for many penalties from one decomposition.

    A penalty is in units of the mean squared length of a spot's centred features: scikit-learn's ``Ridge(alpha)`` has
    ``alpha = strength * unit``.
    """

    def __init__(self, sums: Sums) -> None:
        gram, cross = sums.centred()
        self.unit = _unit(gram, sums.n)
        values, self._vectors = eigh(gram)
        self._values = np.clip(values, 0.0, None)
        self._projected = self._vectors.T @ cross  # (p, g)
        self._mean_x, self.mean_y = sums.x / sums.n, sums.y / sums.n

    def rotate(self, x: NDArray[np.floating]) -> Floats:
        """Bring features ``(n, p)`` into the basis in which every penalty is diagonal."""
        rotated: Floats = (x - self._mean_x) @ self._vectors
        return rotated

    def deviation(self, rotated: Floats, strength: float) -> Floats:
        """Predict ``(n, g)`` less the mean, from rotated features with a positive penalty."""
        if not self.unit > 0:
            return np.zeros((len(rotated), len(self.mean_y)))
        predicted: Floats = rotated @ (self._projected / (self._values + strength * self.unit)[:, None])
        return predicted


def _unit(gram: Floats, n: int) -> float:
    """Mean squared length of a spot's centred features."""
    return max(float(np.trace(gram)), 0.0) / max(n, 1)

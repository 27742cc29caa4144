"""What the model asks of a slide's image features: linear maps of them, their sum, their distance from a mean.

A spot has 18,000 numbers with the default recipe, and 500,000 bins of a Visium HD slide 36 GB of them. All that the
model needs of them is linear but for one squared length, so it can be added up while the tissue is encoded, a part of
the numbers of some spots at a time. Arrays answer the same questions, in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mclstexp.types import FloatArray, IdArray

BLOCK_BYTES = 2**26
"""Bytes of features that are worked on at once."""


class Features(Protocol):
    """The image features of a slide's spots, ``(n, width)``."""

    @property
    def width(self) -> int:
        """Length of a spot's features."""
        ...

    def __len__(self) -> int:
        """Return the number of spots."""
        ...

    def sums(self) -> NDArray[np.float64]:
        """Return the sum over the spots, ``(width,)``."""
        ...

    def product(self, origin: FloatArray, weights: FloatArray) -> NDArray[Any]:
        """Return ``(n, k)``: features less ``origin`` ``(width,)``, times ``weights`` ``(width, k)``."""
        ...

    def lengths(self, origin: FloatArray, scale: FloatArray) -> NDArray[Any]:
        """Return ``(n,)`` squared lengths of features less ``origin``, times ``scale``, both ``(width,)``."""
        ...


Seen = FloatArray | Features
"""Features as an array, or as what answers for them."""


@dataclass(frozen=True, eq=False)
class HeldFeatures:
    """Features in an array ``(n, width)`` float32."""

    values: FloatArray

    @property
    def width(self) -> int:
        """Length of a spot's features."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.values)

    def sums(self) -> NDArray[np.float64]:
        """Return the sum over the spots, ``(width,)``."""
        return np.asarray(self.values.sum(axis=0, dtype=np.float64))

    def product(self, origin: FloatArray, weights: FloatArray) -> NDArray[Any]:
        """Return ``(n, k)``: features less ``origin``, times ``weights``."""
        parts = [(self.values[rows] - origin) @ weights for rows in self._blocks()]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def lengths(self, origin: FloatArray, scale: FloatArray) -> NDArray[Any]:
        """Return ``(n,)`` squared lengths of features less ``origin``, times ``scale``."""
        return np.concatenate([(((self.values[rows] - origin) * scale) ** 2).sum(axis=1) for rows in self._blocks()])

    def _blocks(self) -> Iterator[slice]:
        step = max(1, BLOCK_BYTES // (4 * max(self.width, 1)))
        for start in range(0, max(len(self), 1), step):
            yield slice(start, start + step)


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be asked of features.

    Attributes
    ----------
    origin, weights
        ``(width,)`` and the ``(width, k)`` of each linear map, all less the same origin.
    mean, scale
        ``(width,)`` of the squared lengths; None where none are asked for.
    """

    origin: FloatArray
    weights: tuple[FloatArray, ...]
    mean: FloatArray | None = None
    scale: FloatArray | None = None


class SummedFeatures:
    """Features that are never held: what a plan asks of them, added up as they come.

    `add` takes a part of the numbers of some spots, each part of each spot once.
    """

    def __init__(self, n_spots: int, plan: Plan) -> None:
        self._plan, self._n = plan, n_spots
        self._stacked = np.concatenate(plan.weights, axis=1).astype(np.float32)
        self._products = np.zeros((n_spots, self._stacked.shape[1]), dtype=np.float32)
        self._lengths = np.zeros(0 if plan.scale is None else n_spots, dtype=np.float32)
        self._sums = np.zeros(len(plan.origin), dtype=np.float64)

    @property
    def width(self) -> int:
        """Length of a spot's features."""
        return len(self._plan.origin)

    def __len__(self) -> int:
        return self._n

    def add(self, spots: IdArray, start: int, values: FloatArray) -> None:
        """Take ``values`` ``(b, w)``: the numbers from ``start`` on of ``spots`` ``(b,)``, none of them twice."""
        plan, own = self._plan, slice(start, start + values.shape[1])
        self._sums[own] += values.sum(axis=0, dtype=np.float64)
        self._products[spots] += (values - plan.origin[own]) @ self._stacked[own]
        if plan.mean is not None and plan.scale is not None:
            apart = (values - plan.mean[own]) * plan.scale[own]
            self._lengths[spots] += np.einsum("bw,bw->b", apart, apart)

    def sums(self) -> NDArray[np.float64]:
        """Return the sum over the spots, ``(width,)``."""
        return self._sums

    def product(self, origin: FloatArray, weights: FloatArray) -> NDArray[Any]:
        """Return ``(n, k)``: features less ``origin``, times one of the plan's ``weights``.

        Raises
        ------
        KeyError
            For weights that are not in the plan.
        """
        start = 0
        for known in self._plan.weights:
            stop = start + known.shape[1]
            if known is weights:
                moved = (self._plan.origin.astype(np.float64) - origin) @ weights
                return np.asarray(self._products[:, start:stop] + moved.astype(np.float32))
            start = stop
        raise KeyError("features that are not held were asked for a linear map that was not planned")

    def lengths(self, origin: FloatArray, scale: FloatArray) -> NDArray[Any]:
        """Return ``(n,)`` squared lengths, of the plan's mean and scale.

        Raises
        ------
        KeyError
            For a scale that is not in the plan.
        """
        if scale is not self._plan.scale or origin is not self._plan.mean:
            raise KeyError("features that are not held were asked for a length that was not planned")
        return self._lengths


def as_features(values: Seen) -> Features:
    """Return an array as features; what is none already is returned."""
    return HeldFeatures(values) if isinstance(values, np.ndarray) else values


def held(features: Seen) -> FloatArray:
    """Return features as an array.

    Raises
    ------
    TypeError
        When they were never held.
    """
    if isinstance(features, np.ndarray):
        return features
    if isinstance(features, HeldFeatures):
        return features.values
    raise TypeError("these features were added up and not held")


def stacked(weights: Sequence[FloatArray | None]) -> tuple[FloatArray, ...]:
    """Return the linear maps of a plan, without those that a model does not have."""
    return tuple(one for one in weights if one is not None)

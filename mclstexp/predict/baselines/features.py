"""Image features as the baselines take them: one scale, and directions few enough to solve in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from mclstexp.errors import InputError, MismatchError
from mclstexp.metrics import CONSTANT_TOLERANCE, Floats
from mclstexp.types import FloatArray, IdArray

MAX_DIRECTIONS = 1500
"""Features longer than this are kept along so many directions at most."""

MAX_LANDMARKS = 2000
"""Spots that span those directions; with no more spots than directions the features lose nothing."""

BLOCK = 2048
"""Rows that are scaled at a time."""

NEGLIGIBLE = 1e-5
"""Directions that hold less than this share of the largest one's variance are rounding."""


@dataclass(frozen=True, eq=False)
class FeatureBasis:
    """Centred, scaled features, and directions that span those of the training spots.

    Attributes
    ----------
    mean, scale
        ``(F,)`` mean over the training spots, and factor of each column; 0 where it does not vary.
    directions
        ``(F, p)`` float32, orthonormal; None where the columns are few and serve as they are.
    """

    mean: Floats
    scale: Floats
    directions: FloatArray | None

    @classmethod
    def of(
        cls,
        features: Sequence[FloatArray],
        *,
        weights: Floats | None = None,
        within_slides: bool = False,
        seed: int = 0,
    ) -> FeatureBasis:
        """Measure the training slides' features, one slide at a time.

        Parameters
        ----------
        features
            ``(n, F)`` of each slide.
        weights
            ``(F,)`` total variance that each column is brought to; None: 1.
        within_slides
            Take the variance around each slide's own mean, so that a strange slide does not pass for common.
        seed
            Draws the landmarks where there are too many spots.

        Raises
        ------
        InputError
            When there is no spot.
        MismatchError
            When the slides' features differ in length.
        """
        features = [values for values in features if len(values)]
        n_spots = sum(map(len, features))
        if not n_spots:
            raise InputError("A baseline was given no training spots.")
        widths = sorted({values.shape[1] for values in features})
        if len(widths) > 1:
            raise MismatchError(f"Features have {widths[0]} columns in one slide and {widths[-1]} in another.")
        means = np.stack([values.mean(axis=0, dtype=np.float64) for values in features])
        sizes = np.array([len(values) for values in features], dtype=np.float64)
        mean = sizes @ means / n_spots
        square, top = np.zeros(widths[0]), np.zeros(widths[0])
        for values, own in zip(features, means, strict=True):
            for block in _blocks(values):
                apart = block - (own if within_slides else mean)
                square += np.einsum("nf,nf->f", apart, apart)
                np.maximum(top, np.abs(block).max(axis=0), out=top)
        sd = np.sqrt(square / n_spots)
        wanted = np.ones(widths[0]) if weights is None else np.sqrt(weights)
        scale = np.where(sd > CONSTANT_TOLERANCE * top, wanted / np.where(sd > 0, sd, 1.0), 0.0)
        basis = cls(mean, scale, None)
        if widths[0] <= MAX_DIRECTIONS:
            return basis
        return cls(mean, scale, _directions(np.concatenate(list(basis.landmarks(features, seed)))))

    def landmarks(self, features: Sequence[FloatArray], seed: int) -> list[FloatArray]:
        """Return the scaled features of the landmark spots, the same share of every slide."""
        rows = even_rows([len(values) for values in features], MAX_LANDMARKS, seed)
        return [self(values[chosen]) for values, chosen in zip(features, rows, strict=True)]

    def __call__(self, features: FloatArray) -> FloatArray:
        """Return ``(n, p)`` float32 of features ``(n, F)``.

        Raises
        ------
        MismatchError
            When they have another number of columns than the training spots'.
        """
        if features.shape[1] != len(self.mean):
            raise MismatchError(f"Features have {features.shape[1]} columns, but training had {len(self.mean)}.")
        if self.directions is None:
            return np.asarray((features - self.mean) * self.scale, dtype=np.float32)
        out = np.empty((len(features), self.directions.shape[1]), dtype=np.float32)
        mean, scale = self.mean.astype(np.float32), self.scale.astype(np.float32)
        for start, block in zip(range(0, len(features), BLOCK), _blocks(features), strict=True):
            out[start : start + len(block)] = ((block - mean) * scale) @ self.directions
        return out


def _blocks(features: FloatArray) -> Iterator[FloatArray]:
    """Yield the rows, some at a time, so that a memory map of a large slide is never copied whole."""
    for start in range(0, len(features), BLOCK):
        yield np.asarray(features[start : start + BLOCK], dtype=np.float32)


def _directions(landmarks: FloatArray) -> FloatArray:
    """Return orthonormal directions ``(F, p)`` that span the landmarks ``(n, F)``, strongest first."""
    gram = (landmarks @ landmarks.T).astype(np.float64)
    rank = min(MAX_DIRECTIONS, len(gram))
    values, vectors = eigh(gram, subset_by_index=(len(gram) - rank, len(gram) - 1))
    kept = values > NEGLIGIBLE * max(float(values[-1]), 1e-300)
    return np.asarray(landmarks.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32))[:, ::-1]


def even_rows(sizes: Sequence[int], wanted: int, seed: int) -> list[IdArray]:
    """Return about ``wanted`` rows in all, the same share of every slide, one ascending array a slide."""
    share = min(1.0, wanted / max(sum(sizes), 1))
    rng = np.random.default_rng(seed)
    return [np.sort(rng.permutation(size)[: int(np.ceil(size * share))]).astype(np.int64) for size in sizes]

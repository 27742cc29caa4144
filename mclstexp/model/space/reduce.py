"""Fewer numbers a spot: each part of the features in its own main directions, so that a fit can be made many times.

The default encoder gives 12,000 numbers a spot; what a ridge regression makes of them lies almost wholly in a few
hundred directions of each part. Everything is linear, so a space that was fitted to reduced features is brought back
to the encoder's own without loss (`Reduction.lift`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh

from mclstexp.model.space.level import SlideLevel
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import FeatureBlock, Layout, Matrix, SlideArrays, column_scale, sampled_rows
from mclstexp.types import FloatArray

MAX_DIRECTIONS = 256
"""Directions kept of each part: a field of view's early stages, late stages, or last layer, of one encoder."""

LANDMARKS = 2048
"""Spots that the directions are taken from, the same share of every slide."""


@dataclass(frozen=True)
class ReducedLayout:
    """Blocks of reduced features."""

    parts: tuple[FeatureBlock, ...]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A linear map to fewer features.

    Attributes
    ----------
    mean, scale
        ``(F,)`` mean of the slides' means, and factor of each feature.
    columns, directions
        Which features each part takes, and its orthonormal ``(width, p)`` directions.
    layout
        Of the reduced features.
    """

    mean: Matrix
    scale: Matrix
    columns: tuple[slice, ...]
    directions: tuple[FloatArray, ...]
    layout: ReducedLayout

    @classmethod
    def fit(cls, slides: Sequence[SlideArrays], layout: Layout, *, seed: int = 0) -> Reduction:
        """Find the main directions of slides' features; expression is not looked at."""
        mean, variance = _moments(slides)
        scale = column_scale(variance, layout)
        chosen = sampled_rows(slides, LANDMARKS, seed)
        rows = [slide.features[some] for slide, some in zip(slides, chosen, strict=True)]
        landmarks = ((np.concatenate(rows) - mean) * scale).astype(np.float32)
        columns, directions, parts, start = [], [], [], 0
        for (place, group), run in itertools.groupby(layout.parts, key=lambda part: (part.scale, part.group)):
            blocks = list(run)
            own = slice(start, start + sum(block.width for block in blocks))
            start = own.stop
            found = _directions(landmarks[:, own])
            columns.append(own)
            directions.append(found)
            mass = sum(block.mass for block in blocks)
            parts.append(FeatureBlock(found.shape[1], place, group, mass, columnwise=False))
        return cls(mean, scale, tuple(columns), tuple(directions), ReducedLayout(tuple(parts)))

    def __call__(self, slide: SlideArrays) -> SlideArrays:
        """Return the slide with reduced features."""
        reduced = []
        for own, directions in zip(self.columns, self.directions, strict=True):
            values = (slide.features[:, own] - self.mean[own].astype(np.float32)) * self.scale[own].astype(np.float32)
            reduced.append(values @ directions)
        return dataclasses.replace(slide, features=np.concatenate(reduced, axis=1).astype(np.float32))

    def weights(self, reduced: FloatArray) -> FloatArray:
        """Return weights ``(F, c)`` of features from weights ``(P, c)`` of reduced ones."""
        parts, start = [], 0
        for own, directions in zip(self.columns, self.directions, strict=True):
            stop = start + directions.shape[1]
            parts.append(self.scale[own, None] * (directions.astype(np.float64) @ reduced[start:stop]))
            start = stop
        return np.concatenate(parts).astype(np.float32)

    def lift(self, space: SharedSpace) -> SharedSpace:
        """Return a space of the encoder's features from one of reduced features."""
        level = space.level_of
        if isinstance(level, SlideLevel):
            level = dataclasses.replace(level, projection=self.weights(level.projection))
        linear = space.linear
        if linear is not None:
            # Reduced features count from the slides' mean.
            apart = linear.offset - (space.feature_mean @ linear.own) @ linear.out
            linear = dataclasses.replace(linear, own=self.weights(linear.own), offset=apart.astype(np.float32))
        changes: dict[str, Any] = {name: self.weights(getattr(space, name)) for name in space.FROM_FEATURES}
        changes |= {"feature_mean": self.mean.astype(np.float32), "level_of": level, "linear": linear}
        return dataclasses.replace(space, **changes)


def _moments(slides: Sequence[SlideArrays]) -> tuple[Matrix, Matrix]:
    """Return ``(F,)`` mean of the slides' means, and variance around the slides' own."""
    mean, square, n = 0.0, 0.0, 0
    for slide in slides:
        own = slide.features.mean(axis=0, dtype=np.float64)
        centred = slide.features - own.astype(np.float32)
        mean = mean + own / len(slides)
        square = square + np.einsum("nf,nf->f", centred, centred, dtype=np.float64)
        n += len(centred)
    return np.asarray(mean), np.asarray(square / max(n, 1))


def _directions(values: FloatArray) -> FloatArray:
    """Return the main ``(width, p)`` directions of ``(m, width)`` values; of nothing that varies, one."""
    wide = values.shape[0] < values.shape[1]
    gram = (values @ values.T if wide else values.T @ values).astype(np.float64)
    n_kept = min(MAX_DIRECTIONS, len(gram))
    found, vectors = eigh(gram, subset_by_index=(len(gram) - n_kept, len(gram) - 1))
    kept = found > max(1e-6 * found[-1], 1e-12)
    if not kept.any():
        return np.eye(values.shape[1], 1, dtype=np.float32)
    vectors = vectors[:, kept]
    return np.asarray(values.T @ (vectors / np.sqrt(found[kept])) if wide else vectors, dtype=np.float32)

"""A slide's level, the mean of its expression, told by its image.

Everything else in the shared space is relative to the slide, which keeps stain and scanner out of the neighbours. What
is lost is what the slide expresses as a whole. It is told here by features that are not centred, from three sides:
the training spots that look alike, the training slides that look alike, and the mean of all. How much each says is
chosen on patients held out; with fewer than four the spots that look alike tell it (docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from mclstexp.errors import FormatError
from mclstexp.model.linear_features import Features, HeldFeatures
from mclstexp.model.space.training_data import Matrix, SlideArrays, TrainingSet, sampled_rows, slide_weights
from mclstexp.types import FloatArray, IdArray

MAX_LANDMARKS = 2048
"""Training spots kept to compare with, the same share of every slide."""

MAX_AXES = 128
"""Principal directions of the features that spots and slides are compared along."""

ALIKE = 200
"""Spots that look alike whose mean is taken; of few landmarks a tenth, since half of all would be no neighbours."""

REACHES, NOISES = (1.0, 2.0, 4.0), (0.01, 0.1, 0.5)
"""Tried for the smooth over slides: reach of the kernel in medians of the slides' distances, and noise in its units."""

STEPS = 11
"""Weights from 0 to 1 that are tried of each side."""

UNKNOWN_GROWTH = 0.5
"""Share of its own distance from the training mean that a level may be wrong by where no patient could be held out."""

RIDGE_ARRAYS = ("image_level", "level_limit", "level_mean")

ARRAYS = ("mean", "projection", "landmarks", "expression", "anchors", "dual", "reach", "weights", "error", "growth")


@dataclass(frozen=True, eq=False)
class SlideLevel:
    """What tells a slide's level; immutable.

    Attributes
    ----------
    mean
        ``(G,)`` mean of the training slides' mean expression, shallow slides less.
    projection
        ``(F, r)`` from features, less the training slides' mean, to the directions that are compared.
    landmarks, expression
        ``(m, r)`` unit vectors of training spots and ``(m, G)`` float16 of their expression, NaN where not measured.
    anchors, dual, reach
        ``(s, r)`` mean of each training slide, ``(s, G)`` its weight in the smooth over slides, and the kernel's reach.
    weights
        ``(2,)`` how far to go from ``mean`` to what the spots, and what the slides that look alike say.
    error, growth
        ``(G,)`` standard deviation of held-out levels, and how much of a level's distance from ``mean`` adds to it.
    """

    mean: FloatArray
    projection: FloatArray
    landmarks: FloatArray
    expression: NDArray[np.float16]
    anchors: FloatArray
    dual: FloatArray
    reach: FloatArray
    weights: FloatArray
    error: FloatArray
    growth: FloatArray

    def __call__(self, centred: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the level ``(G,)`` and its standard deviation ``(G,)`` of a slide.

        Parameters
        ----------
        centred
            ``(n, F)`` features of the slide's spots, less the training slides' mean.
        """
        return self.from_features(HeldFeatures(centred), np.zeros(len(self.projection), dtype=np.float32))

    def from_features(self, features: Features, origin: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the same of features that are not centred, and the training slides' mean ``(F,)``."""
        axes = np.asarray(features.product(origin, self.projection), dtype=np.float32)
        spots = _of_spots(axes, self.landmarks, self.expression, self.mean) - self.mean if self.weights[0] else 0.0
        slides = 0.0
        if self.weights[1]:
            slides = _kernel(axes.mean(axis=0)[None], self.anchors, float(self.reach[0]))[0] @ self.dual
        moved = self.weights[0] * spots + self.weights[1] * slides
        spread = np.sqrt(self.error**2 + self.growth * np.square(moved))
        level = np.maximum(self.mean + moved, 0)
        return np.asarray(level, dtype=np.float32), np.broadcast_to(spread, level.shape).astype(np.float32)

    @property
    def map(self) -> FloatArray | None:
        """The linear map that it asks of features."""
        return self.projection

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that rebuild it."""
        return {f"level.{name}": getattr(self, name) for name in ARRAYS}


@dataclass(frozen=True, eq=False)
class RidgeLevel:
    """What told a slide's level in earlier models, kept to read them: a regression on its mean features.

    Attributes
    ----------
    image_level, level_limit, level_mean
        ``(F, c)`` from the mean features of a slide to its components, ``(c,)`` how far they may go, and ``(G,)`` the
        level of a slide whose features are the training slides' mean.
    components
        ``(c, G)`` loadings.
    trust
        So many spots of the training mean stood beside a slide's own.
    """

    image_level: FloatArray
    level_limit: FloatArray
    level_mean: FloatArray
    components: FloatArray
    trust: float

    def __call__(self, centred: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the level ``(G,)``, and zeros: how sure it is was not known."""
        return self.from_features(HeldFeatures(centred), np.zeros(centred.shape[1], dtype=np.float32))

    def from_features(self, features: Features, origin: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the same of features that are not centred, and the training slides' mean ``(F,)``."""
        n = len(features)
        apart = (features.sums() / n - origin) * n / (n + self.trust)
        moved = np.clip(apart @ self.image_level, -self.level_limit, self.level_limit)
        level = np.maximum(self.level_mean + moved @ self.components, 0).astype(np.float32)
        return level, np.zeros_like(level)

    @property
    def map(self) -> FloatArray | None:
        """None: it asks for the mean alone."""
        return None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that rebuild it."""
        return {name: getattr(self, name) for name in RIDGE_ARRAYS}


Level = SlideLevel | RidgeLevel


def level_from_state(arrays: Mapping[str, NDArray[Any]], components: FloatArray, trust: float) -> Level:
    """Rebuild what tells levels from a model's arrays.

    Raises
    ------
    FormatError
        When an array is missing.
    """
    if "shared.image_level" in arrays:
        names: tuple[str, ...] = RIDGE_ARRAYS
        missing = [name for name in names if f"shared.{name}" not in arrays]
    else:
        names = tuple(f"level.{name}" for name in ARRAYS)
        missing = [name for name in names if f"shared.{name}" not in arrays]
    if missing:
        raise FormatError(f"The model lacks shared.{missing[0]} of its shared space; train it anew.")
    values: dict[str, Any] = {name.removeprefix("level."): np.asarray(arrays[f"shared.{name}"]) for name in names}
    return RidgeLevel(components=components, trust=trust, **values) if names is RIDGE_ARRAYS else SlideLevel(**values)


def fit_slide_level(
    data: TrainingSet,
    features: Callable[[SlideArrays], FloatArray],
    seed: int,
    *,
    weights: tuple[float, float] | None = None,
) -> SlideLevel:
    """Learn to tell levels.

    Parameters
    ----------
    data
        The training slides.
    features
        Returns a slide's standardised features ``(n, F)``, not centred by slide.
    weights
        How much spots and slides that look alike say; None: chosen on patients held out.
    """
    spots = _Landmarks.sample(data, features, seed)
    anchors = np.stack([(features(slide) @ spots.projection).mean(axis=0) for slide in data.slides])
    levels = _slide_means(data.slides)
    share = slide_weights(data.slides)
    mean = _weighted_mean(levels, share)
    filled = np.where(np.isnan(levels), mean, levels)
    fold = np.array([int(fold_of[0]) for fold_of in data.fold_of])
    # Slides of one patient, let alone quarters of one slide, cannot show how patients differ.
    held_out = _HeldOut.of(data, spots, anchors, levels, share, fold) if data.kind == "patient" else None
    choice = _choose(held_out, levels) if held_out is not None else _Choice()
    if weights is not None:
        choice = _Choice(choice.reach, choice.noise, weights)
    reach = choice.reach * _typical_distance(anchors)
    error, growth = _uncertainty(held_out, choice, levels)
    n_spots, n_slides = (None if weight else 0 for weight in choice.weights)  # what says nothing is not kept
    return SlideLevel(
        mean=mean.astype(np.float32),
        projection=spots.projection,
        landmarks=spots.axes[:n_spots],
        expression=spots.expression[:n_spots],
        anchors=anchors[:n_slides].astype(np.float32),
        dual=_solve(anchors, filled - mean, reach, choice.noise)[:n_slides].astype(np.float32),
        reach=np.array([reach], dtype=np.float32),
        weights=np.array(choice.weights, dtype=np.float32),
        error=error.astype(np.float32),
        growth=np.array([growth], dtype=np.float32),
    )


@dataclass(frozen=True)
class _Choice:
    """Settings of the smooth over slides, and the weights of spots and slides."""

    reach: float = 2.0
    noise: float = 0.1
    weights: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True, eq=False)
class _Landmarks:
    """Training spots to compare with: their directions, unit vectors along them, expression, and place of the slide."""

    projection: FloatArray
    axes: FloatArray
    expression: NDArray[np.float16]
    owner: IdArray

    @classmethod
    def sample(cls, data: TrainingSet, features: Callable[[SlideArrays], FloatArray], seed: int) -> _Landmarks:
        chosen = sampled_rows(data.slides, MAX_LANDMARKS, seed)
        rows = [features(slide)[some] for slide, some in zip(data.slides, chosen, strict=True)]
        values = np.concatenate(rows).astype(np.float32)
        projection = _principal(values)
        expression = [
            np.where(slide.measured, slide.expression[some], np.nan).astype(np.float16)
            for slide, some in zip(data.slides, chosen, strict=True)
        ]
        owner = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        return cls(projection, _unit(values @ projection), np.concatenate(expression), owner)


def _principal(values: FloatArray) -> FloatArray:
    """Return ``(F, r)`` orthonormal main directions of ``(m, F)`` values."""
    wide = values.shape[0] < values.shape[1]
    gram = (values @ values.T if wide else values.T @ values).astype(np.float64)
    n_axes = min(MAX_AXES, len(gram))
    found, vectors = eigh(gram, subset_by_index=(len(gram) - n_axes, len(gram) - 1))
    kept = found > max(1e-6 * found[-1], 1e-12)
    vectors = vectors[:, kept]
    return np.asarray(values.T @ (vectors / np.sqrt(found[kept])) if wide else vectors, dtype=np.float32)


def _unit(axes: FloatArray) -> FloatArray:
    length = np.linalg.norm(axes, axis=1, keepdims=True)
    return np.asarray(axes / np.maximum(length, 1e-12), dtype=np.float32)


def _of_spots(axes: FloatArray, landmarks: FloatArray, expression: NDArray[np.float16], mean: NDArray[Any]) -> Matrix:
    """Return the mean expression ``(G,)`` of the landmarks that the spots of a slide look like."""
    n_alike = min(ALIKE, max(1, len(landmarks) // 10))
    use = np.zeros(len(landmarks))
    unit = _unit(axes)
    for start in range(0, len(unit), 1024):
        similarity = unit[start : start + 1024] @ landmarks.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :n_alike]
        use += np.bincount(nearest.ravel(), minlength=len(landmarks))
    used = np.flatnonzero(use)
    values = expression[used].astype(np.float64)
    known = ~np.isnan(values)
    held = use[used] @ known
    total = use[used] @ np.where(known, values, 0.0)
    return np.asarray(np.where(held > 0, total / np.maximum(held, 1e-12), mean))


def _kernel(first: NDArray[Any], second: NDArray[Any], reach: float) -> Matrix:
    squared = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.asarray(np.exp(-np.maximum(squared, 0) / (2 * max(reach, 1e-12) ** 2)), dtype=np.float64)


def _solve(anchors: Matrix, levels: Matrix, reach: float, noise: float) -> Matrix:
    return np.asarray(np.linalg.solve(_kernel(anchors, anchors, reach) + noise * np.eye(len(anchors)), levels))


def _typical_distance(anchors: Matrix) -> float:
    if len(anchors) < 2:
        return 1.0
    squared = (anchors**2).sum(axis=1)
    between = np.maximum(squared[:, None] + squared - 2 * anchors @ anchors.T, 0)[np.triu_indices(len(anchors), 1)]
    return max(float(np.sqrt(np.median(between))), 1e-6)


def _slide_means(slides: Sequence[SlideArrays]) -> Matrix:
    """Return ``(slides, G)``; NaN where not measured."""
    means = [np.where(s.measured, s.expression.mean(axis=0, dtype=np.float64), np.nan) for s in slides]
    return np.stack(means)


def _weighted_mean(levels: Matrix, share: Matrix) -> Matrix:
    known = ~np.isnan(levels) * share[:, None]
    return np.asarray((known * np.nan_to_num(levels)).sum(axis=0) / np.maximum(known.sum(axis=0), 1e-12))


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """What each side says of slides whose patients were left out, ``(slides, G)`` each; NaN: theirs alone."""

    mean: Matrix
    spots: Matrix
    slides: dict[tuple[float, float], Matrix]

    @classmethod
    def of(
        cls, data: TrainingSet, spots: _Landmarks, anchors: Matrix, levels: Matrix, share: Matrix, fold: IdArray
    ) -> _HeldOut:
        mean, alike = np.zeros_like(levels), np.zeros_like(levels)
        smooth = {(reach, noise): np.zeros_like(levels) for reach in REACHES for noise in NOISES}
        for number in np.unique(fold).tolist():
            rest, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            of_rest = levels[rest]
            mean[held] = np.where(np.isnan(of_rest).all(axis=0), np.nan, _weighted_mean(of_rest, share[rest]))
            filled = np.where(np.isnan(of_rest), mean[held[0]], of_rest)
            near = np.flatnonzero(fold[spots.owner] != number)
            for place in held.tolist():
                axes = spots.axes[spots.owner == place]
                alike[place] = _of_spots(axes, spots.axes[near], spots.expression[near], mean[place])
            typical = _typical_distance(anchors[rest])
            for (reach, noise), said in smooth.items():
                dual = _solve(anchors[rest], filled - mean[held[0]], reach * typical, noise)
                said[held] = mean[held] + _kernel(anchors[held], anchors[rest], reach * typical) @ dual
        return cls(mean, alike, smooth)

    def moved(self, choice: _Choice) -> Matrix:
        """Return how far from the mean the levels are said to lie."""
        of_slides = self.slides[choice.reach, choice.noise]
        return np.asarray(choice.weights[0] * (self.spots - self.mean) + choice.weights[1] * (of_slides - self.mean))


def _choose(held_out: _HeldOut, levels: Matrix) -> _Choice:
    """Return the settings of least squared error on patients held out."""
    grid = np.linspace(0, 1, STEPS)
    best, least = _Choice(), np.inf
    for reach, noise in held_out.slides:
        for first in grid:
            for second in grid[grid <= 1 - first + 1e-9]:
                choice = _Choice(reach, noise, (float(first), float(second)))
                error = float(np.nanmean((levels - held_out.mean - held_out.moved(choice)) ** 2))
                if error < least - 1e-12:
                    best, least = choice, error
    return best


def _uncertainty(held_out: _HeldOut | None, choice: _Choice, levels: Matrix) -> tuple[Matrix, float]:
    """Return the standard deviation of levels by gene, and how much of a level's own distance adds to it.

    Held-out squared errors are explained by a gene's own variance plus a share of the squared distance moved. A gene
    that was not measured twice, so that nothing shows its error, has that of the other genes; from one slide alone
    nothing is known but what the distance adds.
    """
    if held_out is None:
        twice = (~np.isnan(levels)).sum(axis=0) > 1
        apart = np.where(twice, _of_known((levels - _of_known(levels)) ** 2), np.nan)
        return _with_typical(apart), UNKNOWN_GROWTH**2
    moved = held_out.moved(choice)
    squared, distance = (levels - held_out.mean - moved) ** 2, moved**2
    around = distance - _of_known(distance)
    slope = np.nansum(around * squared) / max(float(np.nansum(around**2)), 1e-12)
    growth = float(np.clip(slope, 0.0, 1.0))
    left = _of_known(squared - growth * distance, np.nan)
    return _with_typical(left), growth


def _with_typical(squared: Matrix) -> Matrix:
    """Return the roots of squared errors ``(G,)``, where one is not known that of the mean of the others."""
    known = np.isfinite(squared)
    typical = float(np.mean(np.maximum(squared[known], 0.0))) if known.any() else 0.0
    return np.sqrt(np.maximum(np.where(known, squared, typical), 0.0))


def _of_known(values: Matrix, otherwise: float = 0.0) -> Matrix:
    """Return the mean ``(G,)`` over the slides that are known (not NaN)."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), otherwise))

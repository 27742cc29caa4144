"""How a slide's mean image features tell its level: the mean of its expression.

Everything else in the shared space is relative to the slide, which is what keeps stain and scanner out of the
neighbours. What is lost is whether a slide as a whole is, say, poorer in cells. A strongly regularised ridge regression
on features that are not centred gives some of it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.space.training_data import SlideArrays, TrainingSet, sampled_rows, slide_weights
from mclstexp.types import FloatArray

LEVEL_SPOTS = 1024
"""Spots that slides' levels are learnt from."""

STRENGTHS = (10.0, 30.0, 100.0)
"""Ridge penalties tried, in units of the mean squared length of a spot's features: strong, since slides are few."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LevelSpots:
    """Spots to learn levels from.

    Attributes
    ----------
    features
        ``(n, F)`` float32 standardised, not centred by slide.
    components
        ``(n, c)`` of their expression, not centred by slide.
    weights
        ``(n,)`` how much each counts.
    group
        ``(n,)`` which slide (or part of the only slide) each lies on, from 0.
    fold
        ``(groups,)`` which groups are held out together.
    """

    features: FloatArray
    components: Matrix
    weights: Matrix
    group: NDArray[np.int64]
    fold: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FittedLevel:
    """``(F, c)`` coefficients, ``(c,)`` spread of the components, and the chosen penalty (infinite: none pays)."""

    coefficients: Matrix
    spread: Matrix
    strength: float


@dataclass(frozen=True, eq=False)
class Basis:
    """Standardised features are ``(x - mean) * scale``, components ``(expression - centre) @ loadings.T``."""

    mean: Matrix
    scale: Matrix
    centre: Matrix
    loadings: Matrix


def level_spots(data: TrainingSet, basis: Basis, seed: int) -> LevelSpots:
    """Sample the slides' spots; a slide that lacks genes is scored on those it has."""
    parts: list[tuple[NDArray[np.floating], ...]] = []
    groups: list[NDArray[np.int64]] = []
    fold_of_group: list[NDArray[np.int64]] = []
    n_groups = 0
    for (slide, weight, fold), rows in zip(data, sampled_rows(data.slides, LEVEL_SPOTS, seed), strict=True):
        features = (slide.features[rows] - basis.mean.astype(np.float32)) * basis.scale.astype(np.float32)
        share = (basis.loadings[:, slide.measured] ** 2).sum(axis=1)
        scores = np.where(slide.measured, slide.expression[rows] - basis.centre, 0.0) @ basis.loadings.T
        folds_here, part = np.unique(fold[rows], return_inverse=True)
        parts.append((features, scores / np.maximum(share, 0.05), weight[rows]))
        groups.append(part + n_groups)
        fold_of_group.append(folds_here)
        n_groups += len(folds_here)
    x, z, weights = (np.concatenate(values) for values in zip(*parts, strict=True))
    return LevelSpots(x.astype(np.float32), z, weights, np.concatenate(groups), np.concatenate(fold_of_group))


def mean_level(slides: Sequence[SlideArrays], apart: Matrix, loadings: Matrix) -> FloatArray:
    """Return ``(G,)`` the level from which shifts count: the slides' mean, less the mean of their own shifts.

    Shallow slides count less, as everywhere. ``apart`` is ``(slides, c)``, the shift of each.
    """
    weights = slide_weights(slides)
    known = np.stack([slide.measured for slide in slides]) * weights[:, None]
    means = np.stack([np.where(slide.measured, slide.expression.mean(axis=0), 0.0) for slide in slides])
    mean = (known * means).sum(axis=0) / np.maximum(known.sum(axis=0), 1e-12)
    shift = (weights @ apart / weights.sum()) @ loadings
    return np.asarray(mean - shift, dtype=np.float32)


def fit_level(spots: LevelSpots, *, may_be_none: bool = False) -> FittedLevel:
    """Fit the level, its penalty chosen by the levels of groups held out.

    ``may_be_none`` leaves the level alone where no penalty does better than that. It asks for groups that differ as new
    slides will, patients: slides of one patient, let alone quarters of one slide, cannot show what it is worth.
    """
    gram = (spots.features @ spots.features.T).astype(np.float64)
    tried = [*STRENGTHS, np.inf] if may_be_none else list(STRENGTHS)
    errors = [_held_out_error(spots, gram, strength) for strength in tried]
    strength = tried[int(np.argmin(errors))]
    dual = _ridge(gram, spots.components, spots.weights, strength)
    share = spots.weights / spots.weights.sum()
    centred = spots.components - share @ spots.components
    return FittedLevel(spots.features.T.astype(np.float64) @ dual, np.sqrt(share @ centred**2), strength)


def _ridge(gram: Matrix, components: Matrix, weights: Matrix, strength: float) -> Matrix:
    """Dual coefficients ``(n, c)`` of a weighted ridge regression with an intercept; they sum to zero."""
    n = len(weights)
    if not np.isfinite(strength):
        return np.zeros_like(components)
    share = weights / weights.sum()
    root = np.sqrt(share * n)
    across = gram @ share
    centred = (gram - across[:, None] - across + share @ across) * root[:, None] * root
    unit = max(float(np.trace(centred)) / n, 1e-12)
    solved = np.linalg.solve(centred + strength * unit * np.eye(n), root[:, None] * (components - share @ components))
    dual = root[:, None] * solved
    return np.asarray(dual - share[:, None] * dual.sum(axis=0))


def _held_out_error(spots: LevelSpots, gram: Matrix, strength: float) -> float:
    """Squared error of the levels of groups held out, relative to the mean level of the rest."""
    n_groups = len(spots.fold)
    member = np.eye(n_groups)[spots.group]
    mean_of = (member / np.maximum(member.sum(axis=0), 1)).T  # (groups, n)
    levels = mean_of @ spots.components
    trust = mean_of @ spots.weights
    total = 0.0
    for fold in np.unique(spots.fold):
        held = np.flatnonzero(spots.fold == fold)
        rest = np.flatnonzero(spots.fold != fold)
        if not trust[rest].sum() > 0:
            continue
        rows = np.flatnonzero(spots.fold[spots.group] != fold)
        dual = _ridge(gram[np.ix_(rows, rows)], spots.components[rows], spots.weights[rows], strength)
        apart = mean_of[held] - mean_of[rest].mean(axis=0)
        shift = apart @ gram[:, rows] @ dual
        truth = levels[held] - levels[rest].mean(axis=0)
        total += float(trust[held] @ ((truth - shift) ** 2).sum(axis=1))
    return total

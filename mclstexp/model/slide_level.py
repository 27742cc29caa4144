"""How a slide's mean image features tell its level: the mean of its expression.

Everything else in the shared space is relative to the slide, which is what keeps stain and scanner out of the
neighbours. What is lost is whether a slide as a whole is, say, poorer in cells. A strongly regularised ridge regression
on features that are not centred gives some of it back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.types import FloatArray

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
    """``(F, c)`` coefficients on standardised features, ``(c,)`` spread of the components, and the chosen penalty."""

    coefficients: Matrix
    spread: Matrix
    strength: float


def fit_level(spots: LevelSpots) -> FittedLevel:
    """Fit the level, its penalty chosen by the levels of groups held out."""
    gram = (spots.features @ spots.features.T).astype(np.float64)
    errors = [_held_out_error(spots, gram, strength) for strength in STRENGTHS]
    strength = STRENGTHS[int(np.argmin(errors))]
    dual = _ridge(gram, spots.components, spots.weights, strength)
    share = spots.weights / spots.weights.sum()
    centred = spots.components - share @ spots.components
    spread = np.sqrt(share @ centred**2)
    return FittedLevel(spots.features.T.astype(np.float64) @ dual, spread, strength)


def _ridge(gram: Matrix, components: Matrix, weights: Matrix, strength: float) -> Matrix:
    """Dual coefficients ``(n, c)`` of a weighted ridge regression with an intercept; they sum to zero."""
    n = len(weights)
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
        if not len(rest):
            continue
        rows = np.flatnonzero(spots.fold[spots.group] != fold)
        dual = _ridge(gram[np.ix_(rows, rows)], spots.components[rows], spots.weights[rows], strength)
        apart = mean_of[held] - mean_of[rest].mean(axis=0)
        shift = apart @ gram[:, rows] @ dual
        truth = levels[held] - levels[rest].mean(axis=0)
        total += float(trust[held] @ ((truth - shift) ** 2).sum(axis=1))
    return total

"""The linear probe on a recipe's own features, as a part of its shared space."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mclstexp.model.space.linear import LinearMap
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import Matrix, SlideArrays, folds
from mclstexp.predict.baselines.probe import RidgeProbe
from mclstexp.types import FloatArray


def with_linear(space: SharedSpace, slides: Sequence[SlideArrays], *, seed: int) -> SharedSpace:
    """Return the space with a linear probe of the slides that it was fitted to, of reduced features."""
    probe = fitted_probe(slides, seed=seed)
    weights, offset, bounds = probe.affine()
    centred = offset + space.feature_mean @ np.nan_to_num(weights)
    return dataclasses.replace(space, linear=LinearMap.of(weights, centred, bounds))


def fitted_probe(slides: Sequence[SlideArrays], *, seed: int) -> RidgeProbe:
    """Fit the probe to reduced features as they are: they are on one scale already."""
    probe = RidgeProbe(weights=feature_variance(slides), seed=seed)
    return probe.fit([slide.features for slide in slides], measured_expression(slides), folds(slides)[1])


def measured_expression(slides: Sequence[SlideArrays]) -> list[FloatArray]:
    """Return ``(n, G)`` of each slide, NaN where not measured."""
    return [np.where(slide.measured, slide.expression, np.float32(np.nan)) for slide in slides]


def feature_variance(slides: Sequence[SlideArrays]) -> Matrix:
    """Return ``(P,)`` variance of the features around each slide's own mean."""
    squares = np.sum([((s.features - s.features.mean(axis=0)) ** 2).sum(axis=0, dtype=np.float64) for s in slides], 0)
    return np.asarray(squares / max(sum(len(slide.features) for slide in slides), 1))

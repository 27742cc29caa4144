"""How far a patch's image features lie from those of the training patches.

The shared space looks at a slide relative to its own mean, so a blank or a picture of noise lands near the middle of
the space and looks familiar there. This distance is of the features as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from mclstexp.model.linear_features import Seen, as_features
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.sampling import evenly
from mclstexp.types import FloatArray

MAX_SPOTS = 1024
"""Training patches that the directions are taken from, evenly over the slides."""

MAX_AXES = 32
SPOTS_PER_AXIS = 8

ARRAYS = ("mean", "scale", "axes", "variance", "residual")


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """Mahalanobis distance along the main directions of the training features, and the distance from their span.

    Attributes
    ----------
    mean, scale
        ``(F,)`` of the training features; every stage of the encoder counts alike.
    axes, variance
        ``(F, p)`` orthonormal directions and ``(p,)`` the variance along each.
    residual
        ``(1,)`` mean squared distance from the span of the axes.
    """

    mean: FloatArray
    scale: FloatArray
    axes: FloatArray
    variance: FloatArray
    residual: FloatArray

    @classmethod
    def fit(cls, slides: Sequence[SlideArrays], layout: FeatureLayout) -> FeatureDistance:
        """Fit to the features of slides, in the memory of `MAX_SPOTS` patches."""
        quota = max(1, MAX_SPOTS // len(slides))
        rows = np.concatenate([np.asarray(s.features[evenly(len(s.features), quota)], np.float32) for s in slides])
        mean = rows.mean(axis=0, dtype=np.float64)
        variance = rows.var(axis=0, dtype=np.float64)
        moving = variance > 1e-12
        scale = np.where(moving, np.sqrt(layout.column_weights() / np.where(moving, variance, 1.0)), 0.0)
        values = ((rows - mean) * scale).astype(np.float32)
        n = len(values)
        n_axes = max(1, min(MAX_AXES, n // SPOTS_PER_AXIS))
        gram = (values @ values.T).astype(np.float64)
        eigenvalues, vectors = eigh(gram, subset_by_index=(n - n_axes, n - 1))
        kept = eigenvalues > max(1e-6 * eigenvalues[-1], 1e-12)
        axes = values.T @ (vectors[:, kept] / np.sqrt(eigenvalues[kept])).astype(np.float32)
        left = max(float(np.trace(gram) - eigenvalues[kept].sum()) / n, 1e-6)
        return cls(
            mean=mean.astype(np.float32),
            scale=scale.astype(np.float32),
            axes=axes,
            variance=(eigenvalues[kept] / n).astype(np.float32),
            residual=np.array([left], dtype=np.float32),
        )

    @cached_property
    def scaled_axes(self) -> FloatArray:
        """``(F, p)`` float32: from features to what lies along the axes."""
        return self.scale[:, None] * self.axes

    def __call__(self, features: Seen) -> FloatArray:
        """Return ``(n,)`` distances of features ``(n, F)``; about 1 for a typical training patch."""
        held = as_features(features)
        along = held.product(self.mean, self.scaled_axes)
        outside = np.maximum(held.lengths(self.mean, self.scale) - (along**2).sum(axis=1), 0.0) / self.residual
        inside = (along**2 / self.variance).mean(axis=1) if self.axes.shape[1] else 0.0
        return np.asarray(np.sqrt((inside + outside) / 2), dtype=np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that rebuild it."""
        return {name: getattr(self, name) for name in ARRAYS}

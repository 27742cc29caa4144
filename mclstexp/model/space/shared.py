"""The default recipe's shared space: image features and spot expression as points on one small sphere.

An expression *component* is a principal direction of the training slides' expression. A spot's own components are
read off its counts, a patch's are predicted from its image features. Each component counts by how well the image
predicts it on slides held out, ``r / sqrt(1 - r^2)``: the metric that minimises the contrastive loss when the errors
are Gaussian. ``mclstexp.model.space.fit`` fits the space.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import SharedSpaceConfig
from mclstexp.errors import FormatError, MismatchError
from mclstexp.model.linear_features import Seen, as_features, stacked
from mclstexp.model.space.adjust import coordinates, correct_toward_query, relevel
from mclstexp.model.space.level import Level, level_from_state
from mclstexp.model.space.linear import ARRAYS as LINEAR_ARRAYS
from mclstexp.model.space.linear import LinearMap
from mclstexp.model.space.neighbourhood import SpatialMean, positions_um
from mclstexp.settings import from_dict, to_dict
from mclstexp.slide import Slide
from mclstexp.types import FloatArray, IdArray

MIN_COMPONENT_SHARE = 0.05
"""A component of which a slide's measured genes hold less than this share of the loading is left at zero."""

ARRAYS = (
    "feature_mean",
    "image_own",
    "image_context",
    "amplitude",
    "expression_mean",
    "components",
    "gain",
)


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """A fitted space; immutable.

    Attributes
    ----------
    config
        The settings it was fitted with.
    feature_mean
        ``(F,)`` mean of the training slides' feature means.
    image_own, image_context
        ``(F, c)`` from a patch's features, and from their mean over the neighbours, to components.
    level_of
        Tells a slide's level from its features.
    amplitude
        ``(c,)`` spread of each predicted component on held-out slides.
    expression_mean
        ``(G,)`` mean of the training slides' expression means.
    components
        ``(c, G)`` orthonormal loadings.
    gain
        ``(c,)`` from components to coordinates.
    report
        What the fit found, plain JSON values: correlation, regularisation and slope of each component, the folds.
    linear
        A linear map of the features to expression, where predictions are blended with it.
    """

    FROM_FEATURES: ClassVar[tuple[str, ...]] = ("image_own", "image_context")
    """Names of the linear maps from features."""

    config: SharedSpaceConfig
    feature_mean: FloatArray
    image_own: FloatArray
    image_context: FloatArray
    level_of: Level
    amplitude: FloatArray
    expression_mean: FloatArray
    components: FloatArray
    gain: FloatArray
    report: dict[str, Any]
    linear: LinearMap | None = None

    @property
    def embed_dim(self) -> int:
        """Length of an embedding."""
        return len(self.gain) + 1

    @property
    def spot_context(self) -> str:
        """Which spots decide a spot's embedding."""
        return "the spot's own expression, relative to the mean expression of its slide"

    def truncated(self, n_components: int) -> SharedSpace:
        """Return the space of the first directions alone, as if it had been fitted with so many."""
        kept = slice(0, n_components)
        importance = self.gain[kept].astype(np.float64) * self.amplitude[kept]
        gain = self.gain[kept] / max(float(np.linalg.norm(importance)), 1e-9)
        part = {name: getattr(self, name)[:, kept] for name in ("image_own", "image_context")}
        return dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, components=len(importance)),
            amplitude=self.amplitude[kept],
            components=self.components[kept],
            gain=gain.astype(np.float32),
            **part,
        )

    def embed_images(self, features: Seen, slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32 of features ``(n, F)`` of all the slide's spots.

        Raises
        ------
        MismatchError
            When the features have another length than the model's.
        """
        xy_um = positions_um(slide) if self.config.context_um > 0 else np.zeros((len(features), 2))
        return self.on_sphere(self.image_components(features, xy_um))

    def embed_spots(self, expression: FloatArray, measured: NDArray[np.bool_], slide: Slide) -> FloatArray:
        """Return ``(n, d)`` unit float32 of expression ``(n, G)``; ``measured`` ``(G,)`` says which genes are known."""
        return self.on_sphere(self.spot_components(expression, measured))

    def image_components(self, features: Seen, xy_um: NDArray[np.float64]) -> FloatArray:
        """Return the components ``(n, c)`` float32 predicted from one whole slide's features and positions."""
        return self.narrowed(self.linear_components(features, xy_um))

    def linear_components(self, features: Seen, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the components ``(n, c)`` as the linear map predicts them, however wide they spread."""
        if (width := as_features(features).width) != len(self.feature_mean):
            raise MismatchError(
                f"Image features have {width} numbers, the model was trained on {len(self.feature_mean)}; "
                "encode the slide with the model's own encoder and scales."
            )
        return self.projected(features, xy_um, self.image_own, self.image_context)

    def projected(
        self, features: Seen, xy_um: NDArray[np.float64], own: FloatArray, context: FloatArray
    ) -> NDArray[np.float64]:
        """Return ``(n, k)`` a linear map of one whole slide's features and of their means over the neighbours.

        Parameters
        ----------
        features, xy_um
            ``(n, F)`` features and ``(n, 2)`` positions of all the slide's spots.
        own, context
            ``(F, k)`` weights of the features, relative to the slide's mean, and of their means.
        """
        n, trust = len(features), self.config.shrink_spots
        held, own_mean = as_features(features), self.feature_centre(features)
        values = held.product(own_mean, own).astype(np.float64)
        near = SpatialMean(xy_um, self.config.context_um).apply(held.product(own_mean, context).astype(np.float64))
        return np.asarray(values + (near - near.mean(axis=0) * n / (n + trust)))

    def feature_centre(self, features: Seen) -> FloatArray:
        """Return ``(F,)`` the slide's mean features, drawn to the training slides' as `centre` does."""
        held, trust = as_features(features), self.config.shrink_spots
        total = held.sums() + trust * self.feature_mean
        return np.asarray(total / max(len(held) + trust, 1e-12), dtype=np.float32)

    @property
    def asks(self) -> tuple[FloatArray, tuple[FloatArray, ...]]:
        """Origin ``(F,)`` and linear maps ``(F, k)``: all that is asked of features."""
        return self.feature_mean, self.maps

    @property
    def maps(self) -> tuple[FloatArray, ...]:
        """Every linear map ``(F, k)`` that is asked of a query's features."""
        parts = [
            self.image_own,
            self.image_context,
            self.level_of.map,
            None if self.linear is None else self.linear.own,
        ]
        return stacked(parts)

    def narrowed(self, predicted: NDArray[np.float64]) -> FloatArray:
        """Return a slide's predicted components ``(n, c)`` float32, none spread wider than on slides held out.

        An unfamiliar slide can send a component far outside what was seen; it may be narrower, never wider.
        """
        n, trust = len(predicted), self.config.shrink_spots
        spread = np.sqrt(((predicted**2).sum(axis=0) + trust * self.amplitude**2) / (n + trust))
        narrower = np.minimum(1.0, self.amplitude / np.maximum(spread, 1e-12))
        return np.asarray(predicted * narrower, dtype=np.float32)

    def slide_level(self, features: Seen) -> tuple[FloatArray, FloatArray]:
        """Return ``(G,)`` the mean expression that a slide should have by its features ``(n, F)``, and how sure it is.

        Embeddings are relative to their slide and cannot say that.
        """
        return self.level_of.from_features(as_features(features), self.feature_mean)

    def spot_components(self, expression: FloatArray, measured: NDArray[np.bool_]) -> FloatArray:
        """Return the components ``(n, c)`` float32 of one whole slide's expression; unmeasured genes are unknown."""
        centred = expression - centre(expression, self.expression_mean, self.config.shrink_spots)
        known = self.components[:, measured]
        share = (known.astype(np.float64) ** 2).sum(axis=1)
        usable = share >= MIN_COMPONENT_SHARE
        scores = centred[:, measured] @ known.T
        return np.asarray(scores * np.where(usable, 1.0 / np.where(usable, share, 1.0), 0.0), dtype=np.float32)

    def on_sphere(self, components: FloatArray) -> FloatArray:
        """Return unit vectors ``(n, c + 1)`` float32 of components ``(n, c)``.

        The constant coordinate keeps lengths visible: without it a patch of average expression, near the origin,
        would point anywhere.
        """
        scaled = components.astype(np.float64) * self.gain
        lifted = np.concatenate([scaled, np.full((len(scaled), 1), self.config.radius)], axis=1)
        return np.asarray(lifted / np.linalg.norm(lifted, axis=1, keepdims=True), dtype=np.float32)

    @property
    def tells_level(self) -> bool:
        """Always: embeddings are relative to their slide."""
        return True

    def correct(
        self,
        expression: FloatArray,
        columns: IdArray,
        query: FloatArray,
        keys: FloatArray,
        weights: FloatArray,
        *,
        strength: float,
    ) -> FloatArray:
        """Make up for neighbours that lie on average on one side of the query, as in `Space.correct`."""
        if not strength:
            return expression
        slope = np.where(columns >= 0, self.expression_per_coordinate()[:, columns], np.float32(0))
        present = np.where(weights[..., None] > 0, keys, 0)  # where k is more than there are, the rest is NaN
        centre = np.einsum("nk,nkc->nc", weights, coordinates(present, self.config.radius))
        return correct_toward_query(
            expression, coordinates(query, self.config.radius), centre, slope, strength=strength
        )

    def blend(self, expression: FloatArray, columns: IdArray, features: Seen, *, share: float) -> FloatArray:
        """Take a share of the prediction from the linear map, as in `Space.blend`."""
        if self.linear is None or not share:
            return expression
        told = self.linear.from_features(as_features(features), self.feature_mean)[:, np.maximum(columns, 0)]
        known = (columns >= 0) & np.isfinite(told)
        mixed = (1 - np.float32(share)) * expression + np.float32(share) * told
        return np.where(known, mixed, expression).astype(np.float32)

    def level(
        self,
        expression: FloatArray,
        columns: IdArray,
        common: FloatArray,
        features: Seen,
        *,
        own_scale: bool,
    ) -> tuple[FloatArray, FloatArray]:
        """Bring the mean over the slide's spots to its level, as in `Space.level`."""
        spread = np.zeros(len(common), dtype=np.float32)
        if own_scale:
            level, error = self.slide_level(features)
            common = np.where(columns >= 0, level[columns], common)
            spread = np.where(columns >= 0, error[columns], spread)
        return relevel(expression, common, trust=self.config.shrink_spots), spread

    def summary(self) -> list[str]:
        """Say how well the image predicts each component of expression on what was held out."""
        correlation = ", ".join(f"{r:.2f}" for r in self.report["correlation"])
        held_out = {"patient": "patients", "slide": "slides", "block": "quarters of the slide"}[self.report["folds"]]
        return [
            f"correlation of each expression component with its image on held-out {held_out}: {correlation} "
            "(1 is perfect, below 0.2 the image says little)"
        ]

    def expression_per_coordinate(self) -> FloatArray:
        """Return ``(c, G)``: how expression changes along each coordinate of `coordinates`."""
        gain = self.gain.astype(np.float64)[:, None]
        return np.where(gain > 0, self.components / np.where(gain > 0, gain, 1.0), 0.0).astype(np.float32)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and the facts that rebuild the space."""
        arrays = {f"shared.{name}": getattr(self, name) for name in ARRAYS}
        parts = [self.level_of.state(), {} if self.linear is None else self.linear.state()]
        arrays |= {f"shared.{name}": values for part in parts for name, values in part.items()}
        return arrays, {"shared": {"config": to_dict(self.config), "report": self.report}}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> SharedSpace:
        """Rebuild a space.

        Raises
        ------
        FormatError
            When an array or a fact is missing.
        """
        missing = [name for name in ARRAYS if f"shared.{name}" not in arrays]
        if missing or "shared" not in facts:
            lacking = f"shared.{missing[0]}" if missing else "the settings"
            raise FormatError(f"The model lacks {lacking} of its shared space; train it anew.")
        values = {name: np.asarray(arrays[f"shared.{name}"], dtype=np.float32) for name in ARRAYS}
        config = from_dict(SharedSpaceConfig, facts["shared"]["config"])
        level = level_from_state(arrays, values["components"], config.shrink_spots)
        linear = {name: arrays.get(f"shared.linear.{name}") for name in LINEAR_ARRAYS}
        whole = all(part is not None for part in linear.values())
        return cls(
            config=config,
            report=facts["shared"]["report"],
            level_of=level,
            linear=LinearMap(**linear) if whole else None,  # type: ignore[arg-type]
            **values,
        )


def centre(values: NDArray[Any], fallback: NDArray[Any], trust: float) -> FloatArray:
    """Return the slide's own mean ``(c,)`` float32, drawn to ``fallback`` as if by ``trust`` spots of it."""
    n = len(values)
    total = values.sum(axis=0, dtype=np.float64) + trust * fallback
    return np.asarray(total / max(n + trust, 1e-12), dtype=np.float32)

"""What a method has to beat: the training mean, random references, linear probes, and retrieval by image features."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.errors import InputError, MismatchError
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.metrics import Floats
from mclstexp.model.space.training_data import SlideArrays, folds
from mclstexp.panel import GenePanel
from mclstexp.predict.baselines.mean import MeanExpression, mean_of_rows
from mclstexp.predict.baselines.neighbours import FeatureNeighbours
from mclstexp.predict.baselines.probe import RidgeProbe
from mclstexp.slide import Slide
from mclstexp.types import FloatArray, IdArray

Features = Callable[[Slide], FloatArray]
"""A slide's image features, ``(n, F)``."""

Weights = Callable[[], Floats | None]
"""The variance ``(F,)`` that each feature is brought to; None: the same. Asked for once features have been made."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TrainingSide:
    """What the baselines learn from: every training slide's expression, and what is held out together.

    Attributes
    ----------
    expression
        ``(n, G)`` a slide; NaN columns for genes that the slide did not measure.
    fold_of
        ``(n,)`` a slide, as `mclstexp.model.space.training_data.folds` divides: patients where there are enough.
    """

    slides: tuple[Slide, ...]
    expression: list[FloatArray]
    fold_of: list[IdArray]

    @classmethod
    def of(cls, slides: Sequence[Slide], panel: GenePanel, normalisation: Normalisation) -> TrainingSide:
        """Normalise the slides' counts.

        Raises
        ------
        InputError
            When there is no training spot.
        """
        if not sum(map(len, slides)):
            raise InputError("A baseline was given no training spots.")
        parts, arrays = [], []
        for slide in slides:
            values, measured = expression_for(slide.spots, panel, normalisation)
            parts.append(np.where(measured, values, np.float32(np.nan)))
            nothing = np.zeros((len(slide), 0), dtype=np.float32)
            # Folds go by the order of positions alone, so that pixels do as well as um.
            arrays.append(SlideArrays(slide.slide_id, slide.patient, nothing, values, measured, slide.spots.xy_px))
        return cls(tuple(slides), parts, folds(arrays)[1])

    def features(self, features: Features) -> list[FloatArray]:
        """Return the slides' features ``(n, F)``."""
        return [features_of(slide, features) for slide in self.slides]


def features_of(slide: Slide, features: Features) -> FloatArray:
    """Read a slide's features, checked.

    Raises
    ------
    MismatchError
        When they are not one finite row a spot.
    """
    values = np.asarray(features(slide))
    if values.ndim != 2 or len(values) != len(slide) or not np.isfinite(values).all():
        raise MismatchError(f"Slide {slide.slide_id}: {len(slide)} spots, but features of shape {values.shape} or NaN.")
    return values


@dataclass
class TrainingMean:
    """Every spot gets the mean of all training spots."""

    normalisation: Normalisation
    name: str = "training mean"
    deterministic: bool = True
    uses_counts_only: bool = False
    _fit: MeanExpression | None = field(default=None, repr=False)

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Average the training spots, each gene over the slides that measured it."""
        side = TrainingSide.of(train, panel, self.normalisation)
        self._fit = MeanExpression().fit(side.expression, side.expression, side.fold_of)

    def predict(self, slide: Slide) -> MethodPrediction:
        """Repeat the mean."""
        return MethodPrediction(_fitted(self._fit, self.name).predict(slide.spots.xy_px.astype(np.float32)))


@dataclass
class RandomReferences:
    """Every spot gets the mean of ``k`` training spots drawn at random: retrieval that looks at nothing."""

    normalisation: Normalisation
    k: int = 200
    name: str = "random references"
    deterministic: bool = False
    uses_counts_only: bool = False
    _expression: FloatArray | None = field(default=None, repr=False)
    _seed: int = 0

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Keep the training spots."""
        self._expression = np.concatenate(TrainingSide.of(train, panel, self.normalisation).expression)
        self._seed = seed

    def predict(self, slide: Slide) -> MethodPrediction:
        """Draw each spot's references without replacement; the same seed and slide draw the same."""
        expression = _fitted(self._expression, self.name)
        rng = np.random.default_rng([self._seed, zlib.crc32(slide.slide_id.encode())])
        n = len(expression)
        rows = np.stack([rng.choice(n, min(self.k, n), replace=False) for _ in range(len(slide))])
        return MethodPrediction(mean_of_rows(expression, rows))


@dataclass
class ImageRetrieval:
    """Every spot gets the mean of the ``k`` training spots nearest by cosine of training-standardised features."""

    features: Features
    normalisation: Normalisation
    k: int = 200
    name: str = "image retrieval"
    deterministic: bool = True
    uses_counts_only: bool = False
    _fit: FeatureNeighbours | None = field(default=None, repr=False)

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Standardise the training features and keep them at unit length."""
        side = TrainingSide.of(train, panel, self.normalisation)
        self._fit = FeatureNeighbours(self.k).fit(side.features(self.features), side.expression, side.fold_of)

    def predict(self, slide: Slide) -> MethodPrediction:
        """Search exactly; ties go to the earlier training spot."""
        fit = _fitted(self._fit, self.name)
        return MethodPrediction(fit.predict(features_of(slide, self.features)))


@dataclass
class LinearProbe:
    """Ridge regression of the expression on features, as `RidgeProbe` chooses its penalty on the training side."""

    features: Features
    normalisation: Normalisation
    name: str = "linear probe"
    deterministic: bool = True
    uses_counts_only: bool = False
    weights: Weights | None = field(default=None, repr=False)
    _fit: RidgeProbe | None = field(default=None, repr=False)

    @property
    def strength(self) -> float | None:
        """The chosen penalty, in units of the mean squared length of a spot's features."""
        return None if self._fit is None else self._fit.strength

    @property
    def slope(self) -> float | None:
        """The chosen factor on what the fit adds to the mean."""
        return None if self._fit is None else self._fit.slope

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Choose the penalty on the training side, then fit all of it."""
        side = TrainingSide.of(train, panel, self.normalisation)
        features = side.features(self.features)
        weights = None if self.weights is None else self.weights()
        self._fit = RidgeProbe(weights=weights).fit(features, side.expression, side.fold_of)

    def predict(self, slide: Slide) -> MethodPrediction:
        """Apply the regression."""
        fit = _fitted(self._fit, self.name)
        return MethodPrediction(fit.predict(features_of(slide, self.features)))


def baseline_methods(
    features: Features, normalisation: Normalisation, *, k: int = 200
) -> list[TrainingMean | RandomReferences | LinearProbe | ImageRetrieval]:
    """Return the four baselines that belong in every table."""
    return [
        TrainingMean(normalisation),
        RandomReferences(normalisation, k=k),
        ImageRetrieval(features, normalisation, k=k),
        LinearProbe(features, normalisation),
    ]


def _fitted(value: T | None, name: str) -> T:
    if value is None:
        raise MismatchError(f"Baseline {name} was asked to predict before it was fitted.")
    return value

"""What a method has to beat: the training mean, random references, a linear probe, and retrieval by image features."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.errors import InputError, MismatchError
from mclstexp.evaluate.scores import MethodPrediction
from mclstexp.metrics import Floats, is_constant, mean_or_none, pearson_by_gene
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.types import FloatArray

Features = Callable[[Slide], FloatArray]
"""A slide's image features, ``(n, F)``: the last layer of the encoder that the compared methods use."""

T = TypeVar("T")

RIDGE_STRENGTHS: tuple[float, ...] = tuple(10.0**e for e in np.arange(0.0, 6.51, 0.5).tolist())
"""Penalties on standardised features that the inner validation chooses among."""

STRENGTH_TOLERANCE = 0.02
SPATIAL_FOLDS = 5
QUERIES_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class TrainingSide:
    """Spots of every training slide, stacked.

    Attributes
    ----------
    expression
        ``(n, G)``; NaN where the spot's slide did not measure the gene.
    slide_of
        ``(n,)`` int64 index of the slide.
    """

    slides: tuple[Slide, ...]
    expression: FloatArray
    slide_of: NDArray[np.int64]

    @classmethod
    def of(cls, slides: Sequence[Slide], panel: GenePanel, normalisation: Normalisation) -> TrainingSide:
        """Normalise and stack the slides' counts.

        Raises
        ------
        InputError
            When there is no training spot.
        """
        parts = []
        for slide in slides:
            values, measured = expression_for(slide.spots, panel, normalisation)
            parts.append(np.where(measured, values, np.float32(np.nan)))
        if not sum(len(part) for part in parts):
            raise InputError("A baseline was given no training spots.")
        sizes = [len(part) for part in parts]
        return cls(tuple(slides), np.concatenate(parts), np.repeat(np.arange(len(parts)), sizes))

    def features(self, features: Features) -> Floats:
        """Stack the slides' features ``(n, F)``."""
        return np.concatenate([features_of(slide, features) for slide in self.slides])

    def gene_groups(self) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Group the genes that the same slides measured: (columns, mask of those slides' spots); others are absent."""
        first = np.searchsorted(self.slide_of, np.arange(len(self.slides)))
        present = first < len(self.slide_of)
        measured = np.zeros((len(self.slides), self.expression.shape[1]), dtype=bool)
        measured[present] = ~np.isnan(self.expression[first[present]])
        patterns, group_of = np.unique(measured, axis=1, return_inverse=True)
        return [
            (np.flatnonzero(group_of.ravel() == i), patterns[self.slide_of, i])
            for i in range(patterns.shape[1])
            if patterns[:, i].any()
        ]


def features_of(slide: Slide, features: Features) -> Floats:
    """Read a slide's features as float64, checked.

    Raises
    ------
    MismatchError
        When they are not one finite row a spot.
    """
    values = np.asarray(features(slide), dtype=np.float64)
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
    _mean: FloatArray | None = field(default=None, repr=False)

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Average the training spots, each gene over the slides that measured it."""
        self._mean = column_means(TrainingSide.of(train, panel, self.normalisation).expression)

    def predict(self, slide: Slide) -> MethodPrediction:
        """Repeat the mean."""
        return MethodPrediction(np.tile(_fitted(self._mean, self.name), (len(slide), 1)))


@dataclass
class RandomReferences:
    """Every spot gets the mean of ``k`` training spots drawn at random: retrieval that looks at nothing."""

    normalisation: Normalisation
    k: int = 200
    name: str = "random references"
    deterministic: bool = False
    uses_counts_only: bool = False
    _side: TrainingSide | None = field(default=None, repr=False)
    _seed: int = 0

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Keep the training spots."""
        self._side, self._seed = TrainingSide.of(train, panel, self.normalisation), seed

    def predict(self, slide: Slide) -> MethodPrediction:
        """Draw each spot's references without replacement; the same seed and slide draw the same."""
        side = _fitted(self._side, self.name)
        rng = np.random.default_rng([self._seed, zlib.crc32(slide.slide_id.encode())])
        n = len(side.expression)
        rows = np.stack([rng.choice(n, min(self.k, n), replace=False) for _ in range(len(slide))])
        return MethodPrediction(mean_of_rows(side.expression, rows))


@dataclass
class ImageRetrieval:
    """Every spot gets the mean of the ``k`` training spots nearest by cosine of training-standardised features."""

    features: Features
    normalisation: Normalisation
    k: int = 200
    name: str = "image retrieval"
    deterministic: bool = True
    uses_counts_only: bool = False
    _side: TrainingSide | None = field(default=None, repr=False)
    _scaler: Scaler | None = field(default=None, repr=False)
    _keys: Floats | None = field(default=None, repr=False)

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Standardise the training features and keep them at unit length."""
        self._side = TrainingSide.of(train, panel, self.normalisation)
        x = self._side.features(self.features)
        self._scaler = Scaler.of(x)
        self._keys = _unit(self._scaler(x))

    def predict(self, slide: Slide) -> MethodPrediction:
        """Search exactly; ties go to the earlier training spot."""
        side, keys = _fitted(self._side, self.name), _fitted(self._keys, self.name)
        queries = _unit(_fitted(self._scaler, self.name)(features_of(slide, self.features)))
        k = min(self.k, len(keys))
        parts = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            similarity = queries[start : start + QUERIES_AT_ONCE] @ keys.T
            nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
            parts.append(mean_of_rows(side.expression, nearest))
        return MethodPrediction(np.concatenate(parts))


@dataclass
class LinearProbe:
    """Ridge regression of the expression on standardised features.

    One penalty for all genes, chosen by `choose_strength` on the training side alone.
    """

    features: Features
    normalisation: Normalisation
    name: str = "linear probe"
    deterministic: bool = True
    uses_counts_only: bool = False
    strength: float | None = None
    _scaler: Scaler | None = field(default=None, repr=False)
    _weights: Floats | None = field(default=None, repr=False)
    _offset: Floats | None = field(default=None, repr=False)

    def fit(self, train: Sequence[Slide], panel: GenePanel, *, seed: int) -> None:
        """Choose the penalty on the training side, then fit all of it."""
        side = TrainingSide.of(train, panel, self.normalisation)
        x = side.features(self.features)
        self.strength = choose_strength(x, side)
        self._scaler = Scaler.of(x)
        self._weights = np.full((x.shape[1], len(panel)), np.nan)
        self._offset = np.full(len(panel), np.nan)
        x = self._scaler(x)
        for genes, spots in side.gene_groups():
            ridge = Ridge(x[spots], side.expression[np.ix_(spots, genes)].astype(np.float64))
            self._weights[:, genes], self._offset[genes] = ridge.solve(self.strength)

    def predict(self, slide: Slide) -> MethodPrediction:
        """Apply the regression."""
        x = _fitted(self._scaler, self.name)(features_of(slide, self.features))
        mean = x @ _fitted(self._weights, self.name) + _fitted(self._offset, self.name)
        return MethodPrediction(mean.astype(np.float32))


def choose_strength(x: Floats, side: TrainingSide) -> float:
    """Choose the ridge penalty by leaving one training slide (or a fifth of the only one) out at a time.

    Scored by the mean over left-out parts of the mean per-gene Pearson correlation. Correlation is blind to scale and
    hardly falls as the penalty grows without end, so the weakest penalty within 2 % of the best score is taken: it
    keeps the predictions' spread, and with it the squared error.
    """
    groups = side.slide_of if len(set(side.slide_of.tolist())) > 1 else spatial_blocks(side.slides[0])
    totals = np.zeros(len(RIDGE_STRENGTHS))
    for group in np.unique(groups).tolist():
        held_out = groups == group
        scaler = Scaler.of(x[~held_out])
        inside, outside = scaler(x[~held_out]), scaler(x[held_out])
        scores = np.zeros(len(RIDGE_STRENGTHS))
        n_genes = 0
        for genes, spots in side.gene_groups():
            y = side.expression[:, genes].astype(np.float64)
            if not spots[~held_out].any() or not spots[held_out].all():
                continue
            ridge = Ridge(inside[spots[~held_out]], y[spots & ~held_out])
            truth = y[held_out]
            n_genes += int((~is_constant(truth)).sum())
            rotated = ridge.rotate(outside)
            for i, strength in enumerate(RIDGE_STRENGTHS):
                scores[i] += np.nansum(pearson_by_gene(truth, ridge.predict(rotated, strength)))
        totals += scores / max(n_genes, 1)
    enough = totals.max() - STRENGTH_TOLERANCE * abs(totals.max())
    return RIDGE_STRENGTHS[np.flatnonzero(totals >= enough).tolist()[0]]


def spatial_blocks(slide: Slide) -> NDArray[np.int64]:
    """Divide a slide's spots into five strips of equal size along its longer side; ``(n,)`` block of each spot."""
    xy = slide.spots.xy_px
    axis = int(np.ptp(xy, axis=0).argmax())
    rank = np.argsort(np.argsort(xy[:, axis], kind="stable"), kind="stable")
    return rank * min(SPATIAL_FOLDS, len(xy)) // max(len(xy), 1)


class Ridge:
    """Ridge regression with an unpenalised intercept, solved for many strengths from one decomposition.

    Equals scikit-learn's ``Ridge(alpha=strength)``, which would decompose again for each.
    """

    def __init__(self, x: Floats, y: Floats) -> None:
        self._mean_x, self._mean_y = x.mean(axis=0), y.mean(axis=0)
        x = x - self._mean_x
        y = y - self._mean_y
        wide = x.shape[0] < x.shape[1]
        values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        self._values = np.clip(values, 0.0, None)
        self._basis = x.T @ vectors if wide else vectors  # (F, rank)
        self._projected = vectors.T @ (y if wide else x.T @ y)  # (rank, G)

    def rotate(self, x: Floats) -> Floats:
        """Bring features ``(n, F)`` into the basis in which every strength is diagonal."""
        rotated: Floats = (x - self._mean_x) @ self._basis
        return rotated

    def predict(self, rotated: Floats, strength: float) -> Floats:
        """Predict ``(n, G)`` from rotated features with a positive strength."""
        predicted: Floats = rotated @ (self._projected / (self._values + strength)[:, None]) + self._mean_y
        return predicted

    def solve(self, strength: float) -> tuple[Floats, Floats]:
        """Return weights ``(F, G)`` and offset ``(G,)`` for a positive strength."""
        weights: Floats = self._basis @ (self._projected / (self._values + strength)[:, None])
        return weights, self._mean_y - self._mean_x @ weights


@dataclass(frozen=True, eq=False)
class Scaler:
    """Centre and scale features as the training spots have them; a constant feature becomes 0."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, x: Floats) -> Scaler:
        """Measure mean and standard deviation of each column."""
        sd = x.std(axis=0)
        return cls(x.mean(axis=0), np.where(is_constant(x), np.inf, sd))

    def __call__(self, x: Floats) -> Floats:
        """Standardise ``(n, F)``."""
        if x.shape[1] != len(self.mean):
            raise MismatchError(f"Features have {x.shape[1]} columns, but training had {len(self.mean)}.")
        scaled: Floats = (x - self.mean) / self.scale
        return scaled


def mean_of_rows(expression: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
    """Average the given rows of the expression, ignoring NaN; NaN for a gene that none of all rows knows.

    Where a spot's own rows all lack a gene that others have, the gene's mean over all rows stands in.

    Parameters
    ----------
    expression
        ``(n, G)``.
    rows
        ``(m, k)`` indices.
    """
    known = ~np.isnan(expression)
    filled = np.where(known, expression, np.float32(0.0)).astype(np.float64)
    if known.all():
        return np.stack([filled[row].mean(axis=0) for row in rows]).astype(np.float32)
    fallback = column_means(expression)
    result = np.empty((len(rows), expression.shape[1]), dtype=np.float32)
    for i, row in enumerate(rows):
        n = known[row].sum(axis=0)
        result[i] = np.where(n > 0, filled[row].sum(axis=0) / np.maximum(n, 1), fallback)
    return result


def column_means(expression: FloatArray) -> FloatArray:
    """Mean of each column over what is not NaN; NaN for a column without values."""
    means = [mean_or_none(column) for column in expression.T]
    return np.array([np.nan if mean is None else mean for mean in means], dtype=np.float32)


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


def _unit(x: Floats) -> Floats:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Floats = x / np.where(norm > 0, norm, 1.0)
    return unit


def _fitted(value: T | None, name: str) -> T:
    if value is None:
        raise MismatchError(f"Baseline {name} was asked to predict before it was fitted.")
    return value

"""The linear probe: ridge regression on image features, its penalty chosen on held-out slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import MismatchError
from mclstexp.metrics import Floats, is_constant, pearson_by_gene
from mclstexp.predict.baselines.features import FeatureBasis, even_rows
from mclstexp.predict.baselines.ridge import Ridge, Sums
from mclstexp.types import FloatArray, IdArray

STRENGTHS: tuple[float, ...] = tuple(np.geomspace(1e-2, 1e5, 22).tolist())
"""Penalties that are tried, in units of the mean squared length of a spot's features."""

SCORED_SPOTS = 4000
"""Held-out spots that a penalty is scored on; of more, the same share of every slide."""

MARGIN = 0.1
"""How far a prediction may leave the range of the held-out ones, in widths of that range."""

TINY = 1e-300

SCORED_PATTERNS = 4
"""Sets of genes, by which slides measured them, that the penalty is chosen on: the largest."""


class RidgeProbe:
    """Ridge regression of the expression on features: the mean, plus a slope times what a penalised fit adds to it.

    Penalty and slope are one for all genes, and chosen on the folds. Each penalty gets the slope of least held-out
    squared error, 0 (the mean alone) where that is the best. The penalty of the highest sum is taken: Pearson
    correlation within held-out slides, mean over genes, plus the share of the training mean's squared error that is
    gone. Correlation alone is blind to scale, and chose penalties under which strange slides were predicted far
    outside of anything measured; squared error alone gives up correlation. Last, no gene is predicted far outside
    of the range that its predictions of held-out training spots have, as a retrieval never leaves its references'.

    Parameters
    ----------
    weights
        ``(F,)`` variance that each feature is brought to (`FeatureLayout.column_weights` of a recipe); None: the same.
    seed
        Draws landmarks and the spots that penalties are scored on, where there are many.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> features = [rng.normal(size=(60, 5)).astype(np.float32) for _ in range(4)]
    >>> expression = [(5 + x[:, :2]).astype(np.float32) for x in features]
    >>> fold_of = [np.full(60, i) for i in range(4)]
    >>> probe = RidgeProbe().fit(features, expression, fold_of)
    >>> float(np.abs(probe.predict(features[0]) - expression[0]).mean()) < 0.1
    True
    """

    def __init__(self, *, weights: Floats | None = None, seed: int = 0) -> None:
        self._column_weights, self._seed = weights, seed
        self.strength: float | None = None
        self.slope: float | None = None
        self._basis: FeatureBasis | None = None
        self._whole: _Linear | None = None
        self._left_out: list[_Linear] = []

    def fit(
        self, features: Sequence[FloatArray], expression: Sequence[FloatArray], fold_of: Sequence[IdArray]
    ) -> RidgeProbe:
        """Choose the penalty on the folds, then fit all spots.

        Parameters
        ----------
        features
            ``(n, F)`` of each slide; memory maps will do.
        expression
            ``(n, G)`` of each slide, NaN columns for genes that it did not measure.
        fold_of
            ``(n,)`` what is held out together, counted from 0 (`mclstexp.model.space.training_data.folds`).

        Raises
        ------
        InputError
            When there is no spot.
        MismatchError
            When the slides' features differ in length.
        """
        self._basis = FeatureBasis.of(features, weights=self._column_weights, within_slides=True, seed=self._seed)
        rotated = [self._basis(values) for values in features]
        patterns = gene_patterns(expression)
        sums = [_fold_sums(rotated, expression, fold_of, pattern) for pattern in patterns]
        largest = sorted(range(len(patterns)), key=lambda i: (-len(patterns[i].genes), i))[:SCORED_PATTERNS]
        scoring = _Scoring.of(rotated, expression, fold_of, self._seed)
        curve = _Curve()
        for i in largest:
            scoring.add(curve, patterns[i], sums[i])
        self.strength, self.slope = curve.best()
        n_genes, n_folds = expression[0].shape[1], 1 + max(int(fold.max(initial=0)) for fold in fold_of)
        width = rotated[0].shape[1]
        self._whole = _Linear.empty(width, n_genes)
        self._left_out = [_Linear.empty(width, n_genes) for _ in range(n_folds)]
        for pattern, parts in zip(patterns, sums, strict=True):
            total = _total(parts)
            self._whole.set(pattern.genes, total, self.strength, self.slope)
            for number, line in enumerate(self._left_out):
                rest = total.minus(parts[number]) if number in parts else total
                line.set(pattern.genes, rest, self.strength, self.slope)
        bounds = scoring.range_of(self._left_out)
        for line in (self._whole, *self._left_out):
            line.bounds = bounds
        return self

    def predict(self, features: FloatArray) -> FloatArray:
        """Return ``(n, G)`` for features ``(n, F)``; NaN columns for genes that no training slide measured."""
        basis, whole = self._fitted()
        return whole(basis(features))

    def affine(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return weights ``(F, G)`` and offset ``(G,)`` of features as they come, and the bounds ``(2, G)``."""
        basis, whole = self._fitted()
        directions = np.eye(len(basis.mean)) if basis.directions is None else basis.directions
        weights = basis.scale[:, None] * (directions @ whole.weights)
        bounds = np.array([[-np.inf], [np.inf]]) * np.ones(len(whole.offset)) if whole.bounds is None else whole.bounds
        offset = whole.offset - basis.mean @ weights
        return weights.astype(np.float32), offset.astype(np.float32), bounds.astype(np.float32)

    def cross_predict(
        self, features: Sequence[FloatArray], fold_of: Sequence[IdArray], rows: Sequence[IdArray] | None = None
    ) -> list[FloatArray]:
        """Predict training spots by the fit without their fold, with the chosen penalty; it costs no further fit.

        Parameters
        ----------
        features, fold_of
            As they were fitted.
        rows
            Which spots of each slide; None: all.

        Returns
        -------
        list of FloatArray
            ``(m, G)`` a slide.
        """
        basis, whole = self._fitted()
        predicted = []
        for i, (values, fold) in enumerate(zip(features, fold_of, strict=True)):
            chosen = slice(None) if rows is None else rows[i]
            rotated, numbers = basis(values[chosen]), fold[chosen]
            part = np.full((len(rotated), len(whole.offset)), np.nan, dtype=np.float32)
            for number in np.unique(numbers).tolist():
                part[numbers == number] = self._left_out[number](rotated[numbers == number])
            predicted.append(part)
        return predicted

    def _fitted(self) -> tuple[FeatureBasis, _Linear]:
        if self._basis is None or self._whole is None:
            raise MismatchError("The linear probe was asked to predict before it was fitted.")
        return self._basis, self._whole


@dataclass(frozen=True, eq=False)
class GenePattern:
    """Genes ``(g,)`` that the same slides measured, and which slides ``(slides,)`` those are."""

    genes: IdArray
    slides: NDArray[np.bool_]


def gene_patterns(expression: Sequence[FloatArray]) -> list[GenePattern]:
    """Group the genes by the slides that measured them; those that no slide (with a spot) measured are in no group."""
    measured = np.stack(
        [~np.isnan(values).any(axis=0) if len(values) else np.zeros(values.shape[1], bool) for values in expression]
    )
    patterns, group_of = np.unique(measured, axis=1, return_inverse=True)
    return [
        GenePattern(np.flatnonzero(group_of.ravel() == i).astype(np.int64), patterns[:, i])
        for i in range(patterns.shape[1])
        if patterns[:, i].any()
    ]


def _fold_sums(
    rotated: Sequence[FloatArray], expression: Sequence[FloatArray], fold_of: Sequence[IdArray], pattern: GenePattern
) -> dict[int, Sums]:
    """Sum the spots of the pattern's slides by fold."""
    parts: dict[int, Sums] = {}
    for i in np.flatnonzero(pattern.slides).tolist():
        for number in np.unique(fold_of[i]).tolist():
            inside = fold_of[i] == number
            new = Sums.of(rotated[i][inside], expression[i][np.ix_(inside, pattern.genes)])
            parts[number] = parts[number].plus(new) if number in parts else new
    return parts


def _total(parts: dict[int, Sums]) -> Sums:
    first, *others = parts.values()
    for part in others:
        first = first.plus(part)
    return first


@dataclass
class _Linear:
    """Weights ``(p, G)`` and offset ``(G,)``, NaN for genes without a fit, and the range ``(2, G)`` of a prediction."""

    weights: FloatArray
    offset: FloatArray
    bounds: FloatArray | None = None

    @classmethod
    def empty(cls, width: int, n_genes: int) -> _Linear:
        nothing = np.full((width, n_genes), np.nan, dtype=np.float32)
        return cls(nothing, np.full(n_genes, np.nan, dtype=np.float32))

    def set(self, genes: IdArray, sums: Sums, strength: float, slope: float) -> None:
        """Fit some genes; without a spot they stay unknown."""
        if sums.n > 0:
            weights, offset = sums.solve(strength, slope)
            self.weights[:, genes], self.offset[genes] = weights, offset

    def __call__(self, rotated: FloatArray) -> FloatArray:
        predicted = rotated @ self.weights + self.offset
        return predicted if self.bounds is None else np.clip(predicted, *self.bounds)


class _Curve:
    """What each penalty reached on what was held out; deviations are from the mean of the rest.

    Attributes
    ----------
    correlation, n_genes
        Sum of the correlations within slides, and their number.
    agreement, length, truth
        Sums of products of predicted and measured deviations, of squares of predicted, and of measured ones.
    """

    def __init__(self) -> None:
        self.correlation, self.n_genes = np.zeros(len(STRENGTHS)), 0
        self.agreement, self.length, self.truth = np.zeros(len(STRENGTHS)), np.zeros(len(STRENGTHS)), 0.0

    def best(self) -> tuple[float, float]:
        """Return the penalty of highest score and its slope; of equal ones the strongest."""
        slope = np.maximum(self.agreement, 0.0) / np.maximum(self.length, TINY)
        explained = slope * self.agreement / max(self.truth, TINY)
        score = self.correlation * (slope > 0) / max(self.n_genes, 1) + explained
        place = len(score) - 1 - int(score[::-1].argmax())
        return STRENGTHS[place], float(slope[place])


@dataclass(frozen=True, eq=False)
class _Scoring:
    """Held-out spots that penalties are scored on: features, expression, fold, one array a slide."""

    rotated: list[FloatArray]
    expression: list[FloatArray]
    fold_of: list[IdArray]

    @classmethod
    def of(
        cls, rotated: Sequence[FloatArray], expression: Sequence[FloatArray], fold_of: Sequence[IdArray], seed: int
    ) -> _Scoring:
        rows = even_rows([len(values) for values in rotated], SCORED_SPOTS, seed)
        places = range(len(rows))
        return cls(
            [rotated[i][rows[i]] for i in places],
            [expression[i][rows[i]] for i in places],
            [fold_of[i][rows[i]] for i in places],
        )

    def range_of(self, left_out: Sequence[_Linear]) -> FloatArray:
        """Return bounds of each gene ``(2, G)``: the range of its predictions without the own fold, and a margin."""
        low = np.full(self.expression[0].shape[1], np.inf, dtype=np.float32)
        high = -low
        for x, fold in zip(self.rotated, self.fold_of, strict=True):
            for number in np.unique(fold).tolist():
                predicted = left_out[number](x[fold == number])
                low, high = np.fmin(low, predicted.min(axis=0)), np.fmax(high, predicted.max(axis=0))
        room = MARGIN * (high - low)
        everything = np.array([[-np.inf], [np.inf]], dtype=np.float32)
        return np.where(low <= high, np.stack([low - room, high + room]), everything)

    def add(self, curve: _Curve, pattern: GenePattern, parts: dict[int, Sums]) -> None:
        """Score every penalty on every fold, the others fitted."""
        total = _total(parts)
        for number, part in parts.items():
            rest = total.minus(part)
            if rest.n == 0:
                continue
            ridge = Ridge(rest)
            for i in np.flatnonzero(pattern.slides).tolist():
                inside = self.fold_of[i] == number
                if inside.any():
                    truth = self.expression[i][np.ix_(inside, pattern.genes)].astype(np.float64)
                    _score(curve, ridge, self.rotated[i][inside], truth)


def _score(curve: _Curve, ridge: Ridge, x: FloatArray, truth: Floats) -> None:
    curve.n_genes += int((~is_constant(truth)).sum())
    apart = truth - ridge.mean_y
    curve.truth += float((apart**2).sum())
    rotated = ridge.rotate(x)
    for i, strength in enumerate(STRENGTHS):
        predicted = ridge.deviation(rotated, strength)
        curve.agreement[i] += float((predicted * apart).sum())
        curve.length[i] += float((predicted**2).sum())
        curve.correlation[i] += float(np.nansum(pearson_by_gene(truth, predicted + ridge.mean_y)))

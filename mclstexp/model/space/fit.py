"""Fitting the shared space: bounded in memory, deterministic, every setting chosen on slides held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from mclstexp.config import SharedSpaceConfig
from mclstexp.errors import InputError, MismatchError
from mclstexp.model.space.level import SlideLevel, fit_slide_level
from mclstexp.model.space.neighbourhood import SpatialMean
from mclstexp.model.space.shared import SharedSpace, centre
from mclstexp.model.space.training_data import (
    FeatureBlock,
    Layout,
    Matrix,
    SlideArrays,
    TrainingSet,
    column_scale,
    sampled_rows,
)
from mclstexp.types import FloatArray

STRENGTHS = np.geomspace(0.1, 300.0, 15)
"""Ridge penalties tried, in units of the mean squared length of a spot's features."""

STAGES = {
    "all": ("early", "late"),
    "early": ("early",),
    "late": ("late",),
    "with last": ("early", "late", "last"),
}
"""Which parts of the encoder each value of ``shared.stages`` takes."""

MAX_CORRELATION = 0.98
MAX_SLOPE = 1.5


def fit_shared_space(
    slides: Sequence[SlideArrays], layout: Layout, config: SharedSpaceConfig | None = None, *, seed: int = 0
) -> SharedSpace:
    """Fit the space to slides that have both image features and expression.

    The slides are visited one at a time, several times; a lazy sequence keeps memory bounded. The ridge penalty of
    each component is chosen by leaving out patients (or slides of one patient, or quarters of one slide).

    Raises
    ------
    InputError
        With fewer than 8 spots in all, or features that are the same everywhere.
    MismatchError
        When the feature length is not the layout's, or differs among slides.
    """
    config = config or SharedSpaceConfig()
    _check(slides, layout)
    data = TrainingSet.of(slides)
    standard = Standardiser.fit(slides, layout, config)
    expression = _expression_basis(data, config)
    basis = feature_basis(slides, standard, config, seed)
    sums = _accumulate(data, standard, basis, expression)
    level = fit_slide_level(
        data, standard.uncentred, seed, weights=config.level_weights if config.image_level else (0.0, 0.0)
    )
    return _assemble(data, standard, basis, expression, _fit_components(data, sums, config), level)


def held_out_share(slides: Sequence[SlideArrays], layout: Layout, config: SharedSpaceConfig, *, seed: int = 0) -> float:
    """Return which share of the variance of expression within slides is predicted on what is held out.

    Of the directions that ``config.components`` asks for, each with the penalty that predicts it best.
    """
    data = TrainingSet.of(slides)
    standard = Standardiser.fit(slides, layout, config)
    expression = _expression_basis(data, config)
    sums = _accumulate(data, standard, feature_basis(slides, standard, config, seed), expression)
    correlation = np.maximum(_fit_components(data, sums, config).correlation, 0.0)
    return float((sums.square * correlation**2).sum() / max(expression.variance, 1e-12))


def _fit_components(data: TrainingSet, sums: _Sums, config: SharedSpaceConfig) -> _Fitted:
    """Predict each component of expression from image features, its penalty chosen on the folds."""
    # One patient shows nothing of what transfers to another.
    return _ridge(sums, caution=config.caution if data.kind != "patient" else 1.0)


def _assemble(
    data: TrainingSet,
    standard: Standardiser,
    basis: Matrix,
    expression: _ExpressionBasis,
    fitted: _Fitted,
    level: SlideLevel,
) -> SharedSpace:
    config = standard.config
    own, context = standard.unfold(basis @ (fitted.coefficients * fitted.slope))  # from (F + context columns, c)
    correlation = np.clip(fitted.correlation, 0.0, MAX_CORRELATION)
    importance = correlation / np.sqrt(1 - correlation**2)
    amplitude = np.maximum(fitted.amplitude, 1e-9)
    gain = importance / amplitude / max(float(np.linalg.norm(importance)), 1e-9)
    report = {
        "folds": data.kind,
        "n_folds": data.n_folds,
        "n_spots": data.n_spots,
        "rank": basis.shape[1],
        "correlation": _rounded(fitted.correlation),
        "penalty": _rounded(fitted.penalty),
        "slope": _rounded(fitted.slope),
        "level_weights": _rounded(level.weights),
    }
    return SharedSpace(
        config=config,
        feature_mean=standard.mean.astype(np.float32),
        image_own=own.astype(np.float32),
        image_context=context.astype(np.float32),
        level_of=dataclasses.replace(level, projection=level.projection * standard.scale[:, None].astype(np.float32)),
        amplitude=amplitude.astype(np.float32),
        expression_mean=expression.mean.astype(np.float32),
        components=expression.loadings.astype(np.float32),
        gain=gain.astype(np.float32),
        report=report,
    )


def _check(slides: Sequence[SlideArrays], layout: Layout) -> None:
    n, width = 0, sum(part.width for part in layout.parts)
    for slide in slides:
        n += len(slide.features)
        if slide.features.shape[1] != width:
            raise MismatchError(
                f"Slide {slide.slide_id} has {slide.features.shape[1]} image features a spot, expected {width}; "
                "encode every slide with the same encoder, stages and scales."
            )
    if n < 8:
        raise InputError(f"Training needs at least 8 spots with image and counts, found {n}.")


def _masses(layout: Layout, config: SharedSpaceConfig, scales: tuple[int, ...] | None) -> list[float]:
    """Return what each block counts: nothing where its field of view or its stages are left out."""

    def counts(part: FeatureBlock) -> bool:
        return part.group in STAGES[config.stages] and (scales is None or part.scale in scales)

    return [part.mass * counts(part) for part in layout.parts]


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Slide-centred features and their context, every block of columns brought to the same total variance."""

    config: SharedSpaceConfig
    mean: Matrix
    scale: Matrix
    context_columns: NDArray[np.int64]
    context_scale: Matrix

    @classmethod
    def fit(cls, slides: Sequence[SlideArrays], layout: Layout, config: SharedSpaceConfig) -> Standardiser:
        """Measure slides, visiting them twice."""
        own_mass = _masses(layout, config, config.scales)
        seen = config.context_scales
        if seen is not None and config.scales is not None:
            seen = tuple(scale for scale in seen if scale in config.scales)
        context_mass = _masses(layout, config, config.scales if seen is None else seen)
        widths = [part.width for part in layout.parts]
        columns = np.flatnonzero(np.repeat(context_mass, widths) * config.context_um > 0)
        mean = np.mean([slide.features.mean(axis=0, dtype=np.float64) for slide in slides], axis=0)
        raw = cls(config, mean, np.ones(len(mean)), columns, np.ones(len(columns)))
        own, context, n = np.zeros(len(mean)), np.zeros(len(mean)), 0
        for slide in slides:
            values = raw.design(slide)
            n += len(values)
            squares = np.einsum("nf,nf->f", values, values, dtype=np.float64)
            own += squares[: len(mean)]
            context[columns] += squares[len(mean) :]
        scale = column_scale(own / n, layout, own_mass)
        return cls(config, mean, scale, columns, column_scale(context / n, layout, context_mass)[columns])

    def uncentred(self, slide: SlideArrays) -> FloatArray:
        """Standardised features ``(n, F)``, not centred by slide."""
        return (slide.features - self.mean.astype(np.float32)) * self.scale.astype(np.float32)

    def design(self, slide: SlideArrays) -> FloatArray:
        """Standardised features and their context ``(n, F + context columns)``."""
        features = np.asarray(slide.features, dtype=np.float32)
        centred = features - centre(features, self.mean, self.config.shrink_spots)
        near = SpatialMean(slide.xy_um, self.config.context_um).apply(centred[:, self.context_columns])
        n = len(features)
        near = near - near.mean(axis=0) * np.float32(n / (n + self.config.shrink_spots))
        return np.concatenate(
            [centred * self.scale.astype(np.float32), near * self.context_scale.astype(np.float32)], axis=1
        )

    def unfold(self, weights: Matrix) -> tuple[Matrix, Matrix]:
        """Split weights of the design into weights of raw features and of their context, both ``(F, c)``."""
        width = len(self.scale)
        context = np.zeros((width, weights.shape[1]))
        context[self.context_columns] = weights[width:] * self.context_scale[:, None]
        return weights[:width] * self.scale[:, None], context


@dataclass(frozen=True, eq=False)
class _ExpressionBasis:
    """Mean of the slides' mean expression ``(G,)``, principal directions ``(c, G)`` of the spots, all their squares."""

    mean: Matrix
    loadings: Matrix
    variance: float


def _expression_basis(data: TrainingSet, config: SharedSpaceConfig) -> _ExpressionBasis:
    n_genes = data.slides[0].expression.shape[1]
    total, count = np.zeros(n_genes), np.zeros(n_genes)
    for slide in data.slides:
        total += np.where(slide.measured, slide.expression.mean(axis=0, dtype=np.float64), 0.0)
        count += slide.measured
    mean = total / np.maximum(count, 1)
    scatter = np.zeros((n_genes, n_genes))
    for slide, weight, _ in data:
        values = _centred_expression(slide, mean, config) * np.sqrt(weight)[:, None]
        scatter += values.T @ values
    n_kept = min(config.components, n_genes)
    _, vectors = eigh(scatter, subset_by_index=(n_genes - n_kept, n_genes - 1))
    loadings = vectors[:, ::-1].T
    sign = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)])
    return _ExpressionBasis(mean, loadings * sign[:, None], float(np.trace(scatter)))


def _centred_expression(slide: SlideArrays, mean: Matrix, config: SharedSpaceConfig) -> Matrix:
    values = slide.expression - centre(slide.expression, mean, config.shrink_spots)
    return np.asarray(np.where(slide.measured, values, 0.0), dtype=np.float64)


def feature_basis(
    slides: Sequence[SlideArrays], standard: Standardiser, config: SharedSpaceConfig, seed: int
) -> Matrix:
    """Orthonormal directions ``(F + context columns, p)`` that span the features of the landmark spots."""
    chosen = sampled_rows(slides, config.max_landmarks, seed)
    landmarks = np.concatenate([standard.design(slide)[rows] for slide, rows in zip(slides, chosen, strict=True)])
    wide = landmarks.shape[0] < landmarks.shape[1]
    gram = (landmarks @ landmarks.T if wide else landmarks.T @ landmarks).astype(np.float64)
    rank = min(config.max_rank, len(gram))
    values, vectors = eigh(gram, subset_by_index=(len(gram) - rank, len(gram) - 1))
    if not values[-1] > 0:
        raise InputError(
            "Every spot has the same image features: the patches are blank, or the coordinates off the tissue."
        )
    kept = values > 1e-5 * values[-1]
    if not wide:
        return np.asarray(vectors[:, kept])
    directions = landmarks.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    return np.asarray(directions, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Cross-products of features in the basis, by fold: all that the ridge and its validation need."""

    gram: list[Matrix]
    cross: list[Matrix]
    square: Matrix
    weight: float


def _accumulate(data: TrainingSet, standard: Standardiser, basis: Matrix, expression: _ExpressionBasis) -> _Sums:
    rank, width = basis.shape[1], len(expression.loadings)
    gram = [np.zeros((rank, rank)) for _ in range(data.n_folds)]
    cross = [np.zeros((rank, width)) for _ in range(data.n_folds)]
    square, total = np.zeros(width), 0.0
    for slide, weight, fold in data:
        root = np.sqrt(weight)[:, None]
        rotated = (standard.design(slide) @ basis.astype(np.float32)).astype(np.float64) * root
        target = _centred_expression(slide, expression.mean, standard.config) @ expression.loadings.T * root
        square += (target**2).sum(axis=0)
        total += float(weight.sum())
        for number in np.unique(fold):
            part = rotated[fold == number]
            gram[number] += part.T @ part
            cross[number] += part.T @ target[fold == number]
    return _Sums(gram, cross, square, max(total, 1e-9))


@dataclass(frozen=True, eq=False)
class _Fitted:
    coefficients: Matrix
    penalty: Matrix
    correlation: Matrix
    slope: Matrix
    amplitude: Matrix


def _ridge(sums: _Sums, *, caution: float) -> _Fitted:
    """Ridge regression of every component, each with the penalty that predicts it best on the folds held out."""
    gram: Matrix = np.sum(sums.gram, axis=0)
    cross: Matrix = np.sum(sums.cross, axis=0)
    unit = float(np.trace(gram)) / sums.weight
    parts = list(_held_out(sums, gram, cross))
    n_components = len(sums.square)
    curve = np.stack([_validate(parts, np.full(n_components, s) * unit, sums.square)[0] for s in STRENGTHS])
    penalty = STRENGTHS[curve.argmax(axis=0)] * caution
    correlation, slope, amplitude = _validate(parts, penalty * unit, sums.square)
    values, vectors = eigh(gram, driver="evd")
    rotated = vectors.T @ cross
    coefficients = vectors @ (rotated / (np.maximum(values, 0.0)[:, None] + penalty * unit))
    return _Fitted(coefficients, penalty, correlation, slope, amplitude / np.sqrt(sums.weight))


def _held_out(sums: _Sums, gram: Matrix, cross: Matrix) -> Iterator[tuple[Matrix, Matrix, Matrix, Matrix]]:
    """Per fold: eigenvalues and rotated cross-products of the rest; cross-products of the fold, rotated alike."""
    for fold_gram, fold_cross in zip(sums.gram, sums.cross, strict=True):
        values, vectors = eigh(gram - fold_gram, driver="evd")
        rest = vectors.T @ (cross - fold_cross)
        yield np.maximum(values, 0.0), rest, vectors.T @ fold_gram @ vectors, vectors.T @ fold_cross


def _validate(
    parts: list[tuple[Matrix, Matrix, Matrix, Matrix]], penalty: Matrix, square: Matrix
) -> tuple[Matrix, Matrix, Matrix]:
    """Correlation of held-out prediction and truth, slope of truth on prediction, and length of the prediction."""
    agree, length = np.zeros(len(square)), np.zeros(len(square))
    for values, rest, fold_gram, fold_cross in parts:
        beta = rest / (values[:, None] + penalty)
        agree += (beta * fold_cross).sum(axis=0)
        length += (beta * (fold_gram @ beta)).sum(axis=0)
    length = np.maximum(length, 1e-12)
    slope = np.clip(agree / length, 0.0, MAX_SLOPE)
    return agree / np.sqrt(length * np.maximum(square, 1e-12)), slope, slope * np.sqrt(length)


def _rounded(values: NDArray[np.floating]) -> list[float]:
    return [round(float(v), 4) for v in values]

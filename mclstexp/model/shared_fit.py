"""Fitting the shared space: bounded in memory, deterministic, every setting chosen on slides held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from mclstexp.config import SharedSpaceConfig
from mclstexp.errors import InputError, MismatchError
from mclstexp.model.context import SpatialMean
from mclstexp.model.shared_space import SharedSpace, centre
from mclstexp.types import FloatArray

STRENGTHS = np.geomspace(0.1, 300.0, 15)
"""Ridge penalties tried, in units of the mean squared length of a spot's features."""

MAX_FOLDS = 8

MIN_PATIENTS = 4
"""Patients are held out from this number on. With fewer, what is left to learn from is too unlike the whole."""

MAX_CORRELATION = 0.98
MAX_SLOPE = 1.5

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlideArrays:
    """What the fit needs of one slide.

    Attributes
    ----------
    slide_id, patient
        Identity; ``patient`` may be "".
    features
        ``(n, F)`` float32 image features, scales side by side; a memory map will do.
    expression
        ``(n, G)`` float32 over the gene panel; genes that the slide did not measure are zero.
    measured
        ``(G,)`` which genes the slide measured.
    xy_um
        ``(n, 2)`` spot centres in um.
    depth
        ``(n,)`` total counts, so that shallow spots and slides weigh less; None where nothing is known of it.
    """

    slide_id: str
    patient: str
    features: FloatArray
    expression: FloatArray
    measured: NDArray[np.bool_]
    xy_um: NDArray[np.float64]
    depth: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.features)
        if len(self.expression) != n or self.xy_um.shape != (n, 2):
            raise InputError(
                f"Slide {self.slide_id}: {n} feature rows, {len(self.expression)} expression rows, "
                f"{len(self.xy_um)} positions; all must agree."
            )
        if self.depth is not None and len(self.depth) != n:
            raise InputError(f"Slide {self.slide_id}: {len(self.depth)} depths for {n} spots; they must agree.")


@dataclass(frozen=True)
class FeatureLayout:
    """Which columns of the features belong together: ``blocks`` widths (one a stage), repeated for every scale."""

    blocks: tuple[int, ...]
    n_scales: int = 1

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return sum(self.blocks) * self.n_scales

    def column_weights(self) -> Matrix:
        """``1 / width of the column's block``: a stage of 16 channels counts as much as one of 1,280."""
        one = np.concatenate([np.full(width, 1.0 / width) for width in self.blocks])
        return np.tile(one, self.n_scales)

    def columns_of_scales(self, scales: tuple[int, ...] | None) -> NDArray[np.bool_]:
        """Mask ``(F,)`` of the columns of the given scales (None: all)."""
        chosen = [scales is None or s in scales for s in range(self.n_scales)]
        return np.repeat(np.asarray(chosen), sum(self.blocks))


FoldKind = Literal["patient", "slide", "block"]


def fit_shared_space(
    slides: Sequence[SlideArrays], layout: FeatureLayout, config: SharedSpaceConfig | None = None, *, seed: int = 0
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
    kind, fold_of = folds(slides)
    standard = _Standardiser.fit(slides, layout, config)
    weights = spot_weights(slides)
    expression_mean, components = _expression_basis(slides, weights, config)
    basis = _feature_basis(slides, standard, config, seed)
    sums = _accumulate(slides, standard, basis, (expression_mean, components), list(zip(weights, fold_of, strict=True)))
    fitted = _ridge(sums, caution=config.caution if kind != "patient" else 1.0)
    own, context = standard.unfold(basis @ (fitted.coefficients * fitted.slope))  # from (F + context columns, c)
    correlation = np.clip(fitted.correlation, 0.0, MAX_CORRELATION)
    importance = correlation / np.sqrt(1 - correlation**2)
    amplitude = np.maximum(fitted.amplitude, 1e-9)
    gain = importance / amplitude / max(float(np.linalg.norm(importance)), 1e-9)
    report = {
        "folds": kind,
        "n_folds": len(sums.gram),
        "n_spots": sum(len(slide.features) for slide in slides),
        "rank": basis.shape[1],
        "correlation": _rounded(fitted.correlation),
        "penalty": _rounded(fitted.penalty),
        "slope": _rounded(fitted.slope),
    }
    return SharedSpace(
        config=config,
        feature_mean=standard.mean.astype(np.float32),
        image_own=own.astype(np.float32),
        image_context=context.astype(np.float32),
        amplitude=amplitude.astype(np.float32),
        expression_mean=expression_mean.astype(np.float32),
        components=components.astype(np.float32),
        gain=gain.astype(np.float32),
        report=report,
    )


def folds(slides: Sequence[SlideArrays]) -> tuple[FoldKind, list[NDArray[np.int64]]]:
    """Return what is held out together, and the fold of each slide's spots.

    Patients where there are ``MIN_PATIENTS``, else slides, else quarters of the one slide. More than ``MAX_FOLDS``
    groups are put together, the large ones first, into the fold that is smallest so far.
    """
    patients = [slide.patient or slide.slide_id for slide in slides]
    known = len({slide.patient for slide in slides if slide.patient}) >= MIN_PATIENTS
    names, kind = (patients, "patient") if known else ([slide.slide_id for slide in slides], "slide")
    if len(set(names)) < 2:
        return "block", [_quarters(slide.xy_um) for slide in slides]
    sizes = dict.fromkeys(names, 0)
    for name, slide in zip(names, slides, strict=True):
        sizes[name] += len(slide.features)
    load, fold = [0] * min(MAX_FOLDS, len(sizes)), {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        fold[name] = int(np.argmin(load))
        load[fold[name]] += sizes[name]
    spread = [np.full(len(s.features), fold[name], dtype=np.int64) for name, s in zip(names, slides, strict=True)]
    return ("patient" if kind == "patient" else "slide"), spread


def spot_weights(slides: Sequence[SlideArrays]) -> list[Matrix]:
    """Return how much each spot counts in the fit, one array ``(n,)`` a slide.

    The fewer counts, the noisier the expression, and the larger its steps: a log of 1 count in 50 is far above one of
    1 in 5,000. Spots weigh ``t / (t + median)``; a slide whose median is below the others' is taken down in
    proportion, so that a coarse patient does not bend the space for the deep ones.
    """
    known = [slide.depth for slide in slides if slide.depth is not None]
    if not known:
        return [np.ones(len(slide.features)) for slide in slides]
    typical = max(float(np.median(np.concatenate(known))), 1.0)
    typical_slide = max(float(np.median([np.median(depth) for depth in known])), 1.0)
    weights = []
    for slide in slides:
        depth = np.full(len(slide.features), typical) if slide.depth is None else np.asarray(slide.depth, np.float64)
        weights.append(depth / (depth + typical) * min(1.0, float(np.median(depth)) / typical_slide))
    return weights


def _quarters(xy_um: Matrix) -> NDArray[np.int64]:
    right, low = (xy_um > np.median(xy_um, axis=0)).T
    return np.asarray(2 * right + low, dtype=np.int64)


def _check(slides: Sequence[SlideArrays], layout: FeatureLayout) -> None:
    n = 0
    for slide in slides:
        n += len(slide.features)
        if slide.features.shape[1] != layout.width:
            raise MismatchError(
                f"Slide {slide.slide_id} has {slide.features.shape[1]} image features a spot, expected {layout.width}; "
                "encode every slide with the same encoder, stages and scales."
            )
    if n < 8:
        raise InputError(f"Training needs at least 8 spots with image and counts, found {n}.")


@dataclass(frozen=True, eq=False)
class _Standardiser:
    """Slide-centred features and their context, every block of columns brought to the same total variance."""

    config: SharedSpaceConfig
    mean: Matrix
    scale: Matrix
    context_columns: NDArray[np.int64]
    context_scale: Matrix

    @classmethod
    def fit(cls, slides: Sequence[SlideArrays], layout: FeatureLayout, config: SharedSpaceConfig) -> _Standardiser:
        weights = layout.column_weights()
        wanted = layout.columns_of_scales(config.context_scales) & (config.context_um > 0)
        columns = np.flatnonzero(wanted)
        mean = np.zeros(layout.width)
        for slide in slides:
            mean += slide.features.mean(axis=0, dtype=np.float64) / len(slides)
        raw = cls(config, mean, np.ones(layout.width), columns, np.ones(len(columns)))
        own, context, n = np.zeros(layout.width), np.zeros(len(columns)), 0
        for slide in slides:
            values = raw.design(slide)
            n += len(values)
            squares = np.einsum("nf,nf->f", values, values, dtype=np.float64)
            own += squares[: layout.width]
            context += squares[layout.width :]
        return cls(config, mean, _scale(own / n, weights), columns, _scale(context / n, weights[columns]))

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


def _scale(variance: Matrix, weights: Matrix) -> Matrix:
    """Column factors; a column that never varies gets none."""
    moving = variance > 1e-12
    return np.where(moving, np.sqrt(weights / np.where(moving, variance, 1.0)), 0.0)


def _expression_basis(
    slides: Sequence[SlideArrays], weights: list[Matrix], config: SharedSpaceConfig
) -> tuple[Matrix, Matrix]:
    """Mean of the slides' mean expression ``(G,)``, and loadings ``(c, G)``."""
    n_genes = slides[0].expression.shape[1]
    total, count = np.zeros(n_genes), np.zeros(n_genes)
    for slide in slides:
        total += np.where(slide.measured, slide.expression.mean(axis=0, dtype=np.float64), 0.0)
        count += slide.measured
    mean = total / np.maximum(count, 1)
    scatter = np.zeros((n_genes, n_genes))
    for slide, weight in zip(slides, weights, strict=True):
        values = _centred_expression(slide, mean, config) * np.sqrt(weight)[:, None]
        scatter += values.T @ values
    _, vectors = eigh(scatter)
    loadings = vectors[:, ::-1][:, : config.components].T
    sign = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(axis=1)])
    return mean, loadings * sign[:, None]


def _centred_expression(slide: SlideArrays, mean: Matrix, config: SharedSpaceConfig) -> Matrix:
    values = slide.expression - centre(slide.expression, mean, config.shrink_spots)
    return np.asarray(np.where(slide.measured, values, 0.0), dtype=np.float64)


def _feature_basis(
    slides: Sequence[SlideArrays], standard: _Standardiser, config: SharedSpaceConfig, seed: int
) -> Matrix:
    """Orthonormal directions ``(F + context columns, p)`` that span the features of the landmark spots."""
    sizes = np.asarray([len(slide.features) for slide in slides])
    quota = np.ceil(sizes * min(1.0, config.max_landmarks / sizes.sum())).astype(int)
    rng = np.random.default_rng(seed)
    rows = []
    for slide, wanted in zip(slides, quota, strict=True):
        chosen = np.sort(rng.permutation(len(slide.features))[:wanted])
        rows.append(standard.design(slide)[chosen])
    landmarks = np.concatenate(rows)
    gram = (landmarks @ landmarks.T).astype(np.float64)
    rank = min(config.max_rank, len(gram))
    values, vectors = eigh(gram, subset_by_index=(len(gram) - rank, len(gram) - 1))
    if not values[-1] > 0:
        raise InputError(
            "Every spot has the same image features: the patches are blank, or the coordinates off the tissue."
        )
    kept = values > 1e-5 * values[-1]
    directions = landmarks.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    return np.asarray(directions, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Cross-products of features in the basis, by fold: all that the ridge and its validation need."""

    gram: list[Matrix]
    cross: list[Matrix]
    square: Matrix
    weight: float


def _accumulate(
    slides: Sequence[SlideArrays],
    standard: _Standardiser,
    basis: Matrix,
    expression_basis: tuple[Matrix, Matrix],
    weight_and_fold: list[tuple[Matrix, NDArray[np.int64]]],
) -> _Sums:
    mean, components = expression_basis
    rank, width = basis.shape[1], len(components)
    n_folds = 1 + max(int(fold.max()) for _, fold in weight_and_fold)
    gram = [np.zeros((rank, rank)) for _ in range(n_folds)]
    cross = [np.zeros((rank, width)) for _ in range(n_folds)]
    square, total = np.zeros(width), 0.0
    for slide, (weight, fold) in zip(slides, weight_and_fold, strict=True):
        root = np.sqrt(weight)[:, None]
        rotated = (standard.design(slide) @ basis.astype(np.float32)).astype(np.float64) * root
        target = _centred_expression(slide, mean, standard.config) @ components.T * root
        square += (target**2).sum(axis=0)
        total += float(weight.sum())
        for f in np.unique(fold):
            part = rotated[fold == f]
            gram[f] += part.T @ part
            cross[f] += part.T @ target[fold == f]
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
    values, vectors = eigh(gram)
    rotated = vectors.T @ cross
    coefficients = vectors @ (rotated / (np.maximum(values, 0.0)[:, None] + penalty * unit))
    return _Fitted(coefficients, penalty, correlation, slope, amplitude / np.sqrt(sums.weight))


def _held_out(sums: _Sums, gram: Matrix, cross: Matrix) -> Iterator[tuple[Matrix, Matrix, Matrix, Matrix]]:
    """Per fold: eigenvalues and rotated cross-products of the rest; cross-products of the fold, rotated alike."""
    for fold_gram, fold_cross in zip(sums.gram, sums.cross, strict=True):
        values, vectors = eigh(gram - fold_gram)
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


def _rounded(values: Matrix) -> list[float]:
    return [round(float(v), 4) for v in values]

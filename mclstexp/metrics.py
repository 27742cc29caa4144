"""Measures of a predicted expression, each with its source. Genes are columns; NaN stands for not measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mclstexp.errors import MismatchError

Floats = NDArray[np.float64]
"""Float64 array."""

CONSTANT_TOLERANCE = 1e-6
"""A column whose standard deviation is below this share of its largest value varies by float32 rounding alone."""

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_GENES_AT_ONCE = 64


def is_constant(values: ArrayLike) -> NDArray[np.bool_]:
    """Tell which columns do not vary (beyond float32 rounding), or hold NaN.

    Parameters
    ----------
    values
        ``(n, G)``.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return np.ones(x.shape[1], dtype=bool)
    scale = np.abs(x).max(axis=0)
    return cast("NDArray[np.bool_]", ~(x.std(axis=0) > CONSTANT_TOLERANCE * scale))


def pearson_by_gene(truth: ArrayLike, predicted: ArrayLike) -> Floats:
    """Pearson correlation of each column over the spots; NaN where either is constant or holds NaN.

    Parameters
    ----------
    truth, predicted
        ``(n, G)`` expression.

    Returns
    -------
    NDArray[np.float64]
        ``(G,)`` in -1 to 1.
    """
    x, y = paired(truth, predicted)
    undefined = is_constant(x) | is_constant(y)
    if len(x) == 0:
        return np.full(x.shape[1], np.nan)
    x = x - x.mean(axis=0)
    y = y - y.mean(axis=0)
    norm = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (x * y).sum(axis=0) / norm
    return np.where(undefined, np.nan, np.clip(r, -1.0, 1.0))


@dataclass(frozen=True, eq=False)
class GeneScores:
    """Per-gene correlation within one slide.

    Attributes
    ----------
    pcc
        ``(G,)``. NaN where the truth is constant, not measured or not predicted: such a gene is *dropped*. 0 where only
        the prediction is constant: it says nothing about the slide, and leaving it out would reward the silence.
    n_dropped, n_constant
        How many genes the two rules touched.
    pcc_nan_dropped
        Mean over genes as upstream's code takes it, genes of constant prediction left out too. None when all are.
    """

    pcc: Floats
    n_dropped: int
    n_constant: int
    pcc_nan_dropped: float | None


def score_genes(truth: ArrayLike, predicted: ArrayLike) -> GeneScores:
    """Correlate each gene within a slide, telling undefined truth from a prediction that does not vary."""
    x, y = paired(truth, predicted)
    raw = pearson_by_gene(x, y)
    flat = is_constant(y) & ~np.isnan(y).any(axis=0) & ~is_constant(x)
    pcc = np.where(flat, 0.0, raw)
    return GeneScores(
        pcc=pcc,
        n_dropped=int(np.isnan(pcc).sum()),
        n_constant=int(flat.sum()),
        pcc_nan_dropped=mean_or_none(raw),
    )


def highest(values: ArrayLike, n: int) -> NDArray[np.int64]:
    """Columns of the ``n`` highest values, highest first, ties in column order, NaN never."""
    x = np.asarray(values, dtype=np.float64)
    order = np.argsort(-np.where(np.isnan(x), -np.inf, x), kind="stable")[:n]
    return order[~np.isnan(x[order])].astype(np.int64)


def mean_or_none(values: ArrayLike) -> float | None:
    """Mean of what is not NaN, or None when nothing is left."""
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    return float(x.mean()) if x.size else None


def squared_error(truth: ArrayLike, predicted: ArrayLike) -> float | None:
    """Mean squared error over every measured spot and gene."""
    x, y = paired(truth, predicted)
    return mean_or_none((x - y) ** 2)


def absolute_error(truth: ArrayLike, predicted: ArrayLike) -> float | None:
    """Mean absolute error over every measured spot and gene."""
    x, y = paired(truth, predicted)
    return mean_or_none(np.abs(x - y))


def relative_variation_distance(truth: ArrayLike, predicted: ArrayLike) -> float | None:
    """RVD: mean over genes of ``((var(predicted) - var(truth)) / var(truth))^2``; 0 is best, a constant scores 1.

    Zhu et al. 2025, "Diffusion generative modeling for spatially resolved gene expression inference from histology
    images" (Stem, arXiv 2501.15598). Genes of constant truth are dropped. It asks only whether maps vary as much as
    the truth does, not whether they vary at the same places.
    """
    x, y = paired(truth, predicted)
    keep = ~is_constant(x) & ~np.isnan(y).any(axis=0)
    if not keep.any():
        return None
    var_x, var_y = x[:, keep].var(axis=0), y[:, keep].var(axis=0)
    return float((((var_y - var_x) / var_x) ** 2).mean())


def ssim_by_gene(truth: ArrayLike, predicted: ArrayLike, array_row: ArrayLike, array_col: ArrayLike) -> Floats | None:
    """Structural similarity of each gene's map on the array grid, averaged over the measured cells.

    Wang et al. 2004 (IEEE TIP 13:600): K1 = 0.01, K2 = 0.03, window of 11 by 11 cells, Gaussian of sigma 1.5,
    population moments, data range = range of the truth. Cells without a spot have weight 0 in every window, so the
    blank around the tissue, which agrees for nothing, does not count.

    Returns
    -------
    NDArray[np.float64] or None
        ``(G,)``, NaN where the truth is constant or either is NaN; None when two spots share a grid cell.
    """
    x, y = paired(truth, predicted)
    row = np.asarray(array_row, dtype=np.int64)
    col = np.asarray(array_col, dtype=np.int64)
    if len(x) == 0 or len(np.unique(np.stack([row, col]), axis=1).T) < len(row):
        return None
    row, col = row - row.min(), col - col.min()
    shape = (int(row.max()) + 1, int(col.max()) + 1)
    weight = _blur(_onto_grid(np.ones((len(x), 1)), row, col, shape))[row, col]
    defined = np.flatnonzero(~is_constant(x) & ~np.isnan(y).any(axis=0))
    result = np.full(x.shape[1], np.nan)
    for start in range(0, len(defined), SSIM_GENES_AT_ONCE):
        genes = defined[start : start + SSIM_GENES_AT_ONCE]

        def local(values: Floats) -> Floats:
            return cast("Floats", _blur(_onto_grid(values, row, col, shape))[row, col] / weight)

        result[genes] = _ssim(x[:, genes], y[:, genes], local).mean(axis=0)
    return result


def _ssim(x: Floats, y: Floats, local: Callable[[Floats], Floats]) -> Floats:
    span = x.max(axis=0) - x.min(axis=0)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_x, mean_y = local(x), local(y)
    var_x = local(x * x) - mean_x**2
    var_y = local(y * y) - mean_y**2
    cov = local(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarity: Floats = luminance * (2 * cov + c2) / (var_x + var_y + c2)
    return similarity


def _onto_grid(values: Floats, row: NDArray[np.int64], col: NDArray[np.int64], shape: tuple[int, int]) -> Floats:
    grid = np.zeros((*shape, values.shape[1]))  # (rows, columns, genes)
    grid[row, col] = values
    return grid


def _blur(grid: Floats) -> Floats:
    from scipy import ndimage

    return ndimage.gaussian_filter(grid, SSIM_SIGMA, mode="constant", radius=SSIM_RADIUS, axes=(0, 1))


def cluster_spots(expression: ArrayLike, n_clusters: int, *, seed: int) -> NDArray[np.int64]:
    """Cluster spots: k-means (10 starts) on the first 20 principal components of the gene-centred expression.

    Genes that are not known for every spot are left out; an expression that does not vary is one cluster.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    x = np.asarray(expression, dtype=np.float64)
    x = x[:, ~is_constant(x)]
    if x.shape[1] == 0:
        return np.zeros(len(x), dtype=np.int64)
    # A full decomposition, not a randomised one, so that the components do not depend on the seed.
    components = PCA(n_components=min(20, *x.shape), svd_solver="full").fit_transform(x)
    distinct = len(np.unique(components.round(9), axis=0))
    model = KMeans(n_clusters=min(n_clusters, distinct), n_init=10, random_state=seed)
    return cast("NDArray[np.int64]", model.fit_predict(components).astype(np.int64))


def cluster_agreement(clusters: NDArray[np.int64], labels: ArrayLike) -> tuple[float, float]:
    """ARI and NMI of clusters (-1: not clustered, left out) with labels."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = clusters >= 0
    truth = np.asarray(labels, dtype=np.str_)[known]
    rand, information = (f(truth, clusters[known]) for f in (adjusted_rand_score, normalized_mutual_info_score))
    return float(rand), float(information)


def domain_clusters(expression: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> NDArray[np.int64] | None:
    """Cluster the labelled spots into as many clusters as there are labels; -1 for a spot without a label.

    None with fewer than two labels.
    """
    names = np.asarray(labels, dtype=np.str_)
    known = names != ""
    n_labels = len(np.unique(names[known]))
    if n_labels < 2:
        return None
    clusters = np.full(len(names), -1, dtype=np.int64)
    clusters[known] = cluster_spots(np.asarray(expression)[known], n_labels, seed=seed)
    return clusters


@dataclass(frozen=True)
class GeneMoments:
    """One gene over the spots of some slides, ``x`` as measured and ``y`` as predicted.

    Attributes
    ----------
    n, n_slides
        Number of spots, and of slides.
    mean_x, mean_y
        Means.
    xx, yy, xy
        Sums of the products of the deviations from the means.
    top_x, top_y
        Largest absolute values: what variation is compared with, to tell it from rounding.
    """

    n: float
    mean_x: float
    mean_y: float
    xx: float
    yy: float
    xy: float
    top_x: float
    top_y: float
    n_slides: int = 1

    def merged(self, other: GeneMoments) -> GeneMoments:
        """Return the moments over the spots of both (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        share = self.n * other.n / n
        return GeneMoments(
            n=n,
            mean_x=self.mean_x + dx * other.n / n,
            mean_y=self.mean_y + dy * other.n / n,
            xx=self.xx + other.xx + dx * dx * share,
            yy=self.yy + other.yy + dy * dy * share,
            xy=self.xy + other.xy + dx * dy * share,
            top_x=max(self.top_x, other.top_x),
            top_y=max(self.top_y, other.top_y),
            n_slides=self.n_slides + other.n_slides,
        )

    @property
    def correlation(self) -> float:
        """Pearson correlation; as `GeneScores.pcc`, NaN for a constant truth and 0 for a constant prediction."""
        if not math.sqrt(self.xx / self.n) > CONSTANT_TOLERANCE * self.top_x:
            return math.nan
        if not math.sqrt(self.yy / self.n) > CONSTANT_TOLERANCE * self.top_y:
            return 0.0
        return min(1.0, max(-1.0, self.xy / math.sqrt(self.xx * self.yy)))


@dataclass
class PooledCorrelation:
    """Pearson correlation per gene over the spots of many slides, without keeping them.

    Moments are merged slide by slide. Pooling lets differences *between* slides count as accuracy, or against it, so
    pooled figures are not comparable with those within slides (MERGE#6: 0.38 and 0.12).
    """

    _moments: dict[str, GeneMoments] = field(default_factory=dict)
    n_slides: int = 0

    def add(self, symbols: tuple[str, ...], truth: ArrayLike, predicted: ArrayLike) -> None:
        """Take in a slide's spots; genes with NaN on either side are left out of it."""
        x, y = paired(truth, predicted)
        if len(symbols) != x.shape[1]:
            raise MismatchError(f"{len(symbols)} genes but {x.shape[1]} columns of expression.")
        self.n_slides += 1
        if len(x) == 0:
            return
        for symbol, new in zip(symbols, _moments(x, y), strict=True):
            if new is not None:
                known = self._moments.get(symbol)
                self._moments[symbol] = new if known is None else known.merged(new)

    def by_gene(self) -> tuple[tuple[str, ...], Floats, Floats]:
        """Return the genes known in every slide, their correlation as `GeneScores.pcc`, and their mean in the truth."""
        everywhere = {symbol: known for symbol, known in self._moments.items() if known.n_slides == self.n_slides}
        correlation = np.array([known.correlation for known in everywhere.values()], dtype=np.float64)
        mean = np.array([known.mean_x for known in everywhere.values()], dtype=np.float64)
        return tuple(everywhere), correlation, mean


def _moments(x: Floats, y: Floats) -> list[GeneMoments | None]:
    """Return the moments of each column of ``(n, G)``; None where one is not finite."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    dx, dy = x - mean_x, y - mean_y
    sums = [(dx * dx).sum(axis=0), (dy * dy).sum(axis=0), (dx * dy).sum(axis=0)]
    table = np.stack([mean_x, mean_y, *sums, np.abs(x).max(axis=0), np.abs(y).max(axis=0)], axis=1)
    finite = np.isfinite(table).all(axis=1)
    return [
        GeneMoments(len(x), *row) if known else None for row, known in zip(table.tolist(), finite.tolist(), strict=True)
    ]


def paired(truth: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    """Return both as float64 ``(n, G)``.

    Raises
    ------
    MismatchError
        When they differ in shape.
    """
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise MismatchError(f"The truth has shape {x.shape} and the prediction {y.shape}; both must be (spots, genes).")
    return x, y

"""Measures of a predicted expression, each with its source. Genes are columns; NaN stands for not measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from mclstexp.errors import InputError, MismatchError

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
    x, y = _pair(truth, predicted)
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
    x, y = _pair(truth, predicted)
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
    x, y = _pair(truth, predicted)
    return mean_or_none((x - y) ** 2)


def absolute_error(truth: ArrayLike, predicted: ArrayLike) -> float | None:
    """Mean absolute error over every measured spot and gene."""
    x, y = _pair(truth, predicted)
    return mean_or_none(np.abs(x - y))


def relative_variation_distance(truth: ArrayLike, predicted: ArrayLike) -> float | None:
    """RVD: mean over genes of ``((var(predicted) - var(truth)) / var(truth))^2``; 0 is best, a constant scores 1.

    Zhu et al. 2025, "Diffusion generative modeling for spatially resolved gene expression inference from histology
    images" (Stem, arXiv 2501.15598). Genes of constant truth are dropped. It asks only whether maps vary as much as
    the truth does, not whether they vary at the same places.
    """
    x, y = _pair(truth, predicted)
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
    x, y = _pair(truth, predicted)
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


def interval_coverage(truth: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> tuple[float, float] | None:
    """Share of measured values inside their interval (bounds included), and the mean width of the intervals.

    Raises
    ------
    InputError
        When a lower bound is above its upper bound.
    """
    x, low = _pair(truth, lower)
    x, high = _pair(truth, upper)
    known = ~np.isnan(x) & ~np.isnan(low) & ~np.isnan(high)
    if not known.any():
        return None
    crossed = int((low[known] > high[known]).sum())
    if crossed:
        raise InputError(f"{crossed} of {int(known.sum())} prediction intervals have a lower bound above the upper.")
    inside = (x[known] >= low[known]) & (x[known] <= high[known])
    return float(inside.mean()), float((high[known] - low[known]).mean())


@dataclass
class PooledCorrelation:
    """Pearson correlation per gene over the spots of many slides, without keeping them.

    Moments are merged slide by slide (Chan, Golub and LeVeque 1983). Pooling lets differences *between* slides count as
    accuracy, or against it, so pooled figures are not comparable with those within slides (MERGE#6: 0.38 and 0.12).
    """

    _moments: dict[str, Floats] = field(default_factory=dict)
    n_slides: int = 0

    def add(self, symbols: tuple[str, ...], truth: ArrayLike, predicted: ArrayLike) -> None:
        """Take in a slide's spots; genes with NaN on either side are left out of it."""
        x, y = _pair(truth, predicted)
        if len(symbols) != x.shape[1]:
            raise MismatchError(f"{len(symbols)} genes but {x.shape[1]} columns of expression.")
        self.n_slides += 1
        if len(x) == 0:
            return
        dx, dy = x - x.mean(axis=0), y - y.mean(axis=0)
        scale = [np.abs(x).max(axis=0), np.abs(y).max(axis=0)]
        sums = [(dx * dx).sum(axis=0), (dy * dy).sum(axis=0), (dx * dy).sum(axis=0)]
        n = np.full(x.shape[1], float(len(x)))
        columns = np.stack([n, x.mean(axis=0), y.mean(axis=0), *sums, *scale, np.ones_like(n)], axis=1)
        for symbol, new in zip(symbols, columns, strict=True):
            if np.isfinite(new).all():
                old = self._moments.get(symbol)
                self._moments[symbol] = new if old is None else _merge(old, new)

    def by_gene(self) -> tuple[tuple[str, ...], Floats, Floats]:
        """Genes known in every slide, their correlation, and their mean in the truth.

        The correlation follows `GeneScores.pcc`: NaN for a constant truth, 0 for a constant prediction.
        """
        everywhere = {symbol: m for symbol, m in self._moments.items() if m[8] == self.n_slides}
        if not everywhere:
            return (), np.empty(0), np.empty(0)
        n, mean, _, xx, yy, xy, top_x, top_y, _ = np.stack(list(everywhere.values())).T
        flat_x = ~(np.sqrt(xx / n) > CONSTANT_TOLERANCE * top_x)
        flat_y = ~(np.sqrt(yy / n) > CONSTANT_TOLERANCE * top_y)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = np.clip(xy / np.sqrt(xx * yy), -1.0, 1.0)
        return tuple(everywhere), np.where(flat_x, np.nan, np.where(flat_y, 0.0, r)), mean


def _merge(a: Floats, b: Floats) -> Floats:
    n = a[0] + b[0]
    dx, dy = b[1] - a[1], b[2] - a[2]
    share = a[0] * b[0] / n
    between = np.array([dx * dx, dy * dy, dx * dy]) * share
    means = a[1:3] + np.array([dx, dy]) * b[0] / n
    return np.concatenate([[n], means, a[3:6] + b[3:6] + between, np.maximum(a[6:8], b[6:8]), [a[8] + b[8]]])


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise MismatchError(f"The truth has shape {x.shape} and the prediction {y.shape}; both must be (spots, genes).")
    return x, y

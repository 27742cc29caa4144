"""What an evaluation measures of one predicted slide, and how slides and seeds become one line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.genes.sets import GeneSets
from mclstexp.errors import MismatchError
from mclstexp.evaluate.enrichment import Enrichment, enrichment, members
from mclstexp.intervals import constant_interval, interval_coverage, pinball_loss
from mclstexp.metrics import (
    Floats,
    PooledCorrelation,
    absolute_error,
    cluster_agreement,
    domain_clusters,
    highest,
    mean_or_none,
    relative_variation_distance,
    score_genes,
    squared_error,
    ssim_by_gene,
)
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.text import some
from mclstexp.types import FloatArray

N_TOP = 50
"""Genes in HEG, HVG and HPG, as in the field's tables."""

METRICS = {
    "pcc": "PCC: Pearson per gene within a slide, mean over genes, then over slides; a constant prediction counts as 0",
    "pooled_pcc": "Pearson per gene over the spots of all test slides together: includes differences between slides",
    "mse": "mean squared error over spots and genes",
    "pcc_nan_dropped": "the same as upstream's code takes it: genes of constant prediction left out",
    "pcc_heg": "PCC of the 50 genes of highest mean in the test slide's measurement",
    "pcc_hvg": "PCC of the 50 genes of highest variance in the test slide's measurement",
    "pcc_hpg": "PCC of the 50 genes of highest PCC, chosen on the test result itself: optimistic by construction",
    "mae": "mean absolute error over spots and genes",
    "rvd": "relative variation distance: ((var predicted - var measured) / var measured)^2, mean over genes (Stem)",
    "ssim": "structural similarity of the gene maps on the array grid, mean over genes (Wang et al. 2004, masked)",
    "ari": "adjusted Rand index of k-means clusters of the prediction with the given labels",
    "nmi": "normalised mutual information of the same",
    "coverage": "share of measured values inside the predicted interval",
    "interval_width": "mean width of the predicted interval",
    "pinball": "mean quantile loss of the interval's bounds: low where it is narrow and holds what it should",
    "pinball_constant": "the same for intervals of one width a gene that hold the same share",
    "familiarity": "mean familiarity of the patches to the reference",
    "pooled_pcc_heg": "pooled PCC of the 50 genes of highest mean over all test slides",
}
"""Every measure by its key, in words; ``pcc_set:NAME`` are those of marker sets."""

HEADINGS = {
    "pcc": "PCC",
    "pcc_heg": "HEG",
    "pcc_hvg": "HVG",
    "pcc_hpg": "HPG",
    "mse": "MSE",
    "mae": "MAE",
    "rvd": "RVD",
    "ssim": "SSIM",
    "ari": "ARI",
    "nmi": "NMI",
    "interval_width": "width",
    "pinball": "pinball",
    "pinball_constant": "of constant",
    "familiarity": "familiar",
    "pooled_pcc": "pooled",
    "pooled_pcc_heg": "pooled HEG",
}
"""Short headings for a terminal, where the key would be long."""

COVERAGE_TOLERANCE = 0.1
"""Intervals that hold fewer of a slide's measured values than their level, less this, are warned of."""


@dataclass(frozen=True, eq=False)
class MethodPrediction:
    """What a method says of a slide, in the protocol's normalisation.

    Attributes
    ----------
    mean
        ``(n, G)`` expected expression over the fold's panel; NaN columns for genes the method cannot know.
    lower, upper
        ``(n, G)`` bounds of its interval, or None.
    level
        Share of the measured values that the intervals are meant to hold, or None where that is not said.
    familiarity
        ``(n,)`` how familiar each patch is, or None.
    """

    mean: FloatArray
    lower: FloatArray | None = None
    upper: FloatArray | None = None
    familiarity: FloatArray | None = None
    level: float | None = None

    def check(self, method: str, n_spots: int, n_genes: int) -> None:
        """Refuse shapes other than the slide's, and values that are infinite or partly NaN.

        Raises
        ------
        MismatchError
            Naming the method.
        """
        for name, shape in (("mean", (n_spots, n_genes)), ("lower", (n_spots, n_genes)), ("upper", (n_spots, n_genes))):
            values = getattr(self, name)
            if values is not None and values.shape != shape:
                raise MismatchError(f"Method {method}: {name} has shape {values.shape}, expected {shape}.")
        if self.familiarity is not None and self.familiarity.shape != (n_spots,):
            raise MismatchError(f"Method {method}: familiarity has shape {self.familiarity.shape}, not ({n_spots},).")
        missing = np.isnan(self.mean)
        if np.isinf(self.mean).any() or (missing.any(axis=0) & ~missing.all(axis=0)).any():
            raise MismatchError(f"Method {method} predicts infinite values, or NaN for some spots of a gene.")


@dataclass(frozen=True, eq=False)
class SlideTruth:
    """A held-out slide's measured expression over the fold's panel; ``(n, G)``, NaN columns where not measured."""

    slide: Slide
    panel: GenePanel
    expression: FloatArray

    @classmethod
    def of(cls, slide: Slide, panel: GenePanel, normalisation: Normalisation) -> SlideTruth:
        """Normalise the slide's counts."""
        expression, measured = expression_for(slide.spots, panel, normalisation)
        return cls(slide, panel, np.where(measured, expression, np.float32(np.nan)))

    @cached_property
    def heg(self) -> NDArray[np.int64]:
        """Columns of the 50 genes of highest mean."""
        return highest(self.expression.mean(axis=0, dtype=np.float64), N_TOP)

    @cached_property
    def hvg(self) -> NDArray[np.int64]:
        """Columns of the 50 genes of highest variance."""
        return highest(self.expression.var(axis=0, dtype=np.float64), N_TOP)


@dataclass(frozen=True, eq=False)
class SlideScore:
    """One method's scores on one held-out slide with one seed (None: the method has no chance in it).

    ``values`` holds the measures of `METRICS` and of the marker sets; ``interval_level`` is the nominal coverage;
    ``gene_pcc`` is ``(G,)``, ordered as ``genes``; ``clusters`` is ``(n,)``, those of the prediction that ARI and NMI
    compare with the labels (-1: no label), or None.
    """

    fold: str
    slide_id: str
    patient: str
    method: str
    seed: int | None
    n_spots: int
    n_scored: int
    n_dropped: int
    n_constant: int
    values: dict[str, float | None]
    interval_level: float | None
    genes: GenePanel
    gene_pcc: Floats
    clusters: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Run:
    """Which fold, method and seed a score belongs to."""

    fold: str
    method: str
    seed: int | None


def score_slide(
    truth: SlideTruth, prediction: MethodPrediction, run: Run, markers: GeneSets, spread: Floats | None = None
) -> SlideScore:
    """Measure one prediction against what was measured; ``spread`` ``(G,)`` is that of the genes in training."""
    x, y = truth.expression, prediction.mean
    genes = score_genes(x, y)
    spots = truth.slide.spots
    ssim = ssim_by_gene(x, y, spots.array_row, spots.array_col)
    clusters = None if spots.labels is None else domain_clusters(_known(y), spots.labels, seed=run.seed or 0)
    domains = None if spots.labels is None or clusters is None else cluster_agreement(clusters, spots.labels)
    values: dict[str, float | None] = {
        "pcc": mean_or_none(genes.pcc),
        "pcc_nan_dropped": genes.pcc_nan_dropped,
        "pcc_heg": mean_or_none(genes.pcc[truth.heg]),
        "pcc_hvg": mean_or_none(genes.pcc[truth.hvg]),
        "pcc_hpg": mean_or_none(genes.pcc[highest(genes.pcc, N_TOP)]),
        "mse": squared_error(x, y),
        "mae": absolute_error(x, y),
        "rvd": relative_variation_distance(x, y),
        "ssim": None if ssim is None else mean_or_none(ssim),
        "ari": None if domains is None else domains[0],
        "nmi": None if domains is None else domains[1],
    }
    values |= _uncertainty(x, prediction, spread)
    for name, symbols in markers.items():
        values[f"pcc_set:{name}"] = mean_or_none(genes.pcc[members(truth.panel, symbols)])
    return SlideScore(
        fold=run.fold,
        slide_id=truth.slide.slide_id,
        patient=truth.slide.patient,
        method=run.method,
        seed=run.seed,
        n_spots=len(spots),
        n_scored=len(truth.panel) - genes.n_dropped,
        n_dropped=genes.n_dropped,
        n_constant=genes.n_constant,
        values=values,
        interval_level=prediction.level,
        genes=truth.panel,
        gene_pcc=genes.pcc,
        clusters=clusters,
    )


def _known(expression: FloatArray) -> FloatArray:
    return expression[:, ~np.isnan(expression).any(axis=0)]


def _uncertainty(truth: FloatArray, prediction: MethodPrediction, spread: Floats | None) -> dict[str, float | None]:
    keys = ("coverage", "interval_width", "pinball", "pinball_constant", "familiarity")
    values: dict[str, float | None] = dict.fromkeys(keys)
    lower, upper, level = prediction.lower, prediction.upper, prediction.level
    if lower is not None and upper is not None:
        covered = interval_coverage(truth, lower, upper)
        if covered is not None:
            values["coverage"], values["interval_width"] = covered
        if covered is not None and level is not None:
            values["pinball"] = pinball_loss(truth, lower, upper, level)
            if spread is not None:
                constant = constant_interval(truth, prediction.mean, spread, covered[0])
                values["pinball_constant"] = pinball_loss(truth, *constant, level)
    if prediction.familiarity is not None:
        values["familiarity"] = mean_or_none(prediction.familiarity)
    return values


def gene_spread(slides: Sequence[Slide], panel: GenePanel, normalisation: Normalisation) -> Floats:
    """Return each gene's standard deviation ``(G,)`` over the spots of slides that measured it; 0 where none did."""
    n, total, square = (np.zeros(len(panel)) for _ in range(3))
    for slide in slides:
        values, measured = expression_for(slide.spots, panel, normalisation)
        n += len(slide) * measured
        total += np.where(measured, values.sum(axis=0, dtype=np.float64), 0.0)
        square += np.where(measured, (values.astype(np.float64) ** 2).sum(axis=0), 0.0)
    n = np.maximum(n, 1)
    return np.asarray(np.sqrt(np.maximum(square / n - (total / n) ** 2, 0.0)), dtype=np.float64)


@dataclass(frozen=True)
class Spread:
    """A measure's mean over slides (and seeds), and how it varies.

    ``sd_seeds`` is over the seeds' means (None with one seed), ``sd_slides`` over the slides' (None with one slide, and
    for pooled measures).
    """

    mean: float | None
    sd_seeds: float | None = None
    sd_slides: float | None = None


@dataclass(frozen=True)
class MethodSummary:
    """One method over every held-out slide and seed."""

    method: str
    n_slides: int
    n_seeds: int
    values: dict[str, Spread]
    gene_pcc: dict[str, float | None]
    enrichment: tuple[Enrichment, ...]


def summarise(
    scores: Sequence[SlideScore],
    pooled: Mapping[tuple[str, int | None], PooledCorrelation],
    known: GeneSets,
) -> list[MethodSummary]:
    """Reduce scores to a summary a method, in order of first appearance.

    A slide's value is averaged over genes already; slides weigh the same, whatever their number of spots.
    """
    return [
        _summarise_method(method, [score for score in scores if score.method == method], pooled, known)
        for method in dict.fromkeys(score.method for score in scores)
    ]


def _summarise_method(
    method: str,
    scores: Sequence[SlideScore],
    pooled: Mapping[tuple[str, int | None], PooledCorrelation],
    known: GeneSets,
) -> MethodSummary:
    seeds = list(dict.fromkeys(score.seed for score in scores))
    slides = list(dict.fromkeys((score.fold, score.slide_id) for score in scores))
    values = {}
    for key in scores[0].values:
        # (seeds, slides)
        table = np.full((len(seeds), len(slides)), np.nan)
        for score in scores:
            value = score.values[key]
            row, column = seeds.index(score.seed), slides.index((score.fold, score.slide_id))
            table[row, column] = np.nan if value is None else value
        values[key] = Spread(mean_or_none(_means(table, 1)), _sd(_means(table, 1)), _sd(_means(table, 0)))
    for key, per_seed in _pooled_values([pooled[method, seed] for seed in seeds]).items():
        values[key] = Spread(mean_or_none(per_seed), _sd(per_seed))
    gene_pcc = _mean_by_gene(scores)
    pcc = [np.nan if value is None else value for value in gene_pcc.values()]
    tested = enrichment(_all_genes(scores), pcc, known)
    return MethodSummary(method, len(slides), len(seeds), values, gene_pcc, tuple(tested))


def coverage_warnings(scores: Sequence[SlideScore]) -> list[str]:
    """Warn, a line a method, of slides whose intervals hold far fewer measured values than they should."""
    coverages: dict[tuple[str, float], dict[str, list[float]]] = {}
    for score in scores:
        coverage, level = score.values["coverage"], score.interval_level
        if coverage is not None and level is not None:
            coverages.setdefault((score.method, level), {}).setdefault(score.slide_id, []).append(coverage)
    warnings = []
    for (method, level), slides in coverages.items():
        means = {slide_id: float(np.mean(seeds)) for slide_id, seeds in slides.items()}
        missed = [f"{mean:.3f} on {slide_id}" for slide_id, mean in means.items() if mean < level - COVERAGE_TOLERANCE]
        if missed:
            warnings.append(
                f"The intervals of {method} are too narrow on {len(missed)} of {len(means)} slides: they should hold "
                f"{level:g} of the measured values and hold {some(missed)}; do not rely on them for slides like these."
            )
    return warnings


def _pooled_values(pools: Sequence[PooledCorrelation]) -> dict[str, Floats]:
    everything, top = [], []
    for pool in pools:
        _, pcc, mean = pool.by_gene()
        everything.append(mean_or_none(pcc))
        top.append(mean_or_none(pcc[highest(mean, N_TOP)]))
    return {"pooled_pcc": np.array(everything, dtype=float), "pooled_pcc_heg": np.array(top, dtype=float)}


def _mean_by_gene(scores: Sequence[SlideScore]) -> dict[str, float | None]:
    pcc: dict[str, list[float]] = {}
    for score in scores:
        for symbol, value in zip(score.genes.symbols, score.gene_pcc.tolist(), strict=True):
            pcc.setdefault(symbol, []).append(value)
    return {symbol: mean_or_none(values) for symbol, values in pcc.items()}


def _all_genes(scores: Sequence[SlideScore]) -> GenePanel:
    """Return every fold's genes, in order of first appearance."""
    ensembl: dict[str, str] = {}
    for score in scores:
        for symbol, identifier in zip(score.genes.symbols, score.genes.ensembl, strict=True):
            ensembl[symbol] = ensembl.get(symbol) or identifier
    return GenePanel(tuple(ensembl), tuple(ensembl.values()))


def _means(table: Floats, axis: int) -> Floats:
    """Mean along an axis of what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known, table, 0.0).sum(axis=axis) / known.sum(axis=axis)
    return means


def _sd(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else None

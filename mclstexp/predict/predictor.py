"""The rule from neighbours to expression, written once: for the store on disk and for cross-validation in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mclstexp.config import ModelConfig, Normalisation, RetrievalConfig
from mclstexp.model.linear_features import Seen
from mclstexp.model.space.base import Space
from mclstexp.panel import GenePanel
from mclstexp.predict.average import AverageOptions, average
from mclstexp.predict.levels import slide_shift
from mclstexp.predict.source import Neighbours, NeighbourSource
from mclstexp.predict.weights import by_depth, effective_neighbours, weigh
from mclstexp.types import BoolArray, FloatArray

KEYS_AT_A_TIME = 1_000_000
"""Keys of neighbours held at once while the mean is corrected."""

SHARES = ("neighbours", "correction", "level")
"""Parts of a prediction, in the order of `Predicted.shares`."""

LevelFrom = Literal["neighbours", "image", "reference"]
"""Where the mean over a slide's spots comes from: their neighbours, the slide's image, or the neighbours' slides."""


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked of a reference.

    Attributes
    ----------
    embedding, features
        ``(n, d)`` unit embeddings of a slide's patches, ``(n, F)`` their image features.
    genes, rule, retrieval
        Genes to predict, the scale to predict them on, and how neighbours are weighed.
    allowed
        Truth by id of the spots that may be neighbours; None for all.
    levelled
        Whether the slide is brought to its own level where the settings say so. Whoever asks for some kind of spot
        only, wants their level.
    """

    embedding: FloatArray
    features: Seen
    genes: GenePanel
    rule: Normalisation
    retrieval: RetrievalConfig
    allowed: BoolArray | None = None
    levelled: bool = True


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a query was answered with.

    Attributes
    ----------
    neighbours, weights
        The nearest spots, and ``(n, k)`` float32 how much each counts; rows sum to one.
    mean
        ``(n, n_genes)`` float32 expected expression; NaN where too few neighbours measured the gene.
    retrieved, sd
        ``(n, n_genes)`` float32 plain weighted mean of the neighbours, and their spread.
    adjusted
        Whether ``mean`` is more than the plain weighted mean.
    level, level_sd
        Where the mean over the slide's spots comes from, and ``(n_genes,)`` float32 how uncertain it is.
    shares
        ``(n, 3)`` float32: how much of what sets the prediction apart from its slides' mean comes from the neighbours'
        mean, the correction and the level (`SHARES`); rows sum to one.
    missing
        Gene to why it is missing somewhere.
    """

    neighbours: Neighbours
    weights: FloatArray
    mean: FloatArray
    retrieved: FloatArray
    sd: FloatArray
    adjusted: bool
    level: LevelFrom
    level_sd: FloatArray
    shares: FloatArray
    missing: dict[str, str]

    @property
    def spread(self) -> FloatArray:
        """``(n, n_genes)`` float32: the neighbours' spread together with the level's uncertainty."""
        return np.hypot(self.sd, self.level_sd).astype(np.float32)

    @property
    def n_effective(self) -> FloatArray:
        """``(n,)`` float32 effective number of neighbours."""
        return effective_neighbours(self.weights)


@dataclass(frozen=True, eq=False)
class _Adjusted:
    """A mean after its adjustments, where its level comes from and how uncertain that is, and the parts' shares."""

    mean: FloatArray
    level: LevelFrom
    level_sd: FloatArray
    shares: FloatArray


def _shares(steps: list[FloatArray]) -> FloatArray:
    """Return ``(n, 3)`` sizes of the steps to a prediction, summed over the known genes, relative to their sum."""
    sizes = np.zeros((len(steps[0]), len(SHARES)))
    for place, step in enumerate(steps):
        sizes[:, place] = np.nansum(np.abs(step), axis=1)
    total = sizes.sum(axis=1, keepdims=True)
    even = np.eye(1, len(SHARES))
    return np.where(total > 0, sizes / np.where(total > 0, total, 1.0), even).astype(np.float32)


def _mean_of_known(mean: FloatArray) -> FloatArray:
    """Return ``(n_genes,)`` the mean over the spots where a gene is known, 0 where it is known nowhere."""
    known = ~np.isnan(mean)
    total = np.where(known, mean, 0).sum(axis=0, dtype=np.float64)
    return np.asarray(total / np.maximum(known.sum(axis=0), 1), dtype=np.float32)


class Predictor:
    """Predicts expression from a reference's spots, by a model's space and settings.

    Parameters
    ----------
    space, config, panel
        The model's.
    """

    def __init__(self, space: Space, config: ModelConfig, panel: GenePanel) -> None:
        self.space, self.config, self.panel = space, config, panel

    def predict(self, source: NeighbourSource, query: Query) -> Predicted:
        """Search, weigh, average, correct for where the neighbours lie, bring the slide to its level."""
        retrieval = query.retrieval
        neighbours = source.search(query.embedding, min(retrieval.k, source.n_spots), allowed=query.allowed)
        weights = weigh(query.embedding, neighbours, retrieval, source.keys)
        if retrieval.depth_weighted:
            ids = neighbours.ids
            weights = by_depth(weights, source.depth(ids), source.slide_of(ids), source.depth_summary)
        options = AverageOptions(query.rule, retrieval.min_measured)
        plain = average(source, neighbours.ids, weights, query.genes, options)
        adjusted = self._adjust(source, query, neighbours, weights, plain.mean)
        return Predicted(
            neighbours=neighbours,
            weights=weights,
            mean=adjusted.mean,
            retrieved=plain.mean,
            sd=np.full_like(plain.mean, np.nan) if plain.sd is None else plain.sd,
            adjusted=adjusted.mean is not plain.mean,
            level=adjusted.level,
            level_sd=adjusted.level_sd,
            shares=adjusted.shares,
            missing=plain.missing,
        )

    def _adjust(
        self, source: NeighbourSource, query: Query, neighbours: Neighbours, weights: FloatArray, mean: FloatArray
    ) -> _Adjusted:
        """Adjust the neighbours' mean in every way that the settings ask for."""
        own_scale = query.rule == self.config.normalisation
        corrects = own_scale and self.space.tells_level and self.config.correction != 0
        certain = np.zeros(len(query.genes), dtype=np.float32)
        if not corrects and not query.retrieval.slide_levelled:
            return _Adjusted(mean, "neighbours", certain, _shares([np.ones_like(mean)]))
        columns, common = self.panel.columns(query.genes), _mean_of_known(mean)
        of_slide = None
        if query.retrieval.slide_levelled:
            options = AverageOptions(query.rule, query.retrieval.min_measured)
            shift, of_slide = slide_shift(source, neighbours.ids, weights, query.genes, options, allowed=query.allowed)
            mean, common = mean + shift, of_slide
        steps = [mean - common]
        if corrects:
            corrected = self._corrected(source, query, neighbours, weights, mean)
            steps.append(corrected - mean)
            mean = corrected
        level: LevelFrom = "neighbours"
        if of_slide is not None and query.levelled:
            levelled, certain = self.space.level(mean, columns, of_slide, query.features, own_scale=own_scale)
            steps += [np.zeros_like(mean)] * (2 - len(steps)) + [levelled - mean]
            mean = levelled
            level = "image" if own_scale and self.space.tells_level else "reference"
        if own_scale and query.levelled:
            blended = self.space.blend(mean, columns, query.features, share=self.config.blend)
            if blended is not mean:
                steps += [np.zeros_like(mean)] * (2 - len(steps))
                steps[1] = steps[1] + blended - mean
                mean = blended
        return _Adjusted(np.maximum(mean, np.float32(0)), level, certain, _shares(steps))

    def _corrected(
        self, source: NeighbourSource, query: Query, neighbours: Neighbours, weights: FloatArray, mean: FloatArray
    ) -> FloatArray:
        ids, moved = neighbours.ids, np.empty_like(mean)
        columns = self.panel.columns(query.genes)
        step = max(1, KEYS_AT_A_TIME // ids.shape[1])
        for start in range(0, len(mean), step):
            part = slice(start, start + step)
            moved[part] = self.space.correct(
                mean[part],
                columns,
                query.embedding[part],
                source.keys(ids[part]),
                weights[part],
                strength=self.config.correction,
            )
        return moved

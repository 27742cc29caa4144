"""Levels: what slides express as a whole, apart from the contrast between their spots."""

from __future__ import annotations

import dataclasses

import numpy as np

from mclstexp.panel import GenePanel
from mclstexp.predict.average import AverageOptions, average
from mclstexp.predict.source import NeighbourSource
from mclstexp.sampling import evenly
from mclstexp.types import BoolArray, FloatArray, IdArray

LEVEL_SPOTS = 256
"""Spots that a slide's mean expression is taken from."""


def slide_shift(
    source: NeighbourSource,
    ids: IdArray,
    weights: FloatArray,
    genes: GenePanel,
    options: AverageOptions,
    *,
    allowed: BoolArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return what to add ``(n, n_genes)`` so that a query's choice of slides does not show; the level ``(n_genes,)``.

    Slides differ as a whole, by depth and by patient: a query whose neighbours happen to lie on deep slides would seem
    to express more of everything. The mean level of each query's slides (from at most `LEVEL_SPOTS` of its allowed
    spots, evenly spread) is replaced by its mean over all queries that know the gene.
    """
    numbers = source.slide_of(ids)
    slides = np.unique(numbers[numbers >= 0])
    share = np.stack([np.where(numbers == slide, weights, 0).sum(axis=1) for slide in slides], axis=1)  # (n, slides)
    sample = np.full((len(slides), LEVEL_SPOTS), -1, dtype=np.int64)
    for row, slide in enumerate(slides.tolist()):
        spots = source.spots_of(slide)
        spots = spots if allowed is None else spots[allowed[spots]]
        chosen = evenly(len(spots), LEVEL_SPOTS)
        sample[row, : len(chosen)] = spots[chosen]
    equal = (sample >= 0) / (sample >= 0).sum(axis=1, keepdims=True)
    level = average(source, sample, equal.astype(np.float32), genes, dataclasses.replace(options, sd=False)).mean
    known = np.isfinite(level)
    held = share @ known
    total = share @ np.where(known, level, 0)  # (n, n_genes)
    mean_level = total / np.where(held > 0, held, 1)
    n_known = (held > 0).sum(axis=0)
    common = np.where(n_known > 0, mean_level.sum(axis=0) / np.maximum(n_known, 1), np.nan)
    shift = np.where(held > 0, common - mean_level, 0)
    return shift.astype(np.float32), common.astype(np.float32)

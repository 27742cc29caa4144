"""A reference in memory, searched exactly: what cross-validation inside training retrieves from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.config import RetrievalConfig
from mclstexp.model.image.distance import evenly
from mclstexp.model.space.adjust import coordinates
from mclstexp.model.space.base import fused_keys
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.source import mean_nearest
from mclstexp.types import FloatArray

MAX_KEYS = 30_000

BLOCK = 512


def embed_patches(space: SharedSpace, slide: SlideArrays) -> FloatArray:
    """Return unit embeddings ``(n, d)`` float32 of a slide's patches."""
    return space.on_sphere(space.image_components(slide.features, slide.xy_um))


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What queries found.

    Attributes
    ----------
    mean, sd
        ``(n, G)`` weighted mean and spread of the neighbours.
    centre
        ``(n, c)`` their mean place.
    nearness
        ``(n,)`` mean similarity of the nearest.
    level
        ``(n, G)`` mean level of the slides that they lie on; NaN where none measured the gene.
    """

    mean: FloatArray
    sd: FloatArray
    centre: FloatArray
    nearness: FloatArray
    level: FloatArray


@dataclass(frozen=True, eq=False)
class SmallReference:
    """A reference in memory, searched exactly; answers as one on disk does.

    Attributes
    ----------
    keys, expression, owner
        ``(N, d)`` unit keys, ``(N, G)`` expression (0 where not measured), ``(N,)`` which slide.
    measured
        ``(S, G)`` the genes that each slide measured.
    depth
        ``(N,)`` total counts; ones where they are not known.
    radius
        Of the space.
    """

    keys: FloatArray
    expression: FloatArray
    owner: NDArray[np.int64]
    measured: NDArray[np.bool_]
    depth: NDArray[np.float64]
    radius: float

    @classmethod
    def of(cls, slides: Sequence[SlideArrays], space: SharedSpace, key_mix: float) -> SmallReference:
        """Encode slides; of large ones an even sample of spots is kept."""
        keys, expression, owner, depth = [], [], [], []
        quota = max(1, MAX_KEYS // len(slides))
        for i, slide in enumerate(slides):
            rows = evenly(len(slide.features), quota)
            spot = space.on_sphere(space.spot_components(slide.expression, slide.measured))
            keys.append(fused_keys(spot, embed_patches(space, slide), key_mix)[rows])
            expression.append(np.where(slide.measured, slide.expression[rows], np.float32(0)))
            owner.append(np.full(len(rows), i, dtype=np.int64))
            depth.append(np.ones(len(rows)) if slide.depth is None else slide.depth[rows])
        measured = np.stack([slide.measured for slide in slides])
        totals = np.concatenate(depth)
        return cls(
            np.concatenate(keys),
            np.concatenate(expression),
            np.concatenate(owner),
            measured,
            totals,
            space.config.radius,
        )

    def retrieve(self, query: FloatArray, config: RetrievalConfig) -> Retrieved:
        """Average the ``k`` nearest spots of each query ``(n, d)``, weighted by softmax of similarity."""
        parts = [self._block(query[start : start + BLOCK], config) for start in range(0, len(query), BLOCK)]
        joined = [np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Retrieved)]
        found = Retrieved(*joined)
        if not config.slide_levelled:
            return found
        known = np.isfinite(found.level)
        common = np.where(known, found.level, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        return dataclasses.replace(found, mean=(found.mean + common - found.level).astype(np.float32))

    @cached_property
    def depth_weights(self) -> NDArray[np.float64]:
        """``(N,)`` how much a spot's depth, and its slide's, makes it count."""
        of_slide = np.array([np.median(self.depth[self.owner == i]) for i in range(len(self.measured))])
        share = np.minimum(1.0, of_slide / max(float(np.median(of_slide)), 1.0))
        return self.depth / (self.depth + max(float(np.median(self.depth)), 1.0)) * share[self.owner]

    def _block(self, query: FloatArray, config: RetrievalConfig) -> Retrieved:
        similarity = query @ self.keys.T
        k = min(config.k, len(self.keys))
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(similarity, nearest, axis=1)
        weights = softmax_weights(values, config.temperature)
        if config.depth_weighted:
            weighed = weights * self.depth_weights[nearest]
            weights = (weighed / weighed.sum(axis=1, keepdims=True)).astype(np.float32)
        shape = (len(query), len(self.keys))
        table = sparse.csr_matrix((weights.ravel(), nearest.ravel(), np.arange(len(query) + 1) * k), shape=shape)
        one_of = sparse.csr_matrix((np.ones(len(self.owner), np.float32), (np.arange(len(self.owner)), self.owner)))
        of_slide = (table @ one_of).toarray()
        known = self.measured[: one_of.shape[1]].astype(np.float32)
        share = of_slide @ known
        size = np.maximum(np.asarray(one_of.sum(axis=0)).ravel(), 1)
        slide_mean = (one_of.T @ self.expression) / size[:, None]
        enough = (share > 0) & (share >= config.min_measured)
        divisor = np.where(enough, share, 1.0)
        mean = np.where(enough, (table @ self.expression) / divisor, np.float32(np.nan))
        square = np.where(enough, (table @ self.expression**2) / divisor, np.float32(np.nan))
        return Retrieved(
            mean=mean.astype(np.float32),
            sd=np.sqrt(np.maximum(square - mean * mean, 0.0)).astype(np.float32),
            centre=np.asarray(table @ coordinates(self.keys, self.radius)),
            nearness=mean_nearest(-np.sort(-values, axis=1)),
            level=np.where(share > 0, (of_slide @ (slide_mean * known)) / np.where(share > 0, share, 1.0), np.nan),
        )


def softmax_weights(similarity: FloatArray, temperature: float) -> FloatArray:
    """Return weights ``(n, k)`` float32 whose rows sum to one: softmax of similarity over temperature."""
    logits = similarity.astype(np.float64) / temperature
    raw = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True), dtype=np.float32)

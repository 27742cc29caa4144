"""A reference in memory, searched exactly: what cross-validation inside training retrieves from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.config import RetrievalConfig
from mclstexp.model.feature_distance import evenly
from mclstexp.model.shared_fit import SlideArrays
from mclstexp.model.shared_space import SharedSpace, coordinates
from mclstexp.types import FloatArray

NEAREST = 20
"""Neighbours whose mean similarity says how near a patch is to the reference."""

MAX_KEYS = 30_000
BLOCK = 512


def embed_patches(space: SharedSpace, slide: SlideArrays) -> FloatArray:
    """Return unit embeddings ``(n, d)`` float32 of a slide's patches."""
    return space.on_sphere(space.image_components(slide.features, slide.xy_um))


def unit(vectors: FloatArray) -> FloatArray:
    """Scale rows to unit length; a row of zeros becomes the first axis, since a key needs a direction."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    out = np.where(norm > 0, vectors / np.where(norm > 0, norm, 1), np.eye(1, vectors.shape[1]))
    return out.astype(np.float32)


def fused_keys(spot: FloatArray, image: FloatArray, mix: float) -> FloatArray:
    """Return unit keys ``(n, d)``: spot embeddings with the share ``mix`` of the patches' own."""
    share = np.float32(mix)
    return unit((1 - share) * spot + share * image)


@dataclass(frozen=True, eq=False)
class Retrieved:
    """Neighbours' weighted mean and sd ``(n, G)``, their mean place ``(n, c)``, and the queries' nearness ``(n,)``."""

    mean: FloatArray
    sd: FloatArray
    centre: FloatArray
    nearness: FloatArray


@dataclass(frozen=True, eq=False)
class SmallReference:
    """A reference in memory, searched exactly; answers as one on disk does.

    Attributes
    ----------
    keys, expression, owner
        ``(N, d)`` unit keys, ``(N, G)`` expression (0 where not measured), ``(N,)`` which slide.
    measured
        ``(S, G)`` the genes that each slide measured.
    radius
        Of the space.
    """

    keys: FloatArray
    expression: FloatArray
    owner: NDArray[np.int64]
    measured: NDArray[np.bool_]
    radius: float

    @classmethod
    def of(cls, slides: Sequence[SlideArrays], space: SharedSpace, key_mix: float) -> SmallReference:
        """Encode slides; of large ones an even sample of spots is kept."""
        keys, expression, owner = [], [], []
        quota = max(1, MAX_KEYS // len(slides))
        for i, slide in enumerate(slides):
            rows = evenly(len(slide.features), quota)
            spot = space.on_sphere(space.spot_components(slide.expression, slide.measured))
            keys.append(fused_keys(spot, embed_patches(space, slide), key_mix)[rows])
            expression.append(np.where(slide.measured, slide.expression[rows], np.float32(0)))
            owner.append(np.full(len(rows), i, dtype=np.int64))
        measured = np.stack([slide.measured for slide in slides])
        return cls(
            np.concatenate(keys), np.concatenate(expression), np.concatenate(owner), measured, space.config.radius
        )

    def retrieve(self, query: FloatArray, config: RetrievalConfig) -> Retrieved:
        """Average the ``k`` nearest spots of each query ``(n, d)``, weighted by softmax of similarity."""
        parts = [self._block(query[start : start + BLOCK], config) for start in range(0, len(query), BLOCK)]
        return Retrieved(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Retrieved)))

    def _block(self, query: FloatArray, config: RetrievalConfig) -> Retrieved:
        similarity = query @ self.keys.T
        k = min(config.k, len(self.keys))
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(similarity, nearest, axis=1)
        weights = softmax_weights(values, config.temperature)
        shape = (len(query), len(self.keys))
        table = sparse.csr_matrix((weights.ravel(), nearest.ravel(), np.arange(len(query) + 1) * k), shape=shape)
        one_of = sparse.csr_matrix((np.ones(len(self.owner), np.float32), (np.arange(len(self.owner)), self.owner)))
        share = (table @ one_of).toarray() @ self.measured[: one_of.shape[1]].astype(np.float32)
        enough = (share > 0) & (share >= config.min_measured)
        divisor = np.where(enough, share, 1.0)
        mean = np.where(enough, (table @ self.expression) / divisor, np.float32(np.nan))
        square = np.where(enough, (table @ self.expression**2) / divisor, np.float32(np.nan))
        return Retrieved(
            mean=mean.astype(np.float32),
            sd=np.sqrt(np.maximum(square - mean * mean, 0.0)).astype(np.float32),
            centre=np.asarray(table @ coordinates(self.keys, self.radius)),
            nearness=mean_nearest(-np.sort(-values, axis=1)),
        )


def softmax_weights(similarity: FloatArray, temperature: float) -> FloatArray:
    """Return weights ``(n, k)`` float32 whose rows sum to one: softmax of similarity over temperature."""
    logits = similarity.astype(np.float64) / temperature
    raw = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raw / raw.sum(axis=1, keepdims=True), dtype=np.float32)


def mean_nearest(similarity: FloatArray) -> FloatArray:
    """Return ``(n,)`` mean of the first `NEAREST` similarities ``(n, k)``, descending; NaN where there is none."""
    return np.asarray(similarity[:, :NEAREST].mean(axis=1), dtype=np.float32)

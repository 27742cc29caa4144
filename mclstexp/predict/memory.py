"""A reference in memory, searched exactly: what cross-validation inside training predicts from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.errors import MismatchError
from mclstexp.model.space.base import fused_keys
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.panel import GenePanel
from mclstexp.predict.source import Depth, ExpressionBlock, Neighbours, pair_similarity
from mclstexp.sampling import evenly
from mclstexp.types import BoolArray, FloatArray, HalfArray, IdArray

MAX_KEYS = 30_000
"""Spots that are kept at most; of large slides an even sample."""

QUERY_BLOCK = 256
TIE_TOLERANCE = 4e-6
"""A matrix product rounds differently from a pair's: candidates this close to the k-th are scored again."""


def embed_patches(space: SharedSpace, slide: SlideArrays) -> FloatArray:
    """Return unit embeddings ``(n, d)`` float32 of a slide's patches."""
    return space.on_sphere(space.image_components(slide.features, slide.xy_um))


@dataclass(frozen=True, eq=False)
class MemoryReference:
    """A reference in memory: a `NeighbourSource` that answers as one on disk does. Ids are positions.

    Attributes
    ----------
    embedding
        ``(N, d)`` unit float32 keys.
    values
        ``(N, G)`` float16 expression of the panel (0 where not measured), rounded as a store rounds it.
    owner
        ``(N,)`` number of each spot's slide, ascending; slides are in the order of their names.
    known
        ``(slides, G)`` which genes each slide measured.
    counts
        ``(N,)`` total counts; ones where they are not known.
    panel, rule
        The genes of ``values``, and the scale that they are on.
    """

    embedding: FloatArray
    values: HalfArray
    owner: IdArray
    known: BoolArray
    counts: NDArray[np.float64]
    panel: GenePanel
    rule: Normalisation

    @classmethod
    def of(
        cls, slides: Sequence[SlideArrays], space: SharedSpace, key_mix: float, panel: GenePanel, rule: Normalisation
    ) -> MemoryReference:
        """Encode slides; of large ones an even sample of spots is kept."""
        slides = sorted(slides, key=lambda slide: slide.slide_id)
        keys, values, owner, counts = [], [], [], []
        quota = max(1, MAX_KEYS // len(slides))
        for number, slide in enumerate(slides):
            rows = evenly(len(slide.features), quota)
            spot = space.on_sphere(space.spot_components(slide.expression, slide.measured))
            keys.append(fused_keys(spot, embed_patches(space, slide), key_mix)[rows])
            values.append(np.where(slide.measured, slide.expression[rows], 0).astype(np.float16))
            owner.append(np.full(len(rows), number, dtype=np.int64))
            counts.append(np.ones(len(rows)) if slide.depth is None else slide.depth[rows])
        return cls(
            embedding=np.concatenate(keys),
            values=np.concatenate(values),
            owner=np.concatenate(owner),
            known=np.stack([slide.measured for slide in slides]),
            counts=np.concatenate(counts),
            panel=panel,
            rule=rule,
        )

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.owner)

    @cached_property
    def depth_summary(self) -> Depth:
        """Typical total counts."""
        of_slide = [np.median(self.counts[self.owner == number]) for number in range(len(self.known))]
        return Depth(float(np.median(self.counts)), np.asarray(of_slide, dtype=np.float64))

    def search(self, query: FloatArray, k: int, *, allowed: BoolArray | None = None) -> Neighbours:
        """Compare with every key; ties are cut by slide and place, as the store cuts them."""
        usable = np.arange(self.n_spots) if allowed is None else np.flatnonzero(allowed)
        n_nearest = min(k, len(usable))
        ids = np.zeros((len(query), n_nearest), dtype=np.int64)
        similarity = np.zeros((len(query), n_nearest), dtype=np.float32)
        for start in range(0, len(query) if n_nearest else 0, QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            ids[part], similarity[part] = self._nearest(query[part], n_nearest, usable)
        return Neighbours(ids, similarity).padded(k)

    def _nearest(self, query: FloatArray, k: int, usable: IdArray) -> tuple[IdArray, FloatArray]:
        rough = query @ self.embedding[usable].T
        least = np.partition(rough, -k, axis=1)[:, -k] - TIE_TOLERANCE
        n_candidates = int((rough >= least[:, None]).sum(axis=1).max())
        ids = usable[np.argpartition(rough, -n_candidates, axis=1)[:, -n_candidates:]]
        scores = pair_similarity(query, self.keys, ids)
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def keys(self, ids: IdArray) -> FloatArray:
        """Return the keys ``(*ids.shape, d)``; NaN for -1."""
        keys = self.embedding[ids]
        keys[ids < 0] = np.nan
        return keys

    def expression(self, ids: IdArray, genes: GenePanel, rule: Normalisation) -> Iterator[ExpressionBlock]:
        """Yield the panel's expression.

        Raises
        ------
        MismatchError
            For other genes, or another scale: counts are not kept.
        """
        if genes != self.panel or rule != self.rule:
            raise MismatchError("A reference in memory knows the expression of its panel alone, on its own scale.")
        for start in range(0, len(ids), QUERY_BLOCK):
            part = slice(start, min(start + QUERY_BLOCK, len(ids)))
            yield ExpressionBlock(part, slice(0, len(genes)), self.values, np.maximum(ids[part], 0))

    def measured(self, genes: GenePanel) -> BoolArray:
        """Return ``(slides, genes)`` which slide measured which gene."""
        return self.known

    def depth(self, ids: IdArray) -> NDArray[np.float64]:
        """Return total counts, of the shape of ids."""
        return np.where(ids >= 0, self.counts[ids], 0.0)

    def slide_of(self, ids: IdArray) -> IdArray:
        """Return the number of each spot's slide; -1 for -1."""
        return np.where(ids >= 0, self.owner[ids], -1)

    def spots_of(self, slide: int) -> IdArray:
        """Return the ids of a slide's spots."""
        return np.flatnonzero(self.owner == slide)

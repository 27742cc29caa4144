"""Simulated reference slides for benchmarks and tests: clustered embeddings, and counts that go with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.record import SlideRecord, content_hash
from mclstexp.panel import GenePanel
from mclstexp.slide import SpotTable
from mclstexp.types import FloatArray

LATENT = 16


@dataclass(frozen=True)
class Simulation:
    """A tissue atlas: niches in a latent space, seen through embeddings and through counts.

    ``noise`` is the spread of an embedding around what its niche looks like; ``depth`` the mean count a spot and gene.
    """

    n_genes: int = 60
    dim: int = 32
    n_niches: int = 60
    n_panel: int = 40
    noise: float = 0.15
    depth: float = 0.8
    seed: int = 0

    @cached_property
    def genes(self) -> GenePanel:
        """Every gene."""
        return GenePanel(tuple(f"GENE{i:05d}" for i in range(self.n_genes)))

    @cached_property
    def panel(self) -> GenePanel:
        """The model's panel: the first genes."""
        return self.genes.subset(range(self.n_panel))

    def identity(self, **settings: object) -> ReferenceIdentity:
        """Identity of a model that would have made these embeddings."""
        values = {"normalisation": {"target_sum": 1e4, "total": "panel", "log": "natural"}, **settings}
        return ReferenceIdentity(f"{self.seed:064d}", self.dim, self.panel, values)

    @cached_property
    def _maps(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        rng = np.random.default_rng(self.seed)
        niches = rng.normal(size=(self.n_niches, LATENT)).astype(np.float32)
        to_embedding = rng.normal(size=(LATENT, self.dim)).astype(np.float32) / np.sqrt(np.float32(LATENT))
        to_genes = 0.5 * rng.normal(size=(LATENT, self.n_genes)).astype(np.float32) / np.sqrt(np.float32(LATENT))
        level = rng.gamma(0.7, self.depth / 0.7, size=self.n_genes).astype(np.float32)
        return niches, to_embedding, to_genes, level

    def embeddings(self, latent: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return unit embeddings ``(n, dim)`` of latent states."""
        seen = np.tanh(latent @ self._maps[1]) + self.noise * rng.normal(size=(len(latent), self.dim))
        return np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True), dtype=np.float32)

    def latent(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Latent states ``(n, 16)`` of spots: a niche each, and their own deviation."""
        chosen = self._maps[0][rng.integers(0, self.n_niches, n)]
        return np.asarray(chosen + 0.3 * rng.normal(size=chosen.shape), dtype=np.float32)

    def queries(self, n: int, seed: int = 12345) -> FloatArray:
        """Return unit embeddings ``(n, dim)`` of new patches from the same atlas."""
        rng = np.random.default_rng((self.seed, seed))
        return self.embeddings(self.latent(n, rng), rng)

    def record(
        self, number: int, n_spots: int = 40, *, variant: int = 0, image: bool = True, genes: slice = slice(None)
    ) -> SlideRecord:
        """Return slide ``number``: three slides a patient, three patients a cohort; ``variant`` changes its content."""
        rng = np.random.default_rng((self.seed, number, variant))
        latent = self.latent(n_spots, rng)
        embedding = self.embeddings(latent, rng)
        rate = np.exp(latent @ self._maps[2]) * self._maps[3]
        measured = self.genes.subset(range(*genes.indices(self.n_genes)))
        counts = sparse.csr_matrix(rng.poisson(rate).astype(np.int32)[:, genes])
        side = int(np.ceil(np.sqrt(n_spots)))
        row, col = np.divmod(np.arange(n_spots), side)
        spots = SpotTable(
            np.array([f"{c}x{r}" for r, c in zip(row, col, strict=True)]),
            np.stack([100.0 * col, 100.0 * row], axis=1),
            row,
            col,
            counts,
            measured,
        )
        return SlideRecord(
            slide_id=f"slide{number:04d}",
            patient=f"patient{number // 3:04d}",
            cohort=f"cohort{number // 9:03d}",
            content_hash=content_hash(spots, f"image {number} {variant}" if image else None),
            spot_ids=spots.spot_ids,
            xy_px=spots.xy_px,
            array_row=spots.array_row,
            array_col=spots.array_col,
            embedding=embedding,
            image_embedding=self.embeddings(latent, rng) if image else None,
            counts=counts,
            genes=measured,
            sources={f"slide{number:04d}.tsv": f"{number:032d}{variant:032d}"},
            mpp=0.5,
            mpp_source="given",
            spot_context="whole slide",
        )

    def records(self, n_slides: int, n_spots: int, *, start: int = 0) -> Iterator[SlideRecord]:
        """Slides one at a time."""
        for number in range(start, start + n_slides):
            yield self.record(number, n_spots)

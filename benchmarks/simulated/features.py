"""Cohorts of image features and counts, without pictures, from few spots of one tissue to many of sixteen.

A picture shows some programmes, with noise, in three fields of view, among much that has nothing to do with
expression; patients differ in stain.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.types import FloatArray
from simulated.nature import WORLDS, Cohort, Nature, Place, World, lattice, places, slide_arrays

BLOCKS = (16, 32, 64, 96, 112)
"""Width of each stage's features, in one field of view."""

FIELDS_UM = (0.0, 60.0, 160.0)
"""Width of the Gaussian that each field of view averages over: what lies at the spot, and around it."""

FIELD_NOISE = (1.0, 0.6, 0.35)
"""Noise of each field of view: more tissue, less noise."""

SMALL_SLIDE = 500
"""Slides of fewer spots lie on an array of 200 um (legacy ST), others on one of 100 um (Visium)."""

N_STAINS = 6
"""Directions in which stain moves the features."""


def simulate(
    tissues: int,
    patients: int,
    slides_per_patient: int,
    spots: int,
    programmes: int | None,
    genes: int,
    seed: int,
    *,
    world: str | World = "linear",
) -> Cohort:
    """Simulate a cohort, a function of its arguments alone.

    Parameters
    ----------
    tissues, patients, slides_per_patient
        Of the training side. A patient has one tissue; where there are fewer patients than tissues, slides take turns.
    spots
        Training spots in all, divided unevenly among the slides.
    programmes
        Number of programmes; None takes the world's.
    genes
        Genes measured, the panel.
    seed
        Decides tissues, programmes and slides.
    world
        One of `WORLDS`, or a world of your own.

    Examples
    --------
    >>> train, test, layout = simulate(2, 4, 1, 400, 6, 30, seed=0)
    >>> len(train), len(test), sum(len(slide.features) for slide in train), layout.width
    (4, 6, 400, 960)
    """
    chosen = WORLDS[world] if isinstance(world, str) else world
    nature = Nature(chosen if programmes is None else replace(chosen, programmes=programmes), tissues, genes, seed)
    view = _View(nature, np.random.default_rng([seed, 2]))
    train, test = places(tissues, patients, slides_per_patient, spots, seed)
    layout = FeatureLayout(BLOCKS, len(FIELDS_UM))
    return Cohort([_slide(nature, view, place) for place in train], [_slide(nature, view, p) for p in test], layout)


def _slide(nature: Nature, view: _View, place: Place) -> SlideArrays:
    own, rng = nature.random(place)
    xy_um = lattice(place.spots, 200.0 if place.spots < SMALL_SLIDE else 100.0)
    fields = nature.fields(xy_um, place.tissue, FIELDS_UM, rng)
    counts = nature.counts(fields[0, :, : nature.world.programmes], place.tissue, own, rng)
    return slide_arrays(place, view.features(fields, own, rng), counts, xy_um)


class _View:
    """How a picture shows activities: maps from programmes and nuisances to every stage's features."""

    def __init__(self, nature: Nature, rng: np.random.Generator) -> None:
        self.world, self.visible = nature.world, nature.visible
        world, n = self.world, len(self.visible)
        self.pairs = rng.integers(0, n, (2, 2 * n))
        self.straight = self._map(rng, n)
        self.curved = self._map(rng, 3 * n)
        self.other = self._map(rng, world.nuisances) * np.float32(world.distraction)
        self.stain = rng.standard_normal((N_STAINS, sum(BLOCKS))).astype(np.float32)
        self.block_noise = np.repeat(np.geomspace(1.0, 0.4, len(BLOCKS)), BLOCKS).astype(np.float32)

    def _map(self, rng: np.random.Generator, n: int) -> FloatArray:
        """Draw weights ``(n, width)``; each stage sees some sources well and others hardly, columns of unit length."""
        parts = [rng.standard_normal((n, w)) * np.exp(rng.normal(0, 0.7, (n, 1))) for w in BLOCKS]
        joined = np.concatenate(parts, axis=1)
        return np.asarray(joined / np.linalg.norm(joined, axis=0), dtype=np.float32)

    def features(self, fields: FloatArray, own: np.random.Generator, rng: np.random.Generator) -> FloatArray:
        """Return features ``(n, F)`` float32 of fields ``(fields of view, n, programmes and nuisances)``."""
        world, n = self.world, fields.shape[1]
        # A patient's stain shifts the features, and a little of what looks like activity; so does each section's.
        shift, gain = np.zeros(sum(BLOCKS)), np.ones(sum(BLOCKS))
        unlike = np.zeros(len(self.visible))
        for source, size in ((own, world.patient), (rng, world.patient / 2)):
            shift += size * (source.standard_normal(N_STAINS) @ self.stain)
            gain *= np.exp(source.normal(0, size / 2, gain.shape))
            unlike += source.normal(0, size, unlike.shape)
        out = np.empty((n, len(FIELDS_UM), sum(BLOCKS)), dtype=np.float32)
        for scale, noise in enumerate(FIELD_NOISE):
            seen = fields[scale][:, self.visible] + unlike + world.noise * noise * rng.standard_normal((n, len(unlike)))
            values = self._shown(seen.astype(np.float32)) + fields[scale][:, world.programmes :] @ self.other
            values += self.block_noise * rng.standard_normal(values.shape, dtype=np.float32)
            out[:, scale] = values * gain.astype(np.float32) + shift.astype(np.float32)
        return out.reshape(n, -1)

    def _shown(self, seen: FloatArray) -> FloatArray:
        """Map activities ``(n, visible)`` to features, straight and curved."""
        curve = np.float32(self.world.curve)
        straight = seen @ self.straight
        if not curve:
            return straight
        product = seen[:, self.pairs[0]] * seen[:, self.pairs[1]]
        bent = np.concatenate([np.tanh(2 * seen), product], axis=1) @ self.curved
        return np.asarray((1 - curve) * straight + curve * bent, dtype=np.float32)

"""Cohorts of image features and counts, without pictures, from few spots of one tissue to many of sixteen.

A slide has smooth fields of programme activity (Gaussian random fields of several length scales). Tissues differ in
the level and the spread of every programme and, in part, in what a programme does to each gene; patients shift
expression and stain; counts are negative binomial with a depth of each slide and spot. A picture shows some programmes,
with noise, in three fields of view, among much that has nothing to do with expression. Nothing is fitted to real data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.types import FloatArray

BLOCKS = (16, 32, 64, 96, 112)
"""Width of each stage's features, in one field of view."""

FIELDS_UM = (0.0, 60.0, 160.0)
"""Width of the Gaussian that each field of view averages over: what lies at the spot, and around it."""

FIELD_NOISE = (1.0, 0.6, 0.35)
"""Noise of each field of view: more tissue, less noise."""

WAVES = 48
"""Plane waves that a random field is made of."""

LENGTHS_UM = (150.0, 800.0)
"""Shortest and longest length scale of a field."""

DISPERSION = 0.15
"""Of the negative binomial: its variance is mean + dispersion x mean^2."""

SMALL_SLIDE = 500
"""Slides of fewer spots lie on an array of 200 um (legacy ST), others on one of 100 um (Visium)."""

LOADED = 0.3
"""Share of the genes that a programme changes."""

N_STAINS = 6
"""Directions in which stain moves the features."""

MIN_SPOTS, TEST_SPOTS = 8, 500
"""Spots of a slide at least, and of a test slide at most."""

TEST_PATIENTS, MAX_TEST_PATIENTS = 6, 8
"""Unseen patients, one slide each: more than the first where there are more tissues."""

Positions = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """What a cohort is like.

    Attributes
    ----------
    programmes
        Number of programmes of expression.
    visible
        Share of them that the picture shows.
    curve
        Share of the features that is curved in the activities (hyperbolic tangents, products); 0 is linear.
    noise
        Noise of the activities that the picture shows, in their own standard deviations.
    levels
        How far tissues differ in the mean activity of a programme, in standard deviations within a slide.
    own_loadings
        Share of what programmes do to genes that is the tissue's own.
    patient
        How far patients differ: in log expression of each gene, and in the stain.
    nuisances, distraction
        Fields that the picture shows and expression knows nothing of, and how strong they are beside activities.
    counts
        Mean total counts of a spot.
    """

    programmes: int = 40
    visible: float = 0.9
    curve: float = 0.0
    noise: float = 0.4
    levels: float = 0.8
    own_loadings: float = 0.2
    patient: float = 0.2
    nuisances: int = 16
    distraction: float = 0.5
    counts: float = 6000.0


WORLDS: dict[str, World] = {
    "linear": World(),
    "curved": World(curve=0.7),
    "noisy": World(noise=1.5, visible=0.5, distraction=1.5, counts=1500.0),
    "few": World(programmes=6, visible=1.0),
    "levels": World(levels=1.5),
    "own": World(own_loadings=0.7),
    "alike": World(levels=0.1, own_loadings=0.0),
}
"""By name: plain; curved features; noise and shallow counts; six programmes; tissues far apart;
programmes that do other things in each tissue; tissues alike."""


class Cohort(NamedTuple):
    """Training slides, slides of patients that are not among them, and which features belong together."""

    train: list[SlideArrays]
    test: list[SlideArrays]
    layout: FeatureLayout


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
    nature = _Nature(chosen if programmes is None else replace(chosen, programmes=programmes), tissues, genes, seed)
    jobs = [(patient, slide) for patient in range(patients) for slide in range(slides_per_patient)]
    tissue_of = [(patient if patients >= tissues else number) % tissues for number, (patient, _) in enumerate(jobs)]
    sizes = _sizes(spots, len(jobs), np.random.default_rng([seed, 1]))
    train = [nature.slide(*job, tissue, size) for job, tissue, size in zip(jobs, tissue_of, sizes, strict=True)]
    known = sorted(set(tissue_of))
    n_test = max(TEST_PATIENTS, min(len(known), MAX_TEST_PATIENTS))
    n_spots = int(np.clip(spots // len(jobs), MIN_SPOTS, TEST_SPOTS))
    places = np.arange(n_test) * len(known) // n_test if len(known) >= n_test else np.arange(n_test) % len(known)
    test = [nature.slide(patients + i, 0, known[place], n_spots) for i, place in enumerate(places.tolist())]
    return Cohort(train, test, FeatureLayout(BLOCKS, len(FIELDS_UM)))


def _sizes(spots: int, n_slides: int, rng: np.random.Generator) -> list[int]:
    """Divide spots among slides, some with twice as many as others."""
    if spots < MIN_SPOTS * n_slides:
        raise ValueError(f"{spots} spots are too few for {n_slides} slides of at least {MIN_SPOTS}")
    share = np.exp(rng.normal(0, 0.25, n_slides))
    ends = np.round(np.cumsum(share / share.sum()) * (spots - MIN_SPOTS * n_slides)).astype(int)
    return [int(size) + MIN_SPOTS for size in np.diff(ends, prepend=0)]


class _Nature:
    """What all slides of a cohort share: tissues, programmes, and how a picture shows them."""

    def __init__(self, world: World, tissues: int, genes: int, seed: int) -> None:
        self.world, self.seed, self.tissues, self.n_genes = world, seed, tissues, genes
        rng = np.random.default_rng([seed, 0])
        n, g = world.programmes, genes
        self.level = world.levels * rng.standard_normal((tissues, n))
        self.spread = np.where(rng.random((tissues, n)) < 0.6, 1.0, 0.3)
        self.length = np.exp(rng.uniform(*np.log(LENGTHS_UM), n + world.nuisances))
        self.base = rng.normal(0, 0.9, g)
        common, own = (self._loadings(rng, shape) for shape in ((1, n, g), (tissues, n, g)))
        self.loadings = np.sqrt(1 - world.own_loadings) * common + np.sqrt(world.own_loadings) * own
        self.view = _View(world, np.random.default_rng([seed, 2]))

    def _loadings(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
        """Draw what each programme adds to each gene's log mean: most nothing; in all a variance of 0.8 a gene."""
        drawn = np.where(rng.random(shape) < LOADED, rng.standard_normal(shape), 0.0)
        return np.asarray(drawn * np.sqrt(0.8 / (LOADED * shape[1])), dtype=np.float32)

    def slide(self, patient: int, slide: int, tissue: int, n: int) -> SlideArrays:
        """Simulate one slide of ``n`` spots."""
        own = np.random.default_rng([self.seed, 3, patient])
        rng = np.random.default_rng([self.seed, 4, patient, slide])
        xy_um = lattice(n, 200.0 if n < SMALL_SLIDE else 100.0)
        fields = smooth_fields(xy_um, self.length, rng)  # (fields of view, n, programmes and nuisances)
        n_programmes = self.world.programmes
        fields[:, :, :n_programmes] *= self.spread[tissue].astype(np.float32)
        fields[:, :, :n_programmes] += self.level[tissue].astype(np.float32)
        counts = self._counts(fields[0, :, :n_programmes], tissue, own, rng)
        depth = np.maximum(counts.sum(axis=1, dtype=np.float64), 1.0)
        expression = np.log1p(counts * (1e4 / depth[:, None])).astype(np.float32)
        return SlideArrays(
            slide_id=f"P{patient + 1:02d}_{slide + 1:02d}",
            patient=f"P{patient + 1:02d}",
            features=self.view.features(fields, own, rng),
            expression=expression,
            measured=np.ones(self.n_genes, dtype=bool),
            xy_um=xy_um,
            depth=depth,
        )

    def _counts(
        self, activity: FloatArray, tissue: int, own: np.random.Generator, rng: np.random.Generator
    ) -> FloatArray:
        """Draw counts ``(n, genes)``: depth of slide and spot, a patient's shift of every gene."""
        log_mean = activity @ self.loadings[tissue] + (self.base + own.normal(0, self.world.patient, self.n_genes))
        mean = np.exp(log_mean)
        depth = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.3, (len(mean), 1)))
        mean *= self.world.counts * depth / mean.sum(axis=1, keepdims=True)
        return rng.poisson(rng.gamma(1 / DISPERSION, mean * DISPERSION)).astype(np.float32)


class _View:
    """How a picture shows activities: maps from programmes and nuisances to every stage's features."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world = world
        self.visible = np.sort(rng.permutation(world.programmes)[: max(1, round(world.visible * world.programmes))])
        n = len(self.visible)
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


def lattice(n: int, pitch_um: float) -> Positions:
    """Return ``(n, 2)`` places on a square array, as near to a square as they go."""
    side = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    return np.stack([column, row], axis=1) * pitch_um


def smooth_fields(xy_um: Positions, length_um: Positions, rng: np.random.Generator) -> FloatArray:
    """Draw Gaussian random fields of unit variance, and their means over every field of view.

    A field is a sum of plane waves, so that its Gaussian mean is the same sum with the short waves damped.

    Parameters
    ----------
    xy_um, length_um
        ``(n, 2)`` places, and ``(f,)`` length scale of each field.

    Returns
    -------
    FloatArray
        ``(fields of view, n, f)``.
    """
    out = np.empty((len(FIELDS_UM), len(xy_um), len(length_um)), dtype=np.float32)
    for number, length in enumerate(length_um):
        wave = rng.standard_normal((WAVES, 2)) / length
        phase = (xy_um @ wave.T + rng.uniform(0, 2 * np.pi, WAVES)).astype(np.float32)
        damped = np.exp(-0.5 * (wave**2).sum(axis=1)[:, None] * np.square(FIELDS_UM))
        out[:, :, number] = (np.cos(phase) @ (damped * np.sqrt(2 / WAVES)).astype(np.float32)).T
    return out

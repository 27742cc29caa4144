"""What simulated cohorts share, with pictures or without: worlds, tissues, programmes, counts and patients.

A slide has smooth fields of programme activity (Gaussian random fields of several length scales). Tissues differ in
the level and the spread of every programme and, in part, in what a programme does to each gene; patients shift
expression; counts are negative binomial with a depth of each slide and spot. Nothing is fitted to real data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.types import FloatArray

WAVES = 48
"""Plane waves that a random field is made of."""

LENGTHS_UM = (150.0, 800.0)
"""Shortest and longest length scale of a field."""

DISPERSION = 0.15
"""Of the negative binomial: its variance is mean + dispersion x mean^2."""

LOADED = 0.3
"""Share of the genes that a programme changes."""

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


@dataclass(frozen=True)
class Place:
    """Which slide of a cohort: numbers of patient, slide of the patient and tissue, and how many spots it has."""

    patient: int
    slide: int
    tissue: int
    spots: int


def places(
    tissues: int, patients: int, slides_per_patient: int, spots: int, seed: int
) -> tuple[list[Place], list[Place]]:
    """Lay out the training slides, and the test slides of further patients, of tissues that training knows.

    A patient has one tissue; where there are fewer patients than tissues, slides take turns.
    """
    jobs = [(patient, slide) for patient in range(patients) for slide in range(slides_per_patient)]
    tissue_of = [(patient if patients >= tissues else number) % tissues for number, (patient, _) in enumerate(jobs)]
    sizes = _sizes(spots, len(jobs), np.random.default_rng([seed, 1]))
    train = [Place(*job, tissue, size) for job, tissue, size in zip(jobs, tissue_of, sizes, strict=True)]
    known = sorted(set(tissue_of))
    n_test = max(TEST_PATIENTS, min(len(known), MAX_TEST_PATIENTS))
    n_spots = int(np.clip(spots // len(jobs), MIN_SPOTS, TEST_SPOTS))
    turn = np.arange(n_test) * len(known) // n_test if len(known) >= n_test else np.arange(n_test) % len(known)
    return train, [Place(patients + i, 0, known[number], n_spots) for i, number in enumerate(turn.tolist())]


def _sizes(spots: int, n_slides: int, rng: np.random.Generator) -> list[int]:
    """Divide spots among slides, some with twice as many as others."""
    if spots < MIN_SPOTS * n_slides:
        raise ValueError(f"{spots} spots are too few for {n_slides} slides of at least {MIN_SPOTS}")
    share = np.exp(rng.normal(0, 0.25, n_slides))
    ends = np.round(np.cumsum(share / share.sum()) * (spots - MIN_SPOTS * n_slides)).astype(int)
    return [int(size) + MIN_SPOTS for size in np.diff(ends, prepend=0)]


class Nature:
    """What all slides of a cohort share: tissues, programmes, and what these do to genes."""

    def __init__(self, world: World, tissues: int, genes: int, seed: int) -> None:
        self.world, self.seed, self.n_genes = world, seed, genes
        rng = np.random.default_rng([seed, 0])
        n, g = world.programmes, genes
        self.level = world.levels * rng.standard_normal((tissues, n))
        self.spread = np.where(rng.random((tissues, n)) < 0.6, 1.0, 0.3)
        self.length = np.exp(rng.uniform(*np.log(LENGTHS_UM), n + world.nuisances))
        self.base = rng.normal(0, 0.9, g)
        common, own = (self._loadings(rng, shape) for shape in ((1, n, g), (tissues, n, g)))
        self.loadings = np.sqrt(1 - world.own_loadings) * common + np.sqrt(world.own_loadings) * own
        shown = max(1, round(world.visible * n))
        self.visible = np.sort(np.random.default_rng([seed, 5]).permutation(n)[:shown])

    def _loadings(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
        """Draw what each programme adds to each gene's log mean: most nothing; in all a variance of 0.8 a gene."""
        drawn = np.where(rng.random(shape) < LOADED, rng.standard_normal(shape), 0.0)
        return np.asarray(drawn * np.sqrt(0.8 / (LOADED * shape[1])), dtype=np.float32)

    def random(self, place: Place) -> tuple[np.random.Generator, np.random.Generator]:
        """Return the patient's source of randomness, the same for all of their slides, and the slide's own."""
        return (
            np.random.default_rng([self.seed, 3, place.patient]),
            np.random.default_rng([self.seed, 4, place.patient, place.slide]),
        )

    def fields(
        self, xy_um: Positions, tissue: int, widths_um: tuple[float, ...], rng: np.random.Generator
    ) -> FloatArray:
        """Return activities and nuisances at places ``(n, 2)``, and their means: ``(widths, n, fields)``."""
        fields = smooth_fields(xy_um, self.length, widths_um, rng)
        n = self.world.programmes
        fields[:, :, :n] *= self.spread[tissue].astype(np.float32)
        fields[:, :, :n] += self.level[tissue].astype(np.float32)
        return fields

    def counts(
        self, activity: FloatArray, tissue: int, own: np.random.Generator, rng: np.random.Generator
    ) -> FloatArray:
        """Draw counts ``(n, genes)``: depth of slide and spot, a patient's shift of every gene."""
        shift = self.base + own.normal(0, self.world.patient, self.n_genes)
        mean = np.exp(activity @ self.loadings[tissue] + shift)
        depth = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.3, (len(mean), 1)))
        mean *= self.world.counts * depth / mean.sum(axis=1, keepdims=True)
        return rng.poisson(rng.gamma(1 / DISPERSION, mean * DISPERSION)).astype(np.float32)


def slide_arrays(place: Place, features: FloatArray, counts: FloatArray, xy_um: Positions) -> SlideArrays:
    """Put a slide together; expression is log(1 + counts / total x 10,000)."""
    depth = np.maximum(counts.sum(axis=1, dtype=np.float64), 1.0)
    patient = f"P{place.patient + 1:02d}"
    return SlideArrays(
        slide_id=f"{patient}_{place.slide + 1:02d}",
        patient=patient,
        features=features,
        expression=np.log1p(counts * (1e4 / depth[:, None])).astype(np.float32),
        measured=np.ones(counts.shape[1], dtype=bool),
        xy_um=xy_um,
        depth=depth,
    )


def lattice(n: int, pitch_um: float) -> Positions:
    """Return ``(n, 2)`` places on a square array, as near to a square as they go."""
    side = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    return np.stack([column, row], axis=1) * pitch_um


def smooth_fields(
    xy_um: Positions, length_um: Positions, widths_um: tuple[float, ...], rng: np.random.Generator
) -> FloatArray:
    """Draw Gaussian random fields of unit variance, and their means around each place.

    A field is a sum of plane waves, so that its Gaussian mean is the same sum with the short waves damped.

    Parameters
    ----------
    xy_um, length_um
        ``(n, 2)`` places, and ``(f,)`` length scale of each field.
    widths_um
        Widths of the Gaussians that the means are taken with; 0 is the place itself.

    Returns
    -------
    FloatArray
        ``(widths, n, f)``.
    """
    out = np.empty((len(widths_um), len(xy_um), len(length_um)), dtype=np.float32)
    for number, length in enumerate(length_um):
        wave = rng.standard_normal((WAVES, 2)) / length
        phase = (xy_um @ wave.T + rng.uniform(0, 2 * np.pi, WAVES)).astype(np.float32)
        damped = np.exp(-0.5 * (wave**2).sum(axis=1)[:, None] * np.square(widths_um))
        out[:, :, number] = (np.cos(phase) @ (damped * np.sqrt(2 / WAVES)).astype(np.float32)).T
    return out

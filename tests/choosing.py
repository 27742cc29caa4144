"""A world of hidden programmes that image and genes show, small enough to choose settings on in a test."""

import dataclasses
from typing import Any

import numpy as np
from worlds import TINY, square_um

from mclstexp.choose.rehearsal import Rehearsal
from mclstexp.config import CHOICES, ModelConfig
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.panel import GenePanel
from mclstexp.predict.splits import splits

LAYOUT = FeatureLayout(blocks=(14, 14))
PANEL = GenePanel(tuple(f"GENE{i:02d}" for i in range(24)))

CHOOSING = dataclasses.replace(TINY, choose=tuple(name for name in CHOICES if name != "contrast_epochs"))
"""The recipe where it chooses all but the network, on features of one field of view."""


def programmed_arrays(
    patients: tuple[str, ...] = ("A", "B", "C", "D"),
    *,
    n_programmes: int = 2,
    n_spots: int = 24,
    noise: float = 0.3,
    seed: int = 0,
    **changes: Any,
) -> list[SlideArrays]:
    """A slide for each patient named; programmes of equal weight show in 28 features and 24 genes, both noisy."""
    world, rng = np.random.default_rng(77), np.random.default_rng([78, seed])
    to_image, _ = np.linalg.qr(world.normal(size=(LAYOUT.width, n_programmes)))
    to_genes, _ = np.linalg.qr(world.normal(size=(len(PANEL), n_programmes)))
    slides = []
    for number, patient in enumerate(patients):
        hidden = 3 * rng.normal(size=(n_spots, n_programmes))
        features = hidden @ to_image.T + noise * rng.normal(size=(n_spots, LAYOUT.width))
        expression = 8 + hidden @ to_genes.T + noise * rng.normal(size=(n_spots, len(PANEL)))
        slide = SlideArrays(
            f"S{number}",
            patient,
            features.astype(np.float32),
            np.maximum(expression, 0).astype(np.float32),
            np.ones(len(PANEL), dtype=bool),
            square_um(n_spots),
            rng.integers(500, 2000, n_spots).astype(np.float64),
        )
        slides.append(dataclasses.replace(slide, **changes))
    return slides


def without_genes(slide: SlideArrays, *genes: int) -> SlideArrays:
    """Return the slide as one that did not measure some genes."""
    measured, expression = slide.measured.copy(), slide.expression.copy()
    measured[list(genes)], expression[:, list(genes)] = False, 0.0
    return dataclasses.replace(slide, measured=measured, expression=expression)


def rehearsal_of(slides: list[SlideArrays]) -> Rehearsal:
    """Return the slides divided, without a reduction of their features."""
    return Rehearsal(splits(slides)[1], LAYOUT, PANEL)


def only_of(config: ModelConfig, *names: str) -> ModelConfig:
    """Return the settings with these alone to choose."""
    return dataclasses.replace(config, choose=names)

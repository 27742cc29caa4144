"""A bounded part of a training set, for what has to be fitted many times."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.space.training_data import SlideArrays
from mclstexp.sampling import evenly

MAX_SPOTS = 16_000
"""Spots that settings are chosen on, whatever the size of the training set."""

MAX_SLIDES = 100
LEAST = 40
"""Spots that are kept of a slide at least."""


def excerpts(slides: Sequence[SlideArrays], *, max_spots: int = MAX_SPOTS, seed: int = 0) -> list[SlideArrays]:
    """Return slides whose spots are at most ``max_spots`` in all: of a large slide the spots around one of them.

    Neighbours stay neighbours, so that means over them are nearly what they are on the whole slide.
    """
    slides = [slides[i] for i in evenly(len(slides), MAX_SLIDES)]
    sizes = np.array([len(slide.features) for slide in slides])
    if sizes.sum() <= max_spots:
        return list(slides)
    quota = _quota(sizes, max_spots)
    rng = np.random.default_rng(seed)
    return [_around(slide, int(rng.integers(len(slide.features))), quota) for slide in slides]


def _quota(sizes: NDArray[np.int64], wanted: int) -> int:
    """Return the size to cut slides to so that ``wanted`` spots remain: small slides stay whole."""
    low, high = LEAST, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= wanted else (low, middle - 1)
    return low


def _around(slide: SlideArrays, spot: int, n: int) -> SlideArrays:
    if len(slide.features) <= n:
        return slide
    distance = ((slide.xy_um - slide.xy_um[spot]) ** 2).sum(axis=1)
    rows = np.sort(np.argsort(distance, kind="stable")[:n])
    return take(slide, rows)


def take(slide: SlideArrays, rows: NDArray[np.int64] | NDArray[np.bool_]) -> SlideArrays:
    """Return some of a slide's spots."""
    depth = None if slide.depth is None else slide.depth[rows]
    return dataclasses.replace(
        slide, features=slide.features[rows], expression=slide.expression[rows], xy_um=slide.xy_um[rows], depth=depth
    )

"""A training set divided into what trains and what is held out, and a bounded part of a large one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mclstexp.model.space.training_data import FoldKind, SlideArrays, folds
from mclstexp.sampling import evenly
from mclstexp.types import IdArray

MAX_FOLDS = 5
MIN_SPOTS = 8
"""Spots that must remain to train on."""

MAX_SPOTS = 16_000
"""Spots that settings are chosen on, whatever the size of the training set."""

MAX_SLIDES = 100
LEAST = 40
"""Spots that are kept of a slide at least."""


def excerpts(slides: Sequence[SlideArrays], *, max_spots: int = MAX_SPOTS, seed: int = 0) -> list[SlideArrays]:
    """Return slides whose spots are at most ``max_spots`` in all: of a large slide the spots around one of them.

    Neighbours stay neighbours, so that means over them are nearly what they are on the whole slide. Of more than
    `MAX_SLIDES` slides some are left out, the second and later ones of a patient first.
    """
    slides = [slides[i] for i in _some_slides(slides)]
    sizes = np.array([len(slide.features) for slide in slides])
    if sizes.sum() <= max_spots:
        return list(slides)
    quota = _quota(sizes, max_spots)
    rng = np.random.default_rng(seed)
    return [_around(slide, int(rng.integers(len(slide.features))), quota) for slide in slides]


def _some_slides(slides: Sequence[SlideArrays]) -> list[int]:
    """Return the places of at most `MAX_SLIDES`: each patient's first, then their second ones, evenly where cut."""
    rounds: list[list[int]] = []
    seen: Counter[str] = Counter()
    for place, slide in enumerate(slides):
        turn = seen[slide.patient or slide.slide_id]
        seen[slide.patient or slide.slide_id] += 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(place)
    kept: list[int] = []
    for places in rounds:
        kept += [places[i] for i in evenly(len(places), MAX_SLIDES - len(kept))]
    return sorted(kept)


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


@dataclass(frozen=True, eq=False)
class Split:
    """What trains and what is held out, by the number of the fold."""

    fold: int
    rest: list[SlideArrays]
    held: list[SlideArrays]


def splits(slides: Sequence[SlideArrays]) -> tuple[FoldKind, list[Split]]:
    """Return what is held out together (patient, slide or block), and at most `MAX_FOLDS` divisions of the spots."""
    kind, fold_of = folds(slides)
    sizes = np.bincount(np.concatenate(fold_of))
    usable = [fold for fold, size in enumerate(sizes) if size and sizes.sum() - size >= MIN_SPOTS][:MAX_FOLDS]
    return kind, [_split(slides, fold_of, fold) for fold in usable]


def _split(slides: Sequence[SlideArrays], fold_of: Sequence[IdArray], fold: int) -> Split:
    pairs = list(zip(slides, fold_of, strict=True))
    return Split(
        fold,
        [_some(slide, member != fold) for slide, member in pairs if (member != fold).any()],
        [_some(slide, member == fold) for slide, member in pairs if (member == fold).any()],
    )


def _some(slide: SlideArrays, rows: NDArray[np.bool_]) -> SlideArrays:
    return slide if rows.all() else take(slide, rows)

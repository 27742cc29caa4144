"""Slides that have the very same counts under two names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from scipy import sparse

from mclstexp.slide import Slide


def twins(slides: Iterable[Slide]) -> dict[str, str]:
    """Return each slide that repeats an earlier one's counts, with that one's name.

    They would be trained on twice, and be each other's neighbours.
    """
    earlier: dict[tuple[object, ...], list[tuple[str, sparse.csr_matrix]]] = {}
    repeated: dict[str, str] = {}
    for slide in slides:
        counts = slide.spots.counts
        if counts is None or not counts.nnz:
            continue
        alike = earlier.setdefault((counts.shape, counts.nnz, float(counts.sum())), [])
        same = next((name for name, other in alike if _equal(counts, other)), None)
        if same is not None:
            repeated[slide.slide_id] = same
        alike.append((slide.slide_id, counts))
    return repeated


def counts_digest(slide: Slide) -> str:
    """Return the SHA-256 of a slide's counts; twins have the same, and a slide without any has none (empty)."""
    counts = slide.spots.counts
    if counts is None or not counts.nnz:
        return ""
    digest = hashlib.sha256(repr(counts.shape).encode())
    for part in (counts.indptr, counts.indices, counts.data):
        digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()


def said_of(slide: str, same: str) -> str:
    """Return the sentence about a slide that repeats another."""
    return f"Slide {slide}: the very same counts as {same}: probably one section under two names; leave one out."


def _equal(first: sparse.csr_matrix, second: sparse.csr_matrix) -> bool:
    return all(np.array_equal(getattr(first, part), getattr(second, part)) for part in ("indptr", "indices", "data"))

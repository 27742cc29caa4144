"""Embeddings: checked, and how many of the true neighbours a search finds."""

from __future__ import annotations

import numpy as np

from mclstexp.errors import InputError
from mclstexp.types import FloatArray, IdArray


def unit_rows(values: FloatArray, what: str, n: int | None = None) -> FloatArray:
    """Return embeddings as contiguous ``(n, d)`` float32.

    Raises
    ------
    InputError
        When the shape is wrong, a value is not finite, or a row is not of unit length within 1e-3.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 2 or (n is not None and len(array) != n):
        raise InputError(f"{what} has shape {array.shape}, expected ({n if n is not None else 'n'}, embed_dim).")
    norms = np.linalg.norm(array, axis=1)
    bad = int((~(np.abs(norms - 1) < 1e-3)).sum())
    if bad:
        raise InputError(f"{what}: {bad} of {len(array)} rows are not finite or not of unit length.")
    return array


def recall_at_k(found: IdArray, truth: IdArray) -> float:
    """Share of the true neighbours that were found."""
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
    return hits / max(truth.size, 1)

"""Where neighbours come from."""

from __future__ import annotations

import numpy as np

from mclstexp.types import FloatArray

NEAREST = 20
"""Neighbours whose mean similarity says how near a patch is to the reference."""


def mean_nearest(similarity: FloatArray) -> FloatArray:
    """Return ``(n,)`` mean of the first `NEAREST` similarities ``(n, k)``, descending; NaN where there is none."""
    return np.asarray(similarity[:, :NEAREST].mean(axis=1), dtype=np.float32)

"""Choosing some of many, the same ones every time."""

from __future__ import annotations

import numpy as np

from mclstexp.types import IdArray


def evenly(n: int, wanted: int) -> IdArray:
    """Return at most ``wanted`` of the positions 0 to n - 1, ascending and evenly spread, both ends among them."""
    return np.unique(np.linspace(0, max(n - 1, 0), min(n, wanted)).round().astype(np.int64))

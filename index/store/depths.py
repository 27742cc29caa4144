"""Typical total counts of a reference and of its slides, in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mclstexp.types import IdArray

ROWS_AT_A_TIME = 2**21


def median_depths(batches: Iterable[IdArray], sizes: Sequence[int]) -> tuple[float, NDArray[np.float64]]:
    """Return the median over all spots, and ``(slides,)`` over each slide's.

    Parameters
    ----------
    batches
        Total counts of the spots, slide after slide, cut anywhere.
    sizes
        Number of spots of each slide.

    Examples
    --------
    >>> overall, of_slide = median_depths([np.array([5, 1]), np.array([3, 8, 10])], [3, 2])
    >>> overall, of_slide.tolist()
    (5.0, [3.0, 9.0])
    """
    counted = _Counted()
    of_slide: list[float] = []
    waiting = np.zeros(0, dtype=np.int64)
    for batch in batches:
        counted.add(batch)
        waiting = np.concatenate([waiting, batch])
        while len(of_slide) < len(sizes) and len(waiting) >= sizes[len(of_slide)]:
            n = sizes[len(of_slide)]
            of_slide.append(float(np.median(waiting[:n])))
            waiting = waiting[n:]
    return counted.median(), np.asarray(of_slide, dtype=np.float64)


class _Counted:
    """Numbers, kept as how often each occurs."""

    def __init__(self) -> None:
        self.values = self.times = np.zeros(0, dtype=np.int64)
        self.waiting: list[IdArray] = []

    def add(self, numbers: IdArray) -> None:
        """Take some numbers."""
        self.waiting.append(np.asarray(numbers, dtype=np.int64))
        if sum(map(len, self.waiting)) >= ROWS_AT_A_TIME:
            self._count()

    def _count(self) -> None:
        values, times = np.unique(np.concatenate([*self.waiting, self.values[:0]]), return_counts=True)
        both, where = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        total = np.zeros(len(both), dtype=np.int64)
        np.add.at(total, where, np.concatenate([self.times, times]))
        self.values, self.times, self.waiting = both, total, []

    def median(self) -> float:
        """Return the median as numpy has it; 0 of none."""
        self._count()
        n, upto = int(self.times.sum()), np.cumsum(self.times)
        if not n:
            return 0.0
        middle = np.searchsorted(upto, [(n - 1) // 2, n // 2], side="right")
        return float(self.values[middle].mean())

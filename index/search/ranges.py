"""Ranges of row ids: joined, laid end to end, and back."""

from __future__ import annotations

import numpy as np

from mclstexp.types import BoolArray, IdArray

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of row ids, ascending and apart."""


def merge_ranges(ranges: list[tuple[int, int]]) -> Ranges:
    """Sort ranges and join those that touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif stop > start:
            merged.append((start, stop))
    return tuple(merged)


class RowRanges:
    """Ranges of row ids laid end to end: positions to row ids and back."""

    def __init__(self, ranges: Ranges) -> None:
        self.starts = np.array([start for start, _ in ranges], dtype=np.int64)
        self.stops = np.array([stop for _, stop in ranges], dtype=np.int64)
        self.before = np.concatenate([[0], np.cumsum(self.stops - self.starts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.before[-1])

    def row_ids(self, positions: IdArray) -> IdArray:
        """Row ids at positions."""
        part = np.searchsorted(self.before, positions, side="right") - 1
        return self.starts[part] + positions - self.before[part]

    def positions(self, row_ids: IdArray) -> IdArray:
        """Positions of row ids, -1 where a row id is in no range."""
        if not len(self.starts):
            return np.full(len(row_ids), -1, dtype=np.int64)
        part = np.searchsorted(self.starts, row_ids, side="right") - 1
        inside = (part >= 0) & (row_ids < self.stops[part])
        return np.where(inside, self.before[part] + row_ids - self.starts[part], -1)

    def mask(self, size: int) -> BoolArray:
        """``(size,)`` truth by row id."""
        mask = np.zeros(size, dtype=bool)
        for start, stop in zip(self.starts, self.stops, strict=True):
            mask[start:stop] = True
        return mask


def overlap(ranges: Ranges, others: Ranges) -> Ranges:
    """Return the part of some ranges that lies in others."""
    both, i = [], 0
    for start, stop in ranges:
        while i < len(others) and others[i][1] <= start:
            i += 1
        for low, high in others[i:]:
            if low >= stop:
                break
            both.append((max(start, low), min(stop, high)))
    return tuple(both)


def minus(ranges: Ranges, others: Ranges) -> Ranges:
    """Return the part of some ranges that lies in no other."""
    rest = []
    for start, stop in ranges:
        for low, high in overlap(((start, stop),), others):
            if low > start:
                rest.append((start, low))
            start = high
        if start < stop:
            rest.append((start, stop))
    return tuple(rest)


def split(ranges: Ranges, size: int) -> list[Ranges]:
    """Cut ranges, in their order, into parts of at most so many rows.

    Examples
    --------
    >>> split(((0, 5), (8, 10)), 4)
    [((0, 4),), ((4, 5), (8, 10))]
    """
    parts: list[list[tuple[int, int]]] = []
    room = 0
    for start, stop in ranges:
        while start < stop:
            if not room:
                parts.append([])
                room = size
            end = min(stop, start + room)
            parts[-1].append((start, end))
            room -= end - start
            start = end
    return [tuple(part) for part in parts]


def touches(mask: BoolArray, ranges: Ranges) -> bool:
    """Say whether a mask by row allows any row of ranges."""
    return any(bool(mask[start:stop].any()) for start, stop in ranges)


def covers(mask: BoolArray, ranges: Ranges) -> bool:
    """Say whether a mask by row allows every row of ranges; rows past its end it does not allow."""
    return all(stop <= len(mask) and bool(mask[start:stop].all()) for start, stop in ranges)


def total(ranges: Ranges) -> int:
    """Return the number of rows in ranges."""
    return sum(stop - start for start, stop in ranges)

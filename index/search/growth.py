"""Which index files a commit has: appended to, merged when they get many, trained anew when they outgrow it.

The index is a list of immutable segments. New rows arrive as a small segment without inverted file, which is searched
exactly; so adding costs what is added. Segments merge as they get many, and removed rows are only masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.index.search import ivf
from mclstexp.index.search.keys import SegmentWriter
from mclstexp.index.search.ranges import Ranges, RowRanges
from mclstexp.index.search.segment import INDEX, LoadedSegment, Segment
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.storage import TEMPORARY, sha256_file
from mclstexp.types import FloatArray

FLAT_ROWS = 65_536
"""Rows outside the inverted files above which they are encoded into one of their own."""
RETRAIN_GROWTH = 4
"""The lists are trained anew once the reference has grown by this factor."""
RECALL_QUERIES = 256
RECALL_K = 200
RECALL_WANTED = 0.993
"""Recall at 200 that nprobe is raised for; above the 0.99 promised, since other queries differ from the sample."""


def update(root: Path, segments: Sequence[Segment], live: Ranges, *, choice: str, dim: int) -> tuple[Segment, ...]:
    """Return the segments of a commit whose live rows all lie in ``segments``; writes files where some merge."""
    alive = RowRanges(live)
    kept = [segment for segment in segments if _n_live(segment, alive)]
    kind = ivf.choose_kind(choice, len(alive))
    if kind == "exact":
        stripped = [_plain(segment) for segment in kept]
        return tuple(_merge_small(root, stripped, alive, dim))
    inverted = [segment for segment in kept if segment.ivf is not None]
    flat = [segment for segment in kept if segment.ivf is None]
    trained_on = max((segment.trained_on for segment in inverted), default=0)
    dead = sum(segment.n_rows for segment in inverted) - sum(_n_live(segment, alive) for segment in inverted)
    outgrown = len(alive) > RETRAIN_GROWTH * trained_on or dead > len(alive)
    if not inverted or outgrown or any(segment.kind != kind for segment in inverted):
        return rebuild(root, kept, live, kind=kind, dim=dim)
    if sum(segment.n_rows for segment in flat) > FLAT_ROWS:
        merged = merge(root, flat, alive, dim)
        return (*inverted, _encode(root, merged, inverted[0], dim))
    return (*inverted, *_merge_small(root, flat, alive, dim))


def rebuild(root: Path, segments: Sequence[Segment], live: Ranges, *, kind: str, dim: int) -> tuple[Segment, ...]:
    """Put all live rows into one segment, and train its inverted file where the kind has one."""
    alive = RowRanges(live)
    kept = [segment for segment in segments if _n_live(segment, alive)]
    if not kept:
        return ()
    whole = len(kept) == 1 and _n_live(kept[0], alive) == kept[0].n_rows
    merged = _plain(kept[0]) if whole else merge(root, kept, alive, dim)
    if kind == "exact":
        return (merged,)
    loaded = LoadedSegment.open(root, merged, dim)
    index = ivf.train(loaded.keys, kind)
    ivf.fill(index, loaded.keys, loaded.rows.row_ids(np.arange(len(loaded.rows))))
    return (_measured(root, replace(_store(root, merged, index), kind=kind, trained_on=merged.n_rows), dim),)


def merge(root: Path, segments: Sequence[Segment], alive: RowRanges, dim: int) -> Segment:
    """Copy the live rows of segments into one, in the order of their row ids."""
    loaded = [LoadedSegment.open(root, _plain(segment), dim) for segment in segments]
    pieces = sorted((start, stop, i) for i, segment in enumerate(segments) for start, stop in segment.ranges)
    with SegmentWriter(root) as writer:
        for start, stop, i in pieces:
            for low, high in _overlap(start, stop, alive):
                for first in range(low, high, 65_536):
                    last = min(first + 65_536, high)
                    positions = loaded[i].rows.positions(np.array([first, last - 1]))
                    writer.add(np.asarray(loaded[i].keys[positions[0] : positions[1] + 1]), first)
    return writer.segment


def _merge_small(root: Path, segments: list[Segment], alive: RowRanges, dim: int) -> list[Segment]:
    """Merge from the end while a segment is less than twice its successor: their number stays logarithmic."""
    kept = sorted(segments, key=lambda segment: segment.ranges[0])
    first = len(kept) - 1
    total = kept[first].n_rows if kept else 0
    while first > 0 and kept[first - 1].n_rows < 2 * total:
        first -= 1
        total += kept[first].n_rows
    tail = kept[first:]
    return [*kept[:first], merge(root, tail, alive, dim)] if len(tail) > 1 else kept


def _encode(root: Path, segment: Segment, like: Segment, dim: int) -> Segment:
    """Give a segment an inverted file over the lists that another one was trained with."""
    loaded = LoadedSegment.open(root, segment, dim)
    index = ivf.empty_copy(root / str(like.ivf))
    ivf.fill(index, loaded.keys, loaded.rows.row_ids(np.arange(len(loaded.rows))))
    return replace(
        _store(root, segment, index),
        kind=like.kind,
        trained_on=like.trained_on,
        nprobe=like.nprobe,
        recall=like.recall,
        recall_k=like.recall_k,
    )


def _store(root: Path, segment: Segment, index: object) -> Segment:
    temporary = root / INDEX / f"{TEMPORARY}ivf"
    try:
        ivf.write(index, temporary)
        digest = sha256_file(temporary)
        name = f"{INDEX}/ivf-{digest[:20]}.faiss"
        temporary.replace(root / name)
    finally:
        temporary.unlink(missing_ok=True)
    return replace(segment, ivf=name, ivf_sha256=digest)


def _measured(root: Path, segment: Segment, dim: int) -> Segment:
    """Raise nprobe until the recall against exact search is what is wanted; record both."""
    loaded = LoadedSegment.open(root, segment, dim)
    index = SpotIndex([loaded], segment.ranges, dim=dim, tie_rank=lambda row_ids: row_ids, device="cpu")
    rows = np.unique(np.linspace(0, len(loaded.rows) - 1, RECALL_QUERIES).astype(np.int64))
    query: FloatArray = np.ascontiguousarray(loaded.keys[rows])
    k = min(RECALL_K, len(loaded.rows))
    truth = index.search(query, k, method="exact").ids
    inverted = loaded.inverted
    if inverted is None:
        return segment
    nprobe, recall = 8, 0.0
    while True:
        nprobe = min(nprobe, inverted.n_lists)
        loaded.segment = replace(segment, nprobe=nprobe)
        recall = recall_at_k(index.search(query, k, method="inverted").ids, truth)
        if recall >= RECALL_WANTED or nprobe == inverted.n_lists:
            return replace(segment, nprobe=nprobe, recall=round(recall, 5), recall_k=k)
        nprobe = int(np.ceil(nprobe * 1.5))


def recall_at_k(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the true neighbours that were found."""
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
    return hits / max(truth.size, 1)


def _n_live(segment: Segment, alive: RowRanges) -> int:
    return sum(high - low for start, stop in segment.ranges for low, high in _overlap(start, stop, alive))


def _overlap(start: int, stop: int, alive: RowRanges) -> list[tuple[int, int]]:
    first = int(np.searchsorted(alive.stops, start, side="right"))
    last = int(np.searchsorted(alive.starts, stop, side="left"))
    return [(max(start, int(alive.starts[i])), min(stop, int(alive.stops[i]))) for i in range(first, last)]


def _plain(segment: Segment) -> Segment:
    return Segment(keys=segment.keys, keys_sha256=segment.keys_sha256, ranges=segment.ranges)

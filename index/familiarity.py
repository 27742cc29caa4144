"""How familiar a query patch is: its similarity to the reference, ranked among the reference's own patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mclstexp.index.search.spot_index import Neighbors
from mclstexp.index.store.store import ReferenceStore
from mclstexp.types import BoolArray, Device, FloatArray

Progress = Callable[[int, int], None]
SAMPLE = 1024
"""Reference patches that the scale is made of, spread evenly over all slides with an image."""


def familiarity(
    store: ReferenceStore,
    query: FloatArray,
    *,
    k: int,
    allowed: BoolArray | None = None,
    found: Neighbors | None = None,
    device: Device = "auto",
    on_progress: Progress | None = None,
) -> FloatArray:
    """Rank query patches among the reference's own patches, each searched with its own slide left out.

    Parameters
    ----------
    query
        ``(n, d)`` float32 embeddings of unit length.
    k
        The score of a patch is the mean similarity of its k nearest spots.
    allowed
        Truth by row id of the spots that the query may find.
    found
        The query's neighbours, where they are known already.

    Returns
    -------
    FloatArray
        ``(n,)`` percentile: the share of reference patches, in percent, that are no more similar to the rest of the
        reference than this patch. NaN when fewer than two slides have spots, or none has an image: there is no scale.
    """
    scale = reference_scores(store, k=k, device=device, on_progress=on_progress)
    if not len(scale):
        return np.full(len(query), np.nan, dtype=np.float32)
    found = found or store.index(device).search(query, k, allowed=allowed)
    rank = np.searchsorted(scale, mean_similarity(found), side="right")
    return (100.0 * rank / len(scale)).astype(np.float32)


def mean_similarity(found: Neighbors) -> FloatArray:
    """Return ``(n,)`` mean similarity of each query's neighbours; -1 for a query without any."""
    present = found.row_ids >= 0
    total = np.where(present, found.similarity, 0.0).sum(axis=1, dtype=np.float64)
    number = present.sum(axis=1)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), -1.0), dtype=np.float32)


def reference_scores(
    store: ReferenceStore, *, k: int, device: Device = "auto", on_progress: Progress | None = None
) -> FloatArray:
    """Return the sorted scores of a sample of the reference's patches; empty when there is no scale.

    They are derived and kept beside the table when that can be written.
    """
    kept = store.kept(f"familiarity-{k}")
    if kept is not None:
        return np.asarray(kept["scores"], dtype=np.float32)
    scores = _compute(store, k, device, on_progress)
    # A reference that cannot be written to computes its scale anew each time.
    store.keep(f"familiarity-{k}", {"scores": scores.astype(np.float64).tolist()})
    return scores


def _compute(store: ReferenceStore, k: int, device: Device, on_progress: Progress | None) -> FloatArray:
    pictured = [entry for entry in store.slides() if entry.has_image]
    if not pictured or len(store.entries) < 2:
        return np.zeros(0, dtype=np.float32)
    ends = np.cumsum([entry.n_spots for entry in pictured])
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(SAMPLE, int(ends[-1]))).astype(np.int64))
    owner = np.searchsorted(ends, chosen, side="right")
    index = store.index(device)
    others = store.live_mask.copy()
    scores = []
    for i, entry in enumerate(pictured):
        rows = chosen[owner == i] - (ends[i] - entry.n_spots) + entry.row_start
        if len(rows):
            others[slice(*entry.rows)] = False
            patches = store.embeddings(rows, "image_embedding")
            scores.append(mean_similarity(index.search(patches, k, allowed=others)))
            others[slice(*entry.rows)] = True
        if on_progress is not None:
            on_progress(i + 1, len(pictured))
    return np.sort(np.concatenate(scores))

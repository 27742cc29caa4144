"""How familiar a query patch is: its similarity to the reference, ranked among the reference's own patches."""

from __future__ import annotations

import contextlib

import numpy as np

from mclstexp.errors import StorageError
from mclstexp.index.store.expression import read_scale
from mclstexp.index.store.manifest import CACHE
from mclstexp.index.store.store import ReferenceStore
from mclstexp.predict.source import NEAREST, Neighbours
from mclstexp.sampling import evenly
from mclstexp.storage import storage_errors, write_digested
from mclstexp.types import Device, FloatArray, Progress

SAMPLE = 1024
"""Reference patches that the scale is made of, spread evenly over all slides with an image."""


def familiarity(
    store: ReferenceStore,
    neighbours: Neighbours,
    *,
    device: Device = "auto",
    on_progress: Progress | None = None,
) -> FloatArray:
    """Rank query patches among the reference's own patches, each searched with its own slide left out.

    Parameters
    ----------
    store
        The reference.
    neighbours
        The queries' neighbours. The score of a patch is the mean similarity of the `NEAREST` first of them, or of all
        where fewer were asked for; the reference's own patches are then scored by as many.
    device
        Where the reference's own patches are searched, the first time.
    on_progress
        Called while the scale is made.

    Returns
    -------
    FloatArray
        ``(n,)`` percentile: the share of reference patches, in percent, that are no more similar to the rest of the
        reference than this patch. NaN when fewer than two slides have spots, or none has an image: there is no scale.
    """
    k = min(NEAREST, neighbours.ids.shape[1])
    scale = reference_scores(store, k=k, device=device, on_progress=on_progress)
    if not len(scale):
        return np.full(len(neighbours.ids), np.nan, dtype=np.float32)
    rank = np.searchsorted(scale, neighbours.first(k).mean_similarity(), side="right")
    return (100.0 * rank / len(scale)).astype(np.float32)


def reference_scores(
    store: ReferenceStore, *, k: int = NEAREST, device: Device = "auto", on_progress: Progress | None = None
) -> FloatArray:
    """Return the sorted scores of a sample of the reference's patches by ``k`` spots; empty when there is no scale.

    They are derived and kept in the folder ``cache`` when that can be written.
    """
    path = store.root / CACHE / f"familiarity-{store.version}-{k}.json"
    scores = read_scale(path)
    if scores is None:
        scores = _compute(store, k, device, on_progress)
        # A reference that cannot be written to computes its scale anew each time.
        with contextlib.suppress(StorageError), storage_errors(f"Reference {store.root}"):
            path.parent.mkdir(exist_ok=True)
            write_digested(path, {"scores": scores.astype(np.float64).tolist()})
    return scores


def _compute(store: ReferenceStore, k: int, device: Device, on_progress: Progress | None) -> FloatArray:
    pictured = [entry for entry in store.slides() if entry.has_image]
    if not pictured or len(store.entries) < 2:
        return np.zeros(0, dtype=np.float32)
    ends = np.cumsum([entry.n_spots for entry in pictured])
    chosen = evenly(int(ends[-1]), SAMPLE)
    owner = np.searchsorted(ends, chosen, side="right")
    index = store.index(device)
    others = np.zeros(store.manifest.next_row_id, dtype=bool)
    for entry in store.entries:
        others[slice(*entry.rows)] = True
    scores = []
    for i, entry in enumerate(pictured):
        rows = chosen[owner == i] - (ends[i] - entry.n_spots) + entry.row_start
        if len(rows):
            others[slice(*entry.rows)] = False
            patches = store.embeddings(rows, "image_embedding")
            scores.append(index.search(patches, k, allowed=others).mean_similarity())
            others[slice(*entry.rows)] = True
        if on_progress is not None:
            on_progress("scoring the reference's own patches", i + 1, len(pictured))
    return np.sort(np.concatenate(scores))

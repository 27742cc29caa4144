"""FAISS on one or several GPUs: all keys where they fit, else the inverted files; kept there between batches."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from typing import Any

import numpy as np

from mclstexp.errors import InputError
from mclstexp.index.search.backend import Backend
from mclstexp.index.search.exact import key_blocks
from mclstexp.index.search.ivf import load_faiss, read
from mclstexp.index.search.pieces import LoadedPiece, Piece, best_of, outside
from mclstexp.index.search.ranges import covers
from mclstexp.types import BoolArray, Device, FloatArray, IdArray

MOST = 2048
"""FAISS selects no more neighbours than this on a GPU."""

GPU_BLOCK = 2**20
"""Rows that are compared at a time where a filter leaves some."""

ROOM = 0.8
"""Share of the GPU's free memory that an index may take; the rest is for products and for others."""


def count_gpus() -> int:
    """Return the number of GPUs that FAISS sees; 0 for a FAISS that was built without."""
    if sys.platform.startswith("linux") and not _has_driver():
        return 0
    faiss = load_faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@cache
def _has_driver() -> bool:
    """Whether the library of a GPU's driver can be loaded; faiss with its own takes half a second."""
    for name in ("libcuda.so.1", "libamdhip64.so"):
        with suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def choose_device(device: Device) -> tuple[str, str]:
    """Return "cpu" or "cuda", and why.

    Raises
    ------
    InputError
        When a GPU is asked for and there is none.
    """
    if device == "cpu":
        return "cpu", "asked for"
    if count_gpus():
        return "cuda", "a GPU is at hand"
    if device == "cuda":
        raise InputError("Device cuda was asked for, but FAISS sees no GPU; use --device cpu or auto.")
    return "cpu", "no GPU is available"


def free_memory() -> list[int]:
    """Return the free bytes of each GPU's memory."""
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [int(torch.cuda.mem_get_info(gpu)[0]) for gpu in range(n_gpus)]


def on_gpu(keys: FloatArray, live: BoolArray, pieces: Sequence[LoadedPiece]) -> tuple[Backend | None, str]:
    """Move what fits to the GPUs.

    Returns
    -------
    Backend or None
        None when nothing fits.
    str
        A note for the user when less than everything is there, or "".
    """
    rooms = [ROOM * free for free in free_memory()]
    flat = 4 * int(live.sum()) * keys.shape[1]
    inverted = spread([loaded.piece.n_bytes for loaded in pieces], rooms)
    try:
        if flat <= sum(rooms):
            return GpuFlatBackend(keys, live, rooms), ""
        if inverted:
            note = f"The keys ({flat / 1e9:.1f} GB) do not fit on the GPU; the inverted files are searched there."
            return GpuInvertedBackend(keys, live, pieces, inverted), note
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["?"])[0][:120]
        return None, f"The GPU refused the index ({reason}), so the CPU searches."
    need = min([flat, *([sum(loaded.piece.n_bytes for loaded in pieces)] if pieces else [])]) / 1e9
    return None, f"The index takes {need:.1f} GB, the GPU has {sum(rooms) / 1e9:.1f} GB for it, so the CPU searches."


def spread(sizes: Sequence[int], rooms: Sequence[float]) -> list[int]:
    """Return a GPU for each file, the largest first to where most room is left; empty when one fits nowhere.

    Examples
    --------
    >>> spread([5, 9, 4], [10, 10])
    [1, 0, 1]
    >>> spread([5, 9, 7], [10, 10])
    []
    """
    left, chosen = list(rooms), [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        gpu = max(range(len(left)), key=left.__getitem__, default=-1)
        if gpu < 0 or sizes[i] > left[gpu]:
            return []
        left[gpu] -= sizes[i]
        chosen[i] = gpu
    return chosen


def nearest_on_gpu(
    resources: Any, keys: FloatArray, query: FloatArray, k: int, allowed: BoolArray
) -> tuple[IdArray, FloatArray]:
    """Compare queries with the allowed rows only, which FAISS's GPU indexes cannot be told; a block at a time."""
    faiss = load_faiss()
    found = [(np.zeros((len(query), 0), np.int64), np.zeros((len(query), 0), np.float32))]
    for ids, rows in key_blocks(keys, allowed, GPU_BLOCK):
        n_nearest, block = min(k, len(ids)), np.ascontiguousarray(rows)
        similarity, where = faiss.knn_gpu(resources, query, block, n_nearest, metric=faiss.METRIC_INNER_PRODUCT)
        found = [best_of([*found, (np.where(where >= 0, ids[np.maximum(where, 0)], -1), similarity)], k)]
    return found[0]


def _at_once(searches: Sequence[Callable[[], tuple[IdArray, FloatArray]]], k: int) -> tuple[IdArray, FloatArray]:
    """Search every GPU at the same time, and keep the best."""
    if len(searches) == 1:
        return searches[0]()
    with ThreadPoolExecutor(len(searches)) as pool:  # FAISS leaves the interpreter to the others while it searches.
        return best_of(list(pool.map(lambda search: search(), searches)), k)


class GpuFlatBackend:
    """All keys on the GPUs (``GpuIndexFlatIP``), to each a share by its room."""

    name = "faiss flat on the GPU"
    certain = True
    most = MOST
    least = 0

    def __init__(self, keys: FloatArray, live: BoolArray, rooms: Sequence[float]) -> None:
        faiss = load_faiss()
        self.keys = keys
        ids = np.flatnonzero(live)
        self.n_rows = len(ids)
        edges = np.rint(len(ids) * np.cumsum([0.0, *rooms]) / sum(rooms)).astype(np.int64)
        self.resources = faiss.StandardGpuResources()
        self.shares = []
        for gpu, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
            if start < stop:
                resources = self.resources if gpu == 0 else faiss.StandardGpuResources()
                index = faiss.index_cpu_to_gpu(resources, gpu, faiss.IndexFlatIP(keys.shape[1]))
                for first in range(start, stop, 65_536):
                    index.add(np.ascontiguousarray(keys[ids[first : min(first + 65_536, stop)]]))
                self.shares.append((ids[start:stop], index, resources))

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Search all rows, or the allowed ones by themselves."""
        if n_allowed < self.n_rows:
            return nearest_on_gpu(self.resources, self.keys, query, k, allowed)
        return _at_once([partial(self._share, ids, index, query, k) for ids, index, _ in self.shares], k)

    def _share(self, ids: IdArray, index: Any, query: FloatArray, k: int) -> tuple[IdArray, FloatArray]:
        similarity, where = index.search(query, min(k, len(ids)))
        return np.where(where >= 0, ids[np.maximum(where, 0)], -1), similarity


class GpuInvertedBackend:
    """The inverted files on the GPUs; rows outside of them, and filters, by comparison on the first."""

    certain = False
    most = MOST
    least = 0

    def __init__(self, keys: FloatArray, live: BoolArray, pieces: Sequence[LoadedPiece], gpus: Sequence[int]) -> None:
        faiss = load_faiss()
        self.name = f"faiss {pieces[0].piece.kind} on the GPU"
        self.keys = keys
        self.live = live
        self.outside = outside(pieces, live)
        self.resources = {gpu: faiss.StandardGpuResources() for gpu in sorted({0, *gpus})}
        self.pieces: dict[int, list[tuple[Any, Piece]]] = {gpu: [] for gpu in sorted(set(gpus))}
        for item, gpu in zip(pieces, gpus, strict=True):
            index = faiss.index_cpu_to_gpu(self.resources[gpu], gpu, read(item.path, mapped=False))
            self.pieces[gpu].append((index, item.piece))
        # A row that this version lacks would be found: such pieces are searched as filters are.
        self.whole = all(covers(live, item.piece.ranges) for item in pieces)

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Search the lists, or compare with the allowed rows."""
        if not self.whole or n_allowed < int(self.live.sum()):
            return nearest_on_gpu(self.resources[0], self.keys, query, k, allowed)
        found = _at_once([partial(self._search, held, query, k) for held in self.pieces.values()], k)
        if not self.outside.any():
            return found
        return best_of([found, nearest_on_gpu(self.resources[0], self.keys, query, k, self.outside)], k)

    def _search(self, held: Sequence[tuple[Any, Piece]], query: FloatArray, k: int) -> tuple[IdArray, FloatArray]:
        faiss, found = load_faiss(), []
        for index, piece in held:
            parameters = faiss.SearchParametersIVF(nprobe=min(piece.nprobe, int(index.nlist), MOST))
            similarity, ids = index.search(query, k, params=parameters)
            found.append((ids, similarity))
        return best_of(found, k)

"""FAISS on a GPU: all keys where they fit, else the inverted files; kept there between batches."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from mclstexp.errors import InputError
from mclstexp.index.search.backend import Backend
from mclstexp.index.search.ivf import load_faiss, read
from mclstexp.index.search.pieces import LoadedPiece, outside
from mclstexp.index.search.ranges import covers
from mclstexp.types import BoolArray, Device, FloatArray, IdArray

MOST = 2048
"""FAISS selects no more neighbours than this on a GPU."""

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


def free_memory() -> int:
    """Return the free bytes of the GPU's memory."""
    import torch

    return int(torch.cuda.mem_get_info(0)[0]) if torch.cuda.is_available() else 0


def on_gpu(keys: FloatArray, live: BoolArray, pieces: Sequence[LoadedPiece]) -> tuple[Backend | None, str]:
    """Move what fits to the GPU.

    Returns
    -------
    Backend or None
        None when nothing fits.
    str
        A note for the user when less than everything is on the GPU, or "".
    """
    room = ROOM * free_memory()
    flat = 4 * int(live.sum()) * keys.shape[1]
    inverted = sum(loaded.piece.n_bytes for loaded in pieces)
    try:
        if flat <= room:
            return GpuFlatBackend(keys, live), ""
        if pieces and inverted <= room:
            note = f"The keys ({flat / 1e9:.1f} GB) do not fit on the GPU; the inverted files are searched there."
            return GpuInvertedBackend(keys, live, pieces), note
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["?"])[0][:120]
        return None, f"The GPU refused the index ({reason}), so the CPU searches."
    need = (min(flat, inverted) if pieces else flat) / 1e9
    return None, f"The index takes {need:.1f} GB, the GPU has {room / 1e9:.1f} GB for it, so the CPU searches."


def nearest_on_gpu(
    resources: Any, keys: FloatArray, query: FloatArray, k: int, allowed: BoolArray
) -> tuple[IdArray, FloatArray]:
    """Compare queries with the allowed rows only, which FAISS's GPU indexes cannot be told."""
    faiss = load_faiss()
    ids = np.flatnonzero(allowed)
    rows = np.ascontiguousarray(keys[ids])
    n_nearest = min(k, len(ids))
    similarity, where = faiss.knn_gpu(resources, query, rows, n_nearest, metric=faiss.METRIC_INNER_PRODUCT)
    return np.where(where >= 0, ids[np.maximum(where, 0)], -1), similarity


class GpuFlatBackend:
    """All keys on the GPU (``GpuIndexFlatIP``)."""

    name = "faiss flat on the GPU"
    certain = True
    most = MOST
    least = 0

    def __init__(self, keys: FloatArray, live: BoolArray) -> None:
        faiss = load_faiss()
        self.keys = keys
        self.ids = np.flatnonzero(live)
        self.resources = faiss.StandardGpuResources()
        self.index = faiss.GpuIndexFlatIP(self.resources, keys.shape[1])
        for start in range(0, len(self.ids), 65_536):
            self.index.add(np.ascontiguousarray(keys[self.ids[start : start + 65_536]]))

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Search all rows, or the allowed ones by themselves."""
        if n_allowed < len(self.ids):
            return nearest_on_gpu(self.resources, self.keys, query, k, allowed)
        similarity, where = self.index.search(query, min(k, len(self.ids)))
        return np.where(where >= 0, self.ids[np.maximum(where, 0)], -1), similarity


class GpuInvertedBackend:
    """The inverted files on the GPU; rows outside of them, and filters, by comparison there."""

    certain = False
    most = MOST
    least = 0

    def __init__(self, keys: FloatArray, live: BoolArray, pieces: Sequence[LoadedPiece]) -> None:
        faiss = load_faiss()
        self.name = f"faiss {pieces[0].piece.kind} on the GPU"
        self.keys = keys
        self.live = live
        self.outside = outside(pieces, live)
        self.resources = faiss.StandardGpuResources()
        self.pieces = [
            (faiss.index_cpu_to_gpu(self.resources, 0, read(item.path, mapped=False)), item.piece) for item in pieces
        ]
        # A row that this version lacks would be found: such pieces are searched as filters are.
        self.whole = all(covers(live, item.piece.ranges) for item in pieces)

    def candidates(self, query: FloatArray, k: int, allowed: BoolArray, n_allowed: int) -> tuple[IdArray, FloatArray]:
        """Search the lists, or compare with the allowed rows."""
        faiss = load_faiss()
        if not self.whole or n_allowed < int(self.live.sum()):
            return nearest_on_gpu(self.resources, self.keys, query, k, allowed)
        candidates = []
        if self.outside.any():
            candidates.append(nearest_on_gpu(self.resources, self.keys, query, k, self.outside))
        for index, piece in self.pieces:
            parameters = faiss.SearchParametersIVF(nprobe=min(piece.nprobe, int(index.nlist), MOST))
            similarity, ids = index.search(query, k, params=parameters)
            candidates.append((ids, similarity))
        return np.concatenate([part[0] for part in candidates], 1), np.concatenate([part[1] for part in candidates], 1)

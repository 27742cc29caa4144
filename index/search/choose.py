"""Which backend answers: what was asked for, what there is a device for, and what is at hand."""

from __future__ import annotations

from collections.abc import Sequence

from mclstexp.index.search.backend import Backend
from mclstexp.index.search.exact import ExactBackend
from mclstexp.index.search.faiss_cpu import FaissBackend
from mclstexp.index.search.faiss_gpu import choose_device, on_gpu
from mclstexp.index.search.pieces import LoadedPiece, outside
from mclstexp.index.search.ranges import touches
from mclstexp.types import BoolArray, Device, FloatArray


def by_faiss(keys: FloatArray, live: BoolArray, pieces: Sequence[LoadedPiece], device: Device) -> tuple[Backend, str]:
    """Return FAISS on the GPU or the CPU, or the comparison with every key where there are no inverted files.

    Returns
    -------
    Backend
        What finds candidates.
    str
        What was assumed, or "".
    """
    parts = [loaded for loaded in pieces if touches(live, loaded.piece.ranges)]
    note = ""
    if choose_device(device)[0] == "cuda":
        backend, note = on_gpu(keys, live, parts)
        if backend is not None:
            return backend, note
    if not parts:
        return ExactBackend(keys), note
    return FaissBackend(keys, parts, outside(parts, live)), note

"""Inverted files over keys. The only importer of faiss."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.errors import FormatError, InputError
from mclstexp.types import BoolArray, FloatArray, IdArray

KINDS = ("exact", "ivf-sq8", "ivf-fp16", "ivf-flat")
CHOICES = ("auto", *KINDS)
AUTO_KIND = "ivf-sq8"
EXACT_ROWS = 200_000
"""Up to here an exact search of a batch takes no longer than opening the model; `benchmarks/store.py` measures it."""

TRAIN_POINTS_PER_LIST = 40
_NEEDED_FLAGS = {
    "SKYLAKEX": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "HASWELL": {"avx2", "fma", "bmi1", "bmi2"},
}


def load_faiss() -> Any:
    """Import faiss so that its bundled OpenBLAS takes the kernels that this processor has.

    The wheel's OpenBLAS does not know recent processors and falls back to SSE3 kernels at half the speed. The type
    is only named when the processor states every instruction set that it needs, and only during the import.
    """
    if "faiss" in sys.modules or "OPENBLAS_CORETYPE" in os.environ:
        import faiss

        return faiss
    flags = _cpu_flags()
    core = next((name for name, needed in _NEEDED_FLAGS.items() if needed <= flags), None)
    if core is not None:
        os.environ["OPENBLAS_CORETYPE"] = core
    try:
        import faiss
    finally:
        if core is not None:
            del os.environ["OPENBLAS_CORETYPE"]
    return faiss


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def choose_kind(choice: str, n_rows: int) -> str:
    """Return the kind of index for a number of rows.

    Raises
    ------
    InputError
        For a choice that does not exist.
    """
    if choice not in CHOICES:
        raise InputError(f"Index {choice!r} does not exist; one of {', '.join(CHOICES)} is needed.")
    if choice != "auto":
        return choice
    return "exact" if n_rows <= EXACT_ROWS else AUTO_KIND


def lists_for(n_rows: int) -> int:
    """Return the number of inverted lists: the power of two nearest to twice the square root."""
    return max(16, 1 << round(math.log2(2 * math.sqrt(max(n_rows, 1)))))


def train(keys: FloatArray, ids: IdArray, kind: str) -> Any:
    """Train an empty inverted file on a deterministic sample of the rows ``ids`` of keys."""
    faiss = load_faiss()
    n, dim = len(ids), keys.shape[1]
    n_lists = min(lists_for(n), max(1, n // TRAIN_POINTS_PER_LIST))
    sample = min(n, TRAIN_POINTS_PER_LIST * n_lists)
    rows = np.unique(np.linspace(0, n - 1, sample).astype(np.int64))
    quantizer = faiss.IndexFlatIP(dim)
    if kind == "ivf-flat":
        index = faiss.IndexIVFFlat(quantizer, dim, n_lists, faiss.METRIC_INNER_PRODUCT)
    else:
        code = faiss.ScalarQuantizer.QT_8bit if kind == "ivf-sq8" else faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, n_lists, code, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.spherical = True
    index.cp.niter = 10
    index.cp.seed = 1234
    index.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(keys[ids[rows]]))
    return index


def fill(index: Any, keys: FloatArray, ids: IdArray, block: int = 65_536) -> None:
    """Add the rows ``ids`` of keys under their ids."""
    for start in range(0, len(ids), block):
        rows = ids[start : start + block]
        index.add_with_ids(np.ascontiguousarray(keys[rows]), rows)


def write(index: Any, path: Path) -> None:
    """Write an index to a file."""
    load_faiss().write_index(index, str(path))


def read(path: Path, *, mapped: bool) -> Any:
    """Read an inverted file; a mapped one is read where it is searched.

    Raises
    ------
    FormatError
        When it cannot be read.
    """
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise FormatError(f"The index file {path} is missing or damaged; run mst verify --repair.") from error


def entries(index: Any) -> IdArray:
    """Return the ids of all entries, list by list."""
    faiss, lists = load_faiss(), index.invlists
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
        for i in range(index.nlist)
        if lists.list_size(i)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def search(
    index: Any, query: FloatArray, k: int, *, nprobe: int, allowed: BoolArray | None = None
) -> tuple[IdArray, FloatArray]:
    """Return ids and approximate similarities, both ``(n, k)``, -1 where fewer were found.

    ``allowed`` says by id which rows may be found.
    """
    faiss = load_faiss()
    parameters = faiss.SearchParametersIVF(nprobe=min(nprobe, int(index.nlist)))
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))  # n counts bytes; beyond is not allowed
        parameters.sel = selector
    similarity, ids = index.search(np.ascontiguousarray(query), k, params=parameters)
    return ids, similarity

"""Inverted files over keys. The only importer of faiss."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.ranges import RowRanges
from mclstexp.types import BoolArray, FloatArray, IdArray

BitArray = NDArray[np.uint8]

KINDS = ("exact", "ivf-sq8", "ivf-fp16", "ivf-flat")
CHOICES = ("auto", *KINDS)
AUTO_KIND = "ivf-sq8"
EXACT_ROWS = 200_000
"""Up to here an exact search of a batch takes no longer than opening the model; `benchmarks/store.py` measures it."""

SHORT_DIM = 16
"""Keys up to this length are kept whole in the inverted files: 8 bits a value would not tell near ones apart."""

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


def choose_kind(choice: str, n_rows: int, dim: int = 256) -> str:
    """Return the kind of index for a number of rows, and the length of a key.

    Raises
    ------
    InputError
        For a choice that does not exist.

    Examples
    --------
    >>> choose_kind("auto", 1_000_000), choose_kind("auto", 1_000_000, 7)
    ('ivf-sq8', 'ivf-flat')
    """
    if choice not in CHOICES:
        raise InputError(f"Index {choice!r} does not exist; one of {', '.join(CHOICES)} is needed.")
    if choice != "auto":
        return choice
    if n_rows <= EXACT_ROWS:
        return "exact"
    return "ivf-flat" if dim <= SHORT_DIM else AUTO_KIND


def lists_for(n_rows: int) -> int:
    """Return the number of inverted lists: the power of two nearest to twice the square root."""
    return max(16, 1 << round(math.log2(2 * math.sqrt(max(n_rows, 1)))))


def train(keys: FloatArray, rows: RowRanges, kind: str) -> Any:
    """Train an empty inverted file on a deterministic sample of some rows of keys, whose size bounds the memory."""
    faiss = load_faiss()
    n, dim = len(rows), keys.shape[1]
    n_lists = min(lists_for(n), max(1, n // TRAIN_POINTS_PER_LIST))
    sample = min(n, TRAIN_POINTS_PER_LIST * n_lists)
    ids = rows.row_ids(np.unique(np.linspace(0, n - 1, sample).astype(np.int64)))
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
    index.train(np.ascontiguousarray(keys[ids]))
    return index


def emptied(path: Path) -> Any:
    """Return the lists of an inverted file without their entries, which are never read into memory.

    Raises
    ------
    FormatError
        When it cannot be read.
    """
    faiss, index = load_faiss(), read(path, mapped=True)
    lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    index.replace_invlists(lists, True)
    lists.this.disown()
    index.ntotal = 0
    return index


def fill(index: Any, keys: FloatArray, rows: RowRanges, block: int = 65_536) -> None:
    """Add some rows of keys under their ids, a block at a time."""
    for start in range(0, len(rows), block):
        ids = rows.row_ids(np.arange(start, min(start + block, len(rows))))
        index.add_with_ids(np.ascontiguousarray(keys[ids]), ids)


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


def nearest_lists(index: Any, query: FloatArray, nprobe: int) -> tuple[IdArray, FloatArray]:
    """Return the numbers of the lists nearest to each query, and how near, both ``(n, nprobe or all)``."""
    similarity, lists = index.quantizer.search(np.ascontiguousarray(query), min(nprobe, int(index.nlist)))
    return lists, similarity


def search(
    index: Any, query: FloatArray, k: int, *, lists: tuple[IdArray, FloatArray], bits: BitArray | None = None
) -> tuple[IdArray, FloatArray]:
    """Return ids and approximate similarities, both ``(n, k)``, -1 where fewer were found.

    Parameters
    ----------
    lists
        Which lists to look into, from `nearest_lists` of any file that shares them.
    bits
        `bits_of` a mask by id of the rows that may be found; None allows all.
    """
    faiss = load_faiss()
    pointer = faiss.swig_ptr
    parameters = faiss.SearchParametersIVF(nprobe=lists[0].shape[1])
    if bits is not None:
        selector = faiss.IDSelectorBitmap(len(bits), pointer(bits))  # n counts bytes; beyond is not allowed
        parameters.sel = selector
    query = np.ascontiguousarray(query, dtype=np.float32)
    if query.ndim != 2 or query.shape[1] != index.d or lists[0].shape != lists[1].shape or len(lists[0]) != len(query):
        raise InputError(f"Queries of shape {query.shape} do not fit an index over keys of length {index.d}.")
    ids = np.empty((len(query), k), dtype=np.int64)
    similarity = np.empty((len(query), k), dtype=np.float32)
    chosen, near = np.ascontiguousarray(lists[0]), np.ascontiguousarray(lists[1])
    # Python's search_preassigned takes no parameters.
    index.search_preassigned_c(
        len(query), pointer(query), k, pointer(chosen), pointer(near), pointer(similarity), pointer(ids), False,
        parameters,
    )  # fmt: skip
    return ids, similarity


def bits_of(mask: BoolArray) -> BitArray:
    """Return a mask by id, eight ids to a byte, as FAISS reads it."""
    return np.packbits(mask, bitorder="little")

"""Writing keys files: rows as they come, named by the hash of what they hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np

from mclstexp.errors import InputError
from mclstexp.index.search.ranges import merge_ranges
from mclstexp.index.search.segment import INDEX, Segment
from mclstexp.storage import TEMPORARY
from mclstexp.types import FloatArray


class SegmentWriter:
    """Writes the keys of a segment; `segment` is there after the block ended without error."""

    segment: Segment
    """The finished segment; without rows when nothing was added."""

    def __init__(self, root: Path) -> None:
        self._folder = root / INDEX
        self._folder.mkdir(exist_ok=True)
        self._temporary = self._folder / f"{TEMPORARY}keys"
        self._digest = hashlib.sha256()
        self._ranges: list[tuple[int, int]] = []

    def __enter__(self) -> SegmentWriter:
        self._handle = self._temporary.open("wb")
        return self

    def add(self, keys: FloatArray, row_start: int) -> None:
        """Append the ``(n, d)`` keys of consecutive rows."""
        data = np.ascontiguousarray(keys, dtype="<f4").tobytes()
        self._handle.write(data)
        self._digest.update(data)
        self._ranges.append((row_start, row_start + len(keys)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()
        if kind is not None or not self._ranges:
            self._temporary.unlink(missing_ok=True)
            self.segment = Segment(keys="", keys_sha256="", ranges=())
            return
        digest = self._digest.hexdigest()
        name = f"keys-{digest[:20]}.f32"
        self._temporary.replace(self._folder / name)
        self.segment = Segment(keys=f"{INDEX}/{name}", keys_sha256=digest, ranges=merge_ranges(self._ranges))


def unit_rows(values: FloatArray, what: str, n: int | None = None) -> FloatArray:
    """Return embeddings as contiguous ``(n, d)`` float32.

    Raises
    ------
    InputError
        When the shape is wrong, a value is not finite, or a row is not of unit length within 1e-3.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 2 or (n is not None and len(array) != n):
        raise InputError(f"{what} has shape {array.shape}, expected ({n if n is not None else 'n'}, embed_dim).")
    norms = np.linalg.norm(array, axis=1)
    bad = int((~(np.abs(norms - 1) < 1e-3)).sum())
    if bad:
        raise InputError(f"{what}: {bad} of {len(array)} rows are not finite or not of unit length.")
    return array

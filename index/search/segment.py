"""One immutable part of the search index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mclstexp.errors import FormatError
from mclstexp.index.search.ivf import InvertedFile
from mclstexp.index.search.ranges import Ranges, RowRanges
from mclstexp.types import FloatArray

INDEX = "index"


@dataclass(frozen=True)
class Segment:
    """An immutable part of the search index: the keys of some rows, and an inverted file over them where it pays.

    ``keys`` is a ``(n, d)`` little-endian float32 ``.npy`` whose rows are the row ids of ``ranges`` in order.
    """

    keys: str
    keys_sha256: str
    ranges: Ranges
    ivf: str | None = None
    ivf_sha256: str | None = None
    kind: str = "flat"
    nprobe: int = 0
    recall: float | None = None
    recall_k: int | None = None
    trained_on: int = 0

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def files(self) -> dict[str, str]:
        """Path (below the reference) to SHA-256."""
        files = {self.keys: self.keys_sha256}
        if self.ivf is not None and self.ivf_sha256 is not None:
            files[self.ivf] = self.ivf_sha256
        return files

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Segment:
        """Rebuild from plain JSON values."""
        return cls(**{**values, "ranges": tuple((int(a), int(b)) for a, b in values["ranges"])})


class LoadedSegment:
    """A segment whose keys are memory-mapped, and its inverted file where it has one."""

    def __init__(self, segment: Segment, keys: FloatArray, inverted: InvertedFile | None = None) -> None:
        self.segment = segment
        self.keys = keys
        self.inverted = inverted
        self.rows = RowRanges(segment.ranges)

    @classmethod
    def open(cls, root: Path, segment: Segment, dim: int) -> LoadedSegment:
        """Map a segment's files.

        Raises
        ------
        FormatError
            When a file is missing or has another size than its rows.
        """
        keys = map_keys(root / segment.keys, segment.n_rows, dim)
        inverted = InvertedFile.open(root / segment.ivf) if segment.ivf else None
        if inverted is not None and inverted.n_rows != segment.n_rows:
            raise FormatError(
                f"Reference {root}: {segment.ivf} has {inverted.n_rows} entries, its segment {segment.n_rows} rows; "
                "run mst verify --repair."
            )
        return cls(segment, keys, inverted)


def map_keys(path: Path, n_rows: int, dim: int) -> FloatArray:
    """Memory-map a keys file as ``(n_rows, dim)`` float32 (copy on write: the file never changes)."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FormatError(f"The index file {path} is missing; run mst verify --repair.") from error
    if size != n_rows * dim * 4:
        raise FormatError(
            f"The index file {path} has {size} bytes, expected {n_rows * dim * 4}; run mst verify --repair."
        )
    return np.memmap(path, dtype="<f4", mode="c", shape=(n_rows, dim))

"""Matrices whose row is a spot's id, kept in a file that is derived from the table: its keys, its expression.

A row of the table never changes and an id is never given out twice, so one file serves every version of a reference,
and bringing it up to date costs what was added.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.index.store.schema import SlideEntry
from mclstexp.notes import inform
from mclstexp.storage import canonical_json, read_digested, sha256_bytes, write_digested
from mclstexp.types import Progress

FILLED = "filled.json"
VALUES = "values"

CHECKED_BYTES = 2**27
"""Of a file so many bytes are compared with their hashes before they are used; `mst verify` compares all."""


class RowMatrix:
    """A file of rows for one key, and a record of the slides that are in it.

    Parameters
    ----------
    folder
        Folder of the file and its record; made when it is filled.
    key
        Plain values that say what the rows are; a record under another key counts as absent.
    dtype, width
        Type of a value, little-endian, and number of columns.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], dtype: str, width: int) -> None:
        self.folder = folder
        self.key = json.loads(canonical_json(dict(key)))
        self.dtype = np.dtype(dtype)
        self.width = width
        self.row_bytes = self.dtype.itemsize * width
        self._mapped: NDArray[Any] | None = None
        self._whole: dict[tuple[int, str], bool] = {}
        self._checked = 0

    def filled(self) -> dict[str, dict[str, Any]]:
        """Slides in the file, by their first row; none where the record is missing, damaged or of something else."""
        slides, size = self._record() or {}, self._size()
        ends = {start: (int(start) + slide["n_spots"]) * self.row_bytes for start, slide in slides.items()}
        return {start: slide for start, slide in slides.items() if ends[start] <= size}

    def problems(self) -> list[tuple[str, str]]:
        """Name and description of what is wrong with the two files, without looking at the values."""
        record = self._record()
        if (self.folder / FILLED).exists() and record is None:
            return [(FILLED, "the record of the rows is damaged")]
        if (self.folder / VALUES).exists() and record is None:
            return [(VALUES, "the rows have no record")]
        if len(self.filled()) < len(record or {}):
            return [(VALUES, "the file is cut short")]
        return []

    def _record(self) -> dict[str, dict[str, Any]] | None:
        values = read_digested(self.folder / FILLED)
        if values is None or values.get("key") != self.key:
            return None
        slides: dict[str, dict[str, Any]] = values["slides"]
        return slides

    def _size(self) -> int:
        try:
            return (self.folder / VALUES).stat().st_size
        except OSError:
            return 0

    def missing(self, entries: Sequence[SlideEntry]) -> list[SlideEntry]:
        """Slides whose rows are not in the file, or are not what was written."""
        known = {
            (int(start), slide["content_hash"], slide["n_spots"])
            for start, slide in self.filled().items()
            if self._is_whole(int(start), slide)
        }
        return [entry for entry in entries if (entry.row_start, entry.content_hash, entry.n_spots) not in known]

    def _is_whole(self, start: int, slide: Mapping[str, Any]) -> bool:
        """Whether a slide's rows have the hash that was kept of them; looked at once, as far as `CHECKED_BYTES` go."""
        known = start, str(slide["sha256"])
        n_bytes = slide["n_spots"] * self.row_bytes
        if known not in self._whole and self._checked + n_bytes <= CHECKED_BYTES:
            self._checked += n_bytes
            self._whole[known] = sha256_bytes(self.row_bytes_of(start, slide["n_spots"])) == known[1]
            if not self._whole[known]:
                inform(f"{self.folder / VALUES}: the rows from {start:,} on are damaged; the table's are taken.")
        return self._whole.get(known, True)

    def fill(
        self,
        entries: Sequence[SlideEntry],
        read: Callable[[SlideEntry], NDArray[Any]],
        *,
        on_progress: Progress | None = None,
    ) -> None:
        """Write the rows of slides that are not in the file yet.

        Raises
        ------
        OSError
            When the file cannot be written.
        """
        if not self.missing(entries):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            filled, todo = self.filled(), self.missing(entries)
            with (self.folder / VALUES).open("r+b" if (self.folder / VALUES).exists() else "w+b") as handle:
                for done, entry in enumerate(todo):
                    data = np.ascontiguousarray(read(entry), dtype=self.dtype).tobytes()
                    handle.seek(entry.row_start * self.row_bytes)
                    handle.write(data)
                    self._whole.clear()
                    filled[str(entry.row_start)] = {
                        "content_hash": entry.content_hash,
                        "n_spots": entry.n_spots,
                        "sha256": sha256_bytes(data),
                    }
                    if on_progress is not None:
                        on_progress("copying rows of the table", done + 1, len(todo))
                handle.flush()
                os.fsync(handle.fileno())
            write_digested(self.folder / FILLED, {"key": self.key, "slides": filled})

    def adopt(self, slides: Mapping[str, dict[str, Any]], data: bytes) -> None:
        """Write rows of slides that were derived elsewhere; the caller has compared them, and holds `locked`.

        Parameters
        ----------
        slides
            First row to content hash, number of spots and SHA-256 of the rows, in the order of the bytes.

        Raises
        ------
        OSError
            When the file cannot be written.
        """
        filled, at = self.filled(), 0
        with (self.folder / VALUES).open("r+b" if (self.folder / VALUES).exists() else "w+b") as handle:
            for start, slide in slides.items():
                n_bytes = slide["n_spots"] * self.row_bytes
                handle.seek(int(start) * self.row_bytes)
                handle.write(data[at : at + n_bytes])
                filled[start] = slide
                self._whole[int(start), str(slide["sha256"])] = True
                at += n_bytes
            handle.flush()
            os.fsync(handle.fileno())
        write_digested(self.folder / FILLED, {"key": self.key, "slides": filled})

    def values(self) -> NDArray[Any]:
        """Map the file as ``(n_ids, width)`` (copy on write: the file never changes through it)."""
        path = self.folder / VALUES
        rows = path.stat().st_size // self.row_bytes
        # Mapping again would fault every page in again; the file only ever grows, or is made anew by a repair.
        if self._mapped is None or len(self._mapped) != rows:
            self._mapped = np.memmap(path, dtype=self.dtype, mode="c", shape=(rows, self.width))
        return self._mapped

    def in_memory(self, entries: Sequence[SlideEntry], read: Callable[[SlideEntry], NDArray[Any]]) -> NDArray[Any]:
        """Return the rows of slides as `values` does, where no file can be kept."""
        values = np.zeros((max((entry.rows[1] for entry in entries), default=0), self.width), dtype=self.dtype)
        for entry in entries:
            values[slice(*entry.rows)] = read(entry)
        return values

    def row_bytes_of(self, row_start: int, n_rows: int) -> bytes:
        """Return rows as they are in the file."""
        with (self.folder / VALUES).open("rb") as handle:
            handle.seek(row_start * self.row_bytes)
            return handle.read(n_rows * self.row_bytes)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let those who derive the same thing wait for each other: they would only repeat each other's work."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # A file system without locks costs the work twice, and nothing else.
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""Expression of reference spots: from the table, or from a memory-mapped float16 copy that is made once.

Both give the same float16 values, so a prediction does not depend on whether the copy is there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import normalise
from mclstexp.index.store.manifest import CACHE
from mclstexp.index.store.tables import SlideEntry
from mclstexp.panel import GenePanel
from mclstexp.settings import to_dict
from mclstexp.storage import canonical_json, read_digested, sha256_bytes, write_digested
from mclstexp.types import FloatArray, HalfArray, IdArray, Progress

FILLED = "filled.json"
VALUES = "values.f16"


@dataclass(frozen=True, eq=False)
class SlideCounts:
    """Counts of some spots of one slide.

    ``where`` says which of the asked rows these are; ``counts`` is ``(len(where), n_genes)`` float32 CSR.
    """

    entry: SlideEntry
    where: IdArray
    counts: sparse.csr_matrix
    total_counts: IdArray
    panel_counts: IdArray


@dataclass(frozen=True, eq=False)
class ExpressionRows:
    """Expression of some spots, sparse, so that any block of genes can be laid out at little cost."""

    n_rows: int
    n_genes: int
    parts: tuple[tuple[IdArray, sparse.csc_matrix], ...]

    def dense(self, start: int, stop: int) -> HalfArray:
        """Return ``(n_rows, stop - start)`` float16 of a block of genes; 0 where not measured."""
        block = np.zeros((self.n_rows, stop - start), dtype=np.float16)
        for where, values in self.parts:
            part = slice(int(values.indptr[start]), int(values.indptr[stop]))
            columns = np.repeat(np.arange(stop - start), np.diff(values.indptr[start : stop + 1]))
            block[where[values.indices[part]], columns] = values.data[part]
        return block


def read_expression(
    pieces: Iterable[SlideCounts], panels: Mapping[str, GenePanel], n_rows: int, genes: GenePanel, rule: Normalisation
) -> ExpressionRows:
    """Normalise counts and keep the given genes."""
    parts = []
    for piece in pieces:
        panel = panels[piece.entry.genes_digest]
        target = np.array([genes.position.get(symbol, -1) for symbol in panel.symbols], dtype=np.int64)
        totals = piece.panel_counts if rule.total == "panel" else piece.total_counts
        per_row = np.diff(piece.counts.indptr)
        rows = np.repeat(np.arange(len(piece.where)), per_row)
        columns = target[piece.counts.indices]
        keep = columns >= 0
        spot_totals = totals[rows[keep]].astype(np.float64)
        values = normalise(piece.counts.data[keep][:, None], spot_totals, rule)[:, 0]
        shape = (len(piece.where), len(genes))
        parts.append((piece.where, sparse.csc_matrix((values, (rows[keep], columns[keep])), shape=shape)))
    return ExpressionRows(n_rows, len(genes), tuple(parts))


class ExpressionCache:
    """A file of float16 expression whose row is the row id, for one gene panel and normalisation.

    Rows never change and row ids are never used again, so one file serves every version. ``filled.json`` says which
    slides are in it, and the hash of each slide's rows.
    """

    def __init__(self, root: Path, reference_id: str, genes: GenePanel, rule: Normalisation) -> None:
        self.key = {"reference_id": reference_id, "genes": genes.digest, "normalisation": to_dict(rule)}
        self.folder = root / CACHE / f"expression-{sha256_bytes(canonical_json(self.key).encode())[:16]}"
        self.genes = genes
        self.rule = rule
        self.row_bytes = 2 * len(genes)
        self._mapped: HalfArray | None = None

    def filled(self) -> dict[str, dict[str, Any]]:
        """Slides in the file, by their first row id; none where the record is missing, damaged or of something else."""
        slides, size = self._record() or {}, self._size()
        ends = {start: (int(start) + slide["n_spots"]) * self.row_bytes for start, slide in slides.items()}
        return {start: slide for start, slide in slides.items() if ends[start] <= size}

    def problems(self) -> list[tuple[str, str]]:
        """Name and description of what is wrong with the two files, without looking at the values."""
        record = self._record()
        if (self.folder / FILLED).exists() and record is None:
            return [(FILLED, "the record of the copied expression is damaged")]
        if (self.folder / VALUES).exists() and record is None:
            return [(VALUES, "the copied expression has no record")]
        if len(self.filled()) < len(record or {}):
            return [(VALUES, "the copied expression is cut short")]
        return []

    def _record(self) -> dict[str, dict[str, Any]] | None:
        values = read_digested(self.folder / FILLED)
        if values is None or values["key"] != json.loads(canonical_json(self.key)):
            return None
        slides: dict[str, dict[str, Any]] = values["slides"]
        return slides

    def _size(self) -> int:
        try:
            return (self.folder / VALUES).stat().st_size
        except OSError:
            return 0

    def missing(self, entries: Sequence[SlideEntry]) -> list[SlideEntry]:
        """Slides whose rows are not in the file."""
        filled = self.filled()
        there = {(int(start), slide["content_hash"], slide["n_spots"]) for start, slide in filled.items()}
        return [entry for entry in entries if (entry.row_start, entry.content_hash, entry.n_spots) not in there]

    def fill(
        self,
        entries: Sequence[SlideEntry],
        read: Callable[[SlideEntry], ExpressionRows],
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
        with self._lock():
            filled = self.filled()
            todo = self.missing(entries)
            with (self.folder / VALUES).open("r+b" if (self.folder / VALUES).exists() else "w+b") as handle:
                for done, entry in enumerate(todo):
                    data = read(entry).dense(0, len(self.genes)).tobytes()
                    handle.seek(entry.row_start * self.row_bytes)
                    handle.write(data)
                    filled[str(entry.row_start)] = {
                        "content_hash": entry.content_hash,
                        "n_spots": entry.n_spots,
                        "sha256": sha256_bytes(data),
                    }
                    if on_progress is not None:
                        on_progress("copying the expression", done + 1, len(todo))
                handle.flush()
                os.fsync(handle.fileno())
            write_digested(self.folder / FILLED, {"key": self.key, "slides": filled})

    def values(self) -> HalfArray:
        """Map the file as ``(n_row_ids, n_genes)`` float16 (copy on write: the file never changes through it)."""
        path = self.folder / VALUES
        rows = path.stat().st_size // self.row_bytes
        # Mapping again would fault every page in again; the file only ever grows, or is made anew by a repair.
        if self._mapped is None or len(self._mapped) != rows:
            self._mapped = np.memmap(path, dtype="<f2", mode="c", shape=(rows, len(self.genes)))
        return self._mapped

    def row_bytes_of(self, row_start: int, n_rows: int) -> bytes:
        """Return rows as they are in the file."""
        with (self.folder / VALUES).open("rb") as handle:
            handle.seek(row_start * self.row_bytes)
            return handle.read(n_rows * self.row_bytes)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # Two that fill at once would only repeat each other's work; the second waits instead.
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def read_scale(path: Path) -> FloatArray | None:
    """Read the kept scores of the reference's own patches; None where they are missing or damaged."""
    values = read_digested(path)
    return None if values is None else np.asarray(values["scores"], dtype=np.float32)

"""Verification of what is derived from the table: compared with it, and made again where it differs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import FormatError
from mclstexp.index.search import ivf, pieces
from mclstexp.index.search.ranges import RowRanges
from mclstexp.index.store.expression import SlideCounts, read_expression
from mclstexp.index.store.matrix import VALUES, RowMatrix
from mclstexp.index.store.schema import SlideEntry
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.verify.findings import Report
from mclstexp.storage import TEMPORARY, read_digested, sha256_bytes, sha256_file
from mclstexp.types import FloatArray, IdArray


class Copies:
    """The copies of keys and expression, compared with the rows as they are read."""

    def __init__(self, newest: Snapshot, report: Report) -> None:
        self.newest = newest
        self.report = report
        self.panel = newest.identity.panel
        self.wrong: set[tuple[str, str]] = set()
        self._keys, self._expression = newest.keys_file, newest.expression_cache
        self._lacking = {
            held.folder: {entry.slide_id for entry in held.missing(newest.entries)}
            for held in (self._keys, self._expression)
        }

    def compare_keys(self, entry: SlideEntry, row_ids: IdArray, embedding: FloatArray) -> None:
        """Compare the keys of some rows of a slide, which follow each other."""
        self._compare(self._keys, entry, row_ids, lambda: embedding)

    def compare_expression(self, piece: SlideCounts, row_ids: IdArray) -> None:
        """Compare the expression of such rows."""
        self._compare(self._expression, piece.entry, row_ids, lambda: self._derived(piece))

    def _derived(self, piece: SlideCounts) -> NDArray[Any]:
        newest, n_rows = self.newest, len(piece.where)
        rows = read_expression([piece], newest.panels, n_rows, self.panel, newest.normalisation)
        return rows.dense(0, len(self.panel))

    def _compare(
        self, held: RowMatrix, entry: SlideEntry, row_ids: IdArray, derive: Callable[[], NDArray[Any]]
    ) -> None:
        name = f"{_name(self.newest, held.folder)}/{VALUES}"
        if entry.slide_id in self._lacking[held.folder] or (name, entry.slide_id) in self.wrong:
            return
        wanted = np.ascontiguousarray(derive(), dtype=held.dtype).tobytes()
        if held.row_bytes_of(int(row_ids[0]), len(row_ids)) != wanted:
            self.wrong.add((name, entry.slide_id))
            self.report.add("derived", name, f"the rows of slide {entry.slide_id} are not those of the table")


def check_derived(newest: Snapshot, report: Report) -> None:
    """Check the files of keys and expression by their hashes, the inverted files, and kept values."""
    for path in sorted(newest.derived.rglob(f"{TEMPORARY}*")):
        report.add("derived", _name(newest, path), "the file was never finished")
    for path in sorted(newest.derived.glob("[!.]*.json")):
        if read_digested(path) is None:
            report.add("derived", _name(newest, path), "the kept value is damaged")
    # What was published in the place of counts is no copy: the records of hashes have it.
    for held in (newest.keys_file, *([newest.expression_cache] if newest.has_counts else [])):
        name = _name(newest, held.folder)
        for file, problem in held.problems():
            report.add("derived", f"{name}/{file}", problem)
        for start, slide in held.filled().items():
            if sha256_bytes(held.row_bytes_of(int(start), slide["n_spots"])) != slide["sha256"]:
                report.add("derived", f"{name}/{VALUES}", f"the rows from {start} on are damaged")
    _check_pieces(newest, report)


def _name(newest: Snapshot, path: Path) -> str:
    return f"derived/{path.relative_to(newest.derived).as_posix()}"


def _check_pieces(newest: Snapshot, report: Report) -> None:
    folder = newest.index_folder
    record = folder / pieces.RECORD
    known = {loaded.path: loaded for loaded in newest.pieces()}
    listed = read_digested(record)
    if record.exists() and (listed is None or len(known) < len(listed["pieces"])):
        report.add("derived", _name(newest, record), "the record of the inverted files is damaged, or one is not whole")
    for path in sorted(folder.glob("ivf-*.faiss")):
        loaded = known.get(path)
        if loaded is None:
            report.add("derived", _name(newest, path), "no record names the inverted file")
        elif sha256_file(path) != loaded.piece.sha256:
            report.add("derived", _name(newest, path), "the inverted file is damaged")
        else:
            _check_entries(newest, loaded, report)


def _check_entries(newest: Snapshot, loaded: pieces.LoadedPiece, report: Report) -> None:
    rows = RowRanges(loaded.piece.ranges)
    try:
        held = np.sort(ivf.entries(loaded.index))
    except FormatError as error:
        report.add("derived", _name(newest, loaded.path), str(error))
        return
    if not np.array_equal(held, rows.row_ids(np.arange(len(rows)))):
        report.add(
            "derived", _name(newest, loaded.path), "the inverted file does not hold the ids that its record says"
        )


def repair_derived(newest: Snapshot, report: Report) -> None:
    """Remove what is wrong and derive it again; nothing is derived from rows that are wrong themselves."""
    wrong = [finding for finding in report.of("derived") if not finding.repaired]
    if report.of("table", "slides", "spots", "norm", "counts", "duplicate-spot") or not wrong:
        return
    for finding in wrong:
        path = newest.derived / finding.path.removeprefix("derived/")
        if path.parent != newest.derived:
            shutil.rmtree(path.parent, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    problems = Snapshot.at(newest.place, newest.version).bring_up()
    for finding in wrong:
        finding.repaired = not problems

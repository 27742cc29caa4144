"""Verification of what the rows say: of their slides, of their vectors, of their counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mclstexp.errors import FormatError
from mclstexp.index.store.counts import decode_counts
from mclstexp.index.store.expression import SlideCounts
from mclstexp.index.store.place import TABLE_FOLDER
from mclstexp.index.store.schema import SLIDE_COLUMNS, SlideEntry, matrix
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import ROW_ID
from mclstexp.index.verify.derived import Copies
from mclstexp.index.verify.findings import Report
from mclstexp.text import duplicates
from mclstexp.types import FloatArray, IdArray, Progress

NORM_TOLERANCE = 1e-3
_VALUES = ["embedding", "image_embedding", "count_genes", "count_values", "total_counts", "panel_counts", "spot_id"]


def check_slides(newest: Snapshot, report: Report) -> None:
    """Compare the slides with each other, and with their genes."""
    entries = newest.entries
    report.n_slides = len(entries)
    same: dict[str, list[str]] = {}
    for entry in entries:
        same.setdefault(entry.content_hash, []).append(entry.slide_id)
        if len(newest.panels[entry.genes_digest]) != entry.n_genes:
            report.add("slides", TABLE_FOLDER, f"slide {entry.slide_id} has another number of genes than it says")
    for names in same.values():
        if len(names) > 1:
            listed = ", ".join(sorted(names))
            text = f"probably the same slide under several names: {listed}"
            report.add("duplicate", TABLE_FOLDER, text, note=True)


def check_spots(newest: Snapshot, report: Report, *, on_progress: Progress | None = None) -> None:
    """Read every spot once: where it belongs, its embeddings, its counts, and the copies of them."""
    copies, done = Copies(newest, report), 0
    seen: dict[int, set[str]] = {}
    for batch in newest.spot_batches([*SLIDE_COLUMNS, *_VALUES, ROW_ID]):
        table = pa.Table.from_batches([batch])
        row_ids = np.asarray(table[ROW_ID], dtype=np.int64)
        done += len(row_ids)
        embedding = _check_vectors(newest, table, row_ids, report)
        numbers = newest.slide_numbers(row_ids)
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            part = table.slice(int(rows[0]), len(rows))
            seen = {int(number): seen.get(int(number), set())}
            piece = _check_part(newest, newest.entries[number], part, seen[int(number)], report)
            copies.compare_keys(newest.entries[number], row_ids[rows], embedding[rows])
            if piece is not None:
                copies.compare_expression(piece, row_ids[rows])
        report.n_spots = done
        if on_progress is not None:
            on_progress("reading spots", done, newest.n_spots)


def _check_part(
    newest: Snapshot, entry: SlideEntry, part: pa.Table, seen: set[str], report: Report
) -> SlideCounts | None:
    """Check some rows of a slide; return their counts where there are any that can be decoded."""
    for column in SLIDE_COLUMNS:
        if not _constant(part[column], getattr(entry, column)):
            report.add(
                "spots", TABLE_FOLDER, f"spots of slide {entry.slide_id} say another {column.removesuffix('_id')}"
            )
    names = part["spot_id"].to_pylist()
    repeated = [*duplicates(names), *seen.intersection(names)]
    if repeated:
        report.add("duplicate-spot", TABLE_FOLDER, f"slide {entry.slide_id} has spot {repeated[0]!r} more than once")
    seen.update(names)
    if not newest.has_counts:
        return None
    try:
        widths = (entry.gene_width, entry.value_width)
        counts = decode_counts(part["count_genes"], part["count_values"], widths, entry.n_genes)
    except FormatError:
        report.add("counts", TABLE_FOLDER, f"the counts of slide {entry.slide_id} cannot be decoded")
        return None
    panel = newest.identity.panel.position
    member = np.array([symbol in panel for symbol in newest.panels[entry.genes_digest].symbols], dtype=np.float64)
    exact = counts.astype(np.float64)
    totals = {"total_counts": exact @ np.ones(entry.n_genes), "panel_counts": exact @ member}
    for column, values in totals.items():
        if not np.array_equal(values, np.asarray(part[column], dtype=np.float64)):
            text = f"the column {column} of slide {entry.slide_id} is not the sum of its counts"
            report.add("counts", TABLE_FOLDER, text)
    stored = [np.asarray(part[column], dtype=np.int64) for column in totals]
    return SlideCounts(entry, np.arange(len(part)), counts, *stored)


def _constant(column: pa.ChunkedArray, value: Any) -> bool:
    if value is None:
        return bool(column.null_count == len(column))
    return column.null_count == 0 and bool(pc.all(pc.equal(column, pa.scalar(value, column.type))).as_py())


def _check_vectors(newest: Snapshot, table: pa.Table, row_ids: IdArray, report: Report) -> FloatArray:
    """Check that embeddings are of unit length; return the keys."""
    pictured = np.array([entry.has_image for entry in newest.entries])[newest.slide_numbers(row_ids)]
    dim = newest.identity.embed_dim
    keys = matrix(table["embedding"], dim)
    for name, values, wanted in (
        ("embedding", keys, np.ones(len(row_ids), dtype=bool)),
        ("image_embedding", matrix(table["image_embedding"], dim), pictured),
    ):
        norms = np.linalg.norm(values.astype(np.float64), axis=1)
        bad = np.where(wanted, ~(np.abs(norms - 1) < NORM_TOLERANCE), ~np.isnan(norms))
        if bad.any():
            entry = newest.entries[int(newest.slide_numbers(row_ids[bad][:1])[0])]
            text = f"{int(bad.sum())} values of {name} are not unit vectors, first in {entry.slide_id}"
            report.add("norm", TABLE_FOLDER, text)
    return keys

"""Verification of what the tables hold, and of the index and the cache against them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.errors import FormatError, MclstexpError
from mclstexp.index.search.ranges import RowRanges, merge_ranges
from mclstexp.index.search.segment import LoadedSegment
from mclstexp.index.store import tables
from mclstexp.index.store.counts import decode_counts
from mclstexp.index.store.expression import VALUES, read_scale
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.tables import SlideEntry
from mclstexp.index.verify.findings import Report
from mclstexp.storage import sha256_bytes
from mclstexp.text import duplicates
from mclstexp.types import Progress

NORM_TOLERANCE = 1e-3
_SPOT_COLUMNS = ["row_id", "slide_id", "patient", "cohort", "spot_id", "total_counts", "panel_counts"]
_ALL_COLUMNS = [*_SPOT_COLUMNS, "embedding", "image_embedding", "count_genes", "count_values"]


def check_slides(store: ReferenceStore, report: Report) -> None:
    """Check the table `slides` against itself and the manifest."""
    entries = store.entries
    report.n_slides = len(entries)
    name = store.manifest.slides.path
    for slide in duplicates(entry.slide_id for entry in entries):
        report.add("slides", name, f"slide {slide} is there more than once")
    for before, after in pairwise(entries):
        if before.rows[1] > after.rows[0]:
            report.add("slides", name, f"slides {before.slide_id} and {after.slide_id} share rows")
    if entries and entries[-1].rows[1] > store.manifest.next_row_id:
        report.add("slides", name, f"slide {entries[-1].slide_id} has rows that the manifest has not given out")
    same: dict[str, list[str]] = {}
    for entry in entries:
        same.setdefault(entry.content_hash, []).append(entry.slide_id)
    for names in same.values():
        if len(names) > 1:
            listed = ", ".join(sorted(names))
            report.add("duplicate", name, f"probably the same slide under several names: {listed}", note=True)
    for entry in entries:
        if len(store.panels[entry.genes_digest]) != entry.n_genes:
            report.add("slides", name, f"slide {entry.slide_id} has another number of genes than it says")


def check_spots(store: ReferenceStore, report: Report, *, on_progress: Progress | None = None) -> None:
    """Read every spot once: where it belongs, its embeddings and its counts, and its key in the index."""
    path = store.manifest.spots.path
    segments = _open_segments(store, report)
    done = 0
    expected = _live_row_ids(store)
    seen: dict[int, set[str]] = {}
    for batch in store.spot_batches(_ALL_COLUMNS):
        table = pa.Table.from_batches([batch])
        row_ids = np.asarray(table["row_id"], dtype=np.int64)
        if not np.array_equal(row_ids, expected[done : done + len(row_ids)]):
            report.add("rows", path, f"rows at offset {done} are not those that their slides say")
            return
        done += len(row_ids)
        embedding = tables.matrix(table["embedding"], store.identity.embed_dim)
        _check_vectors(store, table, row_ids, embedding, report)
        _check_keys(segments, row_ids, embedding, report)
        numbers = store.slide_numbers(row_ids)
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            part = table.slice(int(rows[0]), len(rows))
            _check_part(store, store.entries[number], part, seen.setdefault(int(number), set()), report)
            seen = {int(number): seen[int(number)]}
        report.n_spots = done
        if on_progress is not None:
            on_progress("reading spots", done, store.n_spots)
    if done != store.n_spots:
        report.add("rows", path, f"the table has {done} spots, the manifest {store.n_spots}")


def _live_row_ids(store: ReferenceStore) -> NDArray[np.int64]:
    return store.rows.row_ids(np.arange(len(store.rows)))


def _check_part(store: ReferenceStore, entry: SlideEntry, part: pa.Table, seen: set[str], report: Report) -> None:
    path = store.manifest.spots.path
    for column in ("slide_id", "patient", "cohort"):
        if set(part[column].to_pylist()) != {getattr(entry, column)}:
            report.add("spots", path, f"spots of slide {entry.slide_id} say another {column.removesuffix('_id')}")
    names = part["spot_id"].to_pylist()
    repeated = [*duplicates(names), *seen.intersection(names)]
    if repeated:
        report.add("duplicate-spot", path, f"slide {entry.slide_id} has spot {repeated[0]!r} more than once")
    seen.update(names)
    try:
        widths = (entry.gene_width, entry.value_width)
        counts = decode_counts(part["count_genes"], part["count_values"], widths, entry.n_genes)
    except FormatError:
        report.add("counts", path, f"the counts of slide {entry.slide_id} cannot be decoded")
        return
    panel = store.identity.panel.position
    member = np.array([symbol in panel for symbol in store.panels[entry.genes_digest].symbols], dtype=np.float64)
    exact = counts.astype(np.float64)
    totals = {"total_counts": exact @ np.ones(entry.n_genes), "panel_counts": exact @ member}
    for column, values in totals.items():
        if not np.array_equal(values, np.asarray(part[column], dtype=np.float64)):
            report.add("counts", path, f"the column {column} of slide {entry.slide_id} is not the sum of its counts")


def _check_vectors(
    store: ReferenceStore, table: pa.Table, row_ids: NDArray[np.int64], embedding: NDArray[np.float32], report: Report
) -> None:
    path = store.manifest.spots.path
    image = tables.matrix(table["image_embedding"], store.identity.embed_dim)
    pictured = np.array([entry.has_image for entry in store.entries])[store.slide_numbers(row_ids)]
    for name, values, wanted in (
        ("embedding", embedding, np.ones(len(row_ids), dtype=bool)),
        ("image_embedding", image, pictured),
    ):
        norms = np.linalg.norm(values.astype(np.float64), axis=1)
        bad = np.where(wanted, ~(np.abs(norms - 1) < NORM_TOLERANCE), ~np.isnan(norms))
        if bad.any():
            entry = store.entries[int(store.slide_numbers(row_ids[bad][:1])[0])]
            report.add(
                "norm", path, f"{int(bad.sum())} values of {name} are not unit vectors, first in {entry.slide_id}"
            )


def _open_segments(store: ReferenceStore, report: Report) -> list[LoadedSegment]:
    """Open the index's segments; check their inverted files and that together they hold every row once."""
    opened = []
    dim = store.identity.embed_dim
    for segment in store.manifest.segments:
        try:
            loaded = LoadedSegment.open(store.root, segment, dim)
        except MclstexpError as error:
            report.add("index", segment.keys, str(error))
            continue
        opened.append(loaded)
        if loaded.inverted is not None:
            held = np.sort(loaded.inverted.row_ids())
            if not np.array_equal(held, loaded.rows.row_ids(np.arange(len(loaded.rows)))):
                report.add("index", str(segment.ivf), "the inverted file does not hold its segment's rows once each")
    held_twice = sum(segment.n_rows for segment in store.manifest.segments)
    ranges = merge_ranges([part for segment in store.manifest.segments for part in segment.ranges])
    if held_twice != len(RowRanges(ranges)):
        report.add("index", "index", "segments of the index share rows")
    live = _live_row_ids(store)
    lacking = int((RowRanges(ranges).positions(live) < 0).sum())
    if lacking:
        report.add("index", "index", f"the index lacks {lacking} spots of the table")
    return opened


def _check_keys(
    segments: list[LoadedSegment], row_ids: NDArray[np.int64], embedding: NDArray[np.float32], report: Report
) -> None:
    for segment in segments:
        positions = segment.rows.positions(row_ids)
        here = positions >= 0
        if here.any():
            differ = np.any(segment.keys[positions[here]] != embedding[here], axis=1)
            if differ.any() and not any(finding.path == segment.segment.keys for finding in report.of("vector")):
                report.add(
                    "vector", segment.segment.keys, f"{int(differ.sum())} keys differ from the table's embeddings"
                )


def check_cache(store: ReferenceStore, report: Report, *, on_progress: Progress | None = None) -> None:
    """Derive the copy of the expression again, slide by slide, and compare; other files of the cache belong to none."""
    cache = store.expression_cache
    name = cache.folder.relative_to(store.root).as_posix()
    for file, problem in cache.problems():
        report.add("unfinished" if file == VALUES else "cache", f"{name}/{file}", problem)
    filled = cache.filled()
    for start, slide in filled.items():
        if sha256_bytes(cache.row_bytes_of(int(start), slide["n_spots"])) != slide["sha256"]:
            report.add("cache", f"{name}/{VALUES}", f"the copied expression from row {start} on is damaged")
    present = {entry.row_start: entry for entry in store.entries if entry not in cache.missing(store.entries)}
    for done, entry in enumerate(present.values()):
        data = cache.row_bytes_of(entry.row_start, entry.n_spots)
        derived = store.expression(np.arange(*entry.rows), cache.genes, cache.rule).dense(0, len(cache.genes)).tobytes()
        if data != derived:
            report.add("cache", f"{name}/{VALUES}", f"the copied expression of slide {entry.slide_id} is wrong")
        if on_progress is not None:
            on_progress("comparing the copied expression", done + 1, len(present))
    _check_scales(store.root / "cache", report)


def _check_scales(folder: Path, report: Report) -> None:
    for path in sorted(folder.glob("familiarity-*")):
        if read_scale(path) is None:
            report.add("cache", f"cache/{path.name}", "the scale of familiarity is damaged")

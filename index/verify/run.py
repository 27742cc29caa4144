"""`mst verify`: look at everything, and mend what can be derived."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from mclstexp.errors import FormatError, InputError, MclstexpError
from mclstexp.index.search import growth as segments
from mclstexp.index.search.ivf import choose_kind
from mclstexp.index.search.keys import SegmentWriter
from mclstexp.index.search.ranges import Ranges, merge_ranges
from mclstexp.index.search.segment import Segment
from mclstexp.index.store.commit import finish, remove_files, writing
from mclstexp.index.store.lock import writer_lock
from mclstexp.index.store.manifest import MANIFEST, Manifest, history_path
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.files import (
    check_hashes,
    check_history,
    check_manifest,
    check_orphans,
    check_tags,
    newest_record,
    writer_is_busy,
)
from mclstexp.index.verify.findings import Finding, Report
from mclstexp.index.verify.tables import check_cache, check_slides, check_spots
from mclstexp.storage import storage_errors, write_atomic
from mclstexp.types import Progress


def verify(root: Path, *, repair: bool = False, on_progress: Progress | None = None) -> Report:
    """Check manifest, history, hashes, tables, index, cache, tags and what belongs to no commit.

    Parameters
    ----------
    repair
        Mend what can be derived: the manifest from the history, the index and the cache from the table; debris is
        removed. What is mended is marked so; damage to the tables themselves cannot be mended.

    Raises
    ------
    InputError
        When the folder is not a reference.
    LockedError
        When a repair meets a writer.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a reference: there is no such folder.")
    report = Report()
    with _locked(root, repair):
        before = _bytes(root / MANIFEST)
        manifest = check_manifest(root, report)
        if manifest is None:
            manifest = _repair_manifest(root, report, repair=repair)
        if manifest is None:
            return report
        report.version = manifest.version
        busy = not repair and writer_is_busy(root)
        records = check_history(root, manifest, report)
        owned = check_hashes(root, records, report)
        complete = not report.of("history")
        if not repair and (busy or writer_is_busy(root) or before != _bytes(root / MANIFEST)):
            report.add("busy", "", "a writer is at work, so unfinished files were not looked for", note=True)
        elif complete:
            check_orphans(root, owned, manifest, report)
        else:
            report.add("orphan", "", "orphans cannot be told while records are missing", note=True)
        check_tags(manifest, report)
        if repair:
            _repair_files(root, manifest, report)
        broken = {finding.path.split("/", 1)[0] for finding in report.of("damaged", "missing") if finding.used}
        if broken & {manifest.spots.path, manifest.slides.path}:
            report.add("table", "", "the tables were not read, since files of theirs are damaged or missing")
        else:
            _check_content(root, report, on_progress)
    if repair:
        _repair_derived(root, records, report)
    return report


@contextmanager
def _locked(root: Path, repair: bool) -> Iterator[None]:
    if not repair:
        yield
        return
    with storage_errors(f"Reference {root}"), writer_lock(root, "mst verify --repair"):
        yield


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _check_content(root: Path, report: Report, on_progress: Progress | None) -> None:
    try:
        store = ReferenceStore.open(root)
        check_slides(store, report)
        check_spots(store, report, on_progress=on_progress)
        check_cache(store, report)
    except MclstexpError as error:
        report.add("table", "", str(error))


def _repair_manifest(root: Path, report: Report, *, repair: bool) -> Manifest | None:
    record = newest_record(root)
    if record is None:
        report.add("manifest", MANIFEST, "no record of the history is whole, so the manifest cannot be derived")
        return None
    if not repair:
        report.add(
            "manifest", MANIFEST, f"mst verify --repair takes it from the record of version {record.version}", note=True
        )
        return None
    write_atomic(root / MANIFEST, history_path(root, record.version).read_bytes())
    for finding in report.of("manifest"):
        finding.repaired = True
    return record


def _repair_files(root: Path, manifest: Manifest, report: Report) -> None:
    """Mend what needs nothing but the files themselves."""
    for finding in report.of("history"):
        if finding.path == history_path(root, manifest.version).relative_to(root).as_posix():
            write_atomic(root / finding.path, (root / MANIFEST).read_bytes())
            finding.repaired = True
    for finding in report.of("orphan", "hint"):
        path = root / finding.path
        if finding.level == "note":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            remove_files(root, [path])
        finding.repaired = True


def _repair_derived(root: Path, records: list[Manifest], report: Report) -> None:
    """Write index files and the cache anew from the table."""
    tables_whole = not report.of("table", "rows", "slides", "norm", "spots", "counts", "duplicate-spot")
    index_files = {name for record in records for segment in record.segments for name in segment.files}
    broken = [finding for finding in report.of("damaged", "missing") if finding.path in index_files]
    content = report.of("index", "vector")
    if (broken or content) and tables_whole:
        _repair_index(root, records, broken, content)
    if report.of("cache", "unfinished") and tables_whole:
        for finding in report.of("cache", "unfinished"):
            path = root / finding.path
            shutil.rmtree(path.parent, ignore_errors=True) if path.parent.parent.name == "cache" else path.unlink()
        problem = ReferenceStore.open(root).fill_cache()
        for finding in report.of("cache", "unfinished"):
            finding.repaired = not problem


def _repair_index(root: Path, records: list[Manifest], broken: list[Finding], content: list[Finding]) -> None:
    """Write lost keys again, leave lost inverted files out of the records, and build the newest index anew."""
    lost = {finding.path for finding in broken}
    with writing(root, "mst verify --repair") as change:
        for record in records:
            for segment in record.segments:
                if segment.keys in lost and _rewrite_keys(ReferenceStore(root, record), segment):
                    lost.discard(segment.keys)
        trees = {name for name in lost if name.endswith(".faiss")}
        for record in records:
            if any(segment.ivf in trees for segment in record.segments):
                _rewrite(root, _without_trees(record, trees))
        remove_files(root, [root / name for name in trees])
        current = ReferenceStore.open(root)
        before = records[-1]
        stale = bool(content) or any(name in lost for segment in before.segments for name in segment.files)
        if stale:
            live = merge_ranges([entry.rows for entry in current.entries])
            kind = choose_kind(before.index_choice, current.n_spots)
            whole = _keys_from_table(current, live)
            parts = segments.rebuild(root, [whole], live, kind=kind, dim=current.identity.embed_dim)
            finish(change, replace(current.manifest, segments=parts), message="rebuild the index (verify --repair)")
    for finding in broken:
        finding.repaired = finding.path not in lost - trees
    for finding in content:
        finding.repaired = True


def _rewrite_keys(store: ReferenceStore, segment: Segment) -> bool:
    """Write a segment's keys again from the table; the file is the same when this version has all of its rows."""
    with contextlib.suppress(InputError, FormatError):
        return _keys_from_table(store, segment.ranges).keys_sha256 == segment.keys_sha256
    return False


def _keys_from_table(store: ReferenceStore, ranges: Ranges) -> Segment:
    with SegmentWriter(store.root) as writer:
        for start, stop in ranges:
            for first in range(start, stop, 16_384):
                last = min(first + 16_384, stop)
                writer.add(store.embeddings(np.arange(first, last)), first)
    return writer.segment


def _without_trees(record: Manifest, trees: set[str]) -> Manifest:
    parts = tuple(
        Segment(keys=segment.keys, keys_sha256=segment.keys_sha256, ranges=segment.ranges)
        if segment.ivf in trees
        else segment
        for segment in record.segments
    )
    files = {name: digest for name, digest in record.new_files.items() if name not in trees}
    return replace(record, segments=parts, new_files=files)


def _rewrite(root: Path, record: Manifest) -> None:
    newest = ReferenceStore.open(root).version == record.version
    write_atomic(history_path(root, record.version), record.to_bytes())
    if newest:
        write_atomic(root / MANIFEST, record.to_bytes())

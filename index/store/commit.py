"""How a reference changes: one writer, Lance tables first, index files next, the manifest last.

Until the manifest is replaced nothing that was written is part of the reference; what a crash left behind is taken
away by the next writer.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

import mclstexp
from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.keys import SegmentWriter
from mclstexp.index.search.ranges import Ranges, merge_ranges
from mclstexp.index.search.segment import INDEX
from mclstexp.index.store import tables
from mclstexp.index.store.lock import writer_lock
from mclstexp.index.store.manifest import (
    HISTORY,
    MANIFEST,
    MODELS,
    TABLE_FOLDER,
    Manifest,
    TableVersion,
    commit_manifest,
    history_path,
    read_manifest,
)
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.tables import LanceTable, SlideEntry
from mclstexp.panel import GenePanel
from mclstexp.storage import TEMPORARY, FromRecords, files_below, sha256_file, storage_errors, sync_file

LANCE_HINT = "latest_version_hint.json"
"""Lance's own pointer to the newest version: rewritten in place, derived from the folder's listing."""


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Writing:
    """An open change of a reference: what was there, and what has been written since."""

    root: Path
    command: str
    before: Manifest | None
    existing: set[Path]
    time: str = field(default_factory=now)

    @property
    def version(self) -> int:
        """Version that the commit will have."""
        return 1 if self.before is None else self.before.version + 1

    def new_files(self) -> dict[str, str]:
        """Hash and flush every table and index file written since the change began."""
        found = {}
        for path in sorted(data_files(self.root) - self.existing):
            sync_file(path)
            found[path.relative_to(self.root).as_posix()] = sha256_file(path)
        return found

    def undo(self) -> None:
        """Take away what was written since the change began."""
        remove_files(self.root, data_files(self.root) - self.existing)


def data_files(root: Path) -> set[Path]:
    """Every file of the tables and the index, without Lance's hints and without unfinished files."""
    folders = [path for path in root.glob("*.lance") if TABLE_FOLDER.fullmatch(path.name)] + [
        root / INDEX,
        root / MODELS,
    ]
    return {path for folder in folders for path in files_below(folder) if path.name != LANCE_HINT}


def remove_files(root: Path, paths: Iterable[Path]) -> None:
    """Remove files, and the hints of the tables that they belonged to."""
    for path in paths:
        path.unlink(missing_ok=True)
        top = path.relative_to(root).parts[0]
        if top.endswith(".lance"):
            (root / top / "_versions" / LANCE_HINT).unlink(missing_ok=True)


@contextmanager
def writing(root: Path, command: str) -> Iterator[Writing]:
    """Hold the lock and undo everything when the block fails.

    Raises
    ------
    LockedError
        When another process is writing.
    StorageError
        When the operating system refuses a write.
    """
    try:
        with storage_errors(f"Reference {root}"), writer_lock(root, command):
            before = read_manifest(root / MANIFEST, root) if (root / MANIFEST).exists() else None
            clear_debris(root, before)
            change = Writing(root, command, before, data_files(root))
            try:
                yield change
            except BaseException:
                with contextlib.suppress(OSError):
                    change.undo()
                raise
    except FromRecords as passed:
        raise passed.error from None


def clear_debris(root: Path, manifest: Manifest | None) -> None:
    """Take away what a killed writer left and the next would trip over; the rest is left to ``mst verify --repair``."""
    for folder in (root, root / HISTORY, root / INDEX):
        for path in folder.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)
    if manifest is None:
        remove_files(root, data_files(root))
        return
    for folder in root.glob("*.lance"):
        name = TABLE_FOLDER.fullmatch(folder.name)
        if name and name[2] and int(name[2][1:]) > manifest.version:
            shutil.rmtree(folder)
    for table in (manifest.spots, manifest.slides):
        ahead = [file for number, file in tables.listed_versions(root, table.path).items() if number > table.version]
        remove_files(root, ahead)
    for path in (root / HISTORY).glob("*.json"):
        if path.stem.isdigit() and int(path.stem) > manifest.version:
            path.unlink()


def history(root: Path, manifest: Manifest) -> list[Manifest]:
    """Every commit up to a manifest that can still be opened, oldest first.

    Raises
    ------
    FormatError
        When a record is damaged or missing.
    """
    records = []
    for version in range(manifest.first_version, manifest.version):
        path = history_path(root, version)
        if not path.exists():
            raise FormatError(f"Reference {root}: the record of version {version} is missing; run mst verify.")
        records.append(read_manifest(path, root))
    return [*records, manifest]


def finish(
    change: Writing,
    template: Manifest,
    *,
    message: str,
    also: Mapping[str, str] | None = None,
) -> Manifest:
    """Commit: flush and hash what is new, then write the record and the manifest.

    ``also`` names files that the commit takes over from before, with their hashes.
    """
    # A segment named by its content may have been there already, from a reference that was replaced.
    kept = {name: digest for segment in template.segments for name, digest in segment.files.items()}
    tags = {} if change.before is None else change.before.tags
    manifest = Manifest(
        **{
            **template.__dict__,
            "version": change.version,
            "time": change.time,
            "message": message,
            "command": change.command,
            "package_version": mclstexp.__version__,
            "tags": {name: number for name, number in tags.items() if number >= template.first_version},
            "new_files": dict(also or {}) | kept | change.new_files(),
        }
    )
    commit_manifest(change.root, manifest)
    return manifest


@dataclass
class Incoming:
    """Turns records into table rows one slide at a time, and remembers what it made."""

    panel: GenePanel
    next_row_id: int
    time: str
    version: int
    dim: int
    keys: SegmentWriter
    entries: list[SlideEntry] = field(default_factory=list)
    panels: dict[str, GenePanel] = field(default_factory=dict)

    def batches(self, records: Iterable[SlideRecord]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of each record."""
        for record in records:
            if record.embedding.shape[1] != self.dim:
                raise InputError(
                    f"Slide {record.slide_id}: embeddings have length {record.embedding.shape[1]}, "
                    f"the reference's {self.dim}."
                )
            batch = tables.spot_batch(record, self.next_row_id, self.panel)
            entry = tables.describe(
                record, self.next_row_id, added=self.time, version=self.version, n_bytes=batch.nbytes
            )
            self.keys.add(record.embedding, self.next_row_id)
            self.entries.append(entry)
            self.panels[record.genes.digest] = record.genes
            self.next_row_id += len(record)
            for start in range(0, batch.num_rows, tables.BATCH_ROWS):
                yield batch.slice(start, tables.BATCH_ROWS)


def drop_slides(root: Path, manifest: Manifest, entries: list[SlideEntry]) -> tuple[TableVersion, TableVersion]:
    """Delete slides from both tables."""
    ranges: Ranges = merge_ranges([entry.rows for entry in entries])
    spots = tables.delete_rows(root, manifest.spots, tables.range_condition(ranges))
    starts = ", ".join(str(entry.row_start) for entry in entries)
    slides = tables.delete_rows(root, manifest.slides, f"row_start IN ({starts})")
    return spots, slides


def read_entries(root: Path, manifest: Manifest) -> list[SlideEntry]:
    """Read the slides of a version, in the order of their rows."""
    table = LanceTable(root, manifest.slides).read(lambda ds: ds.to_table(columns=tables.SLIDE_COLUMNS))
    entries = [SlideEntry(**row) for row in table.to_pylist()]
    return sorted(entries, key=lambda entry: entry.row_start)

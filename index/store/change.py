"""What every change of a reference needs: rows on their way, the commit until it passes, what is derived after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

import mclstexp
from mclstexp.errors import InputError, StorageError
from mclstexp.index.store import fragments
from mclstexp.index.store.fragments import Outdated
from mclstexp.index.store.genes import genes_digest, genes_name, keep_genes
from mclstexp.index.store.hashes import record_version
from mclstexp.index.store.place import Place
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.schema import BATCH_ROWS, SlideEntry, spot_batch
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import Table
from mclstexp.notes import warn
from mclstexp.panel import GenePanel
from mclstexp.storage import FromRecords

UNFINISHED = "unfinished"

Content = tuple[str, str, str]
"""Content hash, patient and cohort: what two slides of one name must share to be the same."""


@dataclass
class Rows:
    """Slides on their way into the table: their batches, and what was written of them."""

    place: Place
    panel: GenePanel
    dim: int
    time: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    slides: dict[str, Content] = field(default_factory=dict)
    fragments: list[Any] = field(default_factory=list)
    genes: set[str] = field(default_factory=set)

    def write(self, records: Iterable[SlideRecord], schema: pa.Schema, mode: str) -> None:
        """Write records, one slide at a time, into fragments of no version."""
        self.fragments = fragments.write(self.place, schema, self._batches(records, schema), mode)

    def _batches(self, records: Iterable[SlideRecord], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for record in records:
            if record.embedding.shape[1] != self.dim:
                raise InputError(
                    f"Slide {record.slide_id}: embeddings have length {record.embedding.shape[1]}, "
                    f"the reference's {self.dim}."
                )
            digest = genes_digest(record.genes)
            if digest not in self.genes:
                keep_genes(self.place, record.genes)
            self.genes.add(digest)
            batch = spot_batch(record, self.panel, self.time)
            whole = pa.RecordBatch.from_arrays(batch.columns, schema=schema)
            self.slides[record.slide_id] = (record.content_hash, record.patient, record.cohort)
            for start in range(0, whole.num_rows, BATCH_ROWS):
                yield whole.slice(start, BATCH_ROWS)

    def drop(self, names: Sequence[str], schema: pa.Schema) -> None:
        """Leave out slides that somebody else has added meanwhile."""
        for name in names:
            del self.slides[name]
        if self.slides:
            self.fragments = fragments.without(self.place, schema, self.fragments, names)
        else:
            self.discard()

    def discard(self) -> None:
        """Take away what was written."""
        fragments.discard(self.place, self.fragments)
        self.fragments = []


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def properties_of(
    message: str, command: str, n_slides: int, time: str = "", *, unfinished: bool = False
) -> dict[str, Any]:
    """Return what a commit says of itself; ``unfinished`` where further ones of the same build are to come."""
    return {
        **({UNFINISHED: True} if unfinished else {}),
        "message": message,
        "command": command,
        "package_version": mclstexp.__version__,
        "time": time or now(),
        "n_slides": n_slides,
    }


def distinct(records: Iterable[SlideRecord]) -> Iterator[SlideRecord]:
    """Pass records on; refuse a name that comes twice. What the iterator raises reaches the caller as it is."""
    seen: set[str] = set()
    iterator = iter(records)
    while True:
        try:
            record = next(iterator)
        except StopIteration:
            return
        except (OSError, RuntimeError, ValueError) as error:
            raise FromRecords(error) from None
        if record.slide_id in seen:
            raise InputError(f"Slide {record.slide_id} is given twice; names must be unique in a reference.")
        seen.add(record.slide_id)
        yield record


def finish(
    place: Place,
    table: Table,
    entries: Sequence[SlideEntry] | None,
    *,
    genes: Iterable[str] = (),
    anew: bool = False,
    derive: bool = True,
) -> list[str]:
    """Keep hashes and derive what the new version needs; the commit has passed, so what fails here is only said.

    Without ``derive`` the latter is left to the next version, or the first query.
    """
    problems = []
    try:
        record_version(table, [genes_name(digest) for digest in genes])
    except OSError as error:
        problems.append(f"The hashes of version {table.version}: {error.strerror or error}")
    except StorageError as error:
        problems.append(f"The hashes of version {table.version}: {error}")
    if not derive:
        return problems
    try:
        return [*problems, *Snapshot(place, table, entries).bring_up(anew=anew)]
    except StorageError as error:
        return [*problems, f"What is derived of version {table.version}: {error}"]


def say(problems: Iterable[str]) -> None:
    """Warn of what `finish` could not do, where no report carries it."""
    for problem in problems:
        warn(problem)


def until_it_passes(place: Place, commit: Callable[[Snapshot], Table]) -> Table:
    """Commit from the newest version, and again whenever somebody else was faster."""
    while True:
        with contextlib.suppress(Outdated):
            return commit(Snapshot.at(place))

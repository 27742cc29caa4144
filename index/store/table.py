"""The Lance table: one version of it to be read, and commits. The only importer of lance.

Every commit of this program is one that Lance refuses when another was committed since its version was read: it names,
unchanged, the table's first fragment, and two commits that touch the same fragment cannot both pass. So what was
decided from a version (that a slide is not there yet) still holds when the commit lands; who is refused decides anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mclstexp.errors import FormatError, InputError
from mclstexp.index.store.condition import one_condition
from mclstexp.index.store.fragments import FRAGMENT_ROWS, PROPERTY, Outdated, commit, discard, sync
from mclstexp.index.store.place import TABLE_FOLDER, Place
from mclstexp.index.store.schema import BATCH_ROWS, FILTER_COLUMNS, SLIDE_COLUMNS, SlideEntry

T = TypeVar("T")
IdArray = NDArray[np.int64]
ROW_ID = "_rowid"
_UNREADABLE = (OSError, RuntimeError, ValueError, pa.ArrowException)


@dataclass(frozen=True)
class Commit:
    """One version in the history.

    Attributes
    ----------
    time, message, command, package_version
        When, why, by which command and program; of another program's commit, the operation is the message.
    n_spots, n_slides
        What the version holds; ``n_slides`` is None where another program committed.
    """

    version: int
    time: str
    message: str
    command: str
    package_version: str
    n_spots: int
    n_slides: int | None


def manifest_name(version: int) -> str:
    """Path of the file that is a version of the table: Lance counts down, so that a listing begins with the newest."""
    return f"{TABLE_FOLDER}/_versions/{2**64 - 1 - version:020d}.manifest"


def version_of(name: str) -> int | None:
    """Return the version whose file this is; None for any other file."""
    stem = name.rpartition("/")[2].removesuffix(".manifest")
    return (
        2**64 - 1 - int(stem)
        if name.endswith(".manifest") and stem.isascii() and stem.isdecimal() and len(stem) == 20
        else None
    )


class Table:
    """One version of the table."""

    def __init__(self, place: Place, dataset: Any) -> None:
        self.place = place
        self.dataset = dataset
        self.version = int(dataset.version)

    @classmethod
    def open(cls, place: Place, version: int | None = None) -> Table:
        """Open the newest version, or the one of this number.

        Raises
        ------
        InputError
            When there is no table.
        FormatError
            When the table, or this version of it, cannot be read.
        """
        import lance

        try:
            return cls(place, lance.dataset(place.table_uri, version=version, storage_options=place.storage_options))
        except BaseException as error:
            if not _is_unreadable(error):
                raise
            if (refused := place.refusal(error)) is not None:
                raise refused from error
            if not any(version_of(name) for name in place.names(f"{TABLE_FOLDER}/_versions")):
                raise InputError(f"{place} is not a reference: it has no table {TABLE_FOLDER}.") from error
            number = "newest version" if version is None else f"version {version}"
            raise FormatError(
                f"Reference {place}: the {number} of its table cannot be read ({_reason(error)}); run mst verify."
            ) from error

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """What the schema carries."""
        return dict(self.read(lambda ds: ds.schema.metadata) or {})

    @cached_property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.dataset.count_rows())

    def read(self, call: Callable[[Any], T]) -> T:
        """Run a read on the dataset; what Lance cannot read is reported as damage."""
        try:
            return call(self.dataset)
        except BaseException as error:
            if not _is_unreadable(error):
                raise
            if (refused := self.place.refusal(error)) is not None:
                raise refused from error
            raise FormatError(
                f"Reference {self.place}: the table cannot be read ({_reason(error)}); run mst verify."
            ) from error

    def take(self, offsets: IdArray, columns: Sequence[str]) -> pa.Table:
        """Read the rows at ascending, different offsets."""
        columns = list(columns)
        if not len(offsets):
            return self.read(lambda ds: ds.scanner(columns=columns, limit=0).to_table())
        if len(offsets) == int(offsets[-1] - offsets[0]) + 1:
            first, n = int(offsets[0]), len(offsets)
            return self.read(lambda ds: ds.to_table(columns=columns, offset=first, limit=n))
        return self.read(lambda ds: ds.take(offsets.tolist(), columns=columns))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read the whole table in order."""
        columns = list(columns)
        batches = self.read(lambda ds: ds.to_batches(columns=columns, batch_size=BATCH_ROWS, scan_in_order=True))
        while (batch := self.read(lambda _: next(batches, None))) is not None:
            yield batch

    def where(self, condition: str) -> IdArray:
        """Ids of the rows that meet an SQL condition.

        Raises
        ------
        InputError
            When the condition cannot be understood.
        """
        whole = one_condition(condition)
        try:
            rows = self.dataset.to_table(columns=[], filter=whole, with_row_id=True)
        except BaseException as error:
            if not _is_unreadable(error):
                raise
            reason = _reason(error).split(", /")[0]
            raise InputError(
                f"Condition {condition!r} cannot be used: {reason}; one such as total_counts > 500 is "
                f"needed; columns: {', '.join(FILTER_COLUMNS)}."
            ) from error
        return np.asarray(rows[ROW_ID], dtype=np.int64)

    # --- slides

    def slides(self, fragments: Sequence[Any] | None = None) -> list[SlideEntry]:
        """Read the slides of the table, or of some of its fragments, in the order of their rows.

        Raises
        ------
        FormatError
            When a slide's rows are not all there, one after the other: another program has changed them.
        """
        listed = self.read(
            lambda ds: ds.scanner(
                columns=["slide_id", "total_counts"], with_row_id=True, fragments=fragments, scan_in_order=True
            ).to_table()
        )
        ids = np.asarray(listed[ROW_ID], dtype=np.int64)
        names = listed["slide_id"].combine_chunks()
        changes = np.asarray(pc.not_equal(names[1:], names[:-1])) if len(names) > 1 else np.zeros(0, dtype=bool)
        starts = np.flatnonzero(np.concatenate([[True] if len(names) else [], changes]))
        sizes = np.diff(starts, append=len(names))
        total = np.asarray(listed["total_counts"], dtype=np.int64)
        sums = np.add.reduceat(total, starts) if len(starts) else total
        stops = starts + sizes - 1
        apart = (len(set(names.take(pa.array(starts)).to_pylist())) != len(starts)) or np.any(
            ids[stops] - ids[starts] != sizes - 1
        )
        entries = [] if apart else self._entries(ids[starts].tolist(), sums.tolist())
        if apart or np.any(np.diff(ids) <= 0) or [entry.n_spots for entry in entries] != sizes.tolist():
            raise FormatError(
                f"Reference {self.place}: version {self.version} was changed by another program, so that its rows are "
                "no longer whole slides; mst restore goes back to an earlier version."
            )
        return entries

    def _entries(self, first_ids: list[int], sums: list[int]) -> list[SlideEntry]:
        columns = [*SLIDE_COLUMNS, "_row_created_at_version", ROW_ID]
        entries = []
        for start in range(0, len(first_ids), 1000):
            wanted = ", ".join(map(str, first_ids[start : start + 1000]))
            condition = f"{ROW_ID} IN ({wanted})"
            rows = self.read(lambda ds, c=condition: ds.to_table(columns=columns, filter=c)).to_pylist()  # type: ignore[misc]
            entries += sorted(rows, key=lambda row: int(row[ROW_ID]))
        return [
            SlideEntry(
                **{name: row[name] for name in SLIDE_COLUMNS},
                row_start=row[ROW_ID],
                added_version=row["_row_created_at_version"],
                total_counts=total,
            )
            for row, total in zip(entries, sums, strict=True)
        ]

    def new_slides(self, before: Table) -> list[SlideEntry]:
        """Read the slides of the fragments that an earlier version does not have."""
        known = {fragment.fragment_id for fragment in before.dataset.get_fragments()}
        new = [fragment for fragment in self.dataset.get_fragments() if fragment.fragment_id not in known]
        return self.slides(new) if new else []

    # --- commits

    def properties(self, version: int) -> dict[str, Any]:
        """Return what this program wrote into a version's transaction; empty for another program's."""
        transaction = self.dataset.read_transaction(version)
        values = dict(transaction.transaction_properties or {})
        return dict(json.loads(values.get(PROPERTY, "{}"))) or {"message": _operation(transaction.operation)}

    def history(self) -> list[Commit]:
        """Every version up to this one that can be opened, oldest first."""
        commits = []
        for listed in self.read(lambda ds: ds.versions()):
            number = int(listed["version"])
            if number > self.version:
                continue
            values = self.read(lambda _, v=number: self.properties(v))  # type: ignore[misc]
            commits.append(
                Commit(
                    version=number,
                    time=values.get("time", listed["timestamp"].isoformat(timespec="seconds")),
                    message=values.get("message", ""),
                    command=values.get("command", ""),
                    package_version=values.get("package_version", ""),
                    n_spots=int(listed["metadata"].get("total_rows", 0)),
                    n_slides=values.get("n_slides"),
                )
            )
        return commits

    def change(self, new: Sequence[Any], gone: Sequence[str], properties: dict[str, Any]) -> Table:
        """Append fragments and delete slides, in one commit.

        Raises
        ------
        Outdated
            When this version is no longer the newest.
        """
        from lance import LanceOperation

        removed, updated = [], []
        names = ", ".join("'" + name.replace("'", "''") + "'" for name in gone)
        for fragment in self.dataset.get_fragments() if gone else []:
            left = fragment.delete(f"slide_id IN ({names})")
            if left is None:
                removed.append(fragment.fragment_id)
            elif left.num_deletions != fragment.metadata.num_deletions:
                updated.append(left)
        touched = {*removed, *(metadata.id for metadata in updated)}
        first = next(fragment for fragment in self.dataset.get_fragments())
        anchor = [] if first.fragment_id in touched else [first.metadata]
        operation = LanceOperation.Update(
            removed_fragment_ids=removed, updated_fragments=[*anchor, *updated], new_fragments=list(new)
        )
        try:
            return self._commit(operation, properties)
        except Outdated:
            for metadata in updated:
                self.place.remove(f"{TABLE_FOLDER}/{metadata.deletion_file.path(metadata.id)}")
            raise

    def replace_all(self, schema: pa.Schema, new: Sequence[Any], properties: dict[str, Any]) -> Table:
        """Put other fragments of another schema in the place of everything, in one commit."""
        from lance import LanceOperation

        return self._commit(LanceOperation.Overwrite(schema, list(new)), properties, max_retries=0)

    def restore(self, version: int, properties: dict[str, Any]) -> Table:
        """Make an earlier version the newest, as a version of its own."""
        from lance import LanceOperation

        return self._commit(LanceOperation.Restore(version), properties)

    def compact(self, properties: dict[str, Any]) -> Table | None:
        """Join small fragments and drop deleted rows for good; None when there is nothing to do."""
        from lance import LanceOperation
        from lance.fragment import FragmentMetadata
        from lance.optimize import Compaction

        options = {
            "target_rows_per_fragment": FRAGMENT_ROWS,
            "materialize_deletions_threshold": 0.0,
            "num_threads": 1,
        }
        results = [
            json.loads(task.execute(self.dataset).json()) for task in Compaction.plan(self.dataset, options).tasks
        ]
        if not results:
            return None
        parts = [
            [[FragmentMetadata.from_json(json.dumps(item)) for item in result[name]] for result in results]
            for name in ("original_fragments", "new_fragments")
        ]
        groups = [LanceOperation.RewriteGroup(old, new) for old, new in zip(*parts, strict=True)]
        new = [fragment for group in parts[1] for fragment in group]
        sync(self.place, new)
        try:
            return self._commit(LanceOperation.Rewrite(groups, []), properties)
        except Outdated:
            discard(self.place, new)
            raise

    def _commit(self, operation: Any, properties: dict[str, Any], **options: Any) -> Table:
        return Table(self.place, commit(self.place, self.version, operation, properties, **options))


def _operation(operation: Any) -> str:
    name = operation if isinstance(operation, str) else type(operation).__name__
    return "the table's own index" if name == "CreateIndex" else f"({name} by another program)"


def _is_unreadable(error: BaseException) -> bool:
    # What Lance's Rust code gave up on arrives as a BaseException of a type that cannot be imported.
    return isinstance(error, _UNREADABLE) or type(error).__name__ == "PanicException"


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or ["?"])[0][:200]

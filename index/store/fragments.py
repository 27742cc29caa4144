"""Fragments of the table before they belong to a version, and the commit that makes them belong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mclstexp.errors import StorageError
from mclstexp.index.store.place import TABLE_FOLDER, Place
from mclstexp.index.store.schema import BATCH_ROWS
from mclstexp.storage import sync_file

PROPERTY = "mclstexp"
"""Key of a transaction's property that holds message, command and so on, as JSON."""
FRAGMENT_ROWS = 1_048_576


class Outdated(Exception):
    """Somebody else has committed since the version that a commit was decided from."""


def write(place: Place, schema: pa.Schema, batches: Iterable[pa.RecordBatch], mode: str) -> list[Any]:
    """Write rows into fragments that belong to no version yet; ``mode`` is "create", "append" or "overwrite"."""
    from lance.fragment import write_fragments

    failure: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        # Lance reports what a Python iterator raises as text; keep the error itself.
        try:
            yield from batches
        except BaseException as error:
            failure.append(error)
            raise

    try:
        fragments = write_fragments(
            pa.RecordBatchReader.from_batches(schema, guarded()),
            place.table_uri,
            mode=mode,
            schema=schema,
            enable_stable_row_ids=True,
            data_storage_version="2.2",
            max_rows_per_file=FRAGMENT_ROWS,
            max_bytes_per_file=2**33,
            storage_options=place.storage_options,
        )
    except BaseException:
        if failure:
            raise failure[0] from None
        raise
    sync(place, fragments)
    return list(fragments)


def without(place: Place, schema: pa.Schema, fragments: Sequence[Any], slides: Sequence[str]) -> list[Any]:
    """Write fragments that belong to no version yet anew, without some slides."""
    from lance.file import LanceFileReader

    def kept() -> Iterator[pa.RecordBatch]:
        for name in data_files(fragments):
            reader = LanceFileReader(f"{place.uri}/{name}", storage_options=place.storage_options)
            for batch in reader.read_all(batch_size=BATCH_ROWS).to_batches():
                part = batch.filter(pc.invert(pc.is_in(batch["slide_id"], pa.array(slides, pa.string()))))
                yield pa.RecordBatch.from_arrays(part.columns, schema=schema)

    new = write(place, schema, kept(), "append")
    discard(place, fragments)
    return new


def data_files(fragments: Iterable[Any]) -> list[str]:
    """Paths, below the reference, of fragments' data files."""
    return [f"{TABLE_FOLDER}/data/{file.path}" for fragment in fragments for file in fragment.files]


def sync(place: Place, fragments: Sequence[Any]) -> None:
    """Force fragments to the disk, and see that all of them is there; else they are taken away.

    Lance's writer for local files loses the error of its last write, so a full disk can leave a file cut short.

    Raises
    ------
    StorageError
        When a file is shorter than what was written to it.
    """
    if place.local is None:
        return
    for file in (file for fragment in fragments for file in fragment.files):
        path = place.local / TABLE_FOLDER / "data" / file.path
        sync_file(path)
        size = path.stat().st_size
        if file.file_size_bytes is not None and size != file.file_size_bytes:
            discard(place, fragments)
            raise StorageError(
                f"{place}: {size:,} of {file.file_size_bytes:,} bytes of {file.path} could be written: the disk is "
                "full, or a limit on the size of files was met (ulimit -f); free some space and run the command again."
            )


def discard(place: Place, fragments: Iterable[Any]) -> None:
    """Take away fragments that belong to no version."""
    for name in data_files(fragments):
        place.remove(name)


def commit(place: Place, version: int, operation: Any, properties: dict[str, Any], **options: Any) -> Any:
    """Commit an operation that was decided from a version; return the dataset at the new one.

    Raises
    ------
    Outdated
        When somebody else has committed since.
    StorageError
        When an object store refused it, or its answer was lost: then it may still happen.
    """
    from lance import LanceDataset, Transaction
    from lance.commit import CommitConflictError

    transaction = Transaction(version, operation, transaction_properties={PROPERTY: json.dumps(properties)})
    try:
        return LanceDataset.commit(
            place.table_uri,
            transaction,
            storage_options=place.storage_options,
            enable_stable_row_ids=True,
            **options,
        )
    except CommitConflictError as error:
        raise Outdated from error
    except OSError as error:
        if (refused := place.refusal(error)) is None:
            raise
        raise StorageError(f"{refused} Whether the change was kept is not sure; mst history shows it.") from error


def create(place: Place, schema: pa.Schema, new: Sequence[Any], properties: dict[str, Any]) -> Any:
    """Make the table of fragments, in its first commit."""
    from lance import LanceOperation

    # With retries it would replace a table that another program has made meanwhile.
    return commit(place, 0, LanceOperation.Overwrite(schema, list(new)), properties, max_retries=0)

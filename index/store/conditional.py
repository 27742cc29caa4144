"""Whether an object store keeps one of two commits: it must refuse to write over a file that is not to be written over.

Where a store ignores that condition (``If-None-Match: *``), the later of two writers takes the earlier one's commit
away, and neither is told. So a store that is not the usual one of its kind is tried before the first write.
"""

from __future__ import annotations

import json
import re
import uuid
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from mclstexp.errors import StorageError
from mclstexp.index.store import remote
from mclstexp.index.store.place import Place
from mclstexp.storage import TEMPORARY, sha256_bytes, storage_error, write_atomic


def check_commits(place: Place) -> None:
    """Refuse a store that ignores conditional puts; what one was found to know is remembered in the user's cache.

    Raises
    ------
    StorageError
        When it ignores or refuses them, or cannot be used.
    """
    address = None if place.local is not None else remote.endpoint(place.uri, place.options)
    if address is None:
        return
    bucket = place.uri.partition("://")[2].partition("/")[0]
    known = _remembered(f"{remote.scheme_of(place.uri)} {address} {bucket}")
    if known.exists():
        return
    place.check_reachable()
    if not _tried(place):
        raise StorageError(
            f"{place}: the store at {address} does not know conditional puts (If-None-Match), so that two writers "
            "would take each other's slides away; keep the reference in a folder, or in a store that knows them, such "
            "as Amazon S3, MinIO or SeaweedFS."
        )
    known.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(known, json.dumps({"address": address, "bucket": bucket}).encode())


def _tried(place: Place) -> bool:
    folder = f"{TEMPORARY}{uuid.uuid4().hex}.lance"
    try:
        return keeps_one_commit(f"{place.uri}/{folder}", place.storage_options or {})
    except OSError as error:
        if re.search(r"NotImplemented|\b501\b", str(error)):
            return False
        raise place.refusal(error) or storage_error(error, place.uri) from error
    finally:
        with suppress(StorageError):  # they harm nothing, and a repair removes them
            for name in place.names(folder):
                place.remove(name)


def keeps_one_commit(table: str, options: dict[str, str]) -> bool:
    """Commit the second version of a small table twice, and say whether the other attempt was refused.

    The table's files stay.

    Raises
    ------
    OSError
        When the store cannot be used.
    """
    from lance import LanceDataset, LanceOperation, Transaction
    from lance.commit import CommitConflictError

    schema = pa.schema([pa.field("x", pa.int8())])

    def commit(read: int) -> None:
        operation = LanceOperation.Overwrite(schema, [])  # without retries it is written as the next version, unasked
        LanceDataset.commit(table, Transaction(read, operation), storage_options=options, max_retries=0)

    commit(0)
    commit(1)
    try:
        commit(1)
    except CommitConflictError:
        return True
    return False


def _remembered(store: str) -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("mclstexp")) / "stores" / f"{sha256_bytes(store.encode())[:20]}.json"

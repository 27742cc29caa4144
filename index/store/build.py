"""Building a reference, in the place of one that is there if need be."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mclstexp.errors import ExistsAlreadyError, InputError, LockedError, StorageError
from mclstexp.index.search.ivf import choose_kind
from mclstexp.index.store import table as tables
from mclstexp.index.store.change import UNFINISHED, Rows, distinct, finish, now, properties_of, say, until_it_passes
from mclstexp.index.store.conditional import check_commits
from mclstexp.index.store.format import metadata_of
from mclstexp.index.store.fragments import Outdated, create
from mclstexp.index.store.genes import genes_digest, keep_genes
from mclstexp.index.store.hashes import write_record
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.lock import writing
from mclstexp.index.store.place import HASHES, LOCK_FILE, MODELS, OWN, TABLE_FOLDER, Place
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.schema import spots_schema
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import Table


def create_reference(
    place: Place,
    identity: ReferenceIdentity,
    records: Iterable[SlideRecord],
    *,
    message: str,
    command: str,
    index: str = "auto",
    force: bool = False,
    save_model: Callable[[Path], None] | None = None,
) -> None:
    """Build a reference. With ``force`` it takes the place of one that is there, in one commit.

    The replaced reference stays in the history.

    Raises
    ------
    ExistsAlreadyError
        When there is a reference and ``force`` is not set, or something else.
    """
    with building(place, identity, command=command, index=index, force=force, save_model=save_model) as begun:
        rows = Rows(place, identity.panel, identity.embed_dim, now())
        iterator = distinct(records)
        first = next(iterator, None)
        if first is None:
            raise InputError("A reference needs at least one slide.")
        try:
            rows.write(itertools.chain([first], iterator), begun.schema, begun.mode)
        except OSError as error:
            if begun.before is not None or not _exists(place):
                raise
            raise _built_meanwhile(place) from error
        begun.commit(rows, message=message, command=command)


@dataclass(frozen=True)
class Begun:
    """A build that has begun: nothing is committed yet.

    Attributes
    ----------
    before
        The reference in whose place it goes, or None.
    reference_id
        What tells it from any other reference.
    schema
        That of the table, with what the reference records of its model.
    """

    place: Place
    identity: ReferenceIdentity
    before: Snapshot | None
    reference_id: str
    schema: pa.Schema

    @property
    def mode(self) -> str:
        """How fragments are written for it."""
        return "create" if self.before is None else "overwrite"

    def commit(self, rows: Rows, *, message: str, command: str, unfinished: bool = False, derive: bool = True) -> Table:
        """Make the reference of the slides that were written, in its first commit."""
        place, before = self.place, self.before
        said = properties_of(message, command, len(rows.slides), rows.time, unfinished=unfinished)
        if before is None:
            try:
                table = Table(place, create(place, self.schema, rows.fragments, said))
            except (OSError, StorageError, Outdated) as error:
                if not _exists(place):
                    raise
                newest = Snapshot.at(place)
                if newest.reference_id != self.reference_id:
                    rows.discard()
                    raise _built_meanwhile(place) from error
                table = newest.table  # the commit passed, and the network lost the answer
        else:
            table = until_it_passes(place, lambda newest: newest.table.replace_all(self.schema, rows.fragments, said))
            shutil.rmtree(before.derived, ignore_errors=True)
        genes = {*rows.genes, genes_digest(self.identity.panel)}
        say(finish(place, table, table.slides(), genes=genes, derive=derive))
        return table


@contextlib.contextmanager
def building(
    place: Place,
    identity: ReferenceIdentity,
    *,
    command: str,
    index: str = "auto",
    force: bool = False,
    save_model: Callable[[Path], None] | None = None,
) -> Iterator[Begun]:
    """Hold a reference for a build of it, the copy of the model inside; what fails before a commit leaves nothing.

    Raises
    ------
    ExistsAlreadyError
        When there is a reference and ``force`` is not set, or something else.
    """
    choose_kind(index, 0)
    fresh = check_target(place, force=force)
    with place.errors():
        if place.local is not None:
            place.local.mkdir(exist_ok=True)
        try:
            with writing(place, command or "build-index"):
                if save_model is not None:
                    _save_model(place, identity, save_model)
                before = Snapshot.at(place) if force and _exists(place) else None
                reference_id = uuid.uuid4().hex if before is None else before.reference_id
                metadata = metadata_of(identity, keep_genes(place, identity.panel), reference_id, index)
                yield Begun(place, identity, before, reference_id, spots_schema(identity.embed_dim, metadata))
        except BaseException:
            if fresh and place.local is not None and not _exists(place):
                with contextlib.suppress(OSError, LockedError), writing(place, "build-index", alone=True):
                    _remove_remains(place.local)
            raise


def _exists(place: Place) -> bool:
    return any(tables.version_of(name) for name in place.names(f"{TABLE_FOLDER}/_versions"))


def _built_meanwhile(place: Place) -> ExistsAlreadyError:
    return ExistsAlreadyError(f"{place} was built by somebody else meanwhile; give another -o.")


def is_unfinished(place: Place) -> bool:
    """Say whether there is a reference whose newest version is a part of a build that has not ended."""
    with place.errors():
        place.check_reachable()
        if not _exists(place):
            return False
        newest = Table.open(place)
        return bool(newest.properties(newest.version).get(UNFINISHED))


def check_target(place: Place, *, force: bool) -> bool:
    """Refuse what must not be built over; return whether there is no reference yet.

    Raises
    ------
    ExistsAlreadyError
        When there is a reference and ``force`` is not set, or something else.
    InputError, StorageError
        The folder's parent does not exist; an object store cannot be used.
    """
    place.check_reachable()
    check_commits(place)
    place.require_parent()
    if place.local is not None and place.local.is_file():
        raise ExistsAlreadyError(f"{place} is a file; give another -o.")
    if _exists(place) or place.read("manifest.json") is not None:
        if not force:
            raise ExistsAlreadyError(f"{place} exists already; give --force to replace it, or another -o.")
        Snapshot.at(place)
        return False
    # The remains of a build that was killed may be built over; anything else is the user's.
    present = (
        {path.name for path in place.local.iterdir()} if place.local is not None and place.local.exists() else set()
    )
    strange = sorted(present - OWN)
    if strange or (present and LOCK_FILE not in present):
        held = (strange or sorted(present))[0]
        raise ExistsAlreadyError(f"{place} exists and is not a reference (it holds {held}); give another -o.")
    return True


def _save_model(place: Place, identity: ReferenceIdentity, save_model: Callable[[Path], None]) -> None:
    digest = identity.model_digest[:20]
    record = f"{HASHES}/model-{digest}.json"
    if place.read(record) is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model")
        place.put_folder(Path(folder) / "model", f"{MODELS}/{digest}")
    write_record(place, record, place.names(f"{MODELS}/{digest}"))


def _remove_remains(root: Path) -> None:
    """Remove what a failed first build left, and the folder when nothing else is in it."""
    for path in list(root.iterdir()):
        if path.name in OWN and path.is_dir():
            shutil.rmtree(path)
    (root / LOCK_FILE).unlink(missing_ok=True)
    root.rmdir()

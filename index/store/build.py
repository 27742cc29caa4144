"""Building a reference, and forgetting the ones that a build replaced."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from mclstexp.errors import ExistsAlreadyError, FormatError, InputError
from mclstexp.index.search.ivf import choose_kind
from mclstexp.index.search.keys import SegmentWriter
from mclstexp.index.search.segment import INDEX
from mclstexp.index.store import tables
from mclstexp.index.store.commit import Incoming, Writing, data_files, history, remove_files, writing
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.lock import LOCK_FILE
from mclstexp.index.store.manifest import CACHE, HISTORY, MANIFEST, MODELS, TABLE_FOLDER, Manifest, model_folder
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.writer import commit, distinct
from mclstexp.storage import files_below, sha256_file, storage_errors

_OWN = {MANIFEST, HISTORY, INDEX, CACHE, MODELS, LOCK_FILE}


def create_reference(
    root: Path,
    identity: ReferenceIdentity,
    records: Iterable[SlideRecord],
    *,
    message: str,
    command: str,
    index: str = "auto",
    force: bool = False,
    save_model: Callable[[Path], None] | None = None,
) -> Manifest:
    """Build a reference. With ``force`` it takes the place of one that is there, in one commit.

    The replaced reference stays restorable until the next build.
    """
    choose_kind(index, 0)
    fresh = _check_target(root, force=force)
    with storage_errors(f"Reference {root}"):
        root.mkdir(exist_ok=True)
    try:
        with writing(root, command or "build-index") as change:
            if change.before is not None and not force:
                raise ExistsAlreadyError(f"{root} exists already; give --force to replace it, or another -o.")
            for name in (HISTORY, INDEX, CACHE):
                (root / name).mkdir(exist_ok=True)
            folder = model_folder(root, identity)
            if save_model is not None and not folder.exists():
                folder.parent.mkdir(exist_ok=True)
                save_model(folder)
            manifest = _build(change, identity, records, message=message, index=index)
            forget(root, manifest)
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):
                _remove_remains(root)

        raise
    return manifest


def _check_target(root: Path, *, force: bool) -> bool:
    """Refuse what must not be built over; return whether the folder is to be made."""
    if not root.absolute().parent.is_dir():
        raise InputError(f"The folder {root.absolute().parent} does not exist; make it first, or give another -o.")
    if not root.exists():
        return True
    if not root.is_dir():
        raise ExistsAlreadyError(f"{root} is a file; give another -o.")
    if (root / MANIFEST).exists() and not force:
        raise ExistsAlreadyError(f"{root} exists already; give --force to replace it, or another -o.")
    if (root / MANIFEST).exists():
        return False
    # The remains of a build that was killed may be built over; anything else is the user's.
    names = {path.name for path in root.iterdir()}
    strange = sorted(name for name in names if name not in _OWN and not TABLE_FOLDER.fullmatch(name))
    if strange or (names and LOCK_FILE not in names):
        held = (strange or sorted(names))[0]
        raise ExistsAlreadyError(f"{root} exists and is not a reference (it holds {held}); give another -o.")
    return True


def _build(
    change: Writing, identity: ReferenceIdentity, records: Iterable[SlideRecord], *, message: str, index: str
) -> Manifest:
    root, before = change.root, change.before
    suffix = "" if before is None else f"-{change.version}"
    spots_path, slides_path = f"{tables.SPOTS}{suffix}.lance", f"{tables.SLIDES}{suffix}.lance"
    with SegmentWriter(root) as keys:
        incoming = Incoming(
            panel=identity.panel,
            next_row_id=0 if before is None else before.next_row_id,
            time=change.time,
            version=change.version,
            dim=identity.embed_dim,
            keys=keys,
        )
        schema = tables.spots_schema(identity.embed_dim)
        spots = tables.create_table(root, spots_path, schema, incoming.batches(distinct(records)))
    if not incoming.entries:
        raise InputError("A reference needs at least one slide.")
    listed = tables.slides_table(incoming.entries, incoming.panels)
    slides = tables.create_table(root, slides_path, tables.SLIDES_SCHEMA, listed.to_batches())
    manifest = Manifest(
        reference_id=uuid.uuid4().hex if before is None else before.reference_id,
        version=0,
        time="",
        message="",
        command="",
        package_version="",
        identity=identity,
        spots=spots,
        slides=slides,
        n_spots=0,
        n_slides=0,
        next_row_id=incoming.next_row_id,
        index_choice=index,
        segments=(keys.segment,),
        new_files={},
        first_version=1 if before is None else _first_of(root, before),
    )
    model = files_below(model_folder(root, identity))
    also = {path.relative_to(root).as_posix(): sha256_file(path) for path in model}
    return commit(change, manifest, incoming.entries, message=message, also=also)


def _first_of(root: Path, manifest: Manifest) -> int:
    """Return the first version of the reference that a build replaces: what came before is forgotten."""
    return min(record.version for record in history(root, manifest) if record.spots.path == manifest.spots.path)


def forget(root: Path, manifest: Manifest) -> None:
    """Remove the files and records of versions before the manifest's first."""
    try:
        records = history(root, manifest)
    except FormatError:
        return  # Without all records nobody can tell what is needed; mst verify reports it.
    owned = {root / name for record in records for name in record.new_files}
    remove_files(root, data_files(root) - owned)
    used = {table.path for record in records for table in (record.spots, record.slides)}
    for folder in list(root.iterdir()):
        if TABLE_FOLDER.fullmatch(folder.name) and folder.name not in used:
            shutil.rmtree(folder)
    for folder in list((root / MODELS).glob("*")):
        if not files_below(folder):
            shutil.rmtree(folder)
    for path in list((root / HISTORY).glob("*.json")):
        if path.stem.isdigit() and int(path.stem) < manifest.first_version:
            path.unlink()


def _remove_remains(root: Path) -> None:
    """Remove what a failed first build left, and the folder when nothing else is in it."""
    for path in list(root.iterdir()):
        if path.is_dir() and (path.name in _OWN or TABLE_FOLDER.fullmatch(path.name)):
            shutil.rmtree(path)
    (root / LOCK_FILE).unlink(missing_ok=True)
    root.rmdir()

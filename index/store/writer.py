"""What changes a reference: build, add, remove, restore, optimise. Each is one commit of the table.

Rows are written first, into fragments that belong to no version. Then the newest version is opened, what to do is
decided from it, and the commit passes only if it still is the newest; otherwise it is decided anew. So writers need no
lock, and whoever adds a slide at the same moment as another finds it there.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

import mclstexp
from mclstexp.errors import ExistsAlreadyError, InputError, LockedError
from mclstexp.index.search.ivf import choose_kind
from mclstexp.index.store import table as tables
from mclstexp.index.store.genes import genes_digest, genes_name, keep_genes
from mclstexp.index.store.hashes import record_version, write_record
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.lock import writing
from mclstexp.index.store.place import HASHES, LOCK_FILE, MODELS, OWN, TABLE_FOLDER, Place
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.schema import BATCH_ROWS, SlideEntry, spot_batch, spots_schema
from mclstexp.index.store.snapshot import Snapshot, metadata_of
from mclstexp.index.store.table import Outdated, Table
from mclstexp.panel import GenePanel
from mclstexp.storage import FromRecords

Content = tuple[str, str, str]


@dataclass
class AddReport:
    """What an add did.

    Attributes
    ----------
    added, replaced, skipped
        Names of slides that are new, that took another's place, and that were there already.
    duplicates
        New slide to the slides of the reference with the same content under another name.
    version
        Version after the add.
    notes
        What went less well than it might, one sentence each.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    duplicates: dict[str, list[str]] = field(default_factory=dict)
    version: int = 0
    notes: list[str] = field(default_factory=list)


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
        self.fragments = tables.write(self.place, schema, self._batches(records, schema), mode)

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
            self.fragments = tables.without(self.place, schema, self.fragments, names)
        else:
            self.discard()

    def discard(self) -> None:
        """Take away what was written."""
        tables.discard(self.place, self.fragments)
        self.fragments = []


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _properties(message: str, command: str, n_slides: int, time: str = "") -> dict[str, Any]:
    return {
        "message": message,
        "command": command,
        "package_version": mclstexp.__version__,
        "time": time or now(),
        "n_slides": n_slides,
    }


def _distinct(records: Iterable[SlideRecord]) -> Iterator[SlideRecord]:
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


def _finish(
    place: Place,
    table: Table,
    entries: Sequence[SlideEntry] | None,
    *,
    genes: Iterable[str] = (),
    anew: bool = False,
) -> list[str]:
    """Keep hashes and derive what the new version needs; the commit has passed, so what fails here is only said."""
    problems = []
    try:
        record_version(table, [genes_name(digest) for digest in genes])
    except OSError as error:
        problems.append(f"The hashes of version {table.version}: {error.strerror or error}")
    return [*problems, *Snapshot(place, table, entries).bring_up(anew=anew)]


# --- build


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
    choose_kind(index, 0)
    fresh = _check_target(place, force=force)
    with place.errors():
        if place.local is not None:
            place.local.mkdir(exist_ok=True)
        try:
            with writing(place, command or "build-index"):
                if save_model is not None:
                    _save_model(place, identity, save_model)
                _build(place, identity, records, _properties(message, command, 0), index, force=force)
        except BaseException:
            if fresh and place.local is not None and not _exists(place):
                with contextlib.suppress(OSError, LockedError), writing(place, "build-index", alone=True):
                    _remove_remains(place.local)
            raise


def _exists(place: Place) -> bool:
    return any(tables.version_of(name) for name in place.names(f"{TABLE_FOLDER}/_versions"))


def _check_target(place: Place, *, force: bool) -> bool:
    """Refuse what must not be built over; return whether there is no reference yet."""
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


def _build(
    place: Place,
    identity: ReferenceIdentity,
    records: Iterable[SlideRecord],
    properties: dict[str, Any],
    index: str,
    *,
    force: bool,
) -> None:
    before = Snapshot.at(place) if force and _exists(place) else None
    reference_id = uuid.uuid4().hex if before is None else before.reference_id
    metadata = metadata_of(identity, keep_genes(place, identity.panel), reference_id, index)
    schema = spots_schema(identity.embed_dim, metadata)
    rows = Rows(place, identity.panel, identity.embed_dim, properties["time"])
    iterator = _distinct(records)
    first = next(iterator, None)
    if first is None:
        raise InputError("A reference needs at least one slide.")
    rows.write(_chain(first, iterator), schema, "create" if before is None else "overwrite")
    properties["n_slides"] = len(rows.slides)
    if before is None:
        try:
            table = tables.create(place, schema, rows.fragments, properties)
        except (OSError, Outdated) as error:
            if not _exists(place):
                raise
            rows.discard()
            raise ExistsAlreadyError(f"{place} was built by somebody else meanwhile; give another -o.") from error
    else:
        table = _until_it_passes(place, lambda newest: newest.table.replace_all(schema, rows.fragments, properties))
        shutil.rmtree(before.derived, ignore_errors=True)
    _finish(place, table, table.slides(), genes={*rows.genes, genes_digest(identity.panel)})


def _remove_remains(root: Path) -> None:
    """Remove what a failed first build left, and the folder when nothing else is in it."""
    for path in list(root.iterdir()):
        if path.name in OWN and path.is_dir():
            shutil.rmtree(path)
    (root / LOCK_FILE).unlink(missing_ok=True)
    root.rmdir()


def _until_it_passes(place: Place, commit: Callable[[Snapshot], Table]) -> Table:
    """Commit from the newest version, and again whenever somebody else was faster."""
    while True:
        with contextlib.suppress(Outdated):
            return commit(Snapshot.at(place))


# --- add


def add_records(
    place: Place,
    records: Iterable[SlideRecord],
    *,
    replace: bool = False,
    message: str = "",
    command: str = "",
) -> AddReport:
    """Add slides that come one at a time, in one commit; nothing is committed when all of them are there already.

    Raises
    ------
    ExistsAlreadyError
        When a slide's name is taken by other content and ``replace`` is not set.
    """
    with place.errors(), writing(place, command or "add"):
        start = Snapshot.at(place)
        known = {entry.slide_id: entry for entry in start.entries}
        report = AddReport(version=start.version)

        def wanted() -> Iterator[SlideRecord]:
            for record in _distinct(records):
                content = (record.content_hash, record.patient, record.cohort)
                if _stands(known, record.slide_id, content, replace=replace):
                    report.skipped.append(record.slide_id)
                else:
                    yield record

        iterator = wanted()
        first = next(iterator, None)
        if first is None:
            return report
        schema = start.table.dataset.schema
        rows = Rows(place, start.identity.panel, start.identity.embed_dim, now(), start.metadata)
        rows.write(_chain(first, iterator), schema, "append")
        return _commit_rows(place, rows, report, replace=replace, message=message or "add", command=command)


def _chain(first: SlideRecord, rest: Iterator[SlideRecord]) -> Iterator[SlideRecord]:
    yield first
    yield from rest


def _stands(known: Mapping[str, SlideEntry], name: str, content: Content, *, replace: bool) -> bool:
    """Say whether the reference holds this very slide.

    Raises
    ------
    ExistsAlreadyError
        When it holds another of that name and replacing was not asked for.
    """
    present = known.get(name)
    if present is None or (replace and present.content != content):
        return False
    if present.content == content:
        return True
    what = (
        f"other content ({present.content_hash[:12]}, now {content[0][:12]})"
        if present.content_hash != content[0]
        else f"patient {present.patient!r} of cohort {present.cohort!r}, now {content[1]!r} of {content[2]!r}"
    )
    raise ExistsAlreadyError(f"Slide {name} is in the reference with {what}; use --replace, or give it another name.")


def _commit_rows(
    place: Place, rows: Rows, report: AddReport, *, replace: bool, message: str, command: str
) -> AddReport:
    while rows.slides:
        base = Snapshot.at(place)
        if base.metadata != rows.metadata:
            rows.discard()
            raise InputError(f"Reference {place} was built anew meanwhile; add the slides again.")
        known = {entry.slide_id: entry for entry in base.entries}
        try:
            late = [name for name, content in rows.slides.items() if _stands(known, name, content, replace=replace)]
        except ExistsAlreadyError:
            rows.discard()
            raise
        if late:
            rows.drop(late, base.table.dataset.schema)
            report.skipped += late
            continue
        gone = [name for name in rows.slides if name in known]
        n_slides = len(known) - len(gone) + len(rows.slides)
        try:
            table = base.table.change(rows.fragments, gone, _properties(message, command, n_slides, rows.time))
        except Outdated:
            continue
        kept = [entry for entry in base.entries if entry.slide_id not in gone]
        report.version = table.version
        report.replaced = gone
        report.added = [name for name in rows.slides if name not in gone]
        report.duplicates = _duplicates(rows, kept)
        report.notes += _finish(place, table, _entries_after(base, table, kept), genes=rows.genes)
        break
    return report


def _entries_after(base: Snapshot, table: Table, kept: list[SlideEntry]) -> list[SlideEntry] | None:
    """Return the slides after a commit: those that stayed, and those of the new fragments."""
    if table.version != base.version + 1:
        return None
    return [*kept, *table.new_slides(base.table)]


def _duplicates(rows: Rows, kept: Sequence[SlideEntry]) -> dict[str, list[str]]:
    same = {
        name: sorted(entry.slide_id for entry in kept if entry.content_hash == content[0] and entry.slide_id != name)
        for name, content in rows.slides.items()
    }
    return {name: others for name, others in same.items() if others}


# --- remove, restore, optimise


def remove_slides(
    place: Place, names: Mapping[str, Sequence[str]], *, message: str = "", command: str = ""
) -> list[SlideEntry]:
    """Remove slides by slide, patient or cohort name, in one commit.

    Raises
    ------
    InputError
        When a name matches nothing, or nothing would remain.
    """
    with place.errors(), writing(place, command or "remove"):
        chosen: list[SlideEntry] = []
        kept: list[SlideEntry] = []

        def commit(newest: Snapshot) -> Table:
            chosen[:] = _select(newest.entries, names)
            gone = [entry.slide_id for entry in chosen]
            kept[:] = [entry for entry in newest.entries if entry.slide_id not in set(gone)]
            if not kept:
                raise InputError(
                    f"Removing all {len(newest.entries)} slides leaves no reference; delete {place} instead."
                )
            text = message or f"remove {', '.join(sorted(gone))}"
            return newest.table.change([], gone, _properties(text, command, len(kept)))

        table = _until_it_passes(place, commit)
        _finish(place, table, kept)
        return sorted(chosen, key=lambda entry: entry.slide_id)


def _select(entries: Sequence[SlideEntry], names: Mapping[str, Sequence[str]]) -> list[SlideEntry]:
    """Return the slides named by ``slide``, ``patient`` or ``cohort``; every name must match one at least."""
    chosen: dict[str, SlideEntry] = {}
    for kind, wanted in names.items():
        attribute = "slide_id" if kind == "slide" else kind
        for name in wanted:
            found = [entry for entry in entries if getattr(entry, attribute) == name]
            if not found:
                known = sorted({str(getattr(entry, attribute)) for entry in entries})
                listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
                raise InputError(f"The reference has no {kind} {name!r}; it has {listed}.")
            chosen.update({entry.slide_id: entry for entry in found})
    if not chosen:
        raise InputError("Nothing was named; give --slide, --patient or --cohort.")
    return list(chosen.values())


def restore_version(place: Place, version: int | str, *, message: str = "", command: str = "") -> None:
    """Make an earlier version the newest, as a commit of its own."""
    with place.errors(), writing(place, command or "restore"):

        def commit(newest: Snapshot) -> Table:
            number = resolve_version(newest, version)
            if number == newest.version:
                raise InputError(f"Version {number} is the newest already.")
            n_slides = len(Snapshot.at(place, number).entries)
            text = message or f"restore version {number}"
            return newest.table.restore(number, _properties(text, command, n_slides))

        _finish(place, _until_it_passes(place, commit), None)


def optimize_reference(place: Place, *, message: str = "", command: str = "") -> None:
    """Join small fragments, drop removed rows for good and train the index anew; the answers stay."""
    with place.errors(), writing(place, command or "optimize"):

        def commit(newest: Snapshot) -> Table:
            properties = _properties(message or "optimize", command, len(newest.entries))
            return newest.table.compact(properties) or newest.table

        table = _until_it_passes(place, commit)
        _tidy(Snapshot(place, table))
        _finish(place, table, None, anew=True)


def _tidy(snapshot: Snapshot) -> None:
    """Remove what was derived for other versions, and files of rows that are mostly holes."""
    if snapshot.n_ids > 2 * snapshot.n_spots:
        shutil.rmtree(snapshot.derived, ignore_errors=True)
    for path in snapshot.derived.glob("*.json"):
        if f"-{snapshot.manifest_sha256[:12]}." not in path.name:
            path.unlink(missing_ok=True)


# --- tags

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


def tags_of(table: Table) -> dict[str, int]:
    """Tags and their versions."""
    listed = table.read(lambda ds: ds.tags.list())
    return {name: int(values["version"]) for name, values in sorted(listed.items())}


def write_tag(place: Place, name: str, version: int, *, force: bool = False) -> None:
    """Name a version.

    Raises
    ------
    ExistsAlreadyError
        When the tag exists and ``force`` is not set.
    """
    if not _TAG.fullmatch(name):
        raise InputError(f"Tag {name!r} cannot be used: a letter first, then letters, digits, '.', '_' and '-'.")
    with place.errors(), writing(place, "mst tag"):
        newest = Snapshot.at(place)
        resolve_version(newest, version)
        present = tags_of(newest.table)
        if name in present and not force:
            raise ExistsAlreadyError(f"Tag {name} exists already, for version {present[name]}; --force moves it.")
        if name in present:
            newest.table.dataset.tags.update(name, version)
        else:
            newest.table.dataset.tags.create(name, version)
        write_record(place, tag_record(name), [tag_file(name)])


def remove_tag(place: Place, name: str) -> None:
    """Forget a tag; the version stays.

    Raises
    ------
    InputError
        When there is no such tag.
    """
    with place.errors(), writing(place, "mst tag"):
        newest = Snapshot.at(place)
        _require_tag(newest, name)
        newest.table.dataset.tags.delete(name)
        place.remove(tag_record(name))


def tag_file(name: str) -> str:
    """Path of Lance's file of a tag."""
    return f"{TABLE_FOLDER}/_refs/tags/{name}.json"


def tag_record(name: str) -> str:
    """Path of the record of a tag's hash."""
    return f"{HASHES}/tag-{name}.json"


def _require_tag(newest: Snapshot, name: str) -> int:
    present = tags_of(newest.table)
    if name not in present:
        known = ", ".join(present) or "none"
        raise InputError(f"Reference {newest.root} has no tag {name!r}; tags: {known}. mst history lists the versions.")
    return present[name]


def resolve_version(newest: Snapshot, version: int | str) -> int:
    """Return the number of a version that is given by number or tag.

    Raises
    ------
    InputError
        When there is no such version or tag.
    """
    if isinstance(version, str) and version.isdecimal():
        version = int(version)
    number = _require_tag(newest, version) if isinstance(version, str) else version
    if number != newest.version and newest.place.sha256(tables.manifest_name(number)) is None:
        raise InputError(
            f"Reference {newest.root} has no version {number}; the newest is {newest.version}. mst history lists them."
        )
    return number

"""What changes a reference: build, add, remove, restore, optimise. Each is one commit of the table.

Rows are written first, into fragments that belong to no version. Then the newest version is opened, what to do is
decided from it, and the commit passes only if it still is the newest; otherwise it is decided anew. So writers need no
lock, and whoever adds a slide at the same moment as another finds it there.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.index.search.lancedb import build_index
from mclstexp.index.store.change import Content, Rows, distinct, finish, now, properties_of, say, until_it_passes
from mclstexp.index.store.fragments import Outdated
from mclstexp.index.store.lock import writing
from mclstexp.index.store.place import Place
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.schema import SlideEntry
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import Table
from mclstexp.index.store.tags import resolve_version


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
    failed
        Names of slides that could not be read or encoded on a cluster, and why.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    duplicates: dict[str, list[str]] = field(default_factory=dict)
    version: int = 0
    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


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
        known = {entry.slide_id: entry.content for entry in start.entries}
        report = AddReport(version=start.version)

        def wanted() -> Iterator[SlideRecord]:
            for record in distinct(records):
                content = (record.content_hash, record.patient, record.cohort)
                if stands(known, record.slide_id, content, replace=replace):
                    report.skipped.append(record.slide_id)
                else:
                    yield record

        iterator = wanted()
        first = next(iterator, None)
        if first is None:
            return report
        schema = start.table.dataset.schema
        rows = Rows(place, start.identity.panel, start.identity.embed_dim, now(), start.metadata)
        rows.write(itertools.chain([first], iterator), schema, "append")
        return commit_rows(place, rows, report, replace=replace, message=message or "add", command=command)


def stands(known: Mapping[str, Content], name: str, content: Content, *, replace: bool) -> bool:
    """Say whether the reference holds this very slide.

    Raises
    ------
    ExistsAlreadyError
        When it holds another of that name and replacing was not asked for.
    """
    present = known.get(name)
    if present is None or (replace and present != content):
        return False
    if present == content:
        return True
    what = (
        f"other content ({present[0][:12]}, now {content[0][:12]})"
        if present[0] != content[0]
        else f"patient {present[1]!r} of cohort {present[2]!r}, now {content[1]!r} of {content[2]!r}"
    )
    raise ExistsAlreadyError(f"Slide {name} is in the reference with {what}; use --replace, or give it another name.")


def commit_rows(
    place: Place,
    rows: Rows,
    report: AddReport,
    *,
    replace: bool,
    message: str,
    command: str,
    unfinished: bool = False,
    derive: bool = True,
) -> AddReport:
    """Commit what was written of some slides, but for those that are there by now; ``report`` takes what was done.

    Raises
    ------
    ExistsAlreadyError, InputError
        A slide's name is taken by other content and ``replace`` is not set; the reference was built anew meanwhile.
    """
    while rows.slides:
        base = Snapshot.at(place)
        if base.metadata != rows.metadata:
            rows.discard()
            raise InputError(f"Reference {place} was built anew meanwhile; add the slides again.")
        known = {entry.slide_id: entry.content for entry in base.entries}
        try:
            late = [name for name, content in rows.slides.items() if stands(known, name, content, replace=replace)]
        except ExistsAlreadyError:
            rows.discard()
            raise
        if late:
            rows.drop(late, base.table.dataset.schema)
            report.skipped += late
            continue
        gone = [name for name in rows.slides if name in known]
        n_slides = len(known) - len(gone) + len(rows.slides)
        said = properties_of(message, command, n_slides, rows.time, unfinished=unfinished)
        try:
            table = base.table.change(rows.fragments, gone, said)
        except Outdated:
            continue
        kept = [entry for entry in base.entries if entry.slide_id not in gone]
        report.version = table.version
        report.replaced += gone
        report.added += [name for name in rows.slides if name not in gone]
        report.duplicates |= _duplicates(rows, kept)
        entries = _entries_after(base, table, kept)
        report.notes += finish(place, table, entries, genes=rows.genes, derive=derive)
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
            return newest.table.change([], gone, properties_of(text, command, len(kept)))

        table = until_it_passes(place, commit)
        say(finish(place, table, kept))
        return sorted(chosen, key=lambda entry: entry.slide_id)


def _select(entries: Sequence[SlideEntry], names: Mapping[str, Sequence[str]]) -> list[SlideEntry]:
    """Return the slides named by ``slide``, ``patient`` or ``cohort``; every name must match one at least."""
    chosen: dict[str, SlideEntry] = {}
    for kind, wanted in names.items():
        attribute = "slide_id" if kind == "slide" else kind
        for name in wanted:
            matching = [entry for entry in entries if getattr(entry, attribute) == name]
            if not matching:
                known = sorted({str(getattr(entry, attribute)) for entry in entries})
                listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
                raise InputError(f"The reference has no {kind} {name!r}; it has {listed}.")
            chosen.update({entry.slide_id: entry for entry in matching})
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
            return newest.table.restore(number, properties_of(text, command, n_slides))

        say(finish(place, until_it_passes(place, commit), None))


def optimize_reference(place: Place, *, message: str = "", command: str = "") -> None:
    """Join small fragments, drop removed rows for good and train the index anew; the answers stay."""
    with place.errors(), writing(place, command or "optimize"):

        def commit(newest: Snapshot) -> Table:
            properties = properties_of(message or "optimize", command, len(newest.entries))
            return newest.table.compact(properties) or newest.table

        table = until_it_passes(place, commit)
        _tidy(Snapshot(place, table))
        say(finish(place, table, None, anew=True))


def index_table(place: Place) -> None:
    """Give the table an index of LanceDB's own, for ``search="lancedb"`` and for whoever asks the table itself."""
    with place.errors(), writing(place, "index-table"):
        newest = Snapshot.at(place)
        build_index(newest.lance_table())
        say(finish(place, Table.open(place), newest.entries))


def _tidy(snapshot: Snapshot) -> None:
    """Remove what was derived for other versions, and files of rows that are mostly holes."""
    if snapshot.n_ids > 2 * snapshot.n_spots:
        shutil.rmtree(snapshot.derived, ignore_errors=True)
    for path in snapshot.derived.glob("*.json"):
        if f"-{snapshot.manifest_sha256[:12]}." not in path.name:
            path.unlink(missing_ok=True)

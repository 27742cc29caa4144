"""What changes a reference: add, remove, restore, optimise. Each is one commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.index.search import growth as segments
from mclstexp.index.search.ivf import choose_kind
from mclstexp.index.search.keys import SegmentWriter
from mclstexp.index.search.ranges import Ranges, merge_ranges
from mclstexp.index.store import tables
from mclstexp.index.store.commit import Incoming, Writing, drop_slides, finish, read_entries, writing
from mclstexp.index.store.manifest import MANIFEST, Manifest, history_path, read_manifest
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.tables import SlideEntry
from mclstexp.index.store.tags import resolve_version
from mclstexp.storage import FromRecords

COMPACT_FRAGMENT_ROWS = 1_048_576


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


def commit(
    change: Writing,
    manifest: Manifest,
    entries: Sequence[SlideEntry],
    *,
    message: str,
    also: Mapping[str, str] | None = None,
) -> Manifest:
    """Bring the index up to date with the slides, and commit."""
    live: Ranges = merge_ranges([entry.rows for entry in entries])
    parts = segments.update(
        change.root, manifest.segments, live, choice=manifest.index_choice, dim=manifest.identity.embed_dim
    )
    whole = replace(manifest, segments=parts, n_spots=sum(entry.n_spots for entry in entries), n_slides=len(entries))
    return finish(change, whole, message=message, also=also)


def decide(entries: Mapping[str, SlideEntry], record: SlideRecord, *, replace_existing: bool) -> str:
    """Say what an add does with a slide: "add", "skip" or "replace".

    Raises
    ------
    ExistsAlreadyError
        When a slide of this name is there with other content and replacing was not asked for.
    """
    there = entries.get(record.slide_id)
    if there is None:
        return "add"
    same = (there.content_hash, there.patient, there.cohort) == (record.content_hash, record.patient, record.cohort)
    if same:
        return "skip"
    if replace_existing:
        return "replace"
    what = (
        f"other content ({there.content_hash[:12]}, now {record.content_hash[:12]})"
        if there.content_hash != record.content_hash
        else f"patient {there.patient!r} of cohort {there.cohort!r}, now {record.patient!r} of {record.cohort!r}"
    )
    raise ExistsAlreadyError(
        f"Slide {record.slide_id} is in the reference with {what}; use --replace, or give it another name."
    )


def add_records(
    root: Path, records: Iterable[SlideRecord], *, replace: bool = False, message: str = "", command: str = ""
) -> AddReport:
    """Add slides that come one at a time, in one commit; nothing is committed when all of them are there already.

    Raises
    ------
    ExistsAlreadyError
        When a slide's name is taken by other content and ``replace`` is not set.
    """
    with writing(root, command or "add") as change:
        before = _require(change)
        entries = read_entries(root, before)
        known = {entry.slide_id: entry for entry in entries}
        report = AddReport(version=before.version)
        displaced: list[SlideEntry] = []

        def wanted() -> Iterator[SlideRecord]:
            for record in distinct(records):
                step = decide(known, record, replace_existing=replace)
                if step == "skip":
                    report.skipped.append(record.slide_id)
                    continue
                if step == "replace":
                    report.replaced.append(record.slide_id)
                    displaced.append(known[record.slide_id])
                else:
                    report.added.append(record.slide_id)
                same = [
                    entry.slide_id
                    for entry in entries
                    if entry.content_hash == record.content_hash and entry.slide_id != record.slide_id
                ]
                if same:
                    report.duplicates[record.slide_id] = sorted(same)
                yield record

        manifest = _append(change, before, wanted(), displaced, message or "add")
        report.version = manifest.version
        return report


def _append(
    change: Writing, before: Manifest, records: Iterator[SlideRecord], displaced: list[SlideEntry], message: str
) -> Manifest:
    root = change.root
    first = next(records, None)
    if first is None:
        return before
    with SegmentWriter(root) as keys:
        incoming = Incoming(
            panel=before.identity.panel,
            next_row_id=before.next_row_id,
            time=change.time,
            version=change.version,
            dim=before.identity.embed_dim,
            keys=keys,
        )
        schema = tables.spots_schema(incoming.dim)
        spots = tables.append(root, before.spots.path, schema, incoming.batches(_chain(first, records)))
    listed = tables.slides_table(incoming.entries, incoming.panels)
    slides = tables.append(root, before.slides.path, tables.SLIDES_SCHEMA, listed.to_batches())
    manifest = replace(
        before, spots=spots, slides=slides, next_row_id=incoming.next_row_id, segments=(*before.segments, keys.segment)
    )
    if displaced:
        spots, slides = drop_slides(root, manifest, displaced)
        manifest = replace(manifest, spots=spots, slides=slides)
    gone = {entry.row_start for entry in displaced}
    kept = [entry for entry in read_entries(root, before) if entry.row_start not in gone]
    return commit(change, manifest, [*kept, *incoming.entries], message=message)


def _chain(first: SlideRecord, rest: Iterator[SlideRecord]) -> Iterator[SlideRecord]:
    yield first
    yield from rest


def remove_slides(
    root: Path, names: Mapping[str, Sequence[str]], *, message: str = "", command: str = ""
) -> list[SlideEntry]:
    """Remove slides by slide, patient or cohort name, in one commit.

    Raises
    ------
    InputError
        When a name matches nothing, or nothing would remain.
    """
    with writing(root, command or "remove") as change:
        before = _require(change)
        entries = read_entries(root, before)
        chosen = select_slides(entries, names)
        rest = [entry for entry in entries if entry.row_start not in {gone.row_start for gone in chosen}]
        if not rest:
            raise InputError(f"Removing all {len(entries)} slides leaves no reference; delete {root} instead.")
        spots, slides = drop_slides(root, before, chosen)
        text = message or f"remove {', '.join(sorted(entry.slide_id for entry in chosen))}"
        commit(change, replace(before, spots=spots, slides=slides), rest, message=text)
        return sorted(chosen, key=lambda entry: entry.slide_id)


def select_slides(entries: Sequence[SlideEntry], names: Mapping[str, Sequence[str]]) -> list[SlideEntry]:
    """Return the slides named by ``slide``, ``patient`` or ``cohort``; every name must match one at least."""
    chosen: dict[int, SlideEntry] = {}
    for kind, wanted in names.items():
        attribute = "slide_id" if kind == "slide" else kind
        for name in wanted:
            found = [entry for entry in entries if getattr(entry, attribute) == name]
            if not found:
                known = sorted({str(getattr(entry, attribute)) for entry in entries})
                listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
                raise InputError(f"The reference has no {kind} {name!r}; it has {listed}.")
            chosen.update({entry.row_start: entry for entry in found})
    if not chosen:
        raise InputError("Nothing was named; give --slide, --patient or --cohort.")
    return list(chosen.values())


def restore_version(root: Path, version: int | str, *, message: str = "", command: str = "") -> Manifest:
    """Make an earlier version the newest, as a commit of its own."""
    with writing(root, command or "restore") as change:
        before = _require(change)
        number = resolve_version(root, before, version)
        if number == before.version:
            raise InputError(f"Version {number} is the newest already.")
        old = read_manifest(history_path(root, number), root)
        again = replace(
            old,
            spots=tables.restore(root, old.spots),
            slides=tables.restore(root, old.slides),
            next_row_id=before.next_row_id,
            first_version=before.first_version,
        )
        return finish(change, again, message=message or f"restore version {number}")


def optimize_reference(root: Path, *, message: str = "", command: str = "") -> Manifest:
    """Join small fragments, drop removed rows and rebuild the index in one piece; the answers stay."""
    with writing(root, command or "optimize") as change:
        before = _require(change)
        entries = read_entries(root, before)
        live = merge_ranges([entry.rows for entry in entries])
        spots = tables.compact(root, before.spots, COMPACT_FRAGMENT_ROWS)
        slides = tables.compact(root, before.slides, COMPACT_FRAGMENT_ROWS)
        parts = segments.rebuild(
            root,
            before.segments,
            live,
            kind=choose_kind(before.index_choice, before.n_spots),
            dim=before.identity.embed_dim,
        )
        manifest = replace(before, spots=spots, slides=slides, segments=parts)
        return finish(change, manifest, message=message or "optimize")


def _require(change: Writing) -> Manifest:
    if change.before is None:
        raise InputError(f"{change.root} is not a reference: it has no {MANIFEST}.")
    return change.before

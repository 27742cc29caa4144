"""`mst verify`: look at everything, and mend what can be derived."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from mclstexp.errors import FormatError, InputError, MclstexpError
from mclstexp.index.store.format import refuse_version_1
from mclstexp.index.store.lock import writer_is_busy, writing
from mclstexp.index.store.place import HASHES, TABLE_FOLDER, Place
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import version_of
from mclstexp.index.verify.derived import check_derived, repair_derived
from mclstexp.index.verify.files import check_hashes, check_orphans, check_tags, check_use, read_files
from mclstexp.index.verify.findings import Report
from mclstexp.index.verify.tables import check_slides, check_spots
from mclstexp.types import Progress


def verify(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    options: Mapping[str, str] | None = None,
    origin: str = "",
    on_progress: Progress | None = None,
) -> Report:
    """Check hashes, versions, rows, tags, what belongs to no version, and everything derived.

    Parameters
    ----------
    repair
        Mend what can be: lost versions from their copies, derived files from the table; debris is removed. What is
        mended is marked so. Damage to the rows themselves cannot be mended.
    options
        An object store's; what they lack comes from the environment.
    origin
        Address of what the folder is a copy of.

    Raises
    ------
    InputError
        When there is no reference.
    LockedError
        When a repair meets a writer.
    StorageError
        When an object store cannot be used.
    """
    place = Place(path, options, origin=origin)
    place.check_reachable()
    refuse_version_1(place)
    if place.local is not None and not place.local.is_dir():
        raise InputError(f"{place} is not a reference: there is no such folder; correct the path.")
    report = Report()
    alone = writing(place, "mst verify --repair", alone=True) if repair else contextlib.nullcontext()
    with place.errors(), alone:
        newest = _check_files(place, report, repair=repair)
        if newest is None:
            return report
        report.version = newest.version
        table = [finding for finding in report.of("damaged", "missing") if finding.path.startswith(TABLE_FOLDER)]
        if any(finding.used and not finding.repaired for finding in table):
            report.add("table", "", "the rows were not read, since files of the table are damaged or missing")
            return report
        _check_content(newest, report, on_progress)
        if repair:
            repair_derived(newest, report)
    return report


def _check_files(place: Place, report: Report, *, repair: bool) -> Snapshot | None:
    """Check everything but the rows; None when the newest version cannot be opened."""
    if not any(name.startswith(f"{HASHES}/") or version_of(name) for name in place.names()):
        raise InputError(f"{place} is not a reference: it has no table {TABLE_FOLDER}.")
    busy = not repair and writer_is_busy(place)
    files = read_files(place, report, repair=repair)
    check_hashes(place, files, report, repair=repair)
    try:
        newest = Snapshot.at(place)
    except (FormatError, InputError) as error:
        if "format version" in str(error):
            raise
        report.add("table", "", str(error))
        return None
    check_use(files, newest, report)
    if not repair and (busy or writer_is_busy(place) or Snapshot.at(place).version != newest.version):
        report.add("busy", "", "a writer is at work, so unfinished files were not looked for", note=True)
    else:
        check_orphans(place, files, newest, report, repair=repair)
    check_tags(place, newest, report)
    return newest


def _from_rows(newest: Snapshot, report: Report) -> Snapshot:
    """Return the version with its slides as the rows say them; compare the list that is kept of them."""
    kept = newest.kept("slides")
    entries = newest.table.slides()
    if kept is not None and [entry.to_json() for entry in entries] != kept["slides"]:
        name = f"derived/{newest.kept_path('slides').name}"
        report.add("derived", name, "the list of slides is not that of the rows")
    return Snapshot(newest.place, newest.table, entries)


def _check_content(newest: Snapshot, report: Report, on_progress: Progress | None) -> None:
    try:
        newest = _from_rows(newest, report)
        check_slides(newest, report)
        check_spots(newest, report, on_progress=on_progress)
        check_derived(newest, report)
    except MclstexpError as error:
        report.add("table", "", str(error))

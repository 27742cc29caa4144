"""Verification of the files: hashes, what belongs to no version, tags; and putting back what there are copies of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from mclstexp.errors import FormatError
from mclstexp.index.store.genes import genes_name
from mclstexp.index.store.hashes import (
    VersionRecord,
    read_record,
    record_name,
    record_version,
    tracked_files,
    write_record,
)
from mclstexp.index.store.place import DERIVED, GENES, HASHES, MODELS, TABLE_FOLDER, Place
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import Table, version_of
from mclstexp.index.store.tags import tag_file, tag_record, tags_of
from mclstexp.index.verify.findings import Report
from mclstexp.storage import TEMPORARY, sha256_bytes
from mclstexp.text import is_whole

HINT = f"{TABLE_FOLDER}/_versions/latest_version_hint.json"
"""Lance's own pointer to the newest version: rewritten in place, derived from the folder's listing."""


@dataclass
class Files:
    """What the records say of a reference's files, and which files there are."""

    present: set[str]
    hashes: dict[str, str] = field(default_factory=dict)
    copies: dict[str, bytes] = field(default_factory=dict)
    versions: set[int] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


def read_files(place: Place, report: Report, *, repair: bool) -> Files:
    """Read every record of hashes; damaged ones are reported, and by a repair removed, to be written anew."""
    files = Files({name for name in place.names() if not name.startswith(f"{DERIVED}/")})
    for name in sorted(name for name in files.present if name.startswith(f"{HASHES}/") and TEMPORARY not in name):
        try:
            record = read_record(place, name) or VersionRecord()
        except FormatError:
            report.add("record", name, "the record of hashes is damaged")
            if repair:
                place.remove(name)
            continue
        files.hashes |= record.files
        files.copies |= record.copies
        stem = name.rpartition("/")[2].removesuffix(".json")
        files.versions |= {int(stem)} if is_whole(stem) else set()
    return files


def check_hashes(place: Place, files: Files, report: Report, *, repair: bool) -> None:
    """Hash every file that a record names; put back what there is a copy of."""
    report.n_files = len(files.hashes)
    for name, digest in sorted(files.hashes.items()):
        try:
            actual = place.sha256(name)
        except OSError as error:
            finding = report.add("damaged", name, f"the file cannot be read: {error.strerror}")
        else:
            if actual == digest:
                continue
            if actual is None:
                finding = report.add("missing", name, "the file is missing")
            else:
                finding = report.add("damaged", name, f"the file's SHA-256 is {actual[:12]}, expected {digest[:12]}")
        files.broken.add(name)
        copy = files.copies.get(name)
        if repair and copy is not None and sha256_bytes(copy) == digest:
            place.write(name, copy)
            finding.repaired = True
            files.broken.discard(name)
    for name in sorted(files.present):
        if name.startswith(f"{GENES}/") and TEMPORARY not in name and place.sha256(name) is not None:
            report.n_files += 1
            if genes_name(place.sha256(name) or "") != name:
                report.add("damaged", name, "the gene list is not what its name says")


def check_use(files: Files, newest: Snapshot, report: Report) -> None:
    """Tell apart which broken files the newest version reads."""
    try:
        used = tracked_files(newest.table, newest.version).get(newest.version, set())
    except FormatError:
        return
    for finding in report.of("damaged", "missing"):
        if not finding.repaired and finding.path.startswith(TABLE_FOLDER) and finding.path not in used:
            finding.used = False
            finding.message += f" (version {newest.version} does not use it)"


def check_orphans(place: Place, files: Files, newest: Snapshot, report: Report, *, repair: bool) -> None:
    """Find what belongs to no version, and what no hash is kept of; a repair removes the one and hashes the other."""
    for name in sorted(name for name in files.present if TEMPORARY in name):
        report.add("orphan", name, "the file was never finished")
    try:
        by_version = tracked_files(newest.table, 1)
    except FormatError:
        report.add("orphan", "", "orphans cannot be told while a version of the table is damaged", note=True)
        by_version = None
    if by_version is not None:
        tracked = set().union(*by_version.values())
        tags = {tag_file(name) for name in _tags(newest)}
        reported = {finding.path for finding in report.findings}
        for name in sorted(files.present - set(files.hashes) - reported - {HINT}):
            if not name.startswith((f"{TABLE_FOLDER}/", f"{MODELS}/")):
                continue
            if name in tracked or name in tags:
                report.add("unhashed", name, "no hash is kept: its writer was killed, or was another program")
            else:
                report.add("orphan", name, "the file belongs to no version")
    if HINT in files.present and _hinted(place) != newest.version:
        report.add("hint", HINT, "Lance's pointer to the newest version is damaged or wrong")
    if repair:
        _repair(place, newest, by_version, report)


def _hinted(place: Place) -> int | None:
    try:
        return int(json.loads(place.read(HINT) or b"")["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _repair(place: Place, newest: Snapshot, by_version: dict[int, set[str]] | None, report: Report) -> None:
    for finding in report.of("orphan", "hint"):
        if finding.level == "error":
            place.remove(finding.path)
            finding.repaired = True
    again = report.of("unhashed", "record")
    if not again:
        return
    known = {number for number in by_version or () if place.read(record_name(number)) is not None}
    for number in sorted(set(by_version or ()) - known):
        record_version(Table.open(place, number), place.names(GENES))
    for name in _tags(newest):
        if place.read(tag_record(name)) is None:
            write_record(place, tag_record(name), [tag_file(name)])
    digests = {name.split("/")[1] for name in place.names(MODELS)}
    for digest in digests:
        if place.read(f"{HASHES}/model-{digest}.json") is None:
            write_record(place, f"{HASHES}/model-{digest}.json", place.names(f"{MODELS}/{digest}"))
    for finding in again:
        finding.repaired = by_version is not None


def _tags(newest: Snapshot) -> dict[str, int]:
    """Tags; none while one of their files is damaged, which its hash has shown."""
    try:
        return tags_of(newest.table)
    except FormatError:
        return {}


def check_tags(place: Place, newest: Snapshot, report: Report) -> None:
    """Check that every tag names a version that is there."""
    present = {version_of(name) for name in place.names(f"{TABLE_FOLDER}/_versions")}
    for name, version in _tags(newest).items():
        if version not in present:
            report.add("tag", tag_file(name), f"tag {name} names version {version}, which does not exist")

"""Verification of the files: manifest, history, hashes, orphans, tags."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.segment import INDEX
from mclstexp.index.store import tables
from mclstexp.index.store.commit import LANCE_HINT, data_files
from mclstexp.index.store.lock import LOCK_FILE
from mclstexp.index.store.manifest import CACHE, HISTORY, MANIFEST, TABLE_FOLDER, Manifest, history_path, read_manifest
from mclstexp.index.store.tables import LanceTable
from mclstexp.index.verify.findings import Report
from mclstexp.storage import TEMPORARY, sha256_file


def check_manifest(root: Path, report: Report) -> Manifest | None:
    """Read the manifest; None when it is damaged or missing though there is a history."""
    try:
        return read_manifest(root / MANIFEST, root)
    except FormatError as error:
        if "format version" in str(error):
            raise
        report.add("manifest", MANIFEST, "the manifest is damaged")
    except InputError:
        if not list((root / HISTORY).glob("*.json")):
            raise
        report.add("manifest", MANIFEST, "the manifest is missing")
    return None


def newest_record(root: Path) -> Manifest | None:
    """Return the newest whole commit record whose files are all there with their hashes."""
    for path in sorted((root / HISTORY).glob("*.json"), reverse=True):
        try:
            record = read_manifest(path, root)
        except (FormatError, InputError):
            continue
        if all(
            (root / name).is_file() and sha256_file(root / name) == digest for name, digest in record.new_files.items()
        ):
            return record
    return None


def check_history(root: Path, manifest: Manifest, report: Report) -> list[Manifest]:
    """Check every commit's record; return those that are whole, oldest first."""
    whole = []
    for version in range(manifest.first_version, manifest.version + 1):
        path = history_path(root, version)
        name = path.relative_to(root).as_posix()
        try:
            record = read_manifest(path, root)
        except InputError:
            report.add("history", name, f"the record of version {version} is missing")
            continue
        except FormatError:
            report.add("history", name, f"the record of version {version} is damaged")
            continue
        if record.version != version:
            report.add("history", name, f"the record of version {version} says version {record.version}")
        elif version == manifest.version and path.read_bytes() != (root / MANIFEST).read_bytes():
            report.add("history", name, f"the record of version {version} differs from the manifest")
        elif version < manifest.version:
            whole.append(record)
    return [*whole, manifest]


def check_hashes(root: Path, records: list[Manifest], report: Report) -> dict[str, str]:
    """Hash every file that belongs to a commit; return them all."""
    owned = {name: digest for record in records for name, digest in record.new_files.items()}
    manifest = records[-1]
    current = current_files(root, manifest)
    report.n_files = len(owned)
    for name, digest in sorted(owned.items()):
        used = current is None or name in current
        note = "" if used else f" (version {manifest.version} does not use it)"
        try:
            found = sha256_file(root / name)
        except FileNotFoundError:
            report.add("missing", name, f"the file is missing{note}").used = used
        except OSError as error:
            report.add("damaged", name, f"the file cannot be read: {error.strerror}{note}").used = used
        else:
            if found != digest:
                text = f"the file's SHA-256 is {found[:12]}, expected {digest[:12]}{note}"
                report.add("damaged", name, text).used = used
    return owned


def current_files(root: Path, manifest: Manifest) -> set[str] | None:
    """Return the files that the newest version reads; None when its tables cannot be opened."""
    used = {name for segment in manifest.segments for name in segment.files}
    for table in (manifest.spots, manifest.slides):
        try:
            dataset = LanceTable(root, table).dataset
            fragments = dataset.get_fragments()
        except (FormatError, OSError, ValueError, RuntimeError):
            return None
        used.add(f"{table.path}/_versions/{2**64 - 1 - table.version}.manifest")
        for fragment in fragments:
            metadata = fragment.metadata
            used.update(f"{table.path}/data/{item.path}" for item in metadata.files)
            if metadata.deletion_file is not None:
                used.add(f"{table.path}/{metadata.deletion_file.path(fragment.fragment_id)}")
    return used


def writer_is_busy(root: Path) -> bool:
    """Say whether a writer holds the lock now, without waiting for it."""
    try:
        handle = os.open(root / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def check_orphans(root: Path, owned: dict[str, str], manifest: Manifest, report: Report) -> None:
    """Find what belongs to no commit: remains of killed writers, and Lance's own pointers when they are wrong."""
    used_tables = {name.split("/", 1)[0] for name in owned}
    for path in sorted(data_files(root)):
        name = path.relative_to(root).as_posix()
        if name not in owned and not (path.parent == root / INDEX and path.name.startswith(TEMPORARY)):
            report.add("orphan", name, "the file belongs to no commit")
    folders = [root, root / HISTORY, root / INDEX, root / CACHE, *(root / CACHE).glob("*/")]
    for path in sorted(path for folder in folders for path in folder.glob(f"{TEMPORARY}*")):
        report.add("orphan", path.relative_to(root).as_posix(), "the file was never finished")
    for path in sorted((root / HISTORY).glob("*")):
        if path.name.startswith(TEMPORARY):
            continue
        number = int(path.stem) if path.stem.isdigit() and path.suffix == ".json" else -1
        if not manifest.first_version <= number <= manifest.version:
            report.add("orphan", path.relative_to(root).as_posix(), "the file is the record of no version")
    for folder in sorted(root.iterdir()):
        if TABLE_FOLDER.fullmatch(folder.name) and folder.name not in used_tables:
            report.add("orphan", folder.name, "the table belongs to no commit")
    for table in (manifest.spots, manifest.slides):
        hint = f"{table.path}/_versions/{LANCE_HINT}"
        newest = tables.latest_version(root, table.path)
        if (root / hint).exists() and tables.hinted_version(root / hint) != newest:
            report.add("hint", hint, "Lance's pointer to the newest version is damaged or wrong")


def check_tags(manifest: Manifest, report: Report) -> None:
    """Check that every tag names a version that is there."""
    for name, version in sorted(manifest.tags.items()):
        if not manifest.first_version <= version <= manifest.version:
            report.add("tag", MANIFEST, f"tag {name} names version {version}, which does not exist")

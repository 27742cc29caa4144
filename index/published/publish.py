"""Publishing: a read-only copy of one version, in a folder, an object store or on the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mclstexp.errors import ExistsAlreadyError, InputError
from mclstexp.index.published.address import Address, is_published
from mclstexp.index.published.manifest import Manifest, parse_manifest
from mclstexp.index.published.targets import (
    HubTarget,
    Sent,
    check_target,
    has_published,
    published_at,
    send_to_store,
)
from mclstexp.index.published.tree import Plan, write_tree
from mclstexp.index.published.wishes import Wishes, holds
from mclstexp.index.store.place import PUBLISHED, Place
from mclstexp.index.store.store import ReferenceStore
from mclstexp.storage import canonical_json, check_output, new_folder, sha256_bytes, storage_errors
from mclstexp.text import counted, some
from mclstexp.types import Progress


@dataclass(frozen=True)
class Publication:
    """What was published, or would be.

    Attributes
    ----------
    target
        Where.
    card
        The text of its card.
    notes
        What to know before others get it, one sentence each.
    n_files, n_bytes
        Of all files; 0 where nothing was written.
    sent, kept
        How many files were written, and how many were there already.
    """

    target: str
    card: str
    notes: tuple[str, ...] = field(default=())
    n_files: int = 0
    n_bytes: int = 0
    sent: int = 0
    kept: int = 0


def publish(
    store: ReferenceStore,
    target: str | os.PathLike[str],
    wishes: Wishes,
    *,
    options: Mapping[str, str] | None = None,
    private: bool = False,
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> Publication:
    """Write a read-only copy of the open version; see `mclstexp.Reference.publish`."""
    plan, text = Plan.of(store, wishes), os.fspath(target)
    publication = Publication(text, plan.card, tuple(_notes(plan)))
    if text.startswith(("http://", "https://")):
        raise InputError(f"{text}: a web server is not written to; name a folder, and let the server show it.")
    if not is_published(text) and "://" not in text:
        return _to_folder(plan, Path(text), publication, force, dry_run, on_progress)
    if is_published(text):
        hub = HubTarget(Address.parse(text, options), private=private)
        before = hub.published()
        check_target(before, plan.about, text, force=force)
        if dry_run or _is_there(before, plan):
            return _there(publication, before, plan)
        tree, manifest = _staged(plan, on_progress)
        sent = hub.send(tree, manifest, before)
    else:
        place = Place(text, options)
        place.check_reachable()
        with place.errors():
            before = published_at(place)
        check_target(before, plan.about, text, force=force)
        if dry_run or _is_there(before, plan):
            return _there(publication, before, plan)
        tree, manifest = _staged(plan, on_progress)
        sent = send_to_store(tree, manifest, place, before, on_progress=on_progress)
    shutil.rmtree(tree, ignore_errors=True)
    return _told(publication, manifest, sent)


def _is_there(before: Manifest | None, plan: Plan) -> bool:
    """Whether this very publication is there already."""
    return before is not None and before.about == plan.about


def _there(publication: Publication, before: Manifest | None, plan: Plan) -> Publication:
    if before is None or not _is_there(before, plan):
        return publication
    return _told(publication, before, Sent(0, len(before.files)))


def _told(publication: Publication, manifest: Manifest, sent: Sent) -> Publication:
    return Publication(
        publication.target,
        publication.card,
        publication.notes,
        len(manifest.files),
        manifest.n_bytes,
        sent.sent,
        sent.kept,
    )


def _to_folder(
    plan: Plan, folder: Path, publication: Publication, force: bool, dry_run: bool, on_progress: Progress | None
) -> Publication:
    """Write a folder, wholly or not at all; an earlier publication of the same reference is replaced."""
    source = plan.store.place.local
    if source is not None and folder.absolute().resolve() == source.absolute().resolve():
        raise InputError(f"{folder} is the reference itself; name another folder for its copy.")
    there = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    before = has_published(folder) if there and folder.is_dir() else None
    if there and before is None:
        raise ExistsAlreadyError(f"{folder} exists and was not published by this program; name another folder.")
    check_target(before, plan.about, str(folder), force=force)
    check_output(folder, force=folder.exists())
    if dry_run or (_is_there(before, plan) and not force):
        return _there(publication, before, plan)
    with new_folder(folder, force=folder.exists()) as work:
        manifest = write_tree(plan, work, on_progress=on_progress)
    return _told(publication, manifest, Sent(len(manifest.files), 0))


def _staged(plan: Plan, on_progress: Progress | None) -> tuple[Path, Manifest]:
    """Return the tree that is to be sent; that of a run that was stopped is taken as it is."""
    import platformdirs

    key = sha256_bytes(canonical_json([str(plan.store.root), plan.store.manifest_sha256, plan.about]).encode())
    home = Path(platformdirs.user_cache_dir("mclstexp")) / "publishing"
    folder = home / key[:20]
    if (folder / PUBLISHED).is_file():
        return folder, parse_manifest((folder / PUBLISHED).read_bytes(), str(folder))
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
    with new_folder(folder, force=folder.exists()) as work:
        manifest = write_tree(plan, work, on_progress=on_progress)
    return folder, manifest


def _notes(plan: Plan) -> list[str]:
    """Return what to know before others get the copy."""
    names, wishes = plan.names, plan.wishes
    notes = []
    if not wishes.licence:
        notes.append("No licence is given, so nobody knows what may be done with it: --licence cc-by-4.0, say.")
    renamed = names.renamed_slides
    if renamed:
        notes.append(
            f"{counted(len(renamed), 'slide')} whose names hold a patient's are renamed, too "
            f"({some(f'{old} is {names.slides[old]}' for old in renamed[:3])}{', ...' if len(renamed) > 3 else ''})."
        )
    if wishes.rename_patients:
        notes += _remaining(plan)
    elif any(names.patients):
        notes.append("Names of patients and slides are published as they are; --rename-patients replaces them.")
    return notes


def _remaining(plan: Plan) -> list[str]:
    """Say where names of patients remain, in columns that are published as they are."""
    patients = [name for name in plan.names.patients if name]
    told = []
    cohorts = sorted({entry.cohort for entry in plan.store.entries if holds(entry.cohort, patients)})
    if cohorts:
        told.append(f"cohort {some(cohorts, 3)}")
    found: dict[str, set[str]] = {"spot_id": set(), "label": set()}
    for batch in plan.store.spot_batches(list(found)):
        for column, values in found.items():
            values |= set(batch[column].unique().to_pylist())
    told += [f"the column {column}" for column, values in found.items() if any(holds(v, patients) for v in values)]
    if not told:
        return []
    return [f"A patient's name, or letters like it, are still in {' and '.join(told)}: look at them before you share."]

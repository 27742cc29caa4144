"""The reference: its slides, spots, counts and embeddings, as one version of one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mclstexp.errors import InputError
from mclstexp.index.store.build import create_reference
from mclstexp.index.store.commit import history
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.manifest import MANIFEST, Manifest, history_path, read_manifest
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.tables import SlideEntry
from mclstexp.index.store.tags import resolve_version, write_tag
from mclstexp.index.store.writer import AddReport, add_records, optimize_reference, remove_slides, restore_version


class ReferenceStore(Snapshot):
    """A reference: one version of it to be read, and what changes it. After a change it shows the new version."""

    def __init__(self, root: Path, manifest: Manifest, *, pinned: bool = False) -> None:
        super().__init__(root, manifest)
        self.pinned = pinned

    @classmethod
    def create(
        cls,
        path: Path,
        identity: ReferenceIdentity,
        records: Iterable[SlideRecord],
        *,
        message: str = "build",
        command: str = "",
        index: str = "auto",
        force: bool = False,
        save_model: Callable[[Path], None] | None = None,
    ) -> ReferenceStore:
        """Build a reference from slides that come one at a time.

        ``save_model`` is given the folder to write a copy of the model to; the copy is part of the commit.

        Raises
        ------
        ExistsAlreadyError
            When there is something at ``path`` and ``force`` is not set.
        """
        create_reference(
            Path(path),
            identity,
            records,
            message=message,
            command=command,
            index=index,
            force=force,
            save_model=save_model,
        )
        store = cls.open(path)
        store.fill_cache()
        return store

    @classmethod
    def open(cls, path: Path, *, version: int | str | None = None) -> ReferenceStore:
        """Open the newest version, or an earlier one by its number or tag (then nothing can be written).

        Raises
        ------
        InputError
            When the folder is not a reference, or has no such version.
        FormatError
            When the reference is damaged or of a newer format.
        """
        root = Path(path)
        newest = read_manifest(root / MANIFEST, root)
        if version is None:
            return cls(root, newest)
        number = resolve_version(root, newest, version)
        manifest = newest if number == newest.version else read_manifest(history_path(root, number), root)
        return cls(root, manifest, pinned=True)

    # --- history

    def history(self) -> list[Manifest]:
        """Every commit up to this version, oldest first."""
        return history(self.root, self.manifest)

    def tags(self) -> dict[str, int]:
        """Tags and their versions."""
        return dict(read_manifest(self.root / MANIFEST, self.root).tags)

    def tag(self, name: str, version: int | None = None, *, force: bool = False) -> None:
        """Name a version.

        Raises
        ------
        ExistsAlreadyError
            When the tag exists and ``force`` is not set.
        """
        write_tag(self.root, name, self.version if version is None else version, force=force)

    # --- changes: each is one commit, and this object then shows the new version

    def add(
        self,
        records: Iterable[SlideRecord],
        *,
        replace: bool = False,
        message: str = "",
        command: str = "",
    ) -> AddReport:
        """Add slides that come one at a time; see `writer.add_records`."""
        self._refuse_pinned()
        report = add_records(self.root, records, replace=replace, message=message, command=command)
        self._reload()
        problem = self.fill_cache()
        if problem:
            report.notes.append(f"The copy of the expression could not be brought up to date: {problem}")
        return report

    def remove(
        self,
        *,
        slides: Sequence[str] = (),
        patients: Sequence[str] = (),
        cohorts: Sequence[str] = (),
        message: str = "",
        command: str = "",
    ) -> list[SlideEntry]:
        """Remove slides by name, patient or cohort; returns what was removed."""
        self._refuse_pinned()
        removed = remove_slides(
            self.root, {"slide": slides, "patient": patients, "cohort": cohorts}, message=message, command=command
        )
        self._reload()
        return removed

    def restore(self, version: int | str, *, message: str = "", command: str = "") -> None:
        """Make an earlier version the newest, as a commit of its own."""
        self._refuse_pinned()
        restore_version(self.root, version, message=message, command=command)
        self._reload()

    def optimize(self, *, message: str = "", command: str = "") -> None:
        """Join small table fragments and rebuild the index in one piece; the answers stay."""
        self._refuse_pinned()
        optimize_reference(self.root, message=message, command=command)
        self._reload()

    def _refuse_pinned(self) -> None:
        if self.pinned:
            raise InputError(
                f"Version {self.version} of {self.root} was opened to be read; open the newest version, "
                f"or make this one the newest with mst restore {self.version}."
            )

    def _reload(self) -> None:
        fresh: dict[str, Any] = type(self).open(self.root).__dict__
        self.__dict__.clear()
        self.__dict__.update(fresh)

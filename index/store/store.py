"""The reference: its slides, spots, counts and embeddings, as a table that grows by commits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mclstexp.errors import InputError
from mclstexp.index.store.build import create_reference
from mclstexp.index.store.identity import ReferenceIdentity
from mclstexp.index.store.place import Place
from mclstexp.index.store.record import SlideRecord
from mclstexp.index.store.schema import SlideEntry
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.table import Commit
from mclstexp.index.store.tags import remove_tag, resolve_version, tags_of, write_tag
from mclstexp.index.store.writer import (
    AddReport,
    add_records,
    index_table,
    optimize_reference,
    remove_slides,
    restore_version,
)

Target = str | os.PathLike[str]

if TYPE_CHECKING:  # A store answers what its snapshot answers, by delegation; a type checker is told so.
    _Readable = Snapshot
else:
    _Readable = object


class ReferenceStore(_Readable):
    """A reference: a snapshot of one version, and what changes it. After a change it shows the new version.

    Everything that a `Snapshot` can be asked can be asked of a store.
    """

    def __init__(self, snapshot: Snapshot, *, pinned: bool = False) -> None:
        self.snapshot = snapshot
        self.pinned = pinned

    def __getattr__(self, name: str) -> Any:
        if name == "snapshot":
            raise AttributeError(name)
        return getattr(self.snapshot, name)

    def __len__(self) -> int:
        return self.snapshot.n_spots

    def __repr__(self) -> str:
        return f"ReferenceStore({str(self.root)!r}, {self.n_spots:,} spots, version {self.version})"

    @classmethod
    def create(
        cls,
        path: Target,
        identity: ReferenceIdentity,
        records: Iterable[SlideRecord],
        *,
        message: str = "build",
        command: str = "",
        index: str = "auto",
        force: bool = False,
        save_model: Callable[[Path], None] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> ReferenceStore:
        """Build a reference from slides that come one at a time, in a folder or at a URI such as ``s3://bucket/ref``.

        ``save_model`` is given the folder to write a copy of the model to; ``options`` are an object store's, what they
        lack comes from the environment.

        Raises
        ------
        ExistsAlreadyError
            When there is something at ``path`` and ``force`` is not set.
        """
        create_reference(
            Place(path, options),
            identity,
            records,
            message=message,
            command=command,
            index=index,
            force=force,
            save_model=save_model,
        )
        return cls.open(path, options=options)

    @classmethod
    def open(
        cls,
        path: Target,
        *,
        version: int | str | None = None,
        options: Mapping[str, str] | None = None,
        origin: str = "",
    ) -> ReferenceStore:
        """Open the newest version, or an earlier one by its number or tag (then nothing can be written).

        ``origin`` is the address of what the folder is a copy of.

        Raises
        ------
        InputError
            When there is no reference, or no such version.
        FormatError
            When the reference is damaged or of another format version.
        """
        newest = Snapshot.at(Place(path, options, origin=origin))
        if version is None:
            return cls(newest)
        number = resolve_version(newest, version)
        return cls(newest if number == newest.version else Snapshot.at(newest.place, number), pinned=True)

    # --- history

    def history(self) -> list[Commit]:
        """Every version up to this one, oldest first."""
        return self.table.history()

    def tags(self) -> dict[str, int]:
        """Tags and their versions."""
        return tags_of(self.table)

    def tag(self, name: str, version: int | None = None, *, force: bool = False) -> None:
        """Name a version.

        Raises
        ------
        ExistsAlreadyError
            When the tag exists and ``force`` is not set.
        """
        write_tag(self.place, name, self.version if version is None else version, force=force)

    def untag(self, name: str) -> None:
        """Forget a tag; the version stays."""
        remove_tag(self.place, name)

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
        self.require_growth()
        report = add_records(self.place, records, replace=replace, message=message, command=command)
        self._show_newest()
        return report

    def change_by(self, change: Callable[[Place], AddReport]) -> AddReport:
        """Let somebody else add to the reference, and show what came of it."""
        self.require_growth()
        report = change(self.place)
        self._show_newest()
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
        names = {"slide": slides, "patient": patients, "cohort": cohorts}
        removed = remove_slides(self.place, names, message=message, command=command)
        self._show_newest()
        return removed

    def restore(self, version: int | str, *, message: str = "", command: str = "") -> None:
        """Make an earlier version the newest, as a commit of its own."""
        self._refuse_pinned()
        restore_version(self.place, version, message=message, command=command)
        self._show_newest()

    def optimize(self, *, message: str = "", command: str = "") -> None:
        """Join small fragments and train the search index anew; the answers stay."""
        self._refuse_pinned()
        optimize_reference(self.place, message=message, command=command)
        self._show_newest()

    def index_table(self) -> None:
        """Give the table an index of LanceDB's own, which ``index(search="lancedb")`` then uses; a new version."""
        self._refuse_pinned()
        index_table(self.place)
        self._show_newest()

    def require_growth(self) -> None:
        """Refuse to add to what is only read.

        Raises
        ------
        InputError
            An earlier version is open; the reference is published, or was published without counts.
        """
        self._refuse_pinned()
        self.require_counts("Adding slides")

    def _refuse_pinned(self) -> None:
        self.place.require_writable()
        if self.pinned:
            raise InputError(
                f"Version {self.version} of {self.root} was opened to be read; open the newest version, "
                f"or make this one the newest with mst restore {self.version}."
            )

    def _show_newest(self) -> None:
        self.snapshot = Snapshot.at(self.place)

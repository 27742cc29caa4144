"""A reference's store and model, and what looks after them: add, remove, restore, optimize, tag, history, export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mclstexp.errors import FormatError
from mclstexp.index.filter import Filter
from mclstexp.index.store import summary
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.tags import resolve_version
from mclstexp.index.store.writer import AddReport, stands
from mclstexp.notes import warn
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide
from mclstexp.text import counted, some
from mclstexp.types import Device, Progress, StrPath

if TYPE_CHECKING:  # what looks after a reference needs neither torch nor anndata, which take seconds to load
    import anndata as ad

    from mclstexp.data.readers.addresses import SlideAddresses
    from mclstexp.index.cluster.workers import Workers
    from mclstexp.index.published.publish import Publication
    from mclstexp.model.image.cache import Cache
    from mclstexp.model.model import Model


class Upkeep:
    """What `mclstexp.Reference` owns, and every change to it."""

    def __init__(self, store: ReferenceStore, *, device: Device = "auto", cache: Cache = True) -> None:
        self._store, self._device, self._cache = store, device, cache

    @cached_property
    def model(self) -> Model:
        """The reference's own model, loaded when it is first needed.

        Raises
        ------
        FormatError
            When the copy is missing or damaged.
        """
        from mclstexp.model.model import Model

        folder = self._store.model_folder
        if not folder.is_dir():
            raise FormatError(
                f"Reference {self._store.root} holds no copy of its model; give the model with --model FOLDER."
            )
        return self._checked(Model.load(folder, device=self._device, cache=self._cache))

    def use_model(self, model: Model) -> None:
        """Take a model that was loaded elsewhere in place of the reference's own copy.

        Raises
        ------
        MismatchError
            When it is another model than the reference was built with.
        """
        self.__dict__["model"] = self._checked(model)

    def _checked(self, model: Model) -> Model:
        from mclstexp.index.encode import identity_of

        self._store.check_identity(identity_of(model))
        return model

    @property
    def path(self) -> Path | str:
        """Folder of the reference, or its URI."""
        return self._store.root

    @property
    def store(self) -> ReferenceStore:
        """What lies on disk: tables, index, versions. Internal; it may change."""
        return self._store

    @property
    def version(self) -> int:
        """Number of the open version."""
        return self._store.version

    def add(
        self,
        slides: Sequence[Slide] | SlideAddresses,
        *,
        ray: Workers | str | None = None,
        replace: bool = False,
        message: str = "",
        command: str = "",
        on_progress: Progress | None = None,
    ) -> AddReport:
        """Encode and add slides that the reference does not hold yet; nothing else is touched.

        Parameters
        ----------
        slides
            Slides with counts; with ``ray`` what `find_slides` returns.
        ray
            The Ray cluster that reads and encodes the slides: ``auto``, ``host:port`` of its head, or `Workers`. A
            slide that fails there is told at the end, and the others are added.
        replace
            Let a slide of the same name and other content take the old one's place.
        message, command
            What the history says.
        on_progress
            Called with (step, done, total).

        Returns
        -------
        AddReport
            Names of the slides that were added, replaced and skipped (there already).

        Raises
        ------
        ExistsAlreadyError
            When a slide's name is taken by other content and ``replace`` is not set.
        InputError, LockedError, StorageError
            A slide has no counts; an earlier version is open, or what is published; another process writes; the disk
            refused.
        """
        self._store.require_growth()
        text = message or f"add {counted(len(slides), 'slide')}"
        if ray is not None:
            return self._added_by(ray, slides, replace=replace, message=text, command=command, on_progress=on_progress)
        from mclstexp.index.encode import say_cost, slide_records

        slides = list(slides)
        new = self.new_among(slides, replace=replace)
        say_cost(new, self.model)
        records = slide_records(new, self.model, on_progress=on_progress)
        report = self._store.add(records, replace=replace, message=text, command=command)
        there = {slide.slide_id for slide in slides} - {slide.slide_id for slide in new}
        report.skipped = [*sorted(there), *report.skipped]
        return _told(report)

    def _added_by(self, ray: Workers | str, slides: Sequence[Slide] | SlideAddresses, **how: Any) -> AddReport:
        """Add slides by the workers of a cluster."""
        from mclstexp.index.cluster.build import add_on_cluster
        from mclstexp.index.cluster.workers import addressed, as_workers, refuse_failed

        addresses = addressed(slides)
        workers = as_workers(ray, device=self._device, cache=self._cache)
        report = _told(self._store.change_by(lambda place: add_on_cluster(place, addresses, workers, **how)))
        refuse_failed(report.failed, len(addresses), "The others are there; add them when they are mended.")
        return report

    def new_among(self, slides: Sequence[Slide], *, replace: bool = False) -> list[Slide]:
        """Return the slides that the reference does not hold, before any is encoded.

        Raises
        ------
        ExistsAlreadyError, InputError
            A slide's name is taken by other content and ``replace`` is not set; a slide has no counts.
        """
        from mclstexp.index.encode import content_of

        known = {entry.slide_id: entry.content for entry in self._store.entries}
        return [one for one in slides if not stands(known, one.slide_id, content_of(one), replace=replace)]

    def remove(
        self,
        *,
        slides: Sequence[str] = (),
        patients: Sequence[str] = (),
        cohorts: Sequence[str] = (),
        message: str = "",
        command: str = "",
    ) -> list[str]:
        """Remove slides by name, patient or cohort, and return their names. Earlier versions keep them.

        Raises
        ------
        InputError
            When a name matches nothing, nothing is named, or nothing would remain.
        """
        entries = self._store.remove(
            slides=slides, patients=patients, cohorts=cohorts, message=message, command=command
        )
        return [entry.slide_id for entry in entries]

    def restore(self, version: int | str, *, message: str = "", command: str = "") -> None:
        """Make an earlier version the newest, as a version of its own; nothing is lost.

        Raises
        ------
        InputError
            When there is no such version or tag, or it is the newest.
        """
        self._store.restore(version, message=message, command=command)

    def optimize(self, *, table_index: bool = False, message: str = "", command: str = "") -> None:
        """Join what many adds left in small pieces, and build the search index anew. The answers stay.

        With ``table_index`` the table gets an index of LanceDB's own, too, which ``search="lancedb"`` then uses.
        """
        self._store.optimize(message=message, command=command)
        if table_index:
            self._store.index_table()

    def tag(self, name: str, version: int | str | None = None, *, force: bool = False) -> int:
        """Name a version (None: the open one), and return its number.

        Raises
        ------
        InputError, ExistsAlreadyError
            The name cannot be used or there is no such version; the tag exists and ``force`` is not set.
        """
        number = self.version if version is None else resolve_version(self._store.snapshot, version)
        self._store.tag(name, number, force=force)
        return number

    def untag(self, name: str) -> int:
        """Remove a tag, and return the number of its version, which stays.

        Raises
        ------
        InputError
            When there is no such tag.
        """
        number = resolve_version(self._store.snapshot, name)
        self._store.untag(name)
        return number

    def publish(
        self,
        target: StrPath,
        *,
        title: str = "",
        description: str = "",
        licence: str = "",
        without_counts: bool = False,
        without_images: bool = False,
        rename_patients: bool = False,
        private: bool = False,
        force: bool = False,
        dry_run: bool = False,
        storage_options: Mapping[str, str] | None = None,
        on_progress: Progress | None = None,
    ) -> Publication:
        """Write a read-only copy of the open version for others, with a card made from its contents.

        Paths, commands and messages are left out. A call that was stopped goes on; one that is repeated writes nothing
        twice.

        Parameters
        ----------
        target
            A folder, ``s3://bucket/folder`` or a dataset of the Hugging Face hub, ``hf://owner/name``.
        title, description, licence
            What the card says; a licence by its name on the hub (``cc-by-4.0``) or as any text.
        without_counts
            Leave raw counts out: the panel's expression stays, on the model's scale; nothing can be added to a copy.
        without_images
            Leave out embeddings and hashes of the slides' own images.
        rename_patients
            Call patients ``patient-001``, ..., and slides whose names hold a patient's after them.
        private
            Whether a dataset that is made on the hub is seen by its owner alone.
        force
            Replace what was published there from another reference.
        dry_run
            Write nothing.
        storage_options
            An object store's; of the hub ``endpoint``.
        on_progress
            Called with (step, done, total).

        Raises
        ------
        InputError, ExistsAlreadyError, StorageError, DownloadError
            The reference has no copy of its model; something else is there; the disk, store or hub refused.

        Examples
        --------
        >>> import mclstexp as mst
        >>> mst.Reference.open("reference/").publish("shared/", licence="cc-by-4.0", rename_patients=True).kept
        0
        """
        from mclstexp.index.published.publish import publish
        from mclstexp.index.published.wishes import Wishes

        wishes = Wishes(title, description, licence, without_counts, without_images, rename_patients)
        done = publish(
            self._store,
            target,
            wishes,
            options=storage_options,
            private=private,
            force=force,
            dry_run=dry_run,
            on_progress=on_progress,
        )
        for note in done.notes:
            warn(note)
        return done

    @property
    def tags(self) -> dict[str, int]:
        """Tags and their versions."""
        return self._store.tags()

    def history(self) -> list[dict[str, Any]]:
        """Return every version, oldest first: ``version``, ``time``, ``message``, ``command``, ``spots``, ..."""
        return summary.commits(self._store)

    def info(self) -> dict[str, Any]:
        """Return what the reference is, as plain values: model, panel, settings, size, index, disk use."""
        return summary.describe(self._store)

    def cohorts(self) -> list[dict[str, Any]]:
        """Return cohorts, their patients and their slides, with spots, genes, dates and sizes."""
        return summary.cohort_tree(self._store)

    def to_anndata(self, *, filter: Filter | None = None, genes: GenePanel | Sequence[str] | None = None) -> ad.AnnData:
        """Return spots as AnnData: raw counts, patient, slide, cohort and label, position and embedding.

        Parameters
        ----------
        filter
            Which spots; None for all.
        genes
            Symbols or Ensembl ids; None for every gene that some slide measured. Zeros of genes that a slide did not
            measure are unknown: ``varm["measured"][:, obs["gene_list"]]`` says which.

        Raises
        ------
        InputError
            A gene or filter does not fit the reference.
        """
        from mclstexp.index.export import reference_anndata

        return reference_anndata(self._store, filter, genes)

    def export(
        self,
        path: StrPath,
        *,
        filter: Filter | None = None,
        genes: GenePanel | Sequence[str] | None = None,
        force: bool = False,
        on_progress: Progress | None = None,
    ) -> int:
        """Write spots as ``.h5ad`` (see `to_anndata`) or ``.parquet``, counts a slide at a time; return their number.

        Raises
        ------
        InputError, ExistsAlreadyError, StorageError
            Another suffix, gene or filter; something is at ``path``; the disk refused.
        """
        from mclstexp.index.export import write_reference

        return write_reference(self._store, Path(path), filter, genes, force=force, on_progress=on_progress)


def _told(report: AddReport) -> AddReport:
    """Say what is doubtful of an add."""
    if report.duplicates:
        warn(_twins(report.duplicates))
    for note in report.notes:
        warn(note)
    return report


def _twins(duplicates: dict[str, list[str]]) -> str:
    """Return one sentence on slides whose content is in the reference already, under other names."""
    pairs = [(name, ", ".join(same)) for name, same in duplicates.items()]
    if len(pairs) == 1:
        ((name, same),) = pairs
        return f"Slide {name} has the content of {same}: probably the same slide under another name."
    listed = some((f"{name} of {same}" for name, same in pairs), 4)
    return f"{len(pairs)} slides have the content of others ({listed}): probably the same under other names."

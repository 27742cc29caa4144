"""The reference: the one door to a store, its model, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from mclstexp.config import Normalisation, RetrievalConfig
from mclstexp.errors import InputError
from mclstexp.index.doubts import unlike_pixel_size
from mclstexp.index.filter import Filter, allowed_rows, choose_genes
from mclstexp.index.search.backend import Search
from mclstexp.index.store.place import Place
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.upkeep import Upkeep
from mclstexp.index.verify.findings import Report
from mclstexp.index.verify.run import verify
from mclstexp.notes import warn
from mclstexp.panel import GenePanel
from mclstexp.settings import with_settings
from mclstexp.slide import Slide, count_patients
from mclstexp.text import counted, some
from mclstexp.types import Device, FloatArray, Progress, StrPath

if TYPE_CHECKING:  # what looks after a reference needs neither torch nor anndata, which take seconds to load
    import pandas as pd
    import pyarrow as pa

    from mclstexp.data.positions.grid import Grid
    from mclstexp.data.readers.addresses import SlideAddresses
    from mclstexp.data.tile_features import TileFeatures
    from mclstexp.index.cluster.workers import Workers
    from mclstexp.model.image.cache import Cache
    from mclstexp.model.model import Model
    from mclstexp.predict.prediction import Prediction

IndexKind = Literal["auto", "exact", "ivf-sq8", "ivf-fp16", "ivf-flat"]
"""Kinds of search index; ``auto`` goes by the number of spots."""


class Reference(Upkeep):
    """A reference library of spots that can be searched by histology. It owns its store and its model.

    Each change is one commit: killed at any moment, the reference opens at its last whole state. After a change the
    object shows the new version; one that was opened at an earlier version cannot be changed.

    Examples
    --------
    >>> import mclstexp as mst
    >>> reference = mst.Reference.open("reference/")
    >>> reference  # doctest: +ELLIPSIS
    Reference('reference', ... spots, 2 slides, 2 patients, version 1)
    >>> prediction = reference.query(mst.read_query("slide.tif", "coords.csv"), genes=["ERBB2"])
    >>> prediction  # doctest: +ELLIPSIS
    Prediction('slide', ... spots, 1 gene..., log1p(counts per 10,000 of the panel))
    """

    @classmethod
    def build(
        cls,
        path: StrPath,
        slides: Sequence[Slide] | SlideAddresses,
        model: Model,
        *,
        ray: Workers | str | None = None,
        index: IndexKind = "auto",
        message: str = "",
        command: str = "",
        force: bool = False,
        storage_options: Mapping[str, str] | None = None,
        on_progress: Progress | None = None,
    ) -> Reference:
        """Encode slides with a model and write them as a reference, the model's copy inside.

        Parameters
        ----------
        path
            The folder to write, or a URI such as ``s3://bucket/reference``.
        slides
            Slides with counts, as `read_slides` returns them; those without an image have keys of counts alone. With
            ``ray`` what `find_slides` returns.
        model
            What encodes them, and every query; where it computes, the reference is searched.
        ray
            The Ray cluster that reads and encodes the slides: ``auto``, ``host:port`` of its head, or `Workers`. A
            build that was killed goes on where it was when it is called again. None for this process alone.
        index
            Kind of search index.
        message, command
            What the reference's history says of the build.
        force
            Replace a reference that is there. It stays restorable until the next build.
        storage_options
            An object store's, as LanceDB names them; what they lack comes from the environment.
        on_progress
            Called with (step, done, total).

        Raises
        ------
        InputError, ExistsAlreadyError, StorageError
            There are no slides, or one has no counts; something is at ``path``; the disk refused. On a cluster the
            slides that can be encoded are in the reference all the same.

        Examples
        --------
        >>> import mclstexp as mst
        >>> Reference.build("breast/", mst.read_slides("refs/"), mst.Model.load("model/"))  # doctest: +ELLIPSIS
        Reference('breast', ... spots, 2 slides, 2 patients, version 1)
        """
        from mclstexp.index.encode import identity_of, say_cost, slide_records

        if not slides:
            raise InputError("There is no slide to build a reference from.")
        if ray is not None:
            from mclstexp.index.cluster.build import build_or_go_on

            said: dict[str, Any] = {"message": message, "command": command, "on_progress": on_progress}
            build_or_go_on(Place(path, storage_options), slides, model, ray, index=index, force=force, **said)
            reference = cls(ReferenceStore.open(path, options=storage_options), device=model.device)
            reference.__dict__["model"] = model
            return reference
        slides = list(slides)
        uncounted = [slide.slide_id for slide in slides if slide.spots.counts is None]
        if uncounted:
            raise InputError(f"Slide {uncounted[0]} has no counts: it cannot be a reference.")
        blind = [slide.slide_id for slide in slides if slide.image is None]
        if blind:
            warn(
                f"{len(blind)} of {len(slides)} slides have no image ({some(blind)}): their keys are their spot "
                "embeddings alone."
            )
        say_cost(slides, model)
        store = ReferenceStore.create(
            path,
            identity_of(model),
            slide_records(slides, model, on_progress=on_progress),
            message=message or f"build from {counted(len(slides), 'slide')}",
            command=command,
            index=index,
            force=force,
            save_model=lambda folder: model.save(folder, force=True),
            options=storage_options,
        )
        reference = cls(store, device=model.device)
        reference.__dict__["model"] = model
        return reference

    @classmethod
    def open(
        cls,
        path: StrPath,
        *,
        version: int | str | None = None,
        device: Device = "auto",
        cache: Cache = True,
        storage_options: Mapping[str, str] | None = None,
        on_progress: Progress | None = None,
    ) -> Reference:
        """Open the newest version, or an earlier one by its number or tag (then nothing can be changed).

        What is published (``hf://owner/name``, ``https://host/folder``) is fetched once into the user's cache, each
        file checked by its hash, and only read.

        Parameters
        ----------
        path
            The reference's folder, or its URI.
        version
            Number or tag; None opens the newest.
        device, cache
            As in `Model.load`, for the reference's model once it is needed.
        storage_options
            An object store's, as LanceDB names them; what they lack comes from the environment. Of a published
            reference ``allow_http`` and ``endpoint`` (another hub).
        on_progress
            Called while a published reference is fetched.

        Raises
        ------
        InputError, FormatError, StorageError
            The folder is not a reference, or has no such version; it is damaged or of a newer format; the object store
            cannot be used.
        DownloadError
            A published reference cannot be had, or is not what was published.

        Examples
        --------
        A reference in an object store, whose access is not in the environment::

            access = {"endpoint": "http://127.0.0.1:9000", "allow_http": "true"}
            Reference.open("s3://bucket/reference", storage_options=access)
        """
        store = ReferenceStore.open(**_place_of(path, storage_options, on_progress), version=version)
        return cls(store, device=device, cache=cache)

    @property
    def genes(self) -> GenePanel:
        """Every gene that some slide measured: what may be asked for."""
        return self._store.genes

    @property
    def panel(self) -> GenePanel:
        """The model's gene panel: what is predicted unless other genes are asked for."""
        return self._store.identity.panel

    @property
    def slides(self) -> pd.DataFrame:
        """Table of the slides by name: patient, cohort, number of spots and genes, image, pixel size, when added."""
        import pandas as pd

        columns = ["patient", "cohort", "n_spots", "n_genes", "has_image", "mpp", "added", "added_version"]
        rows = {entry.slide_id: [getattr(entry, name) for name in columns] for entry in self._store.slides()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("slide")

    @property
    def grid(self) -> Grid:
        """The grid that its spots lie on, as far as its slides agree: what a slide without coordinates gets.

        Raises
        ------
        InputError
            When the pixel size of no slide is known.
        """
        from mclstexp.index.lattice import usual_grid

        return usual_grid(self._store)

    def check_query(
        self, *, genes: GenePanel | Sequence[str] | Literal["all"] | None = None, filter: Filter | None = None
    ) -> None:
        """Refuse genes and filters that do not fit the reference, before anything is encoded for `query`.

        Raises
        ------
        InputError
            For a gene that no slide measured; for a filter that names what is not there, or leaves no spot.
        """
        choose_genes(self._store, genes)
        allowed_rows(self._store, filter)

    def doubts(self, slide: Slide) -> list[str]:
        """Return what is doubtful of a query before its patches are looked at: a pixel size like that of no slide."""
        return unlike_pixel_size(slide, self._store.entries)

    def __len__(self) -> int:
        return self._store.n_spots

    def __repr__(self) -> str:
        entries = self._store.entries
        n_patients = count_patients((entry.cohort, entry.patient, entry.slide_id) for entry in entries)
        return (
            f"Reference({str(self.path)!r}, {counted(len(self), 'spot')}, {counted(len(entries), 'slide')}, "
            f"{counted(n_patients, 'patient')}, version {self.version})"
        )

    def query(
        self,
        slide: Slide,
        *,
        genes: GenePanel | Sequence[str] | Literal["all"] | None = None,
        filter: Filter | None = None,
        k: int | None = None,
        weights: Literal["softmax", "inverse_square"] | None = None,
        temperature: float | None = None,
        normalisation: Normalisation | None = None,
        features: TileFeatures | None = None,
        search: Search = "faiss",
        device: Device | None = None,
        thumbnail: bool = True,
        command: str = "",
        on_progress: Progress | None = None,
    ) -> Prediction:
        """Predict a slide's expression from its nearest reference spots.

        What was assumed of the slide or noticed (it is in the reference, it is unlike the reference, ...) is said
        through `warnings` and kept in `Prediction.notes`.

        Parameters
        ----------
        slide
            Image and spot positions, as `read_query` returns them; counts, if any, are not looked at.
        genes
            None for the model's panel, ``"all"``, or names (symbols or Ensembl ids).
        filter
            Which reference spots may be neighbours.
        k, weights, temperature
            Number of neighbours and how they are weighed; None takes the model's, which alone have intervals.
        normalisation
            Scale of the prediction; None takes the model's.
        features
            The slide's tiles as another tool encoded them (`read_features`), in place of encoding them here; checked
            to be of the reference's own encoder.
        search
            What finds the neighbours: ``faiss``, ``lancedb`` (the table's own index), or ``exact`` (every key on the
            CPU, whatever the size). Similarities and ties are settled the same way after each.
        device
            Where to search; None as the reference was opened.
        thumbnail
            Whether the prediction holds a small picture of the slide.
        command
            What the prediction records of how it was made.
        on_progress
            Called with (step, done, total).

        Raises
        ------
        InputError, MismatchError
            A gene, filter or setting does not fit the reference; the slide has no image or no pixel size.

        Examples
        --------
        >>> import mclstexp as mst
        >>> slide = mst.read_query("slide.tif", "coords.csv")
        >>> prediction = Reference.open("reference/").query(slide, filter=Filter(exclude_patients=("P1",)))
        >>> set(prediction.neighbours(prediction.spot_ids[0])["patient"])
        {'P2'}
        """
        from mclstexp.index.query import QueryOptions, predict_slide

        changes = {"k": k, "weights": weights, "temperature": temperature}
        asked = [f"{name}={value}" for name, value in changes.items() if value is not None]
        options = QueryOptions(
            genes=genes,
            retrieval=self._retrieval(asked) if asked else None,
            normalisation=normalisation,
            filter=filter,
            features=features,
            search=search,
            device=device or self._device,
            thumbnail=thumbnail,
            command=command,
            on_progress=on_progress,
        )
        # Before the patches are encoded, which may take minutes.
        for note in slide.notes:
            warn(note)
        prediction = predict_slide(slide, self.model, self._store, options)
        for note in prediction.notes[len(slide.notes) :]:
            warn(note)
        return replace(prediction, reference=self)

    def values_of(self, neighbours: pa.Table, gene: str, normalisation: Normalisation) -> FloatArray:
        """Return a gene's expression at rows of a prediction's table of neighbours; see `Prediction.neighbours`.

        Returns
        -------
        ``(n,)`` float32 on the scale of ``normalisation``; NaN where the gene was not measured.

        Raises
        ------
        InputError, MismatchError
            No slide measured the gene; the rows are other spots in this reference.
        """
        from mclstexp.index.evidence import values_of

        return values_of(self._store, neighbours, gene, normalisation)

    def check_neighbours(self, neighbours: pa.Table) -> None:
        """Refuse to be taken for the reference of a prediction that was made from another one.

        Raises
        ------
        MismatchError
            When a row of the prediction's table of neighbours is missing here, or is another spot.
        """
        from mclstexp.index.evidence import check_rows

        check_rows(self._store, neighbours)

    def _retrieval(self, changes: list[str]) -> RetrievalConfig:
        return with_settings(self.model.config.retrieval, changes)

    @staticmethod
    def verify(
        path: StrPath,
        *,
        repair: bool = False,
        storage_options: Mapping[str, str] | None = None,
        on_progress: Progress | None = None,
    ) -> Report:
        """Check everything in a reference's folder, and mend what can be derived; it need not open for that.

        Raises
        ------
        InputError, LockedError
            The folder is not a reference; a repair meets a writer.
        """
        return verify(**_place_of(path, storage_options, on_progress), repair=repair, on_progress=on_progress)


def _place_of(path: StrPath, options: Mapping[str, str] | None, on_progress: Progress | None) -> dict[str, Any]:
    """Return where a reference is read: of what is published its copy, which is fetched where it is lacking."""
    from mclstexp.index.published.address import is_published

    if not is_published(path):
        return {"path": path, "options": options}
    from mclstexp.index.published.copy import local_copy

    folder, origin = local_copy(str(path), options, on_progress=on_progress)
    return {"path": folder, "origin": origin}

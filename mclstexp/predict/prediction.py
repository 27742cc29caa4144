"""A predicted slide with its evidence, and its two files: an ``.h5ad`` and the neighbours' Parquet beside it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mclstexp.config import Normalisation
from mclstexp.data.anndata_file import read_anndata
from mclstexp.data.plain_h5ad import read_plain, write_plain
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.predict.consistency import check_evidence, check_shapes
from mclstexp.predict.contributions import GeneSource, Group, gene_contributions, weights_by
from mclstexp.predict.evidence import (
    NEIGHBOUR_SCHEMA,
    SHOWN,
    check_one_run,
    completed,
    neighbours_path,
    read_neighbours,
    spot_neighbours,
)
from mclstexp.predict.formats.geojson import ObjectType, to_geojson
from mclstexp.predict.formats.scanpy import LAYERS, fields_of, to_anndata, to_plain
from mclstexp.predict.formats.spatial import to_spatialdata
from mclstexp.predict.formats.tables import to_dataframe
from mclstexp.predict.formats.tiles import to_wsidata
from mclstexp.settings import from_dict
from mclstexp.slide import SlideImage
from mclstexp.storage import TEMPORARY, check_output, storage_errors
from mclstexp.text import counted
from mclstexp.types import BoolArray, FloatArray, StrPath

if TYPE_CHECKING:
    import anndata as ad


@dataclass(frozen=True, eq=False)
class Prediction:
    """Expected expression of one slide's spots, and where it came from. `mclstexp.Reference.query` makes one.

    Attributes
    ----------
    slide_id
        Name of the query slide.
    spot_ids
        ``(n,)`` str, unique.
    xy_px
        ``(n, 2)`` float64 spot centres as (x, y) at full resolution.
    genes
        The predicted genes.
    mean, sd
        ``(n, G)`` float32 expected log1p expression and the spread of the neighbours (None when it was not asked
        for); NaN where nothing is known.
    settings
        JSON values that say how it was made. Names the scale of ``mean`` as ``scale``, or the
        ``normalisation`` (:class:`~mclstexp.config.Normalisation` as a dict) that the name follows from.
    spot_diameter_px
        Diameter of a spot at full resolution, for drawing.
    array_row, array_col
        ``(n,)`` int64 grid coordinates, or None where the coordinates file had none.
    lower, upper
        ``(n, G)`` float32 ends of an interval, or None.
    retrieved
        ``(n, G)`` float32 plain weighted mean of the neighbours, where ``mean`` holds a correction as well; or None.
    obs, var
        Further columns: ``(n,)`` a spot, ``(G,)`` a gene.
    evidence
        Table of every spot's neighbours with at least the columns of `NEIGHBOUR_SCHEMA`.
    thumbnail, thumbnail_scale
        ``(h, w, 3)`` uint8 image and its pixels per full-resolution pixel, or None.
    mpp
        Pixel size at full resolution in um, or None when unknown.
    embedding
        ``(n, d)`` float32 embeddings of the patches, in the space of the reference's; or None.
    tissue
        ``(h, w)`` bool over the whole image: the tissue that a grid was laid on; None where coordinates were given.
    reference
        The reference that it was just made from; None for one that was read from a file.

    Examples
    --------
    >>> prediction = Prediction.load("slide.h5ad")
    >>> prediction  # doctest: +ELLIPSIS
    Prediction('slide', ... spots, ... genes, log1p(counts per 10,000 of the panel))
    >>> prediction.adata.layers["sd"].shape == prediction.mean.shape
    True
    >>> list(prediction.neighbours(prediction.spot_ids[0]).columns[:5])
    ['patient', 'slide', 'spot', 'similarity', 'weight']
    """

    slide_id: str
    spot_ids: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    genes: GenePanel
    mean: FloatArray
    sd: FloatArray | None
    settings: Mapping[str, Any]
    spot_diameter_px: float
    array_row: NDArray[np.int64] | None = None
    array_col: NDArray[np.int64] | None = None
    lower: FloatArray | None = None
    upper: FloatArray | None = None
    retrieved: FloatArray | None = None
    obs: Mapping[str, NDArray[Any] | Sequence[Any]] = field(default_factory=dict)
    var: Mapping[str, NDArray[Any] | Sequence[Any]] = field(default_factory=dict)
    evidence: pa.Table = field(default_factory=NEIGHBOUR_SCHEMA.empty_table)
    thumbnail: NDArray[np.uint8] | None = None
    thumbnail_scale: float | None = None
    mpp: float | None = None
    embedding: FloatArray | None = None
    tissue: BoolArray | None = None
    reference: GeneSource | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "spot_ids", np.asarray(self.spot_ids, dtype=np.str_))
        set_(self, "xy_px", np.asarray(self.xy_px, dtype=np.float64))
        for name in ("mean", *LAYERS, "embedding"):
            if getattr(self, name) is not None:
                set_(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        for name in ("array_row", "array_col"):
            if getattr(self, name) is not None:
                set_(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        check_shapes(self)
        check_evidence(self)
        set_(self, "evidence", completed(self.evidence))

    def __len__(self) -> int:
        return len(self.spot_ids)

    @property
    def scale(self) -> str:
        """Name of the scale that ``mean`` and ``sd`` are on; "" when the settings do not say."""
        if "scale" in self.settings:
            return str(self.settings["scale"])
        if "normalisation" in self.settings:
            return scale_name(from_dict(Normalisation, self.settings["normalisation"]))
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed or noticed when it was made, a sentence each."""
        return tuple(str(note) for note in self.settings.get("notes", ()))

    @cached_property
    def adata(self) -> ad.AnnData:
        """The prediction as scanpy, squidpy and SpatialData read it; made once."""
        return self.to_anndata()

    def neighbours(self, spot: str, gene: str | None = None, reference: GeneSource | None = None) -> pd.DataFrame:
        """Return the reference spots that a spot's prediction was made from, the most similar first.

        Parameters
        ----------
        spot
            Id of a spot of the query slide.
        gene
            Symbol or Ensembl id of any gene that the reference measured: adds its value at each neighbour, on the
            prediction's scale, and its contribution, weight x value. Contributions sum to the neighbours' mean, which
            is the layer ``retrieved`` (or ``X`` where there is no such layer).
        reference
            Where the gene is read. A prediction that `Reference.query` has just returned knows its own.

        Returns
        -------
        pandas.DataFrame
            A row a neighbour, by ``rank``: ``patient``, ``slide``, ``spot``, ``similarity``, ``weight``, with a gene
            ``value`` and ``contribution``, then ``label``, ``cohort``, ``array_row``, ``array_col``, ``x_px``,
            ``y_px``, ``row_id``.

        Raises
        ------
        InputError, MismatchError
            When the prediction has no such spot, the reference has no such gene or is another one, or none is given.

        Examples
        --------
        >>> import mclstexp as mst
        >>> prediction = Prediction.load("slide.h5ad")
        >>> reference = mst.Reference.open("reference/")
        >>> list(prediction.neighbours(prediction.spot_ids[0], "ERBB2", reference).columns[3:7])
        ['similarity', 'weight', 'value', 'contribution']
        """
        rows = spot_neighbours(self.evidence, spot, self.slide_id)
        frame: pd.DataFrame = rows.drop_columns(["query_spot"]).to_pandas().rename(columns={"spot_id": "spot"})
        frame = frame.set_index("rank")[list(SHOWN)]
        if gene is not None:
            value = self._values_of(rows, gene, reference)
            frame.insert(5, "value", value)
            frame.insert(6, "contribution", self.contribution_of(frame["weight"].to_numpy(), value))
        return frame

    def _values_of(self, rows: pa.Table, gene: str, reference: GeneSource | None) -> FloatArray:
        source = reference or self.reference
        if source is None:
            place, version = (self.settings.get(name) for name in ("reference", "reference_version"))
            raise InputError(
                f"A gene's values at the neighbours are read from the reference: give "
                f"reference=mclstexp.Reference.open({str(place or 'reference')!r}, version={version})."
            )
        if "normalisation" not in self.settings:
            raise InputError(
                "The prediction does not say its normalisation, so no gene's values can be compared to it."
            )
        return source.values_of(rows, gene, from_dict(Normalisation, self.settings["normalisation"]))

    def contribution_of(self, weight: FloatArray, value: FloatArray) -> FloatArray:
        """Return ``(k,)`` float32 what each of a spot's neighbours contributes to a gene's mean; NaN: nothing known."""
        retrieval = self.settings.get("retrieval", {})
        return gene_contributions(weight, value, float(retrieval.get("min_measured", 0.0)))

    def contributions(self, by: Group = "patient") -> pd.DataFrame:
        """Return how much of each spot's weight is whose.

        Parameters
        ----------
        by
            ``slide``, ``patient`` or ``cohort``.

        Returns
        -------
        pandas.DataFrame
            A row a spot, a column a slide, patient or cohort, the heaviest on the whole first; rows sum to one.

        Examples
        --------
        >>> prediction = Prediction.load("slide.h5ad")
        >>> bool((prediction.contributions(by="cohort").sum(axis=1).round(3) == 1).all())
        True
        """
        return weights_by(self.evidence, self.spot_ids.tolist(), by)

    def __repr__(self) -> str:
        size = f"{counted(len(self), 'spot')}, {counted(len(self.genes), 'gene')}"
        return f"Prediction({self.slide_id!r}, {size}, {self.scale})"

    def to_anndata(self) -> ad.AnnData:
        """Return the prediction as scanpy, squidpy and SpatialData read it, without the neighbours."""
        return to_anndata(self)

    def to_dataframe(self, genes: Sequence[str] | None = None, *, layers: Sequence[str] = ("mean",)) -> pd.DataFrame:
        """Return a row a spot: position, evidence, and a column a gene (``ERBB2``, ``ERBB2 sd``); None for all genes.

        Raises
        ------
        InputError
            For a gene or layer that the prediction does not have.
        """
        return to_dataframe(self, genes, layers)

    def to_geojson(
        self,
        genes: Sequence[str] | None = None,
        *,
        layers: Sequence[str] = ("mean",),
        object_type: ObjectType = "detection",
    ) -> dict[str, Any]:
        """Return the FeatureCollection that QuPath imports: a circle a spot, genes and evidence as measurements.

        Raises
        ------
        InputError
            For a gene or layer that the prediction does not have, or more than a million measurements of all genes.
        """
        return to_geojson(self, genes, layers=layers, object_type=object_type)

    def to_spatialdata(self, genes: Sequence[str] | None = None, *, image: SlideImage | None = None) -> Any:
        """Return a ``spatialdata.SpatialData``: pictures, circles and table, as spatialdata-io reads Visium.

        Coordinate systems are the slide's name (full resolution) and ``_downscaled_hires`` and ``_downscaled_lowres``
        of it. ``image`` adds the slide itself as a pyramid, read when it is needed.

        Raises
        ------
        InputError
            Without ``pip install "mclstexp[spatialdata]"``, or for a gene that the prediction does not have.
        """
        return to_spatialdata(self, genes, image=image)

    def to_wsidata(self, genes: Sequence[str] | None = None) -> Any:
        """Return what LazySlide keeps of a slide, as ``SpatialData``: patches as ``tiles``, table ``mclstexp_tiles``.

        Raises
        ------
        InputError
            As `to_spatialdata`, and where the size of the patches is unknown.
        """
        return to_wsidata(self, genes)

    @classmethod
    def from_anndata(cls, adata: ad.AnnData, evidence: pa.Table | None = None) -> Prediction:
        """Return the prediction that `to_anndata` made ``adata`` from.

        Raises
        ------
        InputError
            When ``adata`` is no prediction, or one of another format version.
        """
        return cls(**fields_of(adata), evidence=NEIGHBOUR_SCHEMA.empty_table() if evidence is None else evidence)

    def save(self, path: StrPath, *, force: bool = False) -> None:
        """Write ``path`` (``.h5ad``) and the neighbours beside it; both wholly or, when interrupted, neither.

        Raises
        ------
        InputError
            When ``path`` is no ``.h5ad`` or its folder does not exist.
        ExistsAlreadyError
            When either file exists and ``force`` is not set.
        StorageError
            When the operating system refuses the write.
        """
        path = Path(path)
        beside = neighbours_path(path)
        check_output(path, force=force)
        check_output(beside, force=force)
        with storage_errors(path), tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as scratch:
            table, h5ad = Path(scratch) / beside.name, Path(scratch) / path.name
            parquet = pa.BufferOutputStream()
            pq.write_table(self.evidence, parquet, compression="zstd")
            whole = parquet.getvalue().to_pybytes()
            table.write_bytes(whole)
            plain = to_plain(self)
            # A crash between the two renames leaves files of two runs; the digest lets the reader see that.
            plain.uns["mclstexp"]["neighbours_sha256"] = hashlib.sha256(whole).hexdigest()
            write_plain(plain, h5ad)
            table.replace(beside)
            h5ad.replace(path)

    @classmethod
    def load(cls, path: StrPath) -> Prediction:
        """Read a prediction and its neighbours.

        Raises
        ------
        InputError
            When a file is missing or damaged, is no prediction, or the two are not of one run.
        """
        path = Path(path)
        adata = read_plain(path) or read_anndata(path)
        beside = neighbours_path(path)
        prediction = cls(**fields_of(adata), evidence=read_neighbours(beside))
        check_one_run(path, beside, str(adata.uns["mclstexp"].get("neighbours_sha256", "")))
        return prediction


def scale_name(normalisation: Normalisation) -> str:
    """Name the scale of normalised expression, for example ``log1p(counts per 10,000 of the panel)``."""
    log = "log1p(" if normalisation.log == "natural" else "log10(1 + "
    of = "the panel" if normalisation.total == "panel" else "all genes"
    return f"{log}counts per {normalisation.target_sum:,.0f} of {of})"

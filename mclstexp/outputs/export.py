"""A prediction written as other programs read it: by suffix, wholly or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mclstexp.data.anndata_file import write_h5ad
from mclstexp.data.images import open_image
from mclstexp.errors import InputError
from mclstexp.predict.formats.choose import with_genes
from mclstexp.predict.formats.geojson import ObjectType, features, write_geojson
from mclstexp.predict.formats.spatial import to_spatialdata
from mclstexp.predict.formats.tables import to_dataframe, write_csv
from mclstexp.predict.formats.tiles import to_wsidata
from mclstexp.predict.prediction import Prediction
from mclstexp.storage import check_output, new_file, new_folder
from mclstexp.types import StrPath

Format = Literal["spatialdata", "wsidata", "geojson", "csv", "parquet", "h5ad"]
"""What a prediction can be written as."""

SUFFIXES: dict[str, Format] = {
    ".zarr": "spatialdata",
    ".geojson": "geojson",
    ".csv": "csv",
    ".parquet": "parquet",
    ".h5ad": "h5ad",
}


def export(
    prediction: Prediction | StrPath,
    path: StrPath,
    *,
    format: Format | None = None,
    genes: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    image: StrPath | None = None,
    object_type: ObjectType | None = None,
    force: bool = False,
) -> Path:
    """Write a prediction as another program reads it.

    Parameters
    ----------
    prediction
        A prediction, or its ``.h5ad``.
    path
        What to write; its suffix says the format: ``.zarr`` (SpatialData), ``.geojson`` (QuPath), ``.csv``,
        ``.parquet``, ``.h5ad``.
    format
        The format where the suffix does not say it; ``wsidata`` is LazySlide's store, a ``.zarr`` too.
    genes
        Symbols or Ensembl ids; None for all that were predicted.
    layers
        For ``.csv``, ``.parquet`` and ``.geojson``: ``mean`` (alone by default), ``sd``, ``lower``, ``upper``,
        ``retrieved``. The other formats hold all.
    image
        For SpatialData: the slide's image, to be written with it as a pyramid. For wsidata: the slide that the store
        belongs to.
    object_type
        For ``.geojson``: QuPath's kind of object, ``detection`` by default.
    force
        Whether to replace what is there.

    Returns
    -------
    pathlib.Path
        What was written.

    Raises
    ------
    InputError
        For an unknown suffix, gene or layer, an option that the format has no use for, or a library that is absent.
    ExistsAlreadyError, StorageError
        Something is at ``path``; the disk refused.

    Examples
    --------
    >>> import mclstexp as mst
    >>> str(mst.export("slide.h5ad", "slide.csv", layers=["mean", "sd"]))
    'slide.csv'
    >>> import pandas as pd
    >>> list(pd.read_csv("slide.csv").columns[:4])
    ['spot', 'slide', 'x_px', 'y_px']
    """
    path = Path(path)
    kind = format_of(path, format)
    _refuse_useless(kind, layers=layers, image=image, object_type=object_type)
    check_output(path, force=force)
    if not isinstance(prediction, Prediction):
        prediction = Prediction.load(prediction)
    _WRITERS[kind](prediction, path, force, genes, layers=layers or ("mean",), image=image, object_type=object_type)
    return path


def format_of(path: Path, format: Format | None = None) -> Format:
    """Return the format that a path's suffix says, or the one given where it may be so.

    Raises
    ------
    InputError
        For a suffix that says nothing, or another format than the one given.
    """
    by_suffix = SUFFIXES.get(path.suffix.lower())
    if format is None:
        if by_suffix is None:
            raise InputError(f"{path.name!r} ends in none of {', '.join(SUFFIXES)}; choose one, or give --format.")
        return by_suffix
    if format not in get_args(Format):
        raise InputError(f"There is no format {format!r}; one of {', '.join(get_args(Format))}.")
    if by_suffix is not None and format != by_suffix and (by_suffix, format) != ("spatialdata", "wsidata"):
        raise InputError(f"{path.name!r} ends as {by_suffix}, but the format is {format}; change one of them.")
    return format


_USES = {
    "layers": ("csv", "parquet", "geojson"),
    "image": ("spatialdata", "wsidata"),
    "object_type": ("geojson",),
}


def _refuse_useless(kind: Format, **options: object) -> None:
    for name, value in options.items():
        if value is not None and kind not in _USES[name]:
            raise InputError(
                f"--{name.replace('_', '-')} is of use for {', '.join(_USES[name])} only, not for {kind}; leave it out."
            )


def _write_table(prediction: Prediction, path: Path, force: bool, genes: Sequence[str] | None, **options: Any) -> None:
    frame = to_dataframe(prediction, genes, options["layers"])
    with new_file(path, force=force) as work, work.open("w", encoding="utf-8", newline="") as file:
        write_csv(frame, file)


def _write_parquet(
    prediction: Prediction, path: Path, force: bool, genes: Sequence[str] | None, **options: Any
) -> None:
    frame = to_dataframe(prediction, genes, options["layers"]).reset_index()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with new_file(path, force=force) as work:
        pq.write_table(table, work, compression="zstd")


def _write_geojson(
    prediction: Prediction, path: Path, force: bool, genes: Sequence[str] | None, **options: Any
) -> None:
    kind: ObjectType = options["object_type"] or "detection"
    listed = features(prediction, genes, layers=options["layers"], object_type=kind)
    with new_file(path, force=force) as work, work.open("w", encoding="utf-8") as file:
        write_geojson(listed, file)


def _write_h5ad(prediction: Prediction, path: Path, force: bool, genes: Sequence[str] | None, **options: Any) -> None:
    adata = with_genes(prediction, genes).to_anndata()
    with new_file(path, force=force) as work:
        write_h5ad(adata, work)


def _write_spatialdata(
    prediction: Prediction, path: Path, force: bool, genes: Sequence[str] | None, **options: Any
) -> None:
    if options["image"] is None:
        _write_zarr(to_spatialdata(prediction, genes), path, force)
        return
    with open_image(options["image"]) as image:
        _check_image(prediction, image.size_px, Path(options["image"]))
        _write_zarr(to_spatialdata(prediction, genes, image=image), path, force)


def _write_wsidata(
    prediction: Prediction, path: Path, force: bool, genes: Sequence[str] | None, **options: Any
) -> None:
    size = None
    if options["image"] is not None:
        with open_image(options["image"]) as image:
            size = image.size_px
        _check_image(prediction, size, Path(options["image"]))
    _write_zarr(to_wsidata(prediction, genes, size_px=size), path, force)


def _check_image(prediction: Prediction, size_px: tuple[int, int], path: Path) -> None:
    """Refuse an image that the spots do not lie on, or that has another shape than the prediction's picture."""
    furthest = prediction.xy_px.max(axis=0) if len(prediction) else np.zeros(2)
    if (furthest > size_px).any():
        x, y = furthest
        raise InputError(
            f"{path} has {size_px[0]} x {size_px[1]} px, but spots lie up to x {x:.0f}, y {y:.0f}; it is another image."
        )
    if prediction.thumbnail is None or prediction.thumbnail_scale is None:
        return
    height, width = (round(side / prediction.thumbnail_scale) for side in prediction.thumbnail.shape[:2])
    if abs(width - size_px[0]) > 0.02 * width or abs(height - size_px[1]) > 0.02 * height:
        raise InputError(
            f"{path} has {size_px[0]} x {size_px[1]} px, the predicted slide about {width} x {height}; "
            "it is another image."
        )


def _write_zarr(spatialdata: Any, path: Path, force: bool) -> None:
    """Write a store beside its place and move it there when it is whole; SpatialData itself writes in place."""
    with new_folder(path, force=force) as work, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)  # once an array, of no use to anybody
        spatialdata.write(work / "store.zarr")
        for part in sorted((work / "store.zarr").iterdir()):
            part.rename(work / part.name)
        (work / "store.zarr").rmdir()


_WRITERS: dict[str, Callable[..., None]] = {
    "spatialdata": _write_spatialdata,
    "wsidata": _write_wsidata,
    "geojson": _write_geojson,
    "csv": _write_table,
    "parquet": _write_parquet,
    "h5ad": _write_h5ad,
}

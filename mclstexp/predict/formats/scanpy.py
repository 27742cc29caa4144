"""A prediction as the AnnData that scanpy, squidpy and SpatialData read, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mclstexp.data.anndata_file import reason
from mclstexp.data.plain_h5ad import PlainH5ad
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel

if TYPE_CHECKING:
    import anndata as ad

    from mclstexp.predict.prediction import Prediction

FORMAT_VERSION = 1
"""Version of the prediction's layout in ``uns["mclstexp"]``; apart from the package's version."""

LOWRES_PX = 600
"""Longer side of the smaller of the two images in ``uns["spatial"]``."""

LAYERS = ("sd", "lower", "upper", "retrieved")
"""What a prediction may hold beside its mean."""


def to_anndata(prediction: Prediction) -> ad.AnnData:
    """Return the AnnData; see `mclstexp.Prediction.to_anndata`."""
    import anndata as ad

    plain = to_plain(prediction)
    return ad.AnnData(
        plain.X,
        obs=plain.obs,
        var=plain.var,
        layers=dict(plain.layers),
        obsm=dict(plain.obsm),
        uns=dict(plain.uns),
    )


def to_plain(prediction: Prediction) -> PlainH5ad:
    """Return the parts of the AnnData, without loading anndata."""
    obs = pd.DataFrame(index=pd.Index(prediction.spot_ids.astype(object)))
    obs["in_tissue"] = np.ones(len(prediction), dtype=np.int64)
    if prediction.array_row is not None and prediction.array_col is not None:
        obs["array_row"], obs["array_col"] = prediction.array_row, prediction.array_col
    for name, column in prediction.obs.items():
        obs[name] = _column(column)
    var = pd.DataFrame(index=pd.Index(np.asarray(prediction.genes.symbols, dtype=object)))
    var["gene_ids"] = np.asarray(prediction.genes.ensembl, dtype=object)
    for name, column in prediction.var.items():
        var[name] = _column(column)
    layers = {name: getattr(prediction, name) for name in LAYERS if getattr(prediction, name) is not None}
    uns = {"spatial": {prediction.slide_id: _spatial(prediction)}, "mclstexp": _provenance(prediction)}
    if prediction.thumbnail is None:
        del uns["spatial"]  # scanpy and squidpy fail on an entry without an image, and draw without the entry
    obsm: dict[str, NDArray[Any]] = {"spatial": prediction.xy_px}
    if prediction.embedding is not None:
        obsm["embedding"] = prediction.embedding
    return PlainH5ad(prediction.mean, obs, var, layers, obsm, uns)


def _spatial(prediction: Prediction) -> dict[str, Any]:
    if prediction.thumbnail is None or prediction.thumbnail_scale is None:
        return {}
    lowres, shrink = _shrink(prediction.thumbnail, LOWRES_PX)
    factors = {
        "tissue_hires_scalef": float(prediction.thumbnail_scale),
        "tissue_lowres_scalef": float(prediction.thumbnail_scale * shrink),
        "spot_diameter_fullres": float(prediction.spot_diameter_px),
    }
    if prediction.mpp is not None:
        factors["microns_per_pixel"] = float(prediction.mpp)
    return {"images": {"hires": prediction.thumbnail, "lowres": lowres}, "scalefactors": factors, "metadata": {}}


def _provenance(prediction: Prediction) -> dict[str, Any]:
    scalars = {key: value for key, value in prediction.settings.items() if isinstance(value, str | bool | int | float)}
    record: dict[str, Any] = {
        **scalars,
        "format_version": FORMAT_VERSION,
        "slide": prediction.slide_id,
        "scale": prediction.scale,
        "spot_diameter_px": float(prediction.spot_diameter_px),
        "settings": json.dumps(dict(prediction.settings), sort_keys=True),
    }
    if prediction.tissue is not None:
        record["tissue"] = prediction.tissue.astype(np.uint8)
    return record if prediction.mpp is None else {**record, "mpp": float(prediction.mpp)}


def fields_of(adata: ad.AnnData | PlainH5ad) -> dict[str, Any]:
    """Return the fields of the prediction that `to_anndata` made ``adata`` from, apart from its neighbours.

    Raises
    ------
    InputError
        When ``adata`` is no prediction, or one of another format version.
    """
    record = adata.uns.get("mclstexp")
    if not isinstance(record, Mapping) or "format_version" not in record:
        raise InputError("The AnnData is not a prediction of mst query: it has no uns['mclstexp']; repeat mst query.")
    version = record["format_version"]
    if not isinstance(version, int | np.integer) or version != FORMAT_VERSION:
        raise InputError(
            f"The prediction has format version {version}, this program reads {FORMAT_VERSION}; repeat mst query."
        )
    try:
        return _fields(adata, record)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"The prediction is damaged ({reason(error)}); copy it again or repeat mst query.") from error


def _fields(adata: ad.AnnData, record: Mapping[str, Any]) -> dict[str, Any]:
    slide = str(record["slide"])
    spatial = adata.uns.get("spatial", {}).get(slide)
    own = {"in_tissue", "array_row", "array_col"}
    arrays = {name: adata.obs[name].to_numpy() for name in ("array_row", "array_col") if name in adata.obs}
    arrays |= {name: np.asarray(adata.layers[name]) for name in LAYERS if name in adata.layers}
    return {
        "slide_id": slide,
        "spot_ids": adata.obs_names.to_numpy().astype(np.str_),
        "xy_px": np.asarray(adata.obsm["spatial"], dtype=np.float64),
        "genes": GenePanel(tuple(adata.var_names), tuple(adata.var["gene_ids"].astype(str))),
        "mean": np.asarray(adata.X),
        "settings": dict(json.loads(str(record["settings"]))),
        "spot_diameter_px": float(record["spot_diameter_px"]),
        "obs": {str(name): adata.obs[name].to_numpy() for name in adata.obs if name not in own},
        "var": {str(name): adata.var[name].to_numpy() for name in adata.var if name != "gene_ids"},
        "thumbnail": None if spatial is None else np.asarray(spatial["images"]["hires"], dtype=np.uint8),
        "thumbnail_scale": None if spatial is None else float(spatial["scalefactors"]["tissue_hires_scalef"]),
        "mpp": float(record["mpp"]) if "mpp" in record else None,
        "embedding": np.asarray(adata.obsm["embedding"]) if "embedding" in adata.obsm else None,
        "tissue": np.asarray(record["tissue"]).astype(bool) if "tissue" in record else None,
        "sd": arrays.pop("sd", None),
        **arrays,
    }


def _column(values: NDArray[Any] | Sequence[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "US" else array


def _shrink(image: NDArray[np.uint8], max_px: int) -> tuple[NDArray[np.uint8], float]:
    from PIL import Image

    height, width = image.shape[:2]
    factor = min(1.0, max_px / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), dtype=np.uint8), factor

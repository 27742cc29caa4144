"""A prediction as SpatialData: image, circles and table, named and placed as spatialdata-io's reader of Visium does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mclstexp.predict.formats.choose import element_name, require, with_genes
from mclstexp.slide import SlideImage

if TYPE_CHECKING:
    import anndata as ad

    from mclstexp.predict.prediction import Prediction

EXTRA = "spatialdata"
BLOCK_PX = 2048
"""Side of the blocks in which a slide's own image is read."""


def to_spatialdata(
    prediction: Prediction, genes: Sequence[str] | None = None, *, image: SlideImage | None = None
) -> Any:
    """Return a ``SpatialData``; see `mclstexp.Prediction.to_spatialdata`."""
    spatialdata = require("spatialdata", EXTRA, "SpatialData")
    models = require("spatialdata.models", EXTRA, "SpatialData")
    adata = with_genes(prediction, genes).to_anndata()
    spatial = adata.uns.pop("spatial", {}).get(prediction.slide_id, {})
    pictures = spatial.get("images", {})
    scales = {size: float(spatial["scalefactors"][f"tissue_{size}_scalef"]) for size in pictures}
    name = element_name(prediction.slide_id)
    systems = _systems(name, scales)
    table = models.TableModel.parse(_pointing_at(adata, name), region=name, region_key="region", instance_key="spot_id")
    circles = models.ShapesModel.parse(
        prediction.xy_px,
        geometry=0,
        radius=prediction.spot_diameter_px / 2,
        index=table.obs["spot_id"].copy(),
        transformations=dict(systems),
    )
    images = {f"{name}_{size}_image": _picture(pixels, size, name, systems) for size, pixels in pictures.items()}
    if image is not None:
        images[f"{name}_full_image"] = _full_image(image, systems[name], name)
    return spatialdata.SpatialData(images=images, shapes={name: circles}, tables={"table": table})


def _pointing_at(adata: ad.AnnData, region: str) -> ad.AnnData:
    """Tell each row of the table which circle of which element is its own."""
    adata.obs["spot_id"] = np.arange(adata.n_obs)
    adata.obs["region"] = pd.Categorical([region] * adata.n_obs)
    return adata


def _systems(name: str, scales: dict[str, float]) -> dict[str, Any]:
    """Return coordinate systems by name: full resolution, and the pixels of each picture."""
    transformations = require("spatialdata.transformations", EXTRA, "SpatialData")
    systems: dict[str, Any] = {name: transformations.Identity()}
    for size, scale in scales.items():
        systems[f"{name}_downscaled_{size}"] = transformations.Scale([scale, scale], axes=("y", "x"))
    return systems


def _picture(pixels: NDArray[np.uint8], size: str, name: str, systems: dict[str, Any]) -> Any:
    models = require("spatialdata.models", EXTRA, "SpatialData")
    transformations = require("spatialdata.transformations", EXTRA, "SpatialData")
    system = f"{name}_downscaled_{size}"
    return models.Image2DModel.parse(
        np.moveaxis(pixels, 2, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={system: transformations.Identity(), name: systems[system].inverse()},
    )


def _full_image(image: SlideImage, transformation: Any, name: str) -> Any:
    """Return the slide's own image as a pyramid, read a block at a time when it is written or drawn."""
    array = require("dask.array", EXTRA, "SpatialData")
    models = require("spatialdata.models", EXTRA, "SpatialData")
    width, height = image.size_px
    blocks = array.map_blocks(
        _read_block,
        image=image,
        chunks=(3, _steps(height), _steps(width)),
        dtype=np.uint8,
        meta=np.zeros((0, 0, 0), np.uint8),
    )
    return models.Image2DModel.parse(
        blocks,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * _n_halvings(width, height),
        transformations={name: transformation},
    )


def _n_halvings(width: int, height: int) -> int:
    return min(4, max(0, int(np.log2(max(1, min(width, height) / 256)))))


def _steps(length: int) -> tuple[int, ...]:
    return tuple(min(BLOCK_PX, length - start) for start in range(0, length, BLOCK_PX))


def _read_block(*, image: SlideImage, block_info: Any = None) -> Any:
    (_, _), (top, bottom), (left, right) = block_info[None]["array-location"]
    return np.moveaxis(image.read_region(left, top, right - left, bottom - top), 2, 0)

"""A prediction as LazySlide keeps tiles: polygons ``tiles``, their specification, and a table of what is known of them.

The store that wsidata keeps beside a slide is SpatialData with a few names of its own; they are written here, so that
``wsidata.open_wsi("slide.svs", store="slide.zarr")`` opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mclstexp.errors import InputError
from mclstexp.predict.formats.choose import require, with_genes
from mclstexp.predict.formats.spatial import EXTRA

if TYPE_CHECKING:
    from mclstexp.predict.prediction import Prediction

TILES = "tiles"
TABLE = f"mclstexp_{TILES}"
"""LazySlide names a table of tiles by what made it and by the tiles."""


def to_wsidata(
    prediction: Prediction, genes: Sequence[str] | None = None, *, size_px: tuple[int, int] | None = None
) -> Any:
    """Return the store as ``SpatialData``; see `mclstexp.Prediction.to_wsidata`."""
    spatialdata = require("spatialdata", EXTRA, "LazySlide's store")
    models = require("spatialdata.models", EXTRA, "LazySlide's store")
    prediction = with_genes(prediction, genes)
    spec = tile_spec(prediction)
    adata = prediction.to_anndata()
    adata.uns = {name: value for name, value in adata.uns.items() if name != "spatial"}
    adata.obs["tile_id"] = np.arange(len(prediction))
    adata.obs["library_id"] = pd.Categorical([TILES] * len(prediction))
    table = models.TableModel.parse(adata, region=TILES, region_key="library_id", instance_key="tile_id")
    attrs: dict[str, Any] = {"tile_spec": {TILES: spec}}
    if size_px is not None:
        attrs["slide_properties"] = {"shape": [size_px[1], size_px[0]], "mpp": prediction.mpp}
    return spatialdata.SpatialData(
        shapes={TILES: models.ShapesModel.parse(_squares(prediction, spec))}, tables={TABLE: table}, attrs=attrs
    )


def tile_spec(prediction: Prediction) -> dict[str, Any]:
    """Return wsidata's ``TileSpec`` of the patches, as a dict: their pixels, and how many of the slide's each is.

    Raises
    ------
    InputError
        When the prediction does not say what patches it was made from.
    """
    patch = prediction.settings.get("patch")
    if not isinstance(patch, dict) or "size_px" not in patch:
        raise InputError(f"The prediction of {prediction.slide_id} does not say the size of its patches; query anew.")
    size, wanted = int(patch["size_px"]), patch.get("mpp")
    if wanted is not None and prediction.mpp is None:
        raise InputError(
            f"The prediction of {prediction.slide_id} has patches of {wanted:g} um a pixel, but the slide's pixel "
            "size is unknown; query it anew with --mpp."
        )
    shrink = float(patch.get("scale", 1.0)) * (1.0 if wanted is None else float(wanted) / float(prediction.mpp or 1))
    mpp = None if prediction.mpp is None else prediction.mpp * shrink
    return {
        "height": size,
        "width": size,
        "stride_height": size,
        "stride_width": size,
        "mpp": mpp,
        "ops_level": 0,
        "ops_downsample": shrink,
        "base_level": 0,
        "base_downsample": shrink,
        "tissue_name": None,
    }


def _squares(prediction: Prediction, spec: dict[str, Any]) -> Any:
    """Return the patches as squares in level-0 pixels, whole as wsidata has them."""
    geopandas = require("geopandas", EXTRA, "LazySlide's store")
    shapely = require("shapely", EXTRA, "LazySlide's store")
    side = int(spec["width"] * spec["base_downsample"])
    corner = np.floor(prediction.xy_px - side / 2 + 0.5).astype(np.int64)
    return geopandas.GeoDataFrame(
        {
            "tile_id": np.arange(len(prediction)),
            "x": corner[:, 0],
            "y": corner[:, 1],
            "tissue_id": np.zeros(len(prediction), dtype=np.int64),
            "spot": prediction.spot_ids.astype(object),
        },
        geometry=shapely.box(corner[:, 0], corner[:, 1], corner[:, 0] + side, corner[:, 1] + side),
    )

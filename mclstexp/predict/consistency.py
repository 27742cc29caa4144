"""Whether the parts of a prediction fit each other: checked whenever one is made or read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from mclstexp.errors import InputError
from mclstexp.predict.evidence import lacking
from mclstexp.predict.formats.scanpy import LAYERS
from mclstexp.text import duplicates

if TYPE_CHECKING:
    from mclstexp.predict.prediction import Prediction


def check_shapes(prediction: Prediction) -> None:
    """Refuse values, coordinates and columns of other lengths than the spots and genes.

    Raises
    ------
    InputError
        Naming what differs, with both sizes.
    """
    n, g = len(prediction.spot_ids), len(prediction.genes)
    for name in ("mean", *LAYERS):
        values = getattr(prediction, name)
        if values is not None and values.shape != (n, g):
            raise InputError(f"A prediction of {n} spots and {g} genes has {name} of shape {values.shape}.")
    if prediction.xy_px.shape != (n, 2):
        raise InputError(f"A prediction of {n} spots has coordinates of shape {prediction.xy_px.shape}.")
    lost = int((~np.isfinite(prediction.xy_px).all(axis=1)).sum())
    if lost:
        raise InputError(f"A prediction of {n} spots has {lost} with NaN or infinite coordinates; repeat mst query.")
    if prediction.embedding is not None and (prediction.embedding.ndim != 2 or len(prediction.embedding) != n):
        raise InputError(f"A prediction of {n} spots has embeddings of shape {prediction.embedding.shape}.")
    columns = {"array_row": prediction.array_row, "array_col": prediction.array_col, **prediction.obs}
    for name, column in columns.items():
        if column is not None and len(column) != n:
            raise InputError(f"A prediction of {n} spots has {len(column)} values of {name}.")
    for name, column in prediction.var.items():
        if len(column) != g:
            raise InputError(f"A prediction of {g} genes has {len(column)} values of {name}.")
    repeated = duplicates(prediction.spot_ids.tolist())
    if repeated:
        raise InputError(f"{len(repeated)} spot ids of a prediction occur more than once, e.g. {repeated[0]!r}.")


def check_evidence(prediction: Prediction) -> None:
    """Refuse a table of neighbours, a thumbnail or settings that do not belong to the spots.

    Raises
    ------
    InputError
        Naming what is missing or unknown.
    """
    if not prediction.slide_id or "/" in prediction.slide_id:
        raise InputError(f"A prediction needs the name of its slide, without a slash; got {prediction.slide_id!r}.")
    if (prediction.thumbnail is None) != (prediction.thumbnail_scale is None):
        raise InputError("A thumbnail and its scale go together: one of them is missing.")
    if prediction.thumbnail is not None and (prediction.thumbnail.ndim != 3 or prediction.thumbnail.dtype != np.uint8):
        shape, dtype = prediction.thumbnail.shape, prediction.thumbnail.dtype
        raise InputError(f"A thumbnail is (h, w, 3) uint8, got {shape} {dtype}.")
    absent = lacking(prediction.evidence)
    if absent:
        raise InputError(f"The table of neighbours lacks the columns {', '.join(absent)}.")
    unknown = set(pc.unique(prediction.evidence["query_spot"]).to_pylist()) - set(prediction.spot_ids.tolist())
    if unknown:
        raise InputError(f"The table of neighbours names {len(unknown)} unknown spots, e.g. {min(unknown)!r}.")
    try:
        json.dumps(dict(prediction.settings))
    except TypeError as error:
        raise InputError(f"A prediction's settings must be JSON values: {error}.") from error
    if not prediction.scale:
        raise InputError("A prediction's settings must say its scale or its normalisation.")

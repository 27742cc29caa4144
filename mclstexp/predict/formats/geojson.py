"""A prediction as QuPath's GeoJSON: an object a spot, its genes as measurements.

QuPath's own reader (``QuPathTypeAdapters`` of its source) takes ``properties.objectType``, ``name``, a map
``measurements`` from name to number, and since version 0.4 a UUID as ``id``. Ellipses are polygons there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError
from mclstexp.predict.formats.choose import layer_values, with_genes

if TYPE_CHECKING:
    from mclstexp.predict.prediction import Prediction

ObjectType = Literal["detection", "annotation", "tile"]
"""Kinds of object in QuPath: detections are light and can be coloured by a measurement, annotations can be edited."""

MOST_MEASUREMENTS = 1_000_000
"""More than this in one file, and QuPath takes minutes to open it."""

_CORNERS = 24
_SPACE = uuid.UUID("6f0d3c1e-5b7c-4f0a-9b57-2f6c0a4de7a1")
"""Ids follow from slide and spot, so that the same spot has the same one in every export."""


def features(
    prediction: Prediction,
    genes: Sequence[str] | None = None,
    *,
    layers: Sequence[str] = ("mean",),
    object_type: ObjectType = "detection",
) -> Iterator[dict[str, Any]]:
    """Yield a GeoJSON feature a spot; checked before the first.

    Raises
    ------
    InputError
        For an unknown gene or layer, or more measurements than QuPath opens.
    """
    if object_type not in ("detection", "annotation", "tile"):
        raise InputError(f"There is no object type {object_type!r}; one of detection, annotation, tile is needed.")
    everything = genes is None
    prediction = with_genes(prediction, genes)
    names = [s if layer == "mean" else f"{s} {layer}" for layer in layers for s in prediction.genes.symbols]
    if everything and len(names) * len(prediction) > MOST_MEASUREMENTS:
        raise InputError(
            f"{len(prediction):,} spots with {len(names):,} genes are {len(names) * len(prediction):,} measurements, "
            f"more than the {MOST_MEASUREMENTS:,} that QuPath opens in good time; choose genes with --genes."
        )
    values = np.concatenate(list(layer_values(prediction, layers).values()), axis=1)
    return _features(prediction, names, values, object_type)


def _features(
    prediction: Prediction, names: list[str], values: NDArray[np.float32], object_type: ObjectType
) -> Iterator[dict[str, Any]]:
    numbers = {name: np.asarray(column) for name, column in prediction.obs.items()}
    numbers = {name: column for name, column in numbers.items() if column.dtype.kind in "fiu"}
    circle = prediction.spot_diameter_px / 2 * _unit_circle()
    for i, spot in enumerate(prediction.spot_ids.tolist()):
        measured = {**dict(zip(names, values[i], strict=True)), **{name: c[i] for name, c in numbers.items()}}
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_SPACE, f"{prediction.slide_id}/{spot}")),
            "geometry": {"type": "Polygon", "coordinates": [_ring(prediction.xy_px[i] + circle)]},
            "properties": {
                "objectType": object_type,
                "name": spot,
                "measurements": {name: _short(value) for name, value in measured.items() if np.isfinite(value)},
            },
        }


def _unit_circle() -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _ring(corners: NDArray[np.float64]) -> list[list[float]]:
    ring: list[list[float]] = corners.round(2).tolist()
    return [*ring, ring[0]]


def _short(value: Any) -> float | int:
    """Return a plain number with the digits that float32 has."""
    return int(value) if isinstance(value, np.integer) else float(f"{float(value):.7g}")


def to_geojson(
    prediction: Prediction,
    genes: Sequence[str] | None = None,
    *,
    layers: Sequence[str] = ("mean",),
    object_type: ObjectType = "detection",
) -> dict[str, Any]:
    """Return the FeatureCollection."""
    listed = list(features(prediction, genes, layers=layers, object_type=object_type))
    return {"type": "FeatureCollection", "features": listed}


def write_geojson(listed: Iterator[dict[str, Any]], file: TextIO) -> None:
    """Write a FeatureCollection, a feature a line, holding one at a time."""
    file.write('{"type": "FeatureCollection", "features": [')
    for number, feature in enumerate(listed):
        file.write((",\n" if number else "\n") + json.dumps(feature, allow_nan=False))
    file.write("\n]}\n")

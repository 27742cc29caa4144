"""Space Ranger 4's segmented cells: an outline each in a GeoJSON, and a matrix of cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.assemble import Draft
from mclstexp.data.images import open_image
from mclstexp.data.images.pixels import plausible_mpp
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.readers.damage import reading
from mclstexp.data.readers.matrices import read_counts
from mclstexp.data.readers.scale_factors import read_scale_factors
from mclstexp.errors import InputError

_MATRICES = ("filtered_feature_cell_matrix.h5", "filtered_feature_cell_matrix")
_OUTLINES = ("cell_segmentations.geojson", "graphclust_annotated_cell_segmentations.geojson")


def read_cells(folder: Path, slide_id: str, layout: str, image: Path | None) -> Draft:
    """Read the cells of ``segmented_outputs``, each a spot at the middle of its outline.

    Parameters
    ----------
    folder
        Holds ``filtered_feature_cell_matrix(.h5)``, ``cell_segmentations.geojson`` (outlines in pixels of the full
        resolution, property ``cell_id``) and ``spatial/scalefactors_json.json``.
    slide_id, layout
        As in `Draft`.
    image
        The full-resolution image, where there is one.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    matrix, outlines = (_part(folder, names, slide_id) for names in (_MATRICES, _OUTLINES))
    scale = read_scale_factors(folder)
    ids, xy = _middles(outlines)
    return Draft(
        slide_id=slide_id,
        layout=layout,
        coords=Coordinates(ids, xy),
        counts=read_counts(matrix),
        image=open_image(image) if image else None,
        stated_mpp=plausible_mpp(scale.values.get("microns_per_pixel")),
        sources=(matrix, outlines, *scale.sources, *([image] if image else [])),
        notes=("segmented cells, a spot each, at the middle of their outlines.",),
        extra={key: repr(value) for key, value in scale.values.items()},
        without_image="no full-resolution image beside the counts (thumbnails do not count): counts only.",
    )


def _part(folder: Path, names: tuple[str, ...], slide_id: str) -> Path:
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise InputError(f"Slide {slide_id}: {folder} holds no {names[0]}.")
    return path


def _middles(path: Path) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Return the cells' names as the matrix has them, and the middles of their outlines."""
    ids, places = [], []
    with reading(path):
        for feature in features(path):
            ids.append(_barcode(feature["properties"]["cell_id"]))
            places.append(_middle(feature["geometry"], path))
    if not ids:
        raise InputError(f"{path} holds no cells.")
    return np.array(ids, dtype=np.str_), np.array(places, dtype=np.float64)


def features(path: Path) -> Iterator[dict[str, Any]]:
    """Decode the features of a GeoJSON one by one: decoded whole, a slide's cells would fill the memory.

    Raises
    ------
    ValueError
        When the file is no GeoJSON, or ends early.
    """
    text = path.read_text(encoding="utf-8")
    start = text.find("[", text.find('"features"'))
    if '"features"' not in text or start < 0:
        raise ValueError("it has no list of features")
    decoder, at = json.JSONDecoder(), start + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at < len(text) and text[at] == "]":
            return
        feature, at = decoder.raw_decode(text, at)
        yield feature


def _barcode(cell: object) -> str:
    return f"cellid_{cell:09d}-1" if isinstance(cell, int) else str(cell)


def _middle(geometry: dict[str, Any], path: Path) -> tuple[float, float]:
    """Return the centre of gravity of an outline, by the shoelace formula; of the largest where there are several."""
    kind, rings = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise InputError(f"{path} holds a {kind}; outlines of cells are needed.")
    outer = [rings[0]] if kind == "Polygon" else [part[0] for part in rings]
    return max((_gravity(np.asarray(ring, dtype=np.float64)[:, :2]) for ring in outer), key=lambda part: part[0])[1]


def _gravity(ring: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    first = ring.mean(axis=0)
    x, y = (ring - first).T  # near zero, where differences of products are exact enough
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    area = float(cross.sum()) / 2
    if area == 0:
        return 0.0, (float(first[0]), float(first[1]))
    middle = [float(((part + np.roll(part, -1)) * cross).sum()) / (6 * area) for part in (x, y)]
    return abs(area), (float(first[0]) + middle[0], float(first[1]) + middle[1])

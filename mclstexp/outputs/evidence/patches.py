"""Patches of a spot and of its neighbours, cut at one scale from the slides' own images, where these are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mclstexp.data.images import open_image
from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.index.store.schema import SlideEntry
from mclstexp.outputs.images import View, find_image, own_image
from mclstexp.predict.prediction import Prediction
from mclstexp.slide import SlideImage
from mclstexp.types import StrPath

SMALL_PX = 320
"""Longer side of the small picture of a slide."""


@dataclass(frozen=True, eq=False)
class SmallSlide:
    """A slide in small: its spots ``(n, 2)``, its picture and that one's pixels per full-resolution pixel, or None."""

    spots: NDArray[np.float64]
    picture: NDArray[np.uint8] | None = None
    scale: float | None = None


@dataclass(frozen=True, eq=False)
class Tile:
    """A spot to look at: its patch ``(s, s, 3)`` uint8, or why there is none; its place ``(2,)`` on its slide."""

    patch: NDArray[np.uint8] | None
    absent: str
    slide: SmallSlide
    xy_px: NDArray[np.float64]


def query_tile(prediction: Prediction, spot: str, view: View, *, beside: StrPath = ".") -> Tile:
    """Return the tile of a query spot, from the image that the prediction names."""
    xy = prediction.xy_px[int(np.flatnonzero(prediction.spot_ids == spot)[0])]
    small = SmallSlide(prediction.xy_px, prediction.thumbnail, prediction.thumbnail_scale)
    image, absent = own_image(prediction, Path(beside))
    if image is None:
        return Tile(None, absent, small, xy)
    try:
        with image:
            return Tile(view.cut(image, xy, prediction.mpp), "", small, xy)
    except InputError as error:
        return Tile(None, str(error), small, xy)


def neighbour_tiles(
    neighbours: pd.DataFrame, reference: Reference, view: View, *, images: StrPath | None = None
) -> list[Tile]:
    """Return the tiles of some neighbours; each image is opened once.

    Parameters
    ----------
    neighbours
        Rows of `Prediction.neighbours`.
    images
        Folder to look for images that are no longer where the reference says, by name and content.
    """
    entries = {entry.slide_id: entry for entry in reference.store.entries}
    tiles: dict[Any, Tile] = {}
    for slide, rows in neighbours.groupby("slide", sort=False):
        xy = rows[["x_px", "y_px"]].to_numpy(dtype=np.float64)
        tiles |= dict(zip(rows.index, _tiles_of(entries[str(slide)], reference, xy, view, images), strict=True))
    return [tiles[rank] for rank in neighbours.index]


def _tiles_of(
    entry: SlideEntry, reference: Reference, xy: NDArray[np.float64], view: View, images: StrPath | None
) -> Sequence[Tile]:
    places = reference.store.spots(np.arange(*entry.rows), ["x_px", "y_px"])
    spots = np.stack([places["x_px"].to_numpy(), places["y_px"].to_numpy()], axis=1)
    path, absent = find_image(entry, reference.path, images)
    if path is None:
        return [Tile(None, absent, SmallSlide(spots), place) for place in xy]
    small: list[SmallSlide] = []

    def in_small(image: SlideImage) -> SmallSlide:
        if not small:
            picture = image.thumbnail(SMALL_PX)
            small.append(SmallSlide(spots, picture, picture.shape[1] / image.size_px[0]))
        return small[0]

    try:
        with open_image(path) as image:
            if view.side_um is not None and entry.mpp is None:
                return [Tile(None, "pixel size unknown", in_small(image), place) for place in xy]
            return [Tile(view.cut(image, place, entry.mpp), "", in_small(image), place) for place in xy]
    except InputError as error:
        return [Tile(None, str(error), SmallSlide(spots), place) for place in xy]

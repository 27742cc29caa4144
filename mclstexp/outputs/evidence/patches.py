"""Patches of a spot and of its neighbours, cut at one scale from the slides' own images, where these are at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mclstexp.config import PatchSpec
from mclstexp.data.images import open_image
from mclstexp.data.patches import read_patch
from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.index.store.schema import SlideEntry
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import from_dict
from mclstexp.slide import SlideImage
from mclstexp.storage import sha256_input
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


@dataclass(frozen=True)
class View:
    """The window that every tile shows, ``side_um`` wide; where that is None, ``size_px`` full-resolution pixels."""

    size_px: int
    side_um: float | None

    def cut(self, image: SlideImage, xy: NDArray[np.float64], mpp: float | None) -> NDArray[np.uint8]:
        """Cut a tile; at one scale on every slide."""
        spec = PatchSpec(self.size_px, None if self.side_um is None else self.side_um / self.size_px)
        return read_patch(image, xy, spec, mpp)


def view_of(prediction: Prediction) -> View:
    """Return the window of a prediction's patches."""
    spec = from_dict(PatchSpec, dict(prediction.settings.get("patch", {})))
    mpp = spec.mpp if spec.mpp is not None else prediction.mpp
    return View(spec.size_px, None if mpp is None else spec.size_px * spec.scale * mpp)


def query_tile(prediction: Prediction, spot: str, view: View, *, beside: StrPath = ".") -> Tile:
    """Return the tile of a query spot, from the image that the prediction names."""
    xy = prediction.xy_px[int(np.flatnonzero(prediction.spot_ids == spot)[0])]
    small = SmallSlide(prediction.xy_px, prediction.thumbnail, prediction.thumbnail_scale)
    name = str(prediction.settings.get("image", ""))
    if not name:
        return Tile(None, "the prediction names no image", small, xy)
    path = _first_file([Path(name), Path(beside) / name])
    if path is None:
        return Tile(None, f"image not found: {name}", small, xy)
    return _tile(path, xy, prediction.mpp, view, lambda _: small)


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


def _tile(
    path: Path, xy: NDArray[np.float64], mpp: float | None, view: View, small: Callable[[SlideImage], SmallSlide]
) -> Tile:
    try:
        with open_image(path) as image:
            return Tile(view.cut(image, xy, mpp), "", small(image), xy)
    except InputError as error:
        return Tile(None, str(error), SmallSlide(xy[None]), xy)


def find_image(entry: SlideEntry, reference: Path | str, images: StrPath | None = None) -> tuple[Path | None, str]:
    """Return the image of a reference slide, or None and why there is none at hand: never another image.

    Parameters
    ----------
    reference
        Folder of the reference: a relative path is tried from here and from beside it.
    images
        Folder to look in where the image has moved.
    """
    if not entry.image_path:
        return None, "the reference has no image of this slide"
    recorded = Path(entry.image_path)
    places = [recorded, *([Path(reference).parent / recorded] if isinstance(reference, Path) else [])]
    if images is not None:
        places += sorted(Path(images).rglob(recorded.name))
    found = [place for place in places if place.is_file()]
    if not found:
        return None, f"image not found: {recorded.name}"
    for place in found:
        if entry.image_sha256 is None or sha256_input(place) == entry.image_sha256:
            return place, ""
    return None, f"image has changed since it was added: {recorded.name}"


def _first_file(paths: Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)

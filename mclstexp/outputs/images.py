"""Images that a prediction came from, the query's and the reference's, where they are still what they were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.config import PatchSpec
from mclstexp.data.images import open_image
from mclstexp.data.images.base import ImageFile
from mclstexp.data.patches import read_patch
from mclstexp.errors import InputError
from mclstexp.index.store.schema import SlideEntry
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import from_dict
from mclstexp.slide import SlideImage
from mclstexp.storage import sha256_input
from mclstexp.types import StrPath

HASHED_BYTES = 2**30
"""A page compares images up to this size with their hash; to hash larger ones would take minutes."""


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


def own_image(prediction: Prediction, folder: Path) -> tuple[ImageFile | None, str]:
    """Open the image that a prediction was made from, where it is still what it was.

    Parameters
    ----------
    prediction
        Names its image; a relative path is looked for in the working folder, then in ``folder``.
    folder
        Folder of the prediction's file.

    Returns
    -------
    The image, or None and why there is none.
    """
    named = str(prediction.settings.get("image", ""))
    if not named:
        return None, "the prediction names no image"
    path = existing(Path(named), folder)
    if path is None:
        return None, f"image not found: {named}"
    try:
        image = open_image(path)
    except InputError as error:
        return None, str(error)
    if prediction.thumbnail is not None and prediction.thumbnail_scale is not None:
        width = prediction.thumbnail.shape[1] / prediction.thumbnail_scale
        if abs(width - image.size_px[0]) > max(1.0, 0.002 * width):
            image.close()
            return None, f"{path.name} is {image.size_px[0]} px wide now and was {width:.0f}"
    return image, ""


def existing(path: Path, folder: Path) -> Path | None:
    """Return a path as it is, or below ``folder``, whichever exists first."""
    candidates = (path, folder / path)
    return next((candidate for candidate in candidates if candidate.exists()), None)


def find_image(
    entry: SlideEntry, reference: Path | str, images: StrPath | None = None, *, hashed_bytes: int | None = None
) -> tuple[Path | None, str]:
    """Return the image of a reference slide, or None and why there is none at hand: never another image.

    Parameters
    ----------
    reference
        Folder of the reference: a relative path is tried from here and from beside it.
    images
        Folder to look in where the image has moved.
    hashed_bytes
        Compare the content of files up to this size only; None compares all.
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
        large = hashed_bytes is not None and place.stat().st_size > hashed_bytes
        if entry.image_sha256 is None or large or sha256_input(place) == entry.image_sha256:
            return place, ""
    return None, f"image has changed since it was added: {recorded.name}"


def slide_image(entry: SlideEntry, reference: Path | str) -> tuple[ImageFile | None, str]:
    """Open the image of a reference's slide whose pixel size is known; else None and why."""
    try:
        path, why = find_image(entry, reference, hashed_bytes=HASHED_BYTES)
        if path is None:
            return None, why
        return (None, "pixel size unknown") if entry.mpp is None else (open_image(path), "")
    except (InputError, OSError) as error:
        return None, str(error)

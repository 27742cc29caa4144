"""The slide's picture in a page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.outputs.images import own_image
from mclstexp.predict.prediction import Prediction

JPEG_QUALITY = 80


@dataclass(frozen=True)
class SlidePicture:
    """A slide as one JPEG.

    Attributes
    ----------
    jpeg
        The picture.
    size_px
        Width and height of the slide at full resolution.
    origin
        What it was made from, for the reader of the page.
    """

    jpeg: bytes
    size_px: tuple[float, float]
    origin: str


def jpeg_bytes(rgb: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Encode ``(h, w, 3)`` uint8."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "JPEG", quality=quality)
    return data.getvalue()


def slide_picture(prediction: Prediction, folder: Path, max_px: int) -> SlidePicture:
    """Return the slide as a JPEG of bounded size: from its image, else from the prediction's thumbnail, else white.

    Parameters
    ----------
    prediction, folder
        As in `own_image`.
    max_px
        Longer side of the picture.
    """
    image, why = own_image(prediction, folder)
    if image is not None:
        with image:
            rgb = image.thumbnail(max_px)
            size = (float(image.size_px[0]), float(image.size_px[1]))
            return SlidePicture(jpeg_bytes(rgb), size, f"{image.path.name} at {rgb.shape[1] / size[0]:.0%} of its size")
    if prediction.thumbnail is not None and prediction.thumbnail_scale is not None:
        rgb, scale = prediction.thumbnail, prediction.thumbnail_scale
        size = (rgb.shape[1] / scale, rgb.shape[0] / scale)
        return SlidePicture(jpeg_bytes(rgb), size, f"the prediction's own small picture: {why}")
    return _blank(prediction, why)


def _blank(prediction: Prediction, why: str) -> SlidePicture:
    width, height = (float(side) for side in prediction.xy_px.max(axis=0) + 2 * prediction.spot_diameter_px)
    shrink = 256 / max(width, height)
    shape = (max(1, round(height * shrink)), max(1, round(width * shrink)), 3)
    return SlidePicture(jpeg_bytes(np.full(shape, 255, np.uint8)), (width, height), f"no picture: {why}")

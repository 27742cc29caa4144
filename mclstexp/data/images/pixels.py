"""What every image reader needs of pixels: crops, sizes, colours, plausible pixel sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError
from mclstexp.slide import MPP_RANGE

MAX_SIDE_PX = 2_000_000
"""A scan of 26 x 76 mm, a whole glass, at 0.1 um a pixel has a side of 760,000."""

MAX_DECODED_BYTES = 4 * 2**30
"""An image that can only be decoded whole is refused beyond this many bytes of pixels."""


def crop_padded(pixels: NDArray[np.uint8], x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
    """Cut ``(height, width, 3)`` out of ``(H, W, 3)`` pixels, white where outside; a view where wholly inside."""
    return paste_region(
        (pixels.shape[1], pixels.shape[0]), (x, y, width, height), lambda x0, y0, x1, y1: pixels[y0:y1, x0:x1]
    )


def paste_region(
    size: tuple[int, int],
    region: tuple[int, int, int, int],
    read: Callable[[int, int, int, int], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    """Read the part of ``region`` (x, y, width, height) inside an image of ``size`` and pad the rest white.

    ``read`` takes x0, y0, x1, y1 inside the image and returns ``(y1 - y0, x1 - x0, 3)`` uint8.
    """
    x, y, width, height = region
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, size[0]), min(y + height, size[1])
    if (x0, y0, x1, y1) == (x, y, x + width, y + height):
        return read(x0, y0, x1, y1)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    if x1 > x0 and y1 > y0:
        canvas[y0 - y : y1 - y, x0 - x : x1 - x] = read(x0, y0, x1, y1)
    return canvas


def resize(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize ``(h, w, 3)`` uint8 to ``size`` (width, height), antialiased."""
    from PIL import Image

    if (rgb.shape[1], rgb.shape[0]) == size:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


def resample(
    window: tuple[float, float, float, float],
    size: tuple[int, int],
    read: Callable[[int, int, int, int], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    """Resample an exact window to ``size`` (width, height) with Pillow's antialiased triangle filter.

    It has no negative lobes, so no halo appears around nuclei, and one filter serves finer and coarser slides,
    references and queries alike.

    Parameters
    ----------
    window
        Left and upper edge, width and height, in pixels of what ``read`` reads; pixel ``i`` covers ``[i, i + 1)``.
    size
        Of the result.
    read
        Takes x, y, width, height in whole pixels and returns ``(height, width, 3)`` uint8.
    """
    from PIL import Image

    x, y, width, height = window
    left, top = math.floor(x), math.floor(y)
    columns, rows = math.ceil(x + width) - left, math.ceil(y + height) - top
    region = read(left, top, columns, rows)
    box = (x - left, y - top, min(x - left + width, columns), min(y - top + height, rows))
    return np.asarray(Image.fromarray(region).resize(size, Image.Resampling.BILINEAR, box=box))


def reduce(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrink ``(h, w, 3)`` uint8 by a whole factor, each pixel the mean of a square."""
    from PIL import Image

    return rgb if factor == 1 else np.asarray(Image.fromarray(rgb).reduce(factor))


def thumbnail_size(size: tuple[int, int], max_px: int) -> tuple[int, int]:
    """Width and height of the thumbnail whose longer side is at most ``max_px``, never enlarged."""
    scale = min(1.0, max_px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def plausible_mpp(x: float | None, y: float | None = None) -> float | None:
    """Return the pixel size when it is believable: square within 1 %, and in ``MPP_RANGE``."""
    if x is None or not math.isfinite(x) or not MPP_RANGE[0] <= x <= MPP_RANGE[1]:
        return None
    if y is not None and not math.isclose(x, y, rel_tol=0.01):
        return None
    return float(x)


def to_rgb8(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Turn ``(h, w, samples)`` of 8 or 16 bits into ``(h, w, 3)`` uint8 RGB; alpha is laid over white."""
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    elif values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype != np.uint8:
        raise InputError(f"Image {path.name} holds {values.dtype} pixels; 8 or 16 bit RGB is needed.")
    samples = values.shape[2]
    if samples in (2, 4):
        alpha = values[..., -1:].astype(np.float32) / 255.0
        blended = values[..., :-1] * alpha + 255.0 * (1.0 - alpha)
        values = np.rint(blended).astype(np.uint8)
        samples -= 1
    if samples == 1:
        values = np.repeat(values, 3, axis=2)
    elif samples != 3:
        raise InputError(f"Image {path.name} has {samples} channels; an RGB image of the H&E stain is needed.")
    return np.ascontiguousarray(values)


def check_side(path: Path, size: tuple[int, int]) -> None:
    """Refuse an image whose header says sides that no slide has: it is damaged, or made to exhaust a reader.

    Raises
    ------
    InputError
        When a side is below 1 or above ``MAX_SIDE_PX``.
    """
    if not all(1 <= side <= MAX_SIDE_PX for side in size):
        raise InputError(
            f"Image {path.name} says to be {size[0]} x {size[1]} px; sides from 1 to {MAX_SIDE_PX:,} are expected; "
            "copy it again."
        )


def check_decodable(path: Path, size: tuple[int, int]) -> None:
    """Refuse an image that would need too much memory to be decoded whole.

    Raises
    ------
    InputError
        When the decoded pixels exceed ``MAX_DECODED_BYTES``.
    """
    needed = size[0] * size[1] * 3
    if needed > MAX_DECODED_BYTES:
        raise InputError(
            f"Image {path.name} is {size[0]} x {size[1]} px and not tiled: decoding takes {needed / 2**30:.1f} GiB, "
            f"over {MAX_DECODED_BYTES / 2**30:.0f}; convert it: "
            f"vips tiffsave {path.name} out.tif --tile --pyramid --bigtiff."
        )

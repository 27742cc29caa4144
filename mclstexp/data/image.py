"""Slide images: one region at a time at full resolution, whatever the file is.

A TIFF (BigTIFF, OME, SVS) is read tile by tile; a JPEG or PNG cannot be, so it is decoded once. Coordinates always
refer to the stored pixels: an EXIF orientation flag is not applied, because the spots were placed without it.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError
from mclstexp.types import MPP_RANGE, SlideImage

MAX_DECODED_BYTES = 4 * 2**30
"""An image that can only be decoded whole is refused beyond this many bytes of pixels."""

IMAGE_SUFFIXES = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".jpg", ".jpeg", ".png")
"""File names that count as images when one is looked for beside the counts."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_VENDOR_SUFFIXES = (".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu")


def open_image(path: Path) -> SlideImage:
    """Open a slide image; only its header is read.

    Parameters
    ----------
    path
        JPEG, PNG, TIFF, BigTIFF, OME-TIFF or SVS; with openslide-python installed also what OpenSlide reads.

    Raises
    ------
    InputError
        When the file is missing, is no image, or is of a kind that cannot be read a region at a time.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Image {path} does not exist.")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"Image {path} cannot be read: {error.strerror or error}.") from error
    vendor = path.suffix.lower() in _VENDOR_SUFFIXES
    if vendor and importlib.util.find_spec("openslide") is not None:
        from mclstexp.data.openslide_image import OpenSlideImage

        return OpenSlideImage(path)
    if magic in _TIFF_MAGIC:
        from mclstexp.data.tiff import TiffImage

        return TiffImage(path)
    if vendor:
        raise InputError(
            f"Image {path.name}: {path.suffix} needs OpenSlide; pip install openslide-python openslide-bin, "
            "or convert it to a pyramidal TIFF."
        )
    return RasterImage(path)


class RasterImage:
    """A JPEG, PNG or other image that has to be decoded whole, once, on first use.

    Raises
    ------
    InputError
        When the file is not an image, is truncated, or is too large to decode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pixels: NDArray[np.uint8] | None = None
        _check_end(path)
        with _reading(path), _pillow(path) as picture:
            self._size = (int(picture.width), int(picture.height))
            self._mpp = _mpp_from_dpi(picture.info.get("dpi"))

    @property
    def path(self) -> Path:
        """File that the image is read from."""
        return self._path

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height at full resolution."""
        return self._size

    @property
    def mpp(self) -> float | None:
        """Pixel size in um that the file states, or None."""
        return self._mpp

    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB; white where outside the image."""
        return crop_padded(self._decoded(), x, y, width, height)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Read the whole image as ``(h, w, 3)`` uint8 RGB with its longer side at most ``max_px``."""
        check_decodable(self._path, self._size)
        target = thumbnail_size(self._size, max_px)
        # Always from the file and never from pixels that happen to be decoded: the same thumbnail every time.
        with _reading(self._path), _pillow(self._path) as picture:
            picture.draft("RGB", (2 * target[0], 2 * target[1]))
            rgb = _pillow_rgb(picture)
        return resize(rgb, target)

    def close(self) -> None:
        """Drop the decoded pixels."""
        self._pixels = None

    def _decoded(self) -> NDArray[np.uint8]:
        if self._pixels is None:
            check_decodable(self._path, self._size)
            with _reading(self._path), _pillow(self._path) as picture:
                self._pixels = _pillow_rgb(picture)
        return self._pixels


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


def _check_end(path: Path) -> None:
    """Refuse a truncated JPEG or PNG at once: decoding would find out only after minutes of other work."""
    with path.open("rb") as file:
        magic = file.read(4)
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**20))
        tail = file.read()
    mark = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}.get(magic[:2])
    if mark is not None and mark not in tail:
        raise InputError(f"Image {path} is truncated: its {size} bytes end before the picture does; copy it again.")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    # Pillow answers a damaged file with OSError, and in some plugins with SyntaxError, ValueError or EOFError.
    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"Image {path} is damaged or not an image: {reason}.") from error


@contextmanager
def _pillow(path: Path) -> Iterator[Any]:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # a whole slide is no decompression bomb; check_decodable has the limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _pillow_rgb(picture: Any) -> NDArray[np.uint8]:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture)
        return to_rgb8(np.clip(values, 0, 65535).astype(np.uint16)[..., None], Path(picture.filename))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        return to_rgb8(np.asarray(picture.convert("RGBA")), Path(picture.filename))
    return np.asarray(picture.convert("RGB"))


def _mpp_from_dpi(dpi: Any) -> float | None:
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return plausible_mpp(25_400 / x, 25_400 / y) if x > 0 and y > 0 else None

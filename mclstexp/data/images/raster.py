"""JPEG, PNG and other images that have to be decoded whole."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.base import Header, ImageFile, orientation_note
from mclstexp.data.images.pixels import check_decodable, crop_padded, plausible_mpp, resize, thumbnail_size, to_rgb8
from mclstexp.errors import InputError

FORMATS = ("JPEG", "PNG", "JPEG2000", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What Pillow may take a file for. It knows many more, of which some start other programs (EPS) or are hardly used."""


class RasterImage(ImageFile):
    """A JPEG, PNG or other image that has to be decoded whole, once, on first use.

    Raises
    ------
    InputError
        When the file is not an image, is truncated, or is too large to decode.
    """

    suffixes = (".jpg", ".jpeg", ".png")

    def __init__(self, path: Path) -> None:
        self._pixels: NDArray[np.uint8] | None = None
        super().__init__(path)

    @classmethod
    def opens(cls, path: Path, magic: bytes) -> bool:
        """Take every file: Pillow knows more formats than can be told here."""
        return True

    def _read_header(self) -> Header:
        _check_end(self._path)
        with _reading(self._path), _pillow(self._path) as picture:
            return Header(
                (int(picture.width), int(picture.height)),
                _mpp_from_dpi(picture.info.get("dpi")),
                orientation_note(_orientation(picture.info.get("exif"))),
            )

    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB; white where outside the image."""
        return crop_padded(self._decoded(), x, y, width, height)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Read the whole image as ``(h, w, 3)`` uint8 RGB with its longer side at most ``max_px``."""
        from PIL import Image

        check_decodable(self._path, self.size_px)
        target = thumbnail_size(self.size_px, max_px)
        # Always from the file and never from pixels that happen to be decoded: the same thumbnail every time.
        with _reading(self._path), _pillow(self._path) as picture:
            picture.draft("RGB", (2 * target[0], 2 * target[1]))
            if picture.mode == "RGB" and "transparency" not in picture.info and picture.size != target:
                # What follows gives the same, with two copies more.
                return np.asarray(picture.resize(target, Image.Resampling.BILINEAR))
            rgb = _pillow_rgb(picture)
        return resize(rgb, target)

    def close(self) -> None:
        """Drop the decoded pixels."""
        self._pixels = None

    def _decoded(self) -> NDArray[np.uint8]:
        if self._pixels is None:
            check_decodable(self._path, self.size_px)
            with _reading(self._path), _pillow(self._path) as picture:
                self._pixels = _pillow_rgb(picture)
        return self._pixels


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
        raise InputError(f"Image {path} is damaged or not an image: {reason.rstrip('.')}; copy it again.") from error


@contextmanager
def _pillow(path: Path) -> Iterator[Any]:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # a whole slide is no decompression bomb; check_decodable has the limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as picture:
                yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _pillow_rgb(picture: Any) -> NDArray[np.uint8]:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture)
        return to_rgb8(np.clip(values, 0, 65535).astype(np.uint16)[..., None], Path(picture.filename))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        return to_rgb8(np.asarray(picture.convert("RGBA")), Path(picture.filename))
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _mpp_from_dpi(dpi: Any) -> float | None:
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return plausible_mpp(25_400 / x, 25_400 / y) if x > 0 and y > 0 else None


def _orientation(exif: Any) -> object:
    # From the bytes in the header: Picture.getexif decodes a whole PNG to look for more.
    from PIL import Image

    if not isinstance(exif, bytes):
        return None
    tags = Image.Exif()
    try:
        tags.load(exif)
        return tags.get(0x0112)
    except (SyntaxError, ValueError, LookupError, TypeError, OSError, struct.error):
        return None  # damaged EXIF turns no viewer's picture either

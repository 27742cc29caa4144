"""Vendor formats through the optional package openslide-python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.pixels import paste_region, plausible_mpp, resize, thumbnail_size, to_rgb8
from mclstexp.errors import InputError


class OpenSlideImage:
    """An image in any format that OpenSlide reads.

    Raises
    ------
    InputError
        When OpenSlide cannot open or read the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide: Any = None
        with _reading(path):
            slide = self._open()
            self._size = (int(slide.dimensions[0]), int(slide.dimensions[1]))
            stated = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
            self._mpp = plausible_mpp(*(float(value) if value else None for value in stated))
        self.close()

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
        with _reading(self._path):
            slide = self._open()

            def read(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
                return to_rgb8(np.asarray(slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0))), self._path)

            return paste_region(self._size, (x, y, width, height), read)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Read the whole image as ``(h, w, 3)`` uint8 RGB with its longer side at most ``max_px``."""
        target = thumbnail_size(self._size, max_px)
        with _reading(self._path):
            return resize(np.asarray(self._open().get_thumbnail(target).convert("RGB")), target)

    def close(self) -> None:
        """Close the file."""
        if self._slide is not None:
            self._slide.close()
        self._slide = None

    def _open(self) -> Any:
        import openslide  # type: ignore[import-not-found]

        if self._slide is None:
            self._slide = openslide.OpenSlide(str(self._path))
        return self._slide


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import openslide

    try:
        yield
    except (openslide.OpenSlideError, OSError, ValueError) as error:
        raise InputError(f"Image {path} cannot be read by OpenSlide: {error}.") from error

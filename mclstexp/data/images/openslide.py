"""Vendor formats through the optional package openslide-python."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.base import Header, ImageFile
from mclstexp.data.images.pixels import paste_region, plausible_mpp, resize, thumbnail_size, to_rgb8
from mclstexp.data.images.tiff import TIFF_MAGIC
from mclstexp.errors import InputError


class OpenSlideImage(ImageFile):
    """An image in any vendor's format that OpenSlide reads.

    Raises
    ------
    InputError
        When OpenSlide is not installed, or cannot open or read the file.
    """

    suffixes = (".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu")

    def __init__(self, path: Path) -> None:
        if not _installed():
            raise InputError(
                f"Image {path.name}: {path.suffix} needs OpenSlide; pip install openslide-python openslide-bin, "
                "or convert it to a pyramidal TIFF."
            )
        self._slide: Any = None
        super().__init__(path)

    @classmethod
    def opens(cls, path: Path, magic: bytes) -> bool:
        """Whether it is a vendor's file, unless it is a TIFF and OpenSlide is not installed."""
        return path.suffix.lower() in cls.suffixes and (magic not in TIFF_MAGIC or _installed())

    def _read_header(self) -> Header:
        with _reading(self._path):
            slide = self._open()
            stated = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
            return Header(
                (int(slide.dimensions[0]), int(slide.dimensions[1])),
                plausible_mpp(*(float(value) if value else None for value in stated)),
            )

    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB; white where outside the image."""
        with _reading(self._path):
            slide = self._open()

            def read(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
                return to_rgb8(np.asarray(slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0))), self._path)

            return paste_region(self.size_px, (x, y, width, height), read)

    def read_reduced(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a region as ``(size[1], size[0], 3)`` uint8 RGB, from the level of the pyramid that fits."""
        with _reading(self._path):
            slide = self._open()
            level = slide.get_best_level_for_downsample(max(1.0, width / size[0]))
            scale = float(slide.level_downsamples[level])
            part = (max(1, round(width / scale)), max(1, round(height / scale)))
            return resize(to_rgb8(np.asarray(slide.read_region((x, y), level, part)), self._path), size)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Read the whole image as ``(h, w, 3)`` uint8 RGB with its longer side at most ``max_px``."""
        target = thumbnail_size(self.size_px, max_px)
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


def _installed() -> bool:
    return importlib.util.find_spec("openslide") is not None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import openslide

    try:
        yield
    except (openslide.OpenSlideError, OSError, ValueError) as error:
        raise InputError(f"Image {path} cannot be read by OpenSlide: {error}.") from error

"""What every image format shares: the path, the header that is read at once, the pyramid, and how it prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.pixels import check_side, paste_region, reduce, resample, resize, thumbnail_size
from mclstexp.storage import sha256_input

BAND_PX = 1024
"""Rows of a region that are held at once while it is reduced."""

SAME_SCALE = 1.01
"""A level of the pyramid that is this much coarser than what was asked for still serves: 2.0005 is 2."""


@dataclass(frozen=True)
class Header:
    """What an image says without being decoded.

    Attributes
    ----------
    size_px
        Width and height at full resolution.
    mpp
        Pixel size in um where the file states a plausible one.
    notes
        What a viewer would show otherwise, one sentence each.
    levels
        Width and height of each level of the pyramid, the full resolution first; empty where there is no pyramid.
    """

    size_px: tuple[int, int]
    mpp: float | None = None
    notes: tuple[str, ...] = ()
    levels: tuple[tuple[int, int], ...] = ()


class ImageFile(ABC):
    """An image on disk, read a region at a time; it fulfils `mclstexp.slide.SlideImage`.

    A format sets up its own state, calls ``super().__init__(path)``, and says how its header and its pixels are read;
    one with a pyramid is a `PyramidFile`, and names its levels in the header.

    Raises
    ------
    InputError
        When the file is damaged or of a kind that the format cannot read.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Ends of file names, lower-case, by which images of the format are found beside counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._header = self._read_header()
        finally:
            self.close()
        check_side(path, self._header.size_px)

    @classmethod
    @abstractmethod
    def opens(cls, path: Path, magic: bytes) -> bool:
        """Whether the format opens a file, by its name and its first four bytes (none for a folder)."""

    @abstractmethod
    def _read_header(self) -> Header:
        """Read what can be known without decoding pixels."""

    @abstractmethod
    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB at full resolution; white where outside the image."""

    @abstractmethod
    def close(self) -> None:
        """Release the file and any decoded pixels; the handle opens again when it is next used."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB of a level of the pyramid, in that level's pixels."""
        return self.read_region(x, y, width, height)

    def best_level(self, downsample: float) -> int:
        """Return the coarsest level that is no coarser than ``downsample``, each of its pixels so many of level 0's."""
        fitting = [
            number
            for number, (width, height) in enumerate(self.levels)
            if max(self.size_px[0] / width, self.size_px[1] / height) <= downsample * SAME_SCALE
        ]
        return max(fitting, key=lambda number: (-self.levels[number][0], number), default=0)

    def read_window(self, x: float, y: float, width: float, height: float, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Resample a window of the full resolution from the best level of the pyramid.

        Parameters
        ----------
        x, y, width, height
            Left and upper edge and extent in full-resolution pixels; pixel ``i`` covers ``[i, i + 1)``.
        size
            Width and height of what is returned, in pixels.

        Returns
        -------
        ``(size[1], size[0], 3)`` uint8 RGB by an antialiased triangle filter, white outside the image.
        """
        level = self.best_level(min(width / size[0], height / size[1]))
        across, down = (own / full for own, full in zip(self.levels[level], self.size_px, strict=True))
        window = (x * across, y * down, width * across, height * down)
        return resample(window, size, lambda *box: self.read_level(level, *box))

    def read_reduced(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a region of the full resolution as ``(size[1], size[0], 3)`` uint8 RGB.

        From the best level of the pyramid and band by band, so that a region of any size needs the memory of a band.
        """
        level = self.best_level(min(width / max(size[0], 1), height / max(size[1], 1)))
        across, down = (own / full for own, full in zip(self.levels[level], self.size_px, strict=True))
        x, y = round(x * across), round(y * down)
        width, height = max(1, round(width * across)), max(1, round(height * down))
        factor = max(1, min(width // max(size[0], 1), height // max(size[1], 1)))
        band = factor * max(1, BAND_PX // factor)
        strips = [
            reduce(self.read_level(level, x, top, width, min(band, y + height - top)), factor)
            for top in range(y, y + height, band)
        ]
        return resize(np.concatenate(strips), size)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Read the whole image as ``(h, w, 3)`` uint8 RGB with its longer side at most ``max_px``."""
        return self.read_reduced(0, 0, *self.size_px, thumbnail_size(self.size_px, max_px))

    def digest(self) -> str:
        """SHA-256 of what the image is read from: the same slide, the same digest."""
        return sha256_input(self._path)

    @property
    def path(self) -> Path:
        """File or folder that the image is read from."""
        return self._path

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height at full resolution."""
        return self._header.size_px

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level of the pyramid, the full resolution first."""
        return self._header.levels or (self._header.size_px,)

    @property
    def mpp(self) -> float | None:
        """Pixel size in um that the file states, or None when it states none that is plausible."""
        return self._header.mpp

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the file is not as a viewer would show it, one sentence each."""
        return self._header.notes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.size_px
        scale = f"at {self.mpp:.3g} um" if self.mpp is not None else "of unknown pixel size"
        return f"{type(self).__name__}({str(self.path)!r}, {width}x{height} px {scale})"


class PyramidFile(ImageFile):
    """A format that reads any box of any level, and opens its file for as long as that takes."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[None]:
        """Turn what a damaged file raises into an `InputError` that names it."""

    @abstractmethod
    def _open(self) -> Any:
        """Open the file where it is not open yet."""

    @abstractmethod
    def _read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        """Read a box that lies inside a level, ``(y1 - y0, x1 - x0, 3)`` uint8 RGB, in that level's pixels."""

    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB at full resolution; white where outside the image."""
        return self.read_level(0, x, y, width, height)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB of a level of the pyramid, in that level's pixels."""
        with self._reading():
            self._open()
            return paste_region(self.levels[level], (x, y, width, height), lambda *box: self._read(level, *box))


def orientation_note(value: object) -> tuple[str, ...]:
    """Say that an EXIF or TIFF orientation other than 1 is not applied; nothing for 1, none or nonsense."""
    if value not in range(2, 9):
        return ()
    return (f"the image's orientation tag ({value}) is not applied: coordinates are those of the stored pixels.",)

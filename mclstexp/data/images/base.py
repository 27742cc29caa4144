"""What every image format shares: the path, the header that is read at once, closing, and how it prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.pixels import check_side, reduce, resize

BAND_PX = 1024
"""Rows of a region that are held at once while it is reduced."""


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
    """

    size_px: tuple[int, int]
    mpp: float | None = None
    notes: tuple[str, ...] = ()


class ImageFile(ABC):
    """An image on disk, read a region at a time; it fulfils `mclstexp.slide.SlideImage`.

    A format sets up its own state, calls ``super().__init__(path)``, and says how its header is read.

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
        """Whether the format opens a file, by its name and its first four bytes."""

    @abstractmethod
    def _read_header(self) -> Header:
        """Read what can be known without decoding pixels."""

    @abstractmethod
    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB at full resolution; white where outside the image."""

    def read_reduced(self, x: int, y: int, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a region of the full resolution as ``(size[1], size[0], 3)`` uint8 RGB.

        Band by band, so that a region of any size needs the memory of a band; a format with a pyramid reads the level
        that fits.
        """
        factor = max(1, min(width // max(size[0], 1), height // max(size[1], 1)))
        band = factor * max(1, BAND_PX // factor)
        strips = [
            reduce(self.read_region(x, top, width, min(band, y + height - top)), factor)
            for top in range(y, y + height, band)
        ]
        return resize(np.concatenate(strips), size)

    @abstractmethod
    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Read the whole image as ``(h, w, 3)`` uint8 RGB with its longer side at most ``max_px``."""

    @abstractmethod
    def close(self) -> None:
        """Release the file and any decoded pixels; the handle opens again when it is next used."""

    @property
    def path(self) -> Path:
        """File that the image is read from."""
        return self._path

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height at full resolution."""
        return self._header.size_px

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


def orientation_note(value: object) -> tuple[str, ...]:
    """Say that an EXIF or TIFF orientation other than 1 is not applied; nothing for 1, none or nonsense."""
    if value not in range(2, 9):
        return ()
    return (f"the image's orientation tag ({value}) is not applied: coordinates are those of the stored pixels.",)

"""Vendor formats through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, DICOM and others, with their pyramids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.base import Header, PyramidFile
from mclstexp.data.images.dicom import folder_slide, is_unconverted, to_rgb
from mclstexp.data.images.pixels import plausible_mpp, to_rgb8
from mclstexp.errors import InputError

_GENERIC = "generic-tiff"
"""OpenSlide's word for a tiled TIFF of no vendor: tifffile reads more of those."""

_SEVERAL_FILES = (".mrxs", ".vms", ".vmu", ".dcm")
"""Names of slides that are kept in several files: the one that was opened is not the slide."""


class OpenSlideImage(PyramidFile):
    """An image in a vendor's format that OpenSlide reads; a folder of one slide's DICOM files is opened as one.

    Raises
    ------
    InputError
        When OpenSlide cannot open or read the file.
    """

    suffixes = (".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu", ".czi", ".dcm")

    def __init__(self, path: Path) -> None:
        self._slide: Any = None
        self._unconverted = False
        super().__init__(path)

    @classmethod
    def opens(cls, path: Path, magic: bytes) -> bool:
        """Whether OpenSlide knows the file as a vendor's, or nothing else can open it."""
        if path.is_dir():
            return folder_slide(path) is not None
        if path.suffix.lower() in cls.suffixes and magic[:2] not in (b"II", b"MM"):
            return True
        if magic[:2] not in (b"II", b"MM"):
            return False  # not a TIFF inside: what else OpenSlide reads is known by its name
        import openslide

        vendor = openslide.OpenSlide.detect_format(str(path))
        return vendor not in (None, _GENERIC)

    def _read_header(self) -> Header:
        with _reading(self._path):
            slide = self._open()
            stated = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
            return Header(
                (int(slide.dimensions[0]), int(slide.dimensions[1])),
                plausible_mpp(*(float(value) if value else None for value in stated)),
                levels=tuple((int(width), int(height)) for width, height in slide.level_dimensions),
            )

    def _reading(self) -> AbstractContextManager[None]:
        return _reading(self._path)

    def _read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        slide = self._open()
        step = float(slide.level_downsamples[level])
        stored = np.asarray(slide.read_region((round(x0 * step), round(y0 * step)), level, (x1 - x0, y1 - y0)))
        return to_rgb8(to_rgb(stored) if self._unconverted else stored, self._path)

    def digest(self) -> str:
        """SHA-256 of the file; of OpenSlide's own hash where the slide is kept in several files."""
        quick = None
        if self._path.is_dir() or self._path.suffix.lower() in _SEVERAL_FILES:
            with _reading(self._path):
                quick = self._open().properties.get("openslide.quickhash-1")
        return hashlib.sha256(quick.encode()).hexdigest() if quick else super().digest()

    def close(self) -> None:
        """Close the file."""
        if self._slide is not None:
            self._slide.close()
        self._slide = None

    def _open(self) -> Any:
        import openslide

        if self._slide is None:
            file = (folder_slide(self._path) if self._path.is_dir() else None) or self._path
            self._slide = openslide.OpenSlide(str(file))
            self._unconverted = is_unconverted(file, self._slide.properties)
        return self._slide


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import openslide

    try:
        yield
    except (openslide.OpenSlideError, OSError, ValueError) as error:
        raise InputError(f"Image {path} cannot be read by OpenSlide: {error}.") from error

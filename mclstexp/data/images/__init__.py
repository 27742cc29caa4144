"""Slide images: one region at a time at full resolution, whatever the file is.

Tiled formats are read tile by tile, and from the level of their pyramid that serves; a JPEG or PNG cannot be, so it is
decoded once. Coordinates always refer to the stored pixels of the full resolution: an orientation tag is not applied,
because the spots were placed without it. ``docs/slides.md`` has the formats.

To add a format:

1. Write a module beside ``raster.py`` with a class that derives from `base.ImageFile`. It needs ``suffixes``, ``opens``
   (by the file's name and first four bytes), ``_read_header``, ``read_region`` and ``close``. With a pyramid it derives
   from `base.PyramidFile`, and needs ``levels`` in its header, ``_reading``, ``_open`` and ``_read``. Crops,
   resizing, 16 bits, alpha and plausible pixel sizes are in ``pixels.py``. What a damaged file raises becomes an
   `InputError` that names the file. What a file claims is checked before it is decoded (``check_decodable``). Import
   the format's library inside functions only.
2. Put the class into ``FORMATS`` below, before every format that would take its files for its own.
3. Add its files to ``STORAGE`` or a test of its own in ``tests/data/test_images.py``: the same pixels as other formats,
   white outside, and one line for a damaged file.
"""

from __future__ import annotations

import os
from pathlib import Path

from mclstexp.data.images.array import ArrayImage
from mclstexp.data.images.base import ImageFile
from mclstexp.data.images.openslide import OpenSlideImage
from mclstexp.data.images.raster import RasterImage
from mclstexp.data.images.tiff import TiffImage
from mclstexp.data.images.zarr import ZarrImage, holds_image
from mclstexp.data.paths import require_file
from mclstexp.errors import InputError
from mclstexp.types import StrPath

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "ArrayImage", "is_image_folder", "open_image"]

FORMATS: tuple[type[ImageFile], ...] = (ZarrImage, OpenSlideImage, TiffImage, RasterImage)
"""Every format, in the order in which they are asked; the last one opens whatever is left, or says what is wrong."""

IMAGE_SUFFIXES = tuple(dict.fromkeys(suffix for kind in FORMATS for suffix in kind.suffixes if suffix != ".dcm"))
"""File names that count as images when one is looked for beside the counts; of DICOM, one slide is many files."""


def is_image_folder(path: Path) -> bool:
    """Whether a folder is an image: of OME-Zarr, or of the DICOM files of one slide."""
    return path.is_dir() and (holds_image(path) or OpenSlideImage.opens(path, b""))


def open_image(path: StrPath) -> ImageFile:
    """Open a slide image; only its header is read. It may be used in a ``with`` statement.

    Parameters
    ----------
    path
        JPEG, PNG, TIFF, BigTIFF, OME-TIFF, SVS, NDPI, MRXS, SCN, BIF or DICOM; the folder of an OME-Zarr, or of one
        slide's DICOM files.

    Raises
    ------
    InputError
        When it is missing, is no image, or is of a kind that cannot be read a region at a time.
    """
    if os.path.isdir(path):  # noqa: PTH112 (for Path.is_dir a name that is too long is an error)
        folder = Path(path)
        kind = next((kind for kind in FORMATS[:-1] if kind.opens(folder, b"")), None)
        if kind is not None:
            return kind(folder)
    path = require_file(path, "Image")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"Image {path} cannot be read: {error.strerror or error}.") from error
    return next(kind for kind in FORMATS if kind.opens(path, magic))(path)

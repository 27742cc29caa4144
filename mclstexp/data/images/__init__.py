"""Slide images: one region at a time at full resolution, whatever the file is.

A TIFF (BigTIFF, OME, SVS) is read tile by tile; a JPEG or PNG cannot be, so it is decoded once. Coordinates always
refer to the stored pixels: an orientation tag is not applied, because the spots were placed without it.

To add a format:

1. Write a module beside ``raster.py`` with a class that derives from `base.ImageFile`. It needs ``suffixes``, ``opens``
   (by the file's name and first four bytes), ``_read_header``, ``read_region``, ``thumbnail`` and ``close``. Crops,
   resizing, 16 bits, alpha and plausible pixel sizes are in ``pixels.py``. What a damaged file raises becomes an
   `InputError` that names the file. Import the format's library inside functions only.
2. Put the class into ``FORMATS`` below, before every format that would take its files for its own.
3. Add its files to ``STORAGE`` or a test of its own in ``tests/data/test_images.py``: the same pixels as other formats,
   white outside, and one line for a damaged file.
"""

from __future__ import annotations

from mclstexp.data.images.base import ImageFile
from mclstexp.data.images.openslide import OpenSlideImage
from mclstexp.data.images.raster import RasterImage
from mclstexp.data.images.tiff import TiffImage
from mclstexp.data.paths import require_file
from mclstexp.errors import InputError
from mclstexp.types import StrPath

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "open_image"]

FORMATS: tuple[type[ImageFile], ...] = (OpenSlideImage, TiffImage, RasterImage)
"""Every format, in the order in which they are asked; the last one opens whatever is left, or says what is wrong."""

IMAGE_SUFFIXES = tuple(dict.fromkeys(suffix for kind in FORMATS for suffix in kind.suffixes))
"""File names that count as images when one is looked for beside the counts."""


def open_image(path: StrPath) -> ImageFile:
    """Open a slide image; only its header is read. It may be used in a ``with`` statement.

    Parameters
    ----------
    path
        JPEG, PNG, TIFF, BigTIFF, OME-TIFF or SVS; with openslide-python installed also what OpenSlide reads.

    Raises
    ------
    InputError
        When the file is missing, is no image, or is of a kind that cannot be read a region at a time.
    """
    path = require_file(path, "Image")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"Image {path} cannot be read: {error.strerror or error}.") from error
    kind = next(kind for kind in FORMATS if kind.opens(path, magic))
    return kind(path)

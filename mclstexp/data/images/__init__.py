"""Slide images: one region at a time at full resolution, whatever the file is.

A TIFF (BigTIFF, OME, SVS) is read tile by tile; a JPEG or PNG cannot be, so it is decoded once. Coordinates always
refer to the stored pixels: an EXIF orientation flag is not applied, because the spots were placed without it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mclstexp.data.images.raster import RasterImage
from mclstexp.errors import InputError
from mclstexp.slide import SlideImage

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
        from mclstexp.data.images.openslide import OpenSlideImage

        return OpenSlideImage(path)
    if magic in _TIFF_MAGIC:
        from mclstexp.data.images.tiff import TiffImage

        return TiffImage(path)
    if vendor:
        raise InputError(
            f"Image {path.name}: {path.suffix} needs OpenSlide; pip install openslide-python openslide-bin, "
            "or convert it to a pyramidal TIFF."
        )
    return RasterImage(path)

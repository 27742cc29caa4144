"""What OpenSlide gets wrong of DICOM colours: it believes the container where the JPEG frames know better."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mclstexp.errors import InputError

_PIXELS = b"\xe0\x7f\x10\x00O"
"""The element of pixel data, (7FE0,0010), and the first letter of its type, OB or OW."""

_LOOK = 32


def folder_slide(folder: Path) -> Path | None:
    """Return one of the DICOM files of a folder, or None; OpenSlide finds the others of its slide."""
    return min(folder.glob("*.dcm"), default=None)


def is_unconverted(file: Path, properties: Mapping[str, str]) -> bool:
    """Whether OpenSlide hands out YCbCr as RGB: the container says RGB, the frames are JFIF, which is always YCbCr.

    bioformats2raw and dcmtk write such files (github.com/ImagingDataCommons/libdicom/issues/80).

    Raises
    ------
    InputError
        When the frames are JPEG 2000 in YBR_ICT: OpenSlide 4.0.1 gives those in wrong colours, too
        (github.com/openslide/openslide/issues/772).
    """
    if properties.get("openslide.vendor") != "dicom":
        return False
    colours = properties.get("dicom.PhotometricInterpretation")
    if colours == "YBR_ICT":
        raise InputError(
            f"Image {file} is DICOM with JPEG 2000 in YBR_ICT, whose colours OpenSlide gets wrong; convert it to a "
            "pyramidal TIFF, for example with bfconvert."
        )
    return colours == "RGB" and b"JFIF" in _start_of_frame(file)


def to_rgb(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn ``(h, w, 4)`` uint8 YCbCr with alpha into RGB with alpha."""
    from PIL import Image

    rgb = np.asarray(Image.fromarray(stored[..., :3], mode="YCbCr").convert("RGB"))
    return np.concatenate([rgb, stored[..., 3:]], axis=2)


def _start_of_frame(file: Path) -> bytes:
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pixels = data.find(_PIXELS)
        start = data.find(b"\xff\xd8\xff", pixels) if pixels >= 0 else -1
        return data[start : start + _LOOK] if start >= 0 else b""

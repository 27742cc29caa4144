"""Pixels that are in memory already, or memory-mapped: a NumPy array, or what becomes one a region at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.base import Header, ImageFile
from mclstexp.data.images.pixels import paste_region, plausible_mpp, to_rgb8
from mclstexp.errors import InputError


class ArrayImage(ImageFile):
    """An image of ``(h, w, 3)`` or ``(h, w)`` pixels from Python: NumPy, a memory map, Zarr, Dask.

    Parameters
    ----------
    pixels
        ``(h, w, c)`` uint8 or uint16, c from 1 to 4 (grey, RGB, with alpha), or ``(h, w)``; sliced, never copied whole.
    mpp
        Pixel size in um.
    name
        What messages call it.

    Raises
    ------
    InputError
        When the pixels are of another shape or type.
    """

    def __init__(self, pixels: Any, *, mpp: float | None = None, name: str = "array") -> None:
        if getattr(pixels, "ndim", 0) not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= 4):
            shape = " x ".join(map(str, getattr(pixels, "shape", ()))) or type(pixels).__name__
            raise InputError(f"Image {name} is {shape}; h x w x 3 pixels are needed (the channels last).")
        if pixels.dtype not in (np.uint8, np.uint16, np.bool_):
            raise InputError(f"Image {name} holds {pixels.dtype} pixels; 8 or 16 bit RGB is needed.")
        self._pixels, self._mpp = pixels, mpp
        super().__init__(Path(name))

    @classmethod
    def opens(cls, path: Path, magic: bytes) -> bool:
        """No file: it is made from pixels."""
        return False

    def _read_header(self) -> Header:
        height, width = self._pixels.shape[:2]
        return Header((int(width), int(height)), plausible_mpp(self._mpp))

    def read_region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read ``(height, width, 3)`` uint8 RGB; white where outside the image."""

        def read(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
            values = np.asarray(self._pixels[y0:y1, x0:x1])
            return to_rgb8(values if values.ndim == 3 else values[..., None], self._path)

        return paste_region(self.size_px, (x, y, width, height), read)

    def digest(self) -> str:
        """SHA-256 of the pixels and their shape."""
        hashed = hashlib.sha256(f"{self._pixels.shape} {self._pixels.dtype}".encode())
        for top in range(0, self._pixels.shape[0], 1024):
            hashed.update(np.ascontiguousarray(self._pixels[top : top + 1024]).tobytes())
        return hashed.hexdigest()

    def close(self) -> None:
        """Keep the pixels: they are the caller's."""

"""A slide as deep-zoom tiles, cut when they are asked for."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.base import ImageFile
from mclstexp.data.images.pixels import resize
from mclstexp.errors import InputError
from mclstexp.outputs.report.pictures import jpeg_bytes

TILE_PX = 512
OVERVIEW_PX = 2048
"""Levels up to this size are cut from one picture of the whole slide."""

KEPT_BYTES = 64 * 2**20
"""Encoded tiles that stay in memory."""


class TilePyramid:
    """Deep-zoom levels of an image: level 0 is one pixel, each next one twice as large, the last one the image.

    Parameters
    ----------
    image
        The slide. Its handle serves one thread at a time.
    """

    def __init__(self, image: ImageFile) -> None:
        self._image, self._lock = image, threading.Lock()
        self._kept: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._kept_bytes = 0
        self.last_level = max(0, math.ceil(math.log2(max(image.size_px))))

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height at full resolution."""
        return self._image.size_px

    def level_size(self, level: int) -> tuple[int, int]:
        """Width and height of a level."""
        shrink = 2 ** (self.last_level - level)
        width, height = self._image.size_px
        return math.ceil(width / shrink), math.ceil(height / shrink)

    def tile(self, level: int, col: int, row: int) -> bytes:
        """Return a tile as JPEG.

        Raises
        ------
        InputError
            When there is no such tile, or the image cannot be read.
        """
        if not 0 <= level <= self.last_level:
            raise InputError(f"The slide has levels 0 to {self.last_level}, not {level}.")
        width, height = self.level_size(level)
        if not (0 <= col * TILE_PX < width and 0 <= row * TILE_PX < height):
            raise InputError(f"Level {level} of the slide has no tile {col}, {row}.")
        with self._lock:
            key = (level, col, row)
            if key not in self._kept:
                self._keep(key, jpeg_bytes(self._cut(level, col * TILE_PX, row * TILE_PX)))
            self._kept.move_to_end(key)
            return self._kept[key]

    def _keep(self, key: tuple[int, int, int], data: bytes) -> None:
        self._kept[key] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    def _cut(self, level: int, x: int, y: int) -> NDArray[np.uint8]:
        width, height = self.level_size(level)
        size = min(TILE_PX, width - x), min(TILE_PX, height - y)
        if max(width, height) <= OVERVIEW_PX:
            whole = resize(self._overview, (width, height))
            return np.ascontiguousarray(whole[y : y + size[1], x : x + size[0]])
        shrink = 2 ** (self.last_level - level)
        if shrink == 1:
            return self._image.read_region(x, y, *size)
        full = self._image.size_px
        part = min(size[0] * shrink, full[0] - x * shrink), min(size[1] * shrink, full[1] - y * shrink)
        return self._image.read_reduced(x * shrink, y * shrink, *part, size)

    @cached_property
    def _overview(self) -> NDArray[np.uint8]:
        return self._image.thumbnail(OVERVIEW_PX)

    def square(self, x: float, y: float, side_px: float, size: int) -> bytes:
        """Return the square around a place as a JPEG of ``size`` pixels a side; white outside the slide."""
        side = max(1, round(side_px))
        with self._lock:
            rgb = self._image.read_region(round(x - side / 2), round(y - side / 2), side, side)
        return jpeg_bytes(resize(rgb, (size, size)))

    def close(self) -> None:
        """Release the image."""
        with self._lock:
            self._image.close()

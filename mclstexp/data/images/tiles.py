"""Tiles of an open image: those that are decoded already, and how large one says that it is before it is decoded."""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Any

from numpy.typing import NDArray

CACHE_BYTES = 128 * 2**20
"""Decoded tiles that one open image keeps: spots in array order mostly hit the tiles of their neighbours."""


class TileCache:
    """The tiles that were used last, at most ``CACHE_BYTES`` of them, or one that is larger."""

    def __init__(self) -> None:
        self._tiles: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[int, ...]) -> NDArray[Any] | None:
        """Return a kept tile, or None."""
        if key not in self._tiles:
            return None
        self._tiles.move_to_end(key)
        return self._tiles[key]

    def put(self, key: tuple[int, ...], tile: NDArray[Any]) -> None:
        """Keep a tile, and let go of those that were not used for longest."""
        self._tiles[key] = tile
        self._bytes += tile.nbytes
        while self._bytes > CACHE_BYTES and len(self._tiles) > 1:
            _, dropped = self._tiles.popitem(last=False)
            self._bytes -= dropped.nbytes

    def clear(self) -> None:
        """Let go of all."""
        self._tiles.clear()
        self._bytes = 0


def claimed_pixels(data: bytes) -> int:
    """Return how many pixels a compressed tile says to hold, by the header of its JPEG or JPEG 2000; 0 for others.

    Other compressions are decoded into a buffer of the tile's size, and cannot give more; these size their own.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_pixels(data)
    start = data[:256].find(b"\xff\x4f\xff\x51")  # the codestream, bare or in a JP2 box
    if start < 0 or len(data) < start + 24:
        return 0
    right, lower, left, upper = struct.unpack(">4I", data[start + 8 : start + 24])
    return int(max(0, right - left) * max(0, lower - upper))


def _jpeg_pixels(data: bytes) -> int:
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], struct.unpack(">H", data[place + 2 : place + 4])[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; not tables
            height, width = struct.unpack(">2H", data[place + 5 : place + 9])
            return int(height * width)
        place += 1 if marker == 0xFF else 2 + length
    return 0

"""Decoded tiles of an open image."""

from __future__ import annotations

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

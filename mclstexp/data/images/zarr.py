"""OME-Zarr: a folder of chunks with a pyramid, as bioformats2raw, QuPath, SpatialData and ome-zarr write it."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.base import Header, PyramidFile
from mclstexp.data.images.pixels import check_decodable, plausible_mpp, to_rgb8
from mclstexp.data.images.tiles import TileCache
from mclstexp.errors import InputError

_MARKS = ("zarr.json", ".zattrs", ".zgroup")

_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}

_AXES = "tczyx"
"""Axes of the versions that did not write them down."""


class ZarrImage(PyramidFile):
    """An RGB image in OME-Zarr (NGFF 0.1 to 0.5), or the first of several in one folder.

    Raises
    ------
    InputError
        When the folder is no OME-Zarr, is damaged, or holds a volume, a time series or other than RGB.
    """

    suffixes = (".zarr",)

    def __init__(self, path: Path) -> None:
        self._levels: list[_Level] = []
        self._tiles = TileCache()
        super().__init__(path)

    @classmethod
    def opens(cls, path: Path, magic: bytes) -> bool:
        """Whether it is a folder that holds zarr's own files."""
        return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)

    def _reading(self) -> AbstractContextManager[None]:
        return _reading(self._path)

    def _read_header(self) -> Header:
        with _reading(self._path):
            self._open()
            sizes = tuple(level.size for level in self._levels)
            return Header(sizes[0], plausible_mpp(*self._levels[0].mpp), levels=sizes)

    def close(self) -> None:
        """Let go of the arrays and the decoded chunks."""
        self._levels = []
        self._tiles.clear()

    def _open(self) -> None:
        if not self._levels:
            import zarr

            group = zarr.open_group(self._path, mode="r")
            if "bioformats2raw.layout" in _metadata(group):
                group = group["0"]
            self._levels = _find_levels(group, self._path)

    def _read(self, number: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        level = self._levels[number]
        down, across = level.chunk
        out = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
        for row in range(y0 // down, -(-y1 // down)):
            for col in range(x0 // across, -(-x1 // across)):
                tile = self._tiles.get((number, row, col))
                if tile is None:
                    tile = to_rgb8(level.read(row, col), self._path)
                    self._tiles.put((number, row, col), tile)
                top, left = row * down, col * across
                ys, ye = max(y0, top), min(y1, top + tile.shape[0])
                xs, xe = max(x0, left), min(x1, left + tile.shape[1])
                out[ys - y0 : ye - y0, xs - x0 : xe - x0] = tile[ys - top : ye - top, xs - left : xe - left]
        return out


@dataclass(frozen=True)
class _Level:
    array: Any
    axes: str
    mpp: tuple[float | None, float | None]

    @property
    def size(self) -> tuple[int, int]:
        return int(self.array.shape[self.axes.index("x")]), int(self.array.shape[self.axes.index("y")])

    @property
    def chunk(self) -> tuple[int, int]:
        return int(self.array.chunks[self.axes.index("y")]), int(self.array.chunks[self.axes.index("x")])

    def read(self, row: int, col: int) -> NDArray[Any]:
        """Read a chunk as ``(h, w, samples)``."""
        down, across = self.chunk
        places = {
            "y": slice(row * down, (row + 1) * down),
            "x": slice(col * across, (col + 1) * across),
            "c": slice(None),
        }
        values = np.asarray(self.array[tuple(places.get(axis, 0) for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in "yxc"]
        values = values if "c" in kept else values[..., None]
        order = [kept.index(axis) for axis in "yx"] + [kept.index("c") if "c" in kept else 2]
        return values.transpose(order)


def holds_image(path: Path) -> bool:
    """Whether the attributes of a Zarr folder say that it is an OME image, and not a store of other things."""
    for name in ("zarr.json", ".zattrs"):
        try:
            values = json.loads((path / name).read_text(encoding="utf-8"))
            values = values.get("attributes", values)
            values = values.get("ome", values)
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if "multiscales" in values or "bioformats2raw.layout" in values:
            return True
    return False


def _metadata(group: Any) -> dict[str, Any]:
    attributes = dict(group.attrs)
    own = attributes.get("ome", attributes)
    return own if isinstance(own, dict) else {}


def _find_levels(group: Any, path: Path) -> list[_Level]:
    images = _metadata(group).get("multiscales")
    if not images:
        raise InputError(f"Image {path} is a Zarr folder without an OME image (multiscales); give that of the image.")
    image = images[0]
    names = [axis if isinstance(axis, str) else axis["name"] for axis in image.get("axes", _AXES)]
    units = {axis["name"]: axis.get("unit", "") for axis in image.get("axes", ()) if isinstance(axis, dict)}
    axes = "".join(names)
    levels = []
    for entry in image["datasets"]:
        scale = np.ones(len(axes))
        for step in (*entry.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
            scale = scale * np.asarray(step.get("scale", 1.0), dtype=np.float64)
        um = [_UM.get(units.get(axis, "")) for axis in "xy"]
        mpp = [
            None if unit is None else float(scale[axes.index(axis)]) * unit for unit, axis in zip(um, "xy", strict=True)
        ]
        levels.append(_Level(group[entry["path"]], axes, (mpp[0], mpp[1])))
    levels.sort(key=lambda level: -level.size[0])
    for level in levels:
        _check(level, path)
    return levels


def _check(level: _Level, path: Path) -> None:
    shape = dict(zip(level.axes, level.array.shape, strict=True))
    if "x" not in shape or "y" not in shape:
        raise InputError(f"Image {path} has the axes {level.axes}; x and y are needed.")
    deep = {axis: n for axis, n in shape.items() if axis not in "xyc" and n != 1}
    if deep:
        what = ", ".join(f"{n} along {axis}" for axis, n in deep.items())
        raise InputError(f"Image {path} is no flat picture: {what}; a flat RGB image is needed.")
    if shape.get("c", 1) > 4:
        raise InputError(f"Image {path} has {shape['c']} channels; an RGB image of the H&E stain is needed.")
    if math.prod(level.chunk) > 2**26:  # one chunk for everything: whatever is read, all of it is decoded
        check_decodable(path, level.size)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    # A damaged chunk or a wrong number in the metadata meets zarr and its codecs as anything.
    damaged = (
        OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
        RuntimeError, zlib.error,
    )  # fmt: skip
    try:
        yield
    except damaged as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"Image {path} is damaged or no OME-Zarr: {reason}.") from error

"""TIFF family through tifffile: only the tiles (or strips) that a region touches are read and decoded."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.images.base import Header, PyramidFile, orientation_note
from mclstexp.data.images.pixels import check_decodable, to_rgb8
from mclstexp.data.images.tiff_metadata import stated_mpp
from mclstexp.data.images.tiles import TileCache, claimed_pixels
from mclstexp.errors import InputError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PHOTOMETRIC = {0: "white is zero", 1: "black is zero", 2: "RGB", 6: "YCbCr"}


class TiffImage(PyramidFile):
    """A TIFF, BigTIFF, OME-TIFF or SVS image.

    Raises
    ------
    InputError
        When the file is damaged, or its pixels are not 8 or 16 bit grey or RGB.
    """

    suffixes = (".tif", ".tiff", ".btf")

    def __init__(self, path: Path) -> None:
        self._tiff: Any = None
        self._levels: list[_Level] = []
        self._tiles = TileCache()
        super().__init__(path)

    @classmethod
    def opens(cls, path: Path, magic: bytes) -> bool:
        """Whether the first bytes are a TIFF's or a BigTIFF's, whatever the file is called."""
        return magic in TIFF_MAGIC

    def _reading(self) -> AbstractContextManager[None]:
        return _reading(self._path)

    def _read_header(self) -> Header:
        with _reading(self._path):
            self._open()
            page = self._levels[0].pages[0]
            _check_end(self._levels, self._path)
            turned = page.tags.get("Orientation")
            return Header(
                self._levels[0].size,
                stated_mpp(self._tiff, page),
                orientation_note(turned.value if turned else None),
                tuple(level.size for level in self._levels),
            )

    def close(self) -> None:
        """Close the file and drop the decoded tiles."""
        if self._tiff is not None:
            self._tiff.close()
        self._tiff, self._levels = None, []
        self._tiles.clear()

    def _open(self) -> None:
        if self._tiff is None:
            import tifffile

            self._tiff = tifffile.TiffFile(self._path)
            self._levels = _find_levels(self._tiff, self._path)

    def _read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
        entry = self._levels[level]
        planes = [
            self._read_plane((level, number), page, plane, (x0, y0, x1, y1))
            for number, page in enumerate(entry.pages)
            for plane in range(_n_planes(page))
        ]
        values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        rgb = to_rgb8(values, self._path)
        return 255 - rgb if int(entry.pages[0].photometric) == 0 else rgb

    def _read_plane(self, key: tuple[int, int], page: Any, plane: int, box: tuple[int, int, int, int]) -> NDArray[Any]:
        x0, y0, x1, y1 = box
        tile_h, tile_w = _segment_shape(page)
        across = -(-page.imagewidth // tile_w)
        per_plane = across * -(-page.imagelength // tile_h)
        samples = 1 if _n_planes(page) > 1 else page.samplesperpixel
        fill = 0 if int(page.photometric) == 0 else 255
        out = np.full((y1 - y0, x1 - x0, samples), fill, dtype=page.dtype)
        for row in range(y0 // tile_h, -(-y1 // tile_h)):
            for col in range(x0 // tile_w, -(-x1 // tile_w)):
                tile = self._segment(key, page, plane * per_plane + row * across + col)
                if tile is None:
                    continue
                top, left = row * tile_h, col * tile_w
                ys, ye = max(y0, top), min(y1, top + tile.shape[0])
                xs, xe = max(x0, left), min(x1, left + tile.shape[1])
                out[ys - y0 : ye - y0, xs - x0 : xe - x0] = tile[ys - top : ye - top, xs - left : xe - left]
        return out

    def _segment(self, key: tuple[int, int], page: Any, index: int) -> NDArray[Any] | None:
        tile = self._tiles.get((*key, index))
        if tile is None:
            tile = self._decode(page, index)
            if tile is not None:
                self._tiles.put((*key, index), tile)
        return tile

    def _decode(self, page: Any, index: int) -> NDArray[Any] | None:
        length = page.databytecounts[index]
        if length == 0:
            return None  # a tile that was never written: nothing was scanned there
        file = page.parent.filehandle
        file.seek(page.dataoffsets[index])
        data = file.read(length)
        if len(data) != length:
            raise EOFError(f"the file ends inside tile {index}")
        tile_h, tile_w = _segment_shape(page)
        if claimed_pixels(data) > 2 * tile_h * tile_w + 2**16:
            raise ValueError(f"tile {index} is {tile_w} x {tile_h} px and says to hold {claimed_pixels(data)}")
        decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        return None if decoded is None else decoded[0, : shape[1], : shape[2]]


class _Level:
    def __init__(self, pages: list[Any]) -> None:
        self.pages = pages
        self.size = (int(pages[0].imagewidth), int(pages[0].imagelength))


def _find_levels(tiff: Any, path: Path) -> list[_Level]:
    series = max(tiff.series, key=lambda s: s.keyframe.imagewidth * s.keyframe.imagelength)
    levels = [_Level([page.aspage() for page in level.pages if page is not None]) for level in series.levels]
    first = levels[0]
    if not any(level.size[0] < first.size[0] for level in levels):
        # vips and others write a pyramid as plain successive pages.
        levels += [_Level([page]) for page in _reduced_pages(tiff, first)]
    levels.sort(key=lambda level: -level.size[0])
    for page in first.pages:
        _check_page(page, path, len(first.pages))
    return [level for level in levels if len(level.pages) == len(first.pages)]


def _reduced_pages(tiff: Any, first: _Level) -> list[Any]:
    base = first.pages[0]
    wanted = (base.samplesperpixel, base.dtype, int(base.photometric))
    reduced = []
    for page in tiff.pages:
        page = page.aspage()
        if page.imagewidth >= base.imagewidth or page.imagelength >= base.imagelength:
            continue
        ratio = base.imagewidth / page.imagewidth
        same_shape = abs(base.imagelength / ratio - page.imagelength) <= 2
        # A label or macro image has other proportions, a thumbnail is no power of two smaller.
        power = abs(np.log2(ratio) - round(float(np.log2(ratio)))) < 0.02
        if same_shape and power and (page.samplesperpixel, page.dtype, int(page.photometric)) == wanted:
            reduced.append(page)
    return reduced


def _check_page(page: Any, path: Path, n_pages: int) -> None:
    if int(page.photometric) not in _PHOTOMETRIC:
        raise InputError(f"Image {path.name} stores {page.photometric!s} colours; an RGB image is needed.")
    if page.imagedepth != 1:
        raise InputError(f"Image {path.name} is a volume of {page.imagedepth} planes; a flat RGB image is needed.")
    channels = n_pages * page.samplesperpixel
    if channels > 4:
        raise InputError(f"Image {path.name} has {channels} channels; an RGB image of the H&E stain is needed.")
    tile_h, tile_w = _segment_shape(page)
    segments = -(-page.imagewidth // tile_w) * -(-page.imagelength // tile_h) * _n_planes(page)
    if len(page.dataoffsets) != segments:
        raise InputError(
            f"Image {path.name} is damaged: {page.imagewidth} x {page.imagelength} px need {segments:,} tiles or "
            f"strips, and it has {len(page.dataoffsets):,}; copy it again."
        )
    if tile_h * tile_w > 2**26:  # one strip for everything: whatever is read, all of it is decoded
        check_decodable(path, (page.imagewidth, page.imagelength))


def _check_end(levels: list[_Level], path: Path) -> None:
    size = path.stat().st_size
    pages = [page for level in levels for page in level.pages]
    end = max(
        (offset + n for page in pages for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)),
        default=0,
    )
    if end > size:
        raise InputError(f"Image {path} is truncated: it has {size} bytes and needs {end}; copy it again.")


def _segment_shape(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    rows = int(page.rowsperstrip or page.imagelength)
    return min(rows, int(page.imagelength)), int(page.imagewidth)


def _n_planes(page: Any) -> int:
    return int(page.samplesperpixel) if int(page.planarconfig or 1) == 2 else 1


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import tifffile

    # Imagecodecs raises RuntimeErrors; damaged tags meet tifffile as anything that a wrong number can cause.
    damaged = (
        tifffile.TiffFileError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
        ImportError, MemoryError, RuntimeError, struct.error, zlib.error,
    )  # fmt: skip
    logger = logging.getLogger("tifffile")
    was_disabled, logger.disabled = logger.disabled, True  # what it logs, the one line below says
    try:
        yield
    except damaged as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"Image {path} is damaged or cannot be decoded: {reason}; copy it again.") from error
    finally:
        logger.disabled = was_disabled

"""Image features kept between runs, by patch: a folder that forgets what was not used for long.

A *field* is all that decides a patch's features but its place: image, backbone, pooling, patch. Each has a folder, and
each write adds a file with the patches' centres and their features. So any subset of a slide's spots finds what another
subset left, two writers add two files, and an interrupted run leaves what it had encoded.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mclstexp.errors import StorageError
from mclstexp.notes import inform, warn
from mclstexp.storage import TEMPORARY, canonical_json, new_file, sha256_bytes, storage_errors, write_atomic
from mclstexp.text import size
from mclstexp.types import BoolArray, FloatArray, IdArray, StrPath

Cache = bool | StrPath
"""Where image features are kept between runs: True for the user's cache folder, False for nowhere, or a folder."""

DEFAULT_LIMIT = 20 * 10**9
"""Bytes that a cache may grow to where no limit was set."""

FOLDER, SETTINGS, SUFFIX = "features", "cache.json", ".safetensors"

_OF_CACHE = re.compile(rf"([0-9a-f]{{64}}/[^/]*{re.escape(SUFFIX)}|[0-9a-f]{{64}}\.npy)$")
"""Paths that a cache wrote, below the folder of a field's first letters; nothing else is ever removed."""

_STALE_SECONDS = 86_400
_DAMAGED = (OSError, ValueError, KeyError, SafetensorError, zlib.error)


@dataclass(frozen=True)
class CacheUse:
    """What a cache holds.

    Attributes
    ----------
    folder
        Where it is.
    limit
        Bytes that it may grow to.
    fields
        A row an encoder: ``encoder``, ``slides``, ``patches`` (a spot's fields of view count each) and ``bytes``.
    """

    folder: Path
    limit: int
    fields: tuple[dict[str, Any], ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all features."""
        return sum(row["bytes"] for row in self.fields)


class FeatureCache:
    """A folder of image features by patch; ``None`` keeps nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def ready(self) -> bool:
        """Whether features can be kept; a folder that cannot be used is said once, and done without."""
        if self._folder is None:
            return False
        try:
            with storage_errors(self._folder):
                (self._folder / FOLDER).mkdir(parents=True, exist_ok=True)
        except (StorageError, OSError) as error:
            self._give_up(error)
        return self._folder is not None

    def holds(self, field: str, xy_px: NDArray[np.float64]) -> BoolArray:
        """Whether there are features of each patch ``(n, 2)`` of a field; `load` says whether they are whole."""
        there = np.zeros(len(xy_px), dtype=bool)
        for part in self._parts(field, xy_px):
            there[part.rows] = True
        return there

    def load(self, field: str, xy_px: NDArray[np.float64], out: FloatArray) -> BoolArray:
        """Fill in the features that are kept.

        Parameters
        ----------
        field
            Name of the field, 64 hexadecimal digits.
        xy_px
            ``(n, 2)`` centres of the patches.
        out
            ``(n, F)`` float32, filled where features are found.

        Returns
        -------
        ``(n,)`` which rows were filled. A damaged file counts as none.
        """
        filled = np.zeros(len(xy_px), dtype=bool)
        for part in self._parts(field, xy_px):
            features = part.read()
            if features is not None and features.shape[1] == out.shape[1]:
                out[part.rows] = features[part.places]
                filled[part.rows] = True
        return filled

    def width(self, field: str) -> int | None:
        """Length of a field's feature vectors, where any are kept."""
        for path in self._files(field):
            with suppress(*_DAMAGED), safe_open(path, framework="numpy") as file:
                return int(file.get_slice("features").get_shape()[1])
        return None

    def store(
        self, field: str, xy_px: NDArray[np.float64], features: FloatArray, about: Mapping[str, str] | None = None
    ) -> None:
        """Add features ``(n, F)`` of patches to a field; where that fails, say so and keep none from then on.

        ``about`` is what `use` tells of them: ``encoder`` and ``image``.
        """
        if self._folder is None:
            return
        centres = np.ascontiguousarray(xy_px, dtype=np.float64)
        arrays: dict[str, NDArray[Any]] = {"xy_px": centres, "features": np.ascontiguousarray(features)}
        name = sha256_bytes(centres.tobytes())[:32]
        path = self._folder / FOLDER / field[:2] / field / f"{name}{SUFFIX}"
        metadata = {**(about or {}), "crc32": _checksum(arrays)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path, force=True) as work:
                save_file(arrays, work, metadata=metadata)
        except (StorageError, OSError) as error:
            self._give_up(error)

    @property
    def limit(self) -> int:
        """Bytes that the cache may grow to."""
        if self._folder is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                return int(json.loads((self._folder / SETTINGS).read_bytes())["limit_bytes"])
        return DEFAULT_LIMIT

    def set_limit(self, n_bytes: int) -> None:
        """Keep at most so many bytes from now on, and drop what is over."""
        if self.ready() and self._folder is not None:
            with storage_errors(self._folder):
                write_atomic(self._folder / SETTINGS, canonical_json({"limit_bytes": n_bytes}).encode())
            self.shrink()

    def shrink(self) -> int:
        """Drop what was not used for longest until the limit holds, and say so; return the bytes dropped."""
        limit = self.limit
        files = sorted(self._all_files(), key=lambda file: file.used)
        total = sum(file.n_bytes for file in files)
        dropped = 0
        for file in files:
            stale = file.path.name.startswith(TEMPORARY) and time.time() - file.used > _STALE_SECONDS
            if total - dropped <= limit and not stale:
                continue
            dropped += _remove(file)
        if dropped:
            inform(
                f"the cache of image features dropped {size(dropped)} that were not used for longest, to stay within "
                f"{size(limit)}; mst cache --limit changes that"
            )
        return dropped

    def clear(self) -> int:
        """Remove all features; return their bytes. Other files in the folder stay."""
        return sum(_remove(file) for file in self._all_files())

    def use(self) -> CacheUse:
        """Return what the cache holds, the largest first."""
        if self._folder is None:
            return CacheUse(Path(), 0, ())
        rows: dict[str, dict[str, Any]] = {}
        images: dict[str, set[str]] = {}
        for file in self._all_files():
            encoder, image, n_patches = _about(file.path)
            row = rows.setdefault(encoder, {"encoder": encoder, "slides": 0, "patches": 0, "bytes": 0})
            images.setdefault(encoder, set()).add(image)
            row["slides"] = len(images[encoder] - {""})
            row["patches"] += n_patches
            row["bytes"] += file.n_bytes
        ordered = sorted(rows.values(), key=lambda row: (-row["bytes"], row["encoder"]))
        return CacheUse(self._folder, self.limit, tuple(ordered))

    def _parts(self, field: str, xy_px: NDArray[np.float64]) -> Iterator[_Part]:
        """Yield which rows lie in which file; a row that several hold is taken from the first."""
        left = np.arange(len(xy_px))
        for path in self._files(field):
            if not len(left):
                return
            try:
                with safe_open(path, framework="numpy") as file:
                    kept = file.get_tensor("xy_px")
                    n_features = file.get_slice("features").get_shape()[0]
            except _DAMAGED:
                continue
            if kept.ndim != 2 or kept.shape[1] != 2 or len(kept) != n_features or not len(kept):
                continue
            places = _places(kept, xy_px[left])
            hit = places >= 0
            if hit.any():
                yield _Part(path, left[hit], places[hit])
                left = left[~hit]

    def _files(self, field: str) -> list[Path]:
        if self._folder is None:
            return []
        return sorted((self._folder / FOLDER / field[:2] / field).glob(f"[!.]*{SUFFIX}"))

    def _all_files(self) -> list[_File]:
        if self._folder is None:
            return []
        files = []
        for root, _, names in os.walk(self._folder / FOLDER):
            for path in (Path(root) / name for name in names):
                if _OF_CACHE.search(path.as_posix()):
                    with suppress(OSError):  # another process may have dropped it
                        stat = path.stat()
                        files.append(_File(path, stat.st_size, stat.st_mtime))
        return files

    def _give_up(self, error: Exception) -> None:
        warn(f"Image features are not kept, the cache cannot be used: {error}")
        self._folder = None


@dataclass(frozen=True)
class _File:
    path: Path
    n_bytes: int
    used: float


@dataclass(frozen=True)
class _Part:
    """Rows ``rows`` of what is asked for are the rows ``places`` of a file."""

    path: Path
    rows: IdArray
    places: IdArray

    def read(self) -> FloatArray | None:
        """Return all features of the file, or None where it is damaged; a file that was read counts as used."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in ("xy_px", "features")}
                stated = file.metadata()["crc32"]
        except (*_DAMAGED, TypeError):
            return None
        if stated != _checksum(arrays):
            with suppress(OSError):
                self.path.unlink()
            return None
        with suppress(OSError):
            os.utime(self.path)
        return arrays["features"] if arrays["features"].dtype == np.float32 else None


def feature_cache(cache: Cache) -> FeatureCache:
    """Return the cache that a user asked for."""
    if cache is False:
        return FeatureCache()
    return FeatureCache(Path(platformdirs.user_cache_dir("mclstexp")) if cache is True else Path(cache))


def _places(kept: NDArray[np.float64], wanted: NDArray[np.float64]) -> IdArray:
    """Return where each wanted point ``(n, 2)`` is among those kept ``(m, 2)``, -1 for nowhere."""
    points, asked = (np.ascontiguousarray(xy + 0.0).view(np.complex128).ravel() for xy in (kept, wanted))
    order = np.argsort(points, kind="stable")
    at = np.minimum(np.searchsorted(points[order], asked), len(points) - 1)
    return np.where(points[order[at]] == asked, order[at], -1).astype(np.int64)


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8).data, value)
    return f"{value:08x}"


def _about(path: Path) -> tuple[str, str, int]:
    """Return the encoder that a file names, its image and its number of patches."""
    with suppress(*_DAMAGED, TypeError, AttributeError), safe_open(path, framework="numpy") as file:
        about = file.metadata() or {}
        return about.get("encoder", "unknown"), about.get("image", ""), int(file.get_slice("xy_px").get_shape()[0])
    return "unknown", "", 0


def _remove(file: _File) -> int:
    with suppress(OSError):
        file.path.unlink()
        with suppress(OSError):  # others may be in there
            file.path.parent.rmdir()
        return file.n_bytes
    return 0

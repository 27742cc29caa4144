"""The process in which files are tried: run by its path, and so without this package, torch, or anything else.

A line of JSON on stdin, ``{"path": ..., "seconds": ...}``, is answered by one on stdout: ``{}`` or ``{"reason": ...}``.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Iterator
from typing import Any

MOST_BYTES = 4 * 2**30
"""Memory of this process; what a file needs at a time is the largest of its chunks."""

PIECE_BYTES = 2**24
MOST_OBJECTS = 1_000_000
MOST_PACKED = 1100
"""Deflate packs 1,032 to 1; what says to hold more than this times its bytes on the disk holds a bomb."""

SMALL_BYTES = 2**26
"""A data set of this size may be packed as it likes: an array of one value is no bomb."""


def main() -> None:
    """Answer until stdin ends."""
    sys.path[:] = json.loads(sys.stdin.readline())
    _limit_memory()
    for line in sys.stdin:
        asked = json.loads(line)
        _limit_time(asked["seconds"])
        try:
            reason = try_hdf5(asked["path"])
        except MemoryError:
            reason = f"a part of it needs more than {MOST_BYTES // 2**30} GiB of memory"
        except Exception as error:  # noqa: BLE001 - whatever it is, the file is why
            reason = f"{error}" or type(error).__name__
        sys.stdout.write(json.dumps({"reason": reason} if reason else {}) + "\n")
        sys.stdout.flush()


def _limit_memory() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):
        pass  # macOS has no such limit, or this one is below that of the session


def _limit_time(seconds: float) -> None:
    """End the process, by the system, once it has computed for so long from now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def try_hdf5(path: str) -> str:
    """Read everything in a file, a piece at a time; return why it is refused, or ""."""
    import h5py

    with h5py.File(path, "r") as file:
        seen: set[tuple[int, Any]] = set()
        waiting: list[Any] = [file]
        while waiting:
            node = waiting.pop()
            about = h5py.h5o.get_info(node.id)
            if (about.fileno, about.addr) in seen:
                continue
            seen.add((about.fileno, about.addr))
            if len(seen) > MOST_OBJECTS:
                return f"it has more than {MOST_OBJECTS:,} objects"
            for value in node.attrs.values():
                del value
            if isinstance(node, h5py.Dataset):
                reason = _try_dataset(node)
                if reason:
                    return reason
            elif isinstance(node, h5py.Group):
                for name in node:
                    link = node.get(name, getlink=True)
                    if isinstance(link, h5py.ExternalLink):
                        return f"{node.name}/{name} is a link into another file, {link.filename}"
                    if isinstance(link, h5py.HardLink):
                        waiting.append(node[name])
    return ""


def _try_dataset(dataset: Any) -> str:
    if dataset.external or dataset.is_virtual:
        return f"{dataset.name} takes its values from other files"
    if dataset.shape is None or dataset.size == 0:
        return ""
    n_bytes, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if n_bytes > SMALL_BYTES and n_bytes > MOST_PACKED * stored:
        return f"{dataset.name} says to hold {n_bytes:,} bytes, of which {stored:,} are there"
    if dataset.chunks is None and dataset.dtype.kind in "biufcSV":
        return ""  # bytes as they are: nothing is decoded
    for piece in _pieces(dataset):
        dataset[piece]
    return ""


def _pieces(dataset: Any) -> Iterator[Any]:
    """Yield selections of a data set: whole chunks along the first axis, of some bytes each."""
    if not dataset.shape:
        yield ()
        return
    row_bytes = max(1, dataset.size // dataset.shape[0] * dataset.dtype.itemsize)
    step = max(1, PIECE_BYTES // row_bytes)
    if dataset.chunks is not None:
        step = max(1, step // dataset.chunks[0]) * dataset.chunks[0]
    for start in range(0, dataset.shape[0], step):
        yield slice(start, start + step)


if __name__ == "__main__":
    main()

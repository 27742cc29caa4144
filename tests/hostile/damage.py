"""Ways to spoil a file, by name. All are the same each time."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, str], None]:
    def spoil(path: Path, argument: str) -> None:
        path.write_bytes(change(path.read_bytes()))

    return spoil


def _random(path: Path, argument: str) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(int(argument or 5000)))


def _flip(path: Path, argument: str) -> None:
    """Turn a few bytes, at places that the seed says."""
    data = bytearray(path.read_bytes())
    seed, _, n = argument.partition(",")
    rng = np.random.default_rng(int(seed or 0))
    for place in rng.integers(0, len(data), int(n or 8)):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(data))


def _cut(path: Path, argument: str) -> None:
    data = path.read_bytes()
    share = float(argument)
    path.write_bytes(data[: int(len(data) * share)] if share < 1 else data[: -int(share)])


def _replace(path: Path, argument: str) -> None:
    """Replace the first of two texts, joined by ``=>``, by the second; through gzip where it is gzipped."""
    old, _, new = argument.partition("=>")
    data = path.read_bytes()
    packed = data[:2] == b"\x1f\x8b"
    data = gzip.decompress(data) if packed else data
    assert old.encode() in data, (path, old)
    data = data.replace(_plain(old), _plain(new), 1)
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)


def _plain(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")


def _text(path: Path, argument: str) -> None:
    path.write_bytes(_plain(argument))


def _instead(make: Callable[[Path], None]) -> Callable[[Path, str], None]:
    def spoil(path: Path, argument: str) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return spoil


def _line(path: Path, argument: str) -> None:
    """Put a line in place of the second."""
    lines = path.read_bytes().split(b"\n")
    lines[1] = _plain(argument)
    path.write_bytes(b"\n".join(lines))


def _rename(path: Path, argument: str) -> None:
    path.rename(path.with_name(argument))


def _repack(path: Path, argument: str) -> None:
    """Write a Parquet table again, the same but for its bytes."""
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path), path, compression="gzip")


def _json_bomb(path: Path, argument: str) -> None:
    path.write_bytes(b"[" * 200_000)


DAMAGE: dict[str, Callable[[Path, str], None]] = {
    "none": lambda path, argument: None,
    "missing": _instead(lambda path: None),
    "empty": _bytes(lambda data: b""),
    "cut": _cut,
    "random": _random,
    "flip": _flip,
    "zeros": _bytes(lambda data: bytes(len(data))),
    "magic": _bytes(lambda data: b"\0" * 8 + data[8:]),
    "nul": _bytes(lambda data: data[: len(data) // 2] + b"\0\0\0" + data[len(data) // 2 :]),
    "latin": _bytes(lambda data: data[: len(data) // 2] + b"\xff\xfe\xe9" + data[len(data) // 2 :]),
    "bom": _bytes(lambda data: b"\xef\xbb\xbf" + data),
    "utf16": _bytes(lambda data: data.decode("latin-1").encode("utf-16")),
    "crlf": _bytes(lambda data: data.replace(b"\n", b"\r\n")),
    "cr": _bytes(lambda data: data.replace(b"\n", b"\r")),
    "twice": _bytes(lambda data: data + data),
    "gzipped": _bytes(lambda data: gzip.compress(data, mtime=0)),
    "header": _bytes(lambda data: data.split(b"\n")[0] + b"\n"),
    "bytes": _bytes(lambda data: bytes(range(256)) * 16),
    "folder": _instead(lambda path: path.mkdir()),
    "pipe": _instead(lambda path: os.mkfifo(path)),
    "device": _instead(lambda path: path.symlink_to("/dev/zero")),
    "loop": _instead(lambda path: path.symlink_to(path.name)),
    "dangling": _instead(lambda path: path.symlink_to("nowhere")),
    "text": _text,
    "line": _line,
    "replace": _replace,
    "rename": _rename,
    "deep": _json_bomb,
    "repack": _repack,
}

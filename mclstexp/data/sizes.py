"""Files that unpack to far more than they are, refused before they are unpacked."""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path

from mclstexp.errors import InputError

SMALL_BYTES = 2**30
"""What unpacks to no more is not looked at further: it fits into any machine that this program runs on."""

MOST_PACKED = 200
"""The tables of counts of HER2+ breast cancer, which are mostly zeros, unpack to at most 18 times their size."""

_DEFLATE = 1032
"""Deflate packs no better than this to one."""

_BLOCK = 2**20


def refuse_gzip_bomb(path: Path) -> None:
    """Refuse a gzipped file that unpacks to over 1 GiB and over 200 times its size; it is unpacked to nowhere.

    Raises
    ------
    InputError
        Names the file, and what it unpacks to.
    OSError
        When it cannot be read. A damaged one is left to its reader.
    """
    about = path.stat()
    if about.st_size * _DEFLATE > SMALL_BYTES:
        _try_gzip(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4096)
def _try_gzip(path: Path, size: int, changed: int) -> None:
    limit = max(SMALL_BYTES, MOST_PACKED * size)
    unpacked, unzip = 0, zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        block = file.read(_BLOCK)
        while block:
            try:
                unpacked += len(unzip.decompress(block, _BLOCK))
            except zlib.error:
                return
            block = unzip.unconsumed_tail or unzip.unused_data or file.read(_BLOCK)
            if unzip.eof:
                unzip = zlib.decompressobj(wbits=31)
            if unpacked > limit:
                raise _bomb(path, f"more than {unpacked:,}", size)


def refuse_parquet_bomb(path: Path) -> None:
    """Refuse a Parquet file whose columns unpack to over 1 GiB and over 200 times its size, by its own footer.

    Raises
    ------
    InputError
        Names the file, and what it unpacks to.
    OSError, pyarrow.ArrowException
        When it is no Parquet file.
    """
    import pyarrow.parquet as pq

    size = path.stat().st_size
    about = pq.read_metadata(path)
    # A dictionary or a run of one value is a few bytes, and a cell of 8 bytes and more once it is read.
    said = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    unpacked = max(said, 8 * about.num_rows * about.num_columns)
    if unpacked > max(SMALL_BYTES, MOST_PACKED * size):
        raise _bomb(path, f"{unpacked:,}", size)


def _bomb(path: Path, unpacked: str, size: int) -> InputError:
    return InputError(
        f"{path} is refused: its {size:,} bytes unpack to {unpacked}, as no table of spots does; copy it again, or "
        "unpack it yourself if you trust it."
    )

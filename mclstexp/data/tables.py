"""Small delimited tables, as people write them: any delimiter, gzip, byte order mark, with or without a header."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.paths import require_file
from mclstexp.data.sizes import refuse_gzip_bomb, refuse_parquet_bomb
from mclstexp.errors import InputError
from mclstexp.types import StrPath

if TYPE_CHECKING:
    import pandas as pd


_MISSING = ("", "na", "n/a", "null", "none", "nan")


def read_table(path: StrPath, *, header: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a CSV, TSV or Parquet table with every cell as text ("" where empty).

    Parameters
    ----------
    path
        ``.csv``, ``.tsv`` or ``.txt`` (also gzipped; the delimiter is found in the first line), or ``.parquet``.
    header
        Names for a file whose first line holds data already.

    Raises
    ------
    InputError
        When the file is missing, empty, or not a table.
    """
    import pandas as pd

    path = require_file(path, "Table")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    delimiter = delimiter_of(first_line(path))
    with reading_table(path):
        try:
            try:
                return _read_text(path, delimiter, header, "utf-8-sig")
            except UnicodeDecodeError:
                return _read_text(path, delimiter, header, "latin-1")
        except pd.errors.ParserWarning:
            raise InputError(
                f"Table {path} is damaged: its rows have more cells than its first line; correct it."
            ) from None
        except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, ValueError) as error:
            raise InputError(f"Table {path} is damaged: {_said(error)}; correct it or copy it again.") from error


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def first_line(path: Path) -> str:
    """First line of a text file, gzipped or not.

    Raises
    ------
    InputError
        When it cannot be read or is empty.
    """
    with reading_table(path), open_binary(path) as file:
        line = file.readline(2**24)
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    if not text.strip():
        raise InputError(f"Table {path} is empty; copy it again.")
    if "\0" in text:
        raise InputError(f"Table {path} is not text; save it as CSV or TSV in UTF-8.")
    return text


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading, through gzip where it is gzipped, whatever its name.

    Raises
    ------
    InputError
        When it is missing or no regular file: a pipe would be read for ever.
    """
    require_file(path, "Table")
    if is_gzip(path):
        refuse_gzip_bomb(path)
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def is_gzip(path: Path) -> bool:
    """Whether the file is gzipped, by its first bytes and whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def delimiter_of(line: str) -> str:
    """Delimiter of a line: the most frequent of tab, comma and semicolon."""
    return max("\t,;", key=line.count)


def is_number(text: str) -> bool:
    """Whether the text reads as a number; empty, NA and NaN count as numbers."""
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    text = text.strip()
    if "_" in text:
        raise ValueError(text)  # Python would read 1_000
    return float("nan") if text.lower() in _MISSING else float(text)


def numbers(frame: pd.DataFrame, column: str, path: Path) -> NDArray[np.float64]:
    """Return a column as float64, NaN where empty.

    Raises
    ------
    InputError
        When a cell is no number.
    """
    cells = frame[column].astype(str).to_numpy(dtype=object)
    try:
        return np.array([_number(cell) for cell in cells], dtype=np.float64)
    except ValueError:
        row, cell = next((i, cell) for i, cell in zip(frame.index, cells, strict=True) if not is_number(cell))
        raise InputError(f"{path.name}: column {column!r} holds {cell!r} in row {row + 1}, not a number.") from None


@contextmanager
def reading_table(path: Path) -> Iterator[None]:
    """Turn what a damaged or unreadable table raises into an InputError that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {_said(error)}; copy it again.") from error


def _read_text(path: Path, delimiter: str, header: Sequence[str] | None, encoding: str) -> pd.DataFrame:
    import pandas as pd

    names = list(header) if header is not None else None
    if names is None:
        with open_binary(path) as file, io.TextIOWrapper(file, encoding=encoding, newline="") as text:
            lines = [
                [cell.strip() for cell in line] for line in itertools.islice(csv.reader(text, delimiter=delimiter), 2)
            ]
        names = lines[0]
        if len(lines) > 1 and len(lines[1]) == len(names) + 1:
            names = ["", *names]  # R leaves out the name of the index
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # it would drop cells
        return pd.read_csv(
            path,
            sep=delimiter,
            header=None,
            names=names,
            skiprows=0 if header is not None else 1,
            index_col=False,
            on_bad_lines="error",
            dtype=str,
            keep_default_na=False,
            encoding=encoding,
            compression="gzip" if is_gzip(path) else None,
        )


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        refuse_parquet_bomb(path)
        frame = pd.read_parquet(path).reset_index()
        return frame.astype(str).mask(frame.isna(), "")
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise InputError(f"Table {path} is damaged: {_said(error)}; copy it again.") from error

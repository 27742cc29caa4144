"""Reading and writing ``.h5ad`` files: a damaged file is one line, a full disk an error and not a crash."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from mclstexp.data.apart.worker import try_hdf5
from mclstexp.data.paths import require_file
from mclstexp.errors import InputError

if TYPE_CHECKING:  # anndata takes longer to load than most commands take
    import anndata as ad
    import h5py
    import pandas as pd

COMPRESSION = {"compression": "gzip", "compression_opts": 4}
"""How arrays of an ``.h5ad`` are packed."""


def write_h5ad(adata: ad.AnnData, path: Path) -> None:
    """Write ``adata`` compressed; the same content gives the same bytes.

    Strings are written plainly and empty slots not at all, so that R's readers (anndataR, zellkonverter), which know
    fewer encodings than Python's, open the file.

    Raises
    ------
    OSError
        When the operating system refuses the write.
    """
    import h5py

    # HDF5 1.14 writes on closing, and kills the process when that write fails. In memory it cannot fail.
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        write_plainly(file, adata)
    with path.open("wb") as target:
        target.write(whole.getbuffer())


@contextmanager
def large_h5ad(path: Path) -> Iterator[h5py.File]:
    """Open a new ``.h5ad`` to be written part by part, for what does not fit into memory twice.

    Raises
    ------
    OSError
        When the operating system refused a write; HDF5 itself is not told, since it would end the process.
    """
    import h5py

    with path.open("w+b", buffering=0) as raw:
        target = _Forgiving(raw)
        try:
            with h5py.File(target, "w") as file:
                yield file
        finally:
            if target.refused is not None:
                raise target.refused


class _Forgiving:
    """A file that takes every write; the first one that was refused is kept for whoever asks afterwards."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.refused: OSError | None = None
        self.seek, self.tell, self.readinto, self.read = raw.seek, raw.tell, raw.readinto, raw.read

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while self.refused is None and written < len(view):
            try:
                written += self._raw.write(view[written:])
            except OSError as error:
                self.refused = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return int(self._raw.truncate(size))
        except OSError as error:
            self.refused = self.refused or error
            return size or 0

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""


def write_plainly(file: h5py.File, adata: ad.AnnData) -> None:
    """Write ``adata`` into an open file with the encodings that every reader knows."""
    import anndata as ad

    plain = adata.copy() if any(_fancy(frame) for frame in (adata.obs, adata.var)) else adata
    if plain is not adata:
        plain.obs, plain.var = plain_frame(plain.obs), plain_frame(plain.var)
    ad.io.write_elem(file, "/", plain, dataset_kwargs=COMPRESSION)
    for name in list(file):
        if file[name].attrs.get("encoding-type") == "null":
            del file[name]


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose text, index included, is of dtype object, and whose categories are their values."""
    import pandas as pd

    columns = {name: column.astype(object) if _is_text(column.dtype) else column for name, column in frame.items()}
    return pd.DataFrame(columns, index=pd.Index(frame.index.to_numpy(dtype=object), dtype=object))


def _fancy(frame: pd.DataFrame) -> bool:
    return any(_is_text(dtype) for dtype in (frame.index.dtype, *frame.dtypes))


def _is_text(dtype: object) -> bool:
    import pandas as pd

    return isinstance(dtype, pd.StringDtype | pd.CategoricalDtype)


def read_anndata(path: Path) -> ad.AnnData:
    """Read an ``.h5ad``.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    import anndata as ad

    path = require_file(path, "File")
    try:
        try_hdf5(path)
        return ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable .h5ad file ({reason(error)}); copy it again.") from error


def is_anndata(value: object) -> TypeGuard[ad.AnnData]:
    """Whether a value is an AnnData; anndata is not loaded to tell that it is none."""
    module = sys.modules.get("anndata")
    return module is not None and isinstance(value, module.AnnData)


def reason(error: BaseException) -> str:
    """Say in one short line why an operation failed."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__

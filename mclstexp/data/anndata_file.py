"""Reading and writing ``.h5ad`` files: a damaged file is one line, a full disk an error and not a crash."""

from __future__ import annotations

import io
from pathlib import Path

import anndata as ad
import h5py

from mclstexp.errors import InputError


def write_h5ad(adata: ad.AnnData, path: Path) -> None:
    """Write ``adata`` compressed; the same content gives the same bytes.

    Raises
    ------
    OSError
        When the operating system refuses the write.
    """
    # HDF5 1.14 writes on closing, and kills the process when that write fails. In memory it cannot fail.
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        ad.io.write_elem(file, "/", adata, dataset_kwargs={"compression": "gzip", "compression_opts": 4})
    with path.open("wb") as target:
        target.write(whole.getbuffer())


def read_anndata(path: Path) -> ad.AnnData:
    """Read an ``.h5ad``.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file.")
    try:
        return ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable .h5ad file ({reason(error)}).") from error


def reason(error: BaseException) -> str:
    """Say in one short line why an operation failed."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__

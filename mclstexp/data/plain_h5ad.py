"""An ``.h5ad`` as this program writes it, without anndata, whose import alone takes longer than the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.anndata_file import COMPRESSION, large_h5ad
from mclstexp.data.apart.worker import opened_hdf5

if TYPE_CHECKING:
    import h5py
    import pandas as pd


@dataclass(frozen=True)
class PlainH5ad:
    """The parts of an ``.h5ad`` under the names that `anndata.AnnData` has for them."""

    X: NDArray[Any]
    obs: pd.DataFrame
    var: pd.DataFrame
    layers: Mapping[str, NDArray[Any]]
    obsm: Mapping[str, NDArray[Any]]
    uns: Mapping[str, Any]

    @property
    def obs_names(self) -> pd.Index:
        """Names of the rows."""
        return self.obs.index

    @property
    def var_names(self) -> pd.Index:
        """Names of the columns."""
        return self.var.index


class _Unknown(Exception):
    """An encoding that this program never writes."""


def read_plain(path: Path) -> PlainH5ad | None:
    """Read an ``.h5ad``; None where it is damaged, or holds anything that `write_h5ad` does not write.

    Whoever gets None reads it with anndata, which knows every encoding and says what is wrong.
    """
    try:
        with opened_hdf5(path) as file:
            parts = {name: _read(file[name]) for name in ("obs", "var", "layers", "obsm", "uns") if name in file}
            whole = PlainH5ad(_read(file["X"]), parts["obs"], parts["var"], parts.get("layers", {}),
                              parts.get("obsm", {}), parts.get("uns", {}))  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError, _Unknown):
        return None
    shape = (len(whole.obs), len(whole.var))
    tables = [whole.X, *whole.layers.values()]
    fits = all(np.shape(values)[:2] == shape for values in tables)
    return whole if fits and all(len(values) == shape[0] for values in whole.obsm.values()) else None


def write_plain(whole: PlainH5ad, path: Path) -> None:
    """Write what `anndata.AnnData` of the same parts would, compressed, without a copy of any.

    Raises
    ------
    OSError
        When the operating system refuses the write.
    TypeError
        For a value that this program keeps in no ``.h5ad``.
    """
    with large_h5ad(path) as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write(file, "X", whole.X)
        _write_frame(file, "obs", whole.obs)
        _write_frame(file, "var", whole.var)
        for name in ("layers", "obsm", "uns"):
            _write(file, name, getattr(whole, name))
        for name in ("obsp", "varm", "varp"):
            _write(file, name, {})


def _write(parent: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        group = _named(parent.create_group(name), "dict", "0.1.0")
        for key, part in value.items():
            _write(group, key, part)
    elif isinstance(value, str):
        _named(parent.create_dataset(name, data=value, dtype=_text()), "string")
    elif isinstance(value, bool | int | float | np.number | np.bool_):
        _named(parent.create_dataset(name, data=value), "numeric-scalar")
    elif isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        texts = value.astype(object)
        _named(parent.create_dataset(name, data=texts, dtype=_text(), **COMPRESSION), "string-array")
    elif isinstance(value, np.ndarray):
        _named(parent.create_dataset(name, data=value, **COMPRESSION), "array")
    else:
        raise TypeError(f"{name} is {type(value).__name__}, which is not kept in an .h5ad")


def _write_frame(parent: h5py.Group, name: str, frame: pd.DataFrame) -> None:
    group = _named(parent.create_group(name), "dataframe")
    columns = np.array([str(column) for column in frame], dtype=object)
    group.attrs.update({"_index": "_index"})
    group.attrs.create("column-order", columns, dtype=_text())
    _write(group, "_index", frame.index.to_numpy(dtype=object))
    for column, values in frame.items():
        _write(group, str(column), values.to_numpy())


def _named(element: Any, kind: str, version: str = "0.2.0") -> Any:
    element.attrs.update({"encoding-type": kind, "encoding-version": version})
    return element


def _text() -> Any:
    import h5py

    return h5py.string_dtype()


def _read(element: h5py.Group | h5py.Dataset) -> Any:
    kind = element.attrs.get("encoding-type")
    if kind in ("dict", "dataframe"):
        return {name: _read(part) for name, part in element.items()} if kind == "dict" else _frame(element)
    if kind == "array":
        return element[()]
    if kind == "string-array":
        return element.asstr()[()]
    if kind == "string":
        return str(element.asstr()[()])
    if kind == "numeric-scalar":
        return element[()]
    raise _Unknown(str(kind))


def _frame(group: h5py.Group) -> pd.DataFrame:
    import pandas as pd

    columns = {str(name): _read(group[name]) for name in group.attrs["column-order"]}
    index = pd.Index(_read(group[group.attrs["_index"]]), dtype=object)
    return pd.DataFrame(columns, index=index)

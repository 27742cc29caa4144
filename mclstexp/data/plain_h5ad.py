"""Reading an ``.h5ad`` as this program writes it without anndata, whose import alone takes longer than the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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

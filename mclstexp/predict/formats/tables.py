"""A prediction as a data frame, and as CSV text that a spreadsheet cannot mistake for formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pandas as pd

from mclstexp.errors import InputError
from mclstexp.predict.formats.choose import layer_values, with_genes
from mclstexp.text import duplicates, harmless, some

if TYPE_CHECKING:
    from mclstexp.predict.prediction import Prediction


def to_dataframe(
    prediction: Prediction, genes: Sequence[str] | None = None, layers: Sequence[str] = ("mean",)
) -> pd.DataFrame:
    """Return a row a spot, by its id: where it lies, what is known of it, and its genes.

    Raises
    ------
    InputError
        For an unknown gene or layer, or a gene that is called as a column of the spots.
    """
    prediction = with_genes(prediction, genes)
    columns = spot_columns(prediction)
    for layer, values in layer_values(prediction, layers).items():
        names = [symbol if layer == "mean" else f"{symbol} {layer}" for symbol in prediction.genes.symbols]
        _refuse_twice([*columns, *names])
        columns.update(zip(names, np.ascontiguousarray(values.T), strict=True))
    return pd.DataFrame(columns, index=pd.Index(prediction.spot_ids.astype(object), dtype=object, name="spot"))


def spot_columns(prediction: Prediction) -> dict[str, Any]:
    """Return what is known of each spot, by name: slide, position in pixels and in um, grid, evidence."""
    x, y = prediction.xy_px[:, 0], prediction.xy_px[:, 1]
    columns: dict[str, Any] = {
        "slide": np.full(len(prediction), prediction.slide_id, dtype=object),
        "x_px": x,
        "y_px": y,
    }
    if prediction.mpp is not None:
        columns |= {"x_um": x * prediction.mpp, "y_um": y * prediction.mpp}
    if prediction.array_row is not None and prediction.array_col is not None:
        columns |= {"array_row": prediction.array_row, "array_col": prediction.array_col}
    for name, column in prediction.obs.items():
        values = np.asarray(column)
        columns[name] = values.astype(object) if values.dtype.kind in "US" else values
    return columns


def _refuse_twice(names: list[str]) -> None:
    twice = duplicates(names)
    if twice:
        raise InputError(f"Columns {some(twice)} would be there twice: genes are called as columns of the spots.")


def write_csv(frame: pd.DataFrame, file: TextIO) -> None:
    """Write a table with one header; text that a spreadsheet would compute gets an apostrophe before it."""
    safe = frame.reset_index()
    for name in safe.columns:
        if safe[name].dtype == object:
            safe[name] = pd.Series([harmless(value) for value in safe[name]], dtype=object)
    safe.columns = pd.Index([harmless(name) for name in safe.columns], dtype=object)
    safe.to_csv(file, index=False, lineterminator="\n")

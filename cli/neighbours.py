"""``mst neighbours``: the reference spots that one spot's prediction was made from."""

from pathlib import Path
from typing import Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, table

_COLUMNS = ("rank", "similarity", "weight", "cohort", "patient", "slide", "spot_id", "x_px", "y_px")


def neighbours(
    prediction: Annotated[Path, typer.Argument(help="A prediction of mst query (.h5ad, its Parquet beside it).")],
    spot: Annotated[str, typer.Argument(help="Id of a spot of the query slide.")],
    top: Annotated[int, typer.Option("--top", "-n", min=1, help="How many to list, the most similar first.")] = 20,
    as_json: options.AsJson = False,
) -> None:
    """List the reference spots that a spot's prediction was made from.

    Example: mst neighbours slide.h5ad 10x15
    """
    from mclstexp.predict.evidence import neighbours_of

    rows = neighbours_of(prediction, spot)
    shown = rows.slice(0, top)
    if as_json:
        emit_json(shown.to_pylist())
        return
    emit(table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in shown.to_pylist()]))
    if shown.num_rows < rows.num_rows:
        note(f"{shown.num_rows} of {rows.num_rows} neighbours of {spot}; --top {rows.num_rows} lists all.")

"""The grid that a reference's spots lie on: what a slide without coordinates is laid out like."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from mclstexp.data.positions.grid import Grid, GridShape
from mclstexp.data.positions.lattice import fit_grid, is_staggered, pitch_px
from mclstexp.errors import InputError
from mclstexp.index.store.schema import SlideEntry
from mclstexp.index.store.store import ReferenceStore
from mclstexp.sampling import evenly

_SLIDES = 8
"""Slides that are looked at, spread evenly over the reference."""


def usual_grid(store: ReferenceStore) -> Grid:
    """Return the commonest grid among some of the slides, its pitch in um.

    Raises
    ------
    InputError
        When no slide has a pixel size and two spots.
    """
    sized = [entry for entry in store.slides() if entry.mpp is not None and entry.n_spots > 1]
    looked_at = [sized[i] for i in evenly(len(sized), _SLIDES)] if sized else []
    grids = Counter(grid for entry in looked_at if (grid := _grid_of(store, entry)) is not None)
    if not grids:
        raise InputError(
            f"Reference {store.root} does not say how far apart its spots are (no slide has a pixel size); give "
            "--grid, such as --grid 100um."
        )
    return grids.most_common(1)[0][0]


def _grid_of(store: ReferenceStore, entry: SlideEntry) -> Grid | None:
    rows = np.arange(*entry.rows)
    spots = store.spots(rows, ["x_px", "y_px", "array_row", "array_col"])
    x, y, row, col = (spots[name].to_numpy() for name in spots.column_names)
    xy, row, col = np.column_stack([x, y]).astype(np.float64), row.astype(np.int64), col.astype(np.int64)
    matrix, mpp, shape = fit_grid(xy, row, col), entry.mpp or math.nan, "square"
    if matrix is None:
        distance = pitch_px(xy)
        return None if distance is None else Grid(_rounded(distance * mpp))
    area = abs(float(np.linalg.det(matrix)))
    if is_staggered(row, col):
        area *= 2
        column, line = np.linalg.norm(matrix, axis=0)
        # In half steps, the rows of a hexagonal grid are 1.73 times as far apart as its columns.
        if line > 1.3 * column:
            shape, area = "hex", area * 2 / math.sqrt(3)
    return Grid(_rounded(math.sqrt(area) * mpp), shape=_shape(shape))


def _shape(name: str) -> GridShape:
    return "hex" if name == "hex" else "square"


def _rounded(pitch_um: float) -> float:
    """Two digits, or a whole um: spots are measured to no more."""
    return float(round(pitch_um)) if pitch_um >= 10 else float(f"{pitch_um:.2g}")

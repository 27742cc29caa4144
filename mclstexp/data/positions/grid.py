"""A grid laid over the tissue, in place of coordinates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.errors import InputError
from mclstexp.types import BoolArray, IdArray

GridShape = Literal["square", "hex"]

MOST_POINTS = 4_000_000
"""Points that a grid may have before any are left out: the 8 um bins of a whole slide are fewer."""

_UNITS = {"um": 1.0, "µm": 1.0, "μm": 1.0, "mm": 1000.0, "px": None}
_ROW_STEP = math.sqrt(3) / 2


@dataclass(frozen=True)
class Grid:
    """What a grid looks like before it lies anywhere.

    Attributes
    ----------
    pitch
        Distance between neighbouring points.
    units
        Its unit: um, or pixels of full resolution.
    shape
        ``square``: four neighbours at that distance; ``hex``: six, every other row shifted by half, as on Visium.

    Examples
    --------
    >>> Grid.parse("0.1mm", "hex")
    Grid(pitch=100.0, units='um', shape='hex')
    >>> str(Grid(112.0))
    'square grid of 112 um'
    """

    pitch: float
    units: Literal["um", "px"] = "um"
    shape: GridShape = "square"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pitch) and self.pitch > 0):
            raise InputError(f"A grid's pitch is {self.pitch:g}; a positive distance is needed, such as 112um.")
        if self.shape not in get_args(GridShape):
            raise InputError(f"A grid's shape is {self.shape!r}; {' or '.join(get_args(GridShape))} is needed.")

    @classmethod
    def parse(cls, text: str, shape: GridShape = "square") -> Grid:
        """Read a pitch as people write it: ``112um``, ``0.1mm``, ``224px``; a bare number is in um.

        Raises
        ------
        InputError
            When it is no positive distance, or of another unit.
        """
        match = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Zµμ]*)\s*", text)
        unit = (match[2] or "um") if match else ""
        try:
            pitch = float(match[1]) if match else math.nan
        except ValueError:
            pitch = math.nan
        if unit not in _UNITS or not (math.isfinite(pitch) and pitch > 0):
            raise InputError(
                f"The grid {text!r} is no distance between points; give one such as 112um, 0.1mm or 224px."
            )
        factor = _UNITS[unit]
        return cls(pitch, "px", shape) if factor is None else cls(pitch * factor, "um", shape)

    def pitch_px(self, mpp: float | None) -> float:
        """Return the pitch in pixels of an image.

        Raises
        ------
        InputError
            When it is in um and the pixel size is unknown, or it is less than a pixel.
        """
        if self.units == "um" and mpp is None:
            raise InputError(
                f"a grid of {self.pitch:g} um needs the pixel size, and the image states none; give it with --mpp, or "
                "the grid in pixels, such as --grid 224px."
            )
        pixels = self.pitch if self.units == "px" or mpp is None else self.pitch / mpp
        if pixels < 1:
            raise InputError(f"a grid of {self.pitch:g} {self.units} is {pixels:.2g} px wide; at least 1 px is needed.")
        return pixels

    def pitch_um(self, mpp: float | None) -> float | None:
        """Return the pitch in um, or None where the pixel size is unknown."""
        if self.units == "um":
            return self.pitch
        return None if mpp is None else self.pitch * mpp

    def __str__(self) -> str:
        name = "hexagonal" if self.shape == "hex" else self.shape
        return f"{name} grid of {self.pitch:g} {self.units}"


def lay_grid(
    grid: Grid, mpp: float | None, box: NDArray[np.float64], allowed: Callable[[NDArray[np.float64]], BoolArray]
) -> Coordinates:
    """Lay a grid over a box, in its middle, and keep the points that are allowed.

    Parameters
    ----------
    grid
        Pitch and shape.
    mpp
        Pixel size in um; None where it is unknown, then the pitch has to be in pixels.
    box
        ``(4,)`` left, top, right and bottom in full-resolution pixels.
    allowed
        Takes places ``(n, 2)`` as (x, y) in pixels, and returns ``(n,)`` bool.

    Returns
    -------
    Coordinates
        In pixels, row by row, named ``COLxROW``; the columns of a hexagonal grid are counted in half steps.

    Raises
    ------
    InputError
        When the pitch needs a pixel size, the grid would have millions of points too many, or none is allowed.
    """
    pitch = grid.pitch_px(mpp)
    row_step = pitch * (_ROW_STEP if grid.shape == "hex" else 1.0)
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    n_cols, n_rows = max(1, round(width / pitch)), max(1, round(height / row_step))
    if n_cols * n_rows > MOST_POINTS:
        raise InputError(
            f"a {grid} has {n_cols * n_rows:,} points on {width:.0f} x {height:.0f} px, more than {MOST_POINTS:,}; "
            "give a wider --grid, or less of the slide by --regions."
        )
    first = np.array([box[0] + (width - (n_cols - 1) * pitch) / 2, box[1] + (height - (n_rows - 1) * row_step) / 2])
    row, col = (values.ravel() for values in np.meshgrid(np.arange(n_rows), np.arange(n_cols), indexing="ij"))
    step = np.array([pitch, row_step])
    if grid.shape == "hex":
        col, step = 2 * col + row % 2, np.array([pitch / 2, row_step])
        first[0] -= pitch / 4 if n_rows > 1 else 0.0
    xy = first + np.column_stack([col, row]) * step
    kept = allowed(xy)
    if not kept.any():
        raise InputError(f"no point of a {grid} lies on tissue{_extent(width, height, mpp)}; give a narrower --grid.")
    array = np.column_stack([row, col])[kept].astype(np.int64)
    return Coordinates(_ids(array), xy[kept], array, pitch_um=grid.pitch_um(mpp))


def _ids(array: IdArray) -> NDArray[np.str_]:
    return np.array([f"{col}x{row}" for row, col in array.tolist()], dtype=np.str_)


def _extent(width: float, height: float, mpp: float | None) -> str:
    if mpp is None:
        return f", which is {width:.0f} x {height:.0f} px"
    return f", which is {width * mpp / 1000:.2g} x {height * mpp / 1000:.2g} mm"

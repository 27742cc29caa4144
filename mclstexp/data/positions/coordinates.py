"""Spots as a file gave them: checked by name and row before anything is computed from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.positions.lattice import derive_array, mpp_from_array, pitch_px
from mclstexp.errors import InputError
from mclstexp.slide import SpotTable
from mclstexp.types import IdArray

LIMIT = 1e7
"""Coordinates beyond this many pixels, um or array steps are no place on a slide."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Spots without counts, as a file gave them.

    Attributes
    ----------
    ids
        ``(n,)`` str.
    xy
        ``(n, 2)`` float64 centres in pixels, or in um where ``units`` says so.
    array
        ``(n, 2)`` int64 (array_row, array_col), or None where the file has none.
    units
        Unit of ``xy``.
    pitch_um
        Distance between neighbouring spots where the layout fixes it.
    notes
        What was dropped or assumed.
    rows
        ``(n,)`` int64 row of each spot in its file, from 1; None where the spots are the file's rows.
    """

    ids: NDArray[np.str_]
    xy: NDArray[np.float64]
    array: NDArray[np.int64] | None = None
    units: Literal["px", "um"] = "px"
    pitch_um: float | None = None
    notes: tuple[str, ...] = ()
    rows: IdArray | None = None

    def check(self) -> None:
        """Refuse what no spots are: no or absurd numbers, names that are empty, and everything at one place.

        Raises
        ------
        InputError
            Naming the first such spot and its row.
        """
        rows = np.arange(1, len(self.ids) + 1) if self.rows is None else self.rows
        check_ids(self.ids, rows)
        check_places(self.xy, self.ids, rows, "coordinates")
        n_places = len(self.ids) - self.n_shared
        if len(self.ids) > 1 and n_places <= len(self.ids) / 2:
            where = "at one point" if n_places == 1 else f"at {n_places} points"
            x, y = self.xy[0]
            raise InputError(
                f"the {len(self.ids)} spots lie {where}, such as x {x:g}, y {y:g}; each spot needs a place of its own."
            )

    @cached_property
    def n_shared(self) -> int:
        """How many spots lie at the place of another one."""
        places = np.ascontiguousarray(self.xy, dtype=np.float64).view(np.complex128)
        return len(places) - len(np.unique(places))

    def spots(self, mpp: float | None = None) -> SpotTable:
        """Return the spots in pixels; array coordinates are laid over them where the file has none.

        Raises
        ------
        InputError
            As `check`, and when coordinates in um meet an unknown pixel size, or ids repeat.
        """
        self.check()
        xy = self.xy
        if self.units == "um":
            if mpp is None:
                raise InputError("The coordinates are in um and the image states no pixel size; give it with --mpp.")
            xy = xy / mpp
        rows, cols = derive_array(xy) if self.array is None else (self.array[:, 0], self.array[:, 1])
        return SpotTable(self.ids, xy, rows, cols)

    def mpp_from_pitch(self) -> float | None:
        """Pixel size in um that follows from the pitch, or None where it does not."""
        if self.pitch_um is None or self.units == "um":
            return None
        if self.array is not None:
            return mpp_from_array(self.xy, self.array[:, 0], self.array[:, 1], self.pitch_um)
        distance = pitch_px(self.xy)
        return self.pitch_um / distance if distance else None


def check_ids(ids: NDArray[np.str_], rows: IdArray) -> None:
    """Refuse spots without a name.

    Raises
    ------
    InputError
        Naming the row of the first.
    """
    unnamed = np.flatnonzero(np.char.str_len(np.char.strip(ids)) == 0)
    if len(unnamed):
        raise InputError(
            f"{len(unnamed)} of {len(ids)} spots have an empty id, the first in row {rows[unnamed[0]]}; name them."
        )


def check_places(values: NDArray[np.float64], ids: NDArray[np.str_], rows: IdArray, what: str) -> None:
    """Refuse ``(n, 2)`` coordinates that are NaN, infinite or beyond ``LIMIT``.

    Raises
    ------
    InputError
        Naming the first such spot and its row.
    """
    missing, absurd = ~np.isfinite(values).all(axis=1), (np.abs(values) > LIMIT).any(axis=1)
    for bad, problem in (
        (missing, f"NaN or infinite {what} or empty cells"),
        (absurd, f"{what} beyond {LIMIT:.0e}"),
    ):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{int(bad.sum())} of {len(ids)} spots have {problem}, first {str(ids[first])!r} in row {rows[first]} "
                f"({', '.join(f'{value:g}' for value in values[first])}); remove or correct them."
            )


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put a name before the message of an InputError: a slide's, or a file's."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error

"""Pseudo-spots: what lies in a square of tissue, summed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.data.assemble import CountTable, Draft, PixelSize
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.errors import InputError
from mclstexp.types import IdArray


def squares(places: NDArray[np.int64]) -> tuple[IdArray, IdArray, NDArray[np.str_]]:
    """Find the squares that hold something, and number them.

    Parameters
    ----------
    places
        ``(n, 2)`` int64 column and row of the square that each thing lies in.

    Returns
    -------
    ``(m, 2)`` columns and rows of the squares, by row and then by column; ``(n,)`` the square of each thing; ``(m,)``
    names, ``12x34`` for column 12 of row 34.
    """
    columns, rows = places.T
    held, square = np.unique(np.stack([rows, columns], axis=1), axis=0, return_inverse=True)
    held = held[:, ::-1]
    names = np.array([f"{column}x{row}" for column, row in held.tolist()], dtype=np.str_)
    return held, square.reshape(-1), names


def pool(draft: Draft, pool_um: float, size: PixelSize) -> Draft:
    """Sum cells or bins over squares of the image.

    Parameters
    ----------
    draft
        A slide whose spots are cells or bins, in pixels.
    pool_um
        Side of a square in um.
    size
        What the user said of the pixel size; where that is nothing, the slide's files state it.

    Returns
    -------
    The slide with a spot a square, at its middle, with the counts of all whose middles lie in it.

    Raises
    ------
    InputError
        When no pixel size is known, or a coordinate is none.
    """
    mpp = size.over(draft.stated_mpp or (draft.image.mpp if draft.image else None))
    if mpp is None:
        raise InputError(
            f"Slide {draft.slide_id}: --pool-um {pool_um:g} needs the pixel size, which its files do not state; give "
            "it with --mpp."
        )
    if draft.counts is None:
        raise InputError(f"Slide {draft.slide_id} has no counts.")
    row_of = {name: row for row, name in enumerate(draft.counts.ids.tolist())}
    found = [(place, row_of[name]) for place, name in enumerate(draft.coords.ids.tolist()) if name in row_of]
    if not found:
        return draft  # joining says which names do not agree
    draft.coords.check()
    place, row = np.array(found, dtype=np.int64).T
    side = pool_um / mpp
    held, square, names = squares(np.floor(draft.coords.xy[place] / side).astype(np.int64))
    sums = sparse.csr_matrix(
        (np.ones(len(row), dtype=np.float32), (square, row)), shape=(len(held), len(draft.counts.ids))
    )
    table = CountTable(names, sparse.csr_matrix(sums @ draft.counts.counts), draft.counts.genes, draft.counts.notes)
    origin = held - held.min(axis=0)
    middles = (held.astype(np.float64) + 0.5) * side
    coords = Coordinates(names, middles, origin[:, ::-1], pitch_um=pool_um, notes=draft.coords.notes)
    missing = len(draft.coords.ids) - len(found)
    notes = [f"{len(found)} of them pooled over squares of {pool_um:g} um, a spot each."]
    notes += [f"{missing} of {len(draft.coords.ids)} of them have no counts and were dropped."] if missing else []
    return replace(draft, coords=coords, counts=table, notes=(*draft.notes, *notes))

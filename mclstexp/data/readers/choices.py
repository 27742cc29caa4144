"""What to take of slides that can be read in several ways: which bins, bins or cells, and cells or pools of them."""

from __future__ import annotations

from dataclasses import dataclass

from mclstexp.errors import InputError

BIN_SIZES_UM = (2, 8, 16)
"""Sides of the bins that Space Ranger makes of a Visium HD slide."""

POOL_RANGE_UM = (5.0, 1000.0)
"""Sides of a square that transcripts or cells are pooled over; smaller is a cell's part, larger no spot."""


@dataclass(frozen=True)
class Choices:
    """How a slide is read that could be read in several ways.

    Attributes
    ----------
    bin_um
        Side of Visium HD's bins in um; None takes the largest up to 16 that is there.
    cells
        Take segmented cells, a spot each, where there are bins or transcripts as well.
    pool_um
        Side in um of the squares that transcripts, cells or bins are pooled over, a spot each; None pools transcripts
        alone, over ``POOL_UM``.

    Raises
    ------
    InputError
        When a size is none that can be.
    """

    bin_um: int | None = None
    cells: bool = False
    pool_um: float | None = None

    def __post_init__(self) -> None:
        if self.bin_um is not None and self.bin_um not in BIN_SIZES_UM:
            sizes = ", ".join(map(str, BIN_SIZES_UM[:-1])) + f" or {BIN_SIZES_UM[-1]}"
            raise InputError(f"--bin-um is {self.bin_um}; Visium HD has bins of {sizes} um.")
        low, high = POOL_RANGE_UM
        if self.pool_um is not None and not low <= self.pool_um <= high:
            raise InputError(f"--pool-um is {self.pool_um:g}; a side of {low:g} to {high:g} um is needed.")


POOL_UM = 100.0
"""Side of the squares that transcripts are pooled over, Visium's distance between spots."""

DEFAULT = Choices()
"""What is taken where nobody chose."""

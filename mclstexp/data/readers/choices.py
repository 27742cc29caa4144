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

_USED_BY = {
    "--bin-um": ("visium_hd", "spatialdata", "slides_csv"),
    "--cells": ("visium_hd", "spatialdata", "xenium", "slides_csv"),
    "--pool-um": ("visium_hd", "spatialdata", "xenium", "transcripts", "slides_csv"),
}
"""Layouts that an option says something to."""


def require_use(choices: Choices, layouts: set[str], where: str) -> None:
    """Refuse a choice that says nothing to any of the slides.

    Parameters
    ----------
    choices
        What the user chose.
    layouts
        Layouts of the slides.
    where
        Where they are, for the message.

    Raises
    ------
    InputError
        Naming the layouts that the option is for.
    """
    given = {"--bin-um": choices.bin_um, "--cells": choices.cells or None, "--pool-um": choices.pool_um}
    for option, value in given.items():
        if value is not None and not layouts & set(_USED_BY[option]):
            users, there = ", ".join(_USED_BY[option]), ", ".join(sorted(layouts))
            raise InputError(f"{option} is for slides of the layouts {users}; {where} holds {there}: leave it out.")


DEFAULT = Choices()
"""What is taken where nobody chose."""

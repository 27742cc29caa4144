"""Visium HD as Space Ranger 3 and 4 write it: bins of 2, 8 and 16 um, and segmented cells.

Names and columns are those of 10x's pages on Space Ranger's outputs ("Binned outputs", "Segmented outputs").
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mclstexp.data.assemble import Draft, PixelSize, build_slide
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.readers import space_ranger
from mclstexp.data.readers.cells import read_cells
from mclstexp.data.readers.choices import BIN_SIZES_UM, DEFAULT, Choices
from mclstexp.data.readers.pooling import pool
from mclstexp.data.readers.source import SlideSource
from mclstexp.errors import InputError
from mclstexp.slide import Slide

NAME = "visium_hd"
LOOKS_FOR = "Visium HD's binned_outputs/ or segmented_outputs/"

_BINS, _CELLS = "binned_outputs", "segmented_outputs"


def matches(path: Path) -> bool:
    """Whether the path is an ``outs`` folder with bins or cells (or holds one), or a folder of bins or cells itself."""
    outs = _outs(path)
    return (outs / _BINS).is_dir() or (outs / _CELLS).is_dir() or path.name in (_BINS, _CELLS)


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """Return the one slide of the folder, named after it (or after the parent of ``outs``)."""
    name = space_ranger.name_of(path)
    return [SlideSource(name, NAME, partial(_read, path, name, choices))]


def accepts(path: Path) -> bool:
    """Whether the path is a folder with bins or cells."""
    return path.is_dir() and matches(path)


def read(path: Path, slide_id: str, *, coords: Coordinates | None = None, choices: Choices = DEFAULT) -> Draft:
    """Read bins of one size, or the segmented cells; cells where there are no bins.

    Parameters
    ----------
    path
        The ``outs`` folder, the one that holds it, or ``binned_outputs`` or ``segmented_outputs`` itself.
    slide_id
        Name of the slide.
    coords
        Coordinates from elsewhere, in place of the output's own.
    choices
        Which bins, or cells.

    Raises
    ------
    InputError
        When there are no such bins or cells, or a file is missing or damaged.
    """
    path = path.absolute()
    outs = path.parent if path.name in (_BINS, _CELLS) else _outs(path)
    bins = {size: folder for size in BIN_SIZES_UM if (folder := outs / _BINS / f"square_{size:03}um").is_dir()}
    wants_cells = choices.cells or path.name == _CELLS or not bins
    image = space_ranger.find_full_image(path, outs)
    if wants_cells:
        cells = outs / _CELLS
        if choices.bin_um is not None or not cells.is_dir():
            lacking = _CELLS if choices.bin_um is None else f"{_BINS}/square_{choices.bin_um:03}um"
            raise InputError(f"Slide {slide_id}: {outs} has no {lacking}.")
        draft = read_cells(cells, slide_id, NAME, image)
    else:
        size = choices.bin_um or max(bins)
        if size not in bins:
            there = ", ".join(map(str, bins))
            raise InputError(f"Slide {slide_id} has no bins of {size} um (--bin-um): {outs / _BINS} has {there}.")
        draft = replace(space_ranger.read(bins[size], slide_id, image=image), layout=NAME)
        if choices.bin_um is None and size != max(BIN_SIZES_UM):
            draft = replace(draft, notes=(*draft.notes, f"bins of 16 um are not there: those of {size} um were taken."))
    return draft if coords is None else replace(draft, coords=coords)


def _read(path: Path, slide_id: str, choices: Choices, size: PixelSize) -> Slide:
    draft = read(path, slide_id, choices=choices)
    if choices.pool_um is not None:
        draft = pool(draft, choices.pool_um, size)
    return build_slide(draft, size)


def _outs(path: Path) -> Path:
    return path / "outs" if (path / "outs").is_dir() else path

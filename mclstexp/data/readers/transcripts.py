"""Tables of transcripts of any imaging technology, pooled to pseudo-spots: x, y and gene columns, a molecule a row."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from mclstexp.data.assemble import CountTable, Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.readers.choices import POOL_UM, Choices
from mclstexp.data.readers.matrices import count_table
from mclstexp.data.readers.molecules import Pooled, columns_of, pool_molecules
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.errors import InputError
from mclstexp.slide import Slide

NAME = "transcripts"
LOOKS_FOR = "NAME_transcripts.parquet or .csv (x, y, gene)"

_TABLE = re.compile(
    r"(?:(?!detected_)(?P<name>.+?)[_.-])?(?:detected_transcripts|transcripts|tx_file)\.(?:parquet|csv|csv\.gz)"
)


def matches(path: Path) -> bool:
    """Whether the path is a table of transcripts, or a folder that holds some, by their names."""
    return bool(_tables(path))


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the tables, each named after its file, or its folder where the file's name is the technology's."""
    return [SlideSource(name, NAME, partial(_read, table, name, choices)) for table, name in _tables(path)]


def pooled_spots(pooled: Pooled, side: float, pool_um: float) -> tuple[Coordinates, tuple[str, ...]]:
    """Return the squares as spots at their middles in pixels, and what to say of them."""
    first = pooled.places.min(axis=0)
    coords = Coordinates(
        pooled.names,
        (pooled.places.astype(np.float64) + 0.5) * side,
        (pooled.places - first)[:, ::-1],
        pitch_um=pool_um,
    )
    n = int(pooled.counts.sum())
    return coords, (f"{n} transcripts pooled over squares of {pool_um:g} um, a spot each.", *pooled.notes)


def _tables(path: Path) -> list[tuple[Path, str]]:
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    named = [(file, _TABLE.fullmatch(file.name)) for file in files if file.is_file()]
    return [(file, name["name"] or file.absolute().parent.name) for file, name in named if name]


def _read(path: Path, name: str, choices: Choices, size: PixelSize) -> Slide:
    if choices.cells:
        raise InputError(f"Slide {name}: a table of transcripts has no cells (--cells); leave the option out.")
    columns = columns_of(path)
    image_path = find_image(path.parent, name)
    image = open_image(image_path) if image_path else None
    mpp = size.over(image.mpp if image else None) or (1.0 if columns.units == "um" and image is None else None)
    if mpp is None:
        raise InputError(f"Slide {name}: pooling {path.name} needs the pixel size of its image; give it with --mpp.")
    pool_um = choices.pool_um or POOL_UM
    scale = mpp if columns.units == "um" else 1.0
    pooled = pool_molecules(path, columns, pool_um / mpp, lambda xy: xy / scale)
    coords, notes = pooled_spots(pooled, pool_um / mpp, pool_um)
    where = "um from the image's corner" if columns.units == "um" else "pixels of the image"
    draft = Draft(
        slide_id=name,
        layout=NAME,
        coords=coords,
        counts=_counts(path, pooled),
        image=image,
        stated_mpp=mpp,
        sources=(path, *([image_path] if image_path else [])),
        notes=(*notes, f"{columns.x} and {columns.y} were read as {where}."),
        without_image="no image named like the table: counts only.",
    )
    return build_slide(draft, size)


def _counts(path: Path, pooled: Pooled) -> CountTable:
    return count_table(path, pooled.names, pooled.counts, pooled.genes)

"""Sections of legacy Spatial Transcriptomics with an alignment table each, as STUtility and its kin keep them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse

from mclstexp.data.assemble import CountTable, Draft, PixelSize, build_slide
from mclstexp.data.images import open_image
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.positions.lattice import LEGACY_ST_2K_PITCH_UM, is_staggered
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.matrices import count_table, read_count_table
from mclstexp.data.readers.source import SlideSource, find_image
from mclstexp.errors import InputError
from mclstexp.slide import Slide

NAME = "legacy_st"
LOOKS_FOR = "alignment_table_NAME.tsv beside NAME.tsv.gz (legacy ST)"

_TABLE = "alignment_table_"
_SPOT = re.compile(r"\d+x\d+")


def matches(path: Path) -> bool:
    """Whether the path is a folder with an alignment table."""
    return path.is_dir() and any(path.glob(f"{_TABLE}*.tsv"))


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """List the sections that have an alignment table."""
    names = [table.stem.removeprefix(_TABLE) for table in path.glob(f"{_TABLE}*.tsv")]
    return [SlideSource(name, NAME, partial(_read, path, name)) for name in sorted(names)]


def _read(folder: Path, name: str, size: PixelSize) -> Slide:
    spots_path = folder / f"{_TABLE}{name}.tsv"
    counts_path = next((path for path in (folder / f"{name}.tsv.gz", folder / f"{name}.tsv") if path.is_file()), None)
    if counts_path is None:
        raise InputError(f"Slide {name} has no counts: {folder / name}.tsv.gz does not exist.")
    image_path = find_image(folder, name)
    patient = name.rstrip("0123456789").rstrip("-_ ")
    draft = Draft(
        slide_id=name,
        layout=NAME,
        coords=_coordinates(spots_path),
        counts=_spots_by_genes(counts_path),
        image=open_image(image_path) if image_path else None,
        patient=patient,
        sources=(counts_path, spots_path, *([image_path] if image_path else [])),
        notes=("sections whose names differ in the last number alone count as one patient's.",) if patient else (),
    )
    return build_slide(draft, size)


def _coordinates(path: Path) -> Coordinates:
    """Return the spots under tissue; those of a 2K array lie on every other place of its grid, and closer."""
    coords = parse_coords(path)
    if coords.array is None:
        raise InputError(f"{path.name} is no alignment table: the columns x, y, pixel_x and pixel_y are needed.")
    if is_staggered(coords.array[:, 0], coords.array[:, 1]):
        return replace(coords, pitch_um=LEGACY_ST_2K_PITCH_UM)
    return coords


def _spots_by_genes(path: Path) -> CountTable:
    """Read the counts, which some programs write with a gene a row."""
    table = read_count_table(path)
    columns = table.genes.symbols
    if any(map(_SPOT.fullmatch, table.ids.tolist())) or not all(map(_SPOT.fullmatch, columns)):
        return table
    return count_table(path, np.asarray(columns), sparse.csr_matrix(table.counts.T), table.ids.tolist())

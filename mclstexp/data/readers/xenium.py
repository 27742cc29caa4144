"""Xenium output: transcripts pooled to pseudo-spots, or segmented cells, on the H&E that was aligned to it.

File names and columns are those of 10x's page "Understanding Xenium Outputs". Places are in um; the alignment that
Xenium Explorer exports (``*_imagealignment.csv``) takes pixels of the H&E to pixels of the morphology image, whose size
``experiment.xenium`` states.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.data.assemble import CountTable, Draft, PixelSize, build_slide
from mclstexp.data.images import IMAGE_SUFFIXES, open_image
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.readers.choices import POOL_UM, Choices
from mclstexp.data.readers.damage import reading
from mclstexp.data.readers.matrices import count_table, read_counts
from mclstexp.data.readers.molecules import columns_of, pool_molecules
from mclstexp.data.readers.pooling import pool
from mclstexp.data.readers.source import SlideSource
from mclstexp.data.readers.transcripts import pooled_spots
from mclstexp.data.tables import numbers, read_table
from mclstexp.errors import InputError
from mclstexp.slide import Slide
from mclstexp.text import some

NAME = "xenium"
LOOKS_FOR = "Xenium's experiment.xenium"

_TRANSCRIPTS = ("transcripts.parquet", "transcripts.csv.gz", "transcripts.csv")
_CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
_MATRICES = ("cell_feature_matrix.h5", "cell_feature_matrix")


def matches(path: Path) -> bool:
    """Whether the path is an output folder, or holds one called ``outs``."""
    return (_outs(path) / "experiment.xenium").is_file()


def find(path: Path, choices: Choices) -> list[SlideSource]:
    """Return the one slide of the folder, named after it."""
    folder = path.absolute()
    name = (folder.parent if folder.name == "outs" else folder).name
    return [SlideSource(name, NAME, partial(_read, folder, name, choices))]


@dataclass(frozen=True)
class _Frame:
    """The image that places are given on: um to pixels, its pixel size, the file, and what to say of it."""

    to_px: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    mpp: float
    image: Path | None
    sources: tuple[Path, ...]
    missing: str = ""


def _read(folder: Path, name: str, choices: Choices, size: PixelSize) -> Slide:
    outs = _outs(folder)
    frame = _frame(folder, outs)
    table = _there(outs, _TRANSCRIPTS)
    if choices.cells or table is None:
        draft = _cells(outs, name, frame)
        if choices.pool_um is not None or not choices.cells:
            draft = pool(draft, choices.pool_um or POOL_UM, PixelSize(frame.mpp))
    else:
        draft = _transcripts(outs, name, frame, table, choices.pool_um or POOL_UM)
    return build_slide(draft, size)


def _transcripts(outs: Path, name: str, frame: _Frame, table: Path, pool_um: float) -> Draft:
    side = pool_um / frame.mpp
    pooled = pool_molecules(table, columns_of(table), side, frame.to_px)
    coords, notes = pooled_spots(pooled, side, pool_um)
    matrix = _there(outs, _MATRICES)
    counts = count_table(table, pooled.names, pooled.counts, pooled.genes)
    if matrix is not None:
        counts = _on_panel(counts, read_counts(matrix))
    return _draft(name, frame, coords, counts, (table, *([matrix] if matrix else [])), notes)


def _on_panel(counts: CountTable, panel: CountTable) -> CountTable:
    """Return the counts for every gene of the panel, with its id; one that was never seen is zero."""
    columns = counts.genes.columns(panel.genes)
    kept = np.flatnonzero(columns >= 0)
    place = sparse.csr_matrix(
        (np.ones(len(kept), dtype=np.float32), (columns[kept], kept)), shape=(len(counts.genes), len(panel.genes))
    )
    return CountTable(counts.ids, sparse.csr_matrix(counts.counts @ place), panel.genes, counts.notes)


def _cells(outs: Path, name: str, frame: _Frame) -> Draft:
    path, matrix = _there(outs, _CELLS), _there(outs, _MATRICES)
    if path is None or matrix is None:
        wanted = " nor ".join([_TRANSCRIPTS[0], f"{_CELLS[0]} with {_MATRICES[0]}"])
        raise InputError(f"Slide {name}: {outs} holds neither {wanted}.")
    ids, um = _centroids(path)
    coords = Coordinates(ids, frame.to_px(um))
    return _draft(name, frame, coords, read_counts(matrix), (path, matrix), ("segmented cells, a spot each.",))


def _centroids(path: Path) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Read cells' names and middles in um; of a Parquet file these columns alone, typed: there may be a million."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = ["cell_id", "x_centroid", "y_centroid"]
    typed = path.suffix == ".parquet"
    with reading(path):
        frame = None if typed else read_table(path)
        names = parquet.read_schema(path).names if frame is None else list(frame.columns)
        missing = [column for column in columns if column not in names]
        if missing:
            raise InputError(f"{path.name} has no column {missing[0]!r}; it has {some(map(repr, names))}.")
        if frame is not None:
            um = np.column_stack([numbers(frame, column, path) for column in columns[1:]])
            return frame["cell_id"].to_numpy(dtype=np.str_), um
        table = parquet.read_table(path, columns=columns)
        um = np.column_stack([table[column].cast(pa.float64()).to_numpy() for column in columns[1:]])
        return np.asarray(table["cell_id"].cast(pa.string()).to_numpy(), dtype=np.str_), um


def _draft(
    name: str, frame: _Frame, coords: Coordinates, counts: CountTable, sources: tuple[Path, ...], notes: tuple[str, ...]
) -> Draft:
    return Draft(
        slide_id=name,
        layout=NAME,
        coords=coords,
        counts=counts,
        image=open_image(frame.image) if frame.image else None,
        stated_mpp=frame.mpp,
        sources=(*sources, *frame.sources),
        notes=notes,
        without_image=frame.missing,
    )


def _frame(folder: Path, outs: Path) -> _Frame:
    """Return the H&E's frame where there is one with an alignment, else that of the morphology image."""
    manifest = outs / "experiment.xenium"
    with reading(manifest):
        size = float(json.loads(manifest.read_text())["pixel_size"])
    if not 0 < size < 10:
        raise InputError(f"{manifest} says pixel_size {size:g}; um a pixel are needed.")
    places = dict.fromkeys((outs, folder, folder.parent if folder.name == "outs" else folder))
    files = [path for place in places for path in sorted(place.iterdir()) if path.is_file()]
    images = [p for p in files if "he_image" in p.name.lower() and p.suffix.lower() in IMAGE_SUFFIXES]
    matrices = [p for p in files if p.name.lower().endswith("imagealignment.csv")]
    if len(images) > 1 or len(matrices) > 1:
        several = images if len(images) > 1 else matrices
        raise InputError(f"{outs} has several of one kind ({some(path.name for path in several)}); keep one.")
    if images and matrices:
        return _aligned(images[0], matrices[0], size, manifest)
    missing = "no H&E (*he_image*.tif beside its *_imagealignment.csv; DAPI does not count): counts only."
    if images:
        missing = "the H&E has no alignment beside it (*_imagealignment.csv of Xenium Explorer): counts only."
    return _Frame(lambda um: um / size, size, None, (manifest,), missing)


def _aligned(image: Path, alignment: Path, size: float, manifest: Path) -> _Frame:
    with reading(alignment):
        matrix = np.loadtxt(alignment, delimiter=",", dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:2, :2])) < 1e-9:
        raise InputError(f"{alignment} holds no alignment: a matrix of 3 x 3 numbers that can be inverted is needed.")
    inverse = np.linalg.inv(matrix)

    def to_px(um: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(um / size @ inverse[:2, :2].T + inverse[:2, 2], dtype=np.float64)

    mpp = size * math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))
    return _Frame(to_px, mpp, image, (manifest, image, alignment))


def _there(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _outs(path: Path) -> Path:
    return path / "outs" if (path / "outs").is_dir() else path

"""Tables of molecules, one a row, counted over squares of the image without holding them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.data.readers.damage import reading
from mclstexp.data.readers.pooling import squares
from mclstexp.data.tables import delimiter_of, first_line, open_binary
from mclstexp.errors import InputError
from mclstexp.text import some
from mclstexp.types import IdArray


@dataclass(frozen=True)
class MoleculeColumns:
    """Where a table has its molecules' places and genes.

    Attributes
    ----------
    x, y, gene
        Names of the columns.
    units
        Of x and y.
    quality
        Column of Phred-scaled qualities, of which less than ``LEAST_QUALITY`` is left out; None where there is none.
    """

    x: str
    y: str
    gene: str
    units: Literal["px", "um"]
    quality: str | None = None


KNOWN = (
    MoleculeColumns("he_x", "he_y", "feature_name", "px"),
    MoleculeColumns("x_location", "y_location", "feature_name", "um", "qv"),
    MoleculeColumns("global_x", "global_y", "gene", "um"),
    MoleculeColumns("x_global_px", "y_global_px", "target", "px"),
    MoleculeColumns("x", "y", "gene", "px"),
)
"""HEST-1k's on the H&E, Xenium's, MERSCOPE's, CosMx's, and anybody's; the first that a table has all of is taken."""

LEAST_QUALITY = 20
"""Xenium's own threshold (10x: Understanding Xenium Outputs, ``qv``)."""

CONTROLS = (
    "NegControlProbe", "NegControlCodeword", "UnassignedCodeword", "DeprecatedCodeword", "Intergenic_Region", "BLANK_",
    "antisense_", "Blank-", "NegPrb", "Negative", "SystemControl", "FalseCode",
)  # fmt: skip
"""How the names of control probes and blank codewords begin."""

_BATCH_BYTES = 2**25
_FARTHEST = 2**20
_MERGED_AT = 2**22
_BATCH_ROWS = 2**19


@dataclass(frozen=True)
class Pooled:
    """Molecules counted over squares.

    Attributes
    ----------
    places
        ``(n, 2)`` int64 column and row of each square that holds a molecule.
    names
        ``(n,)`` str.
    counts
        ``(n, len(genes))`` CSR float32.
    genes
        Names as the table has them, controls left out.
    notes
        What was left out.
    """

    places: IdArray
    names: NDArray[np.str_]
    counts: sparse.csr_matrix
    genes: tuple[str, ...]
    notes: tuple[str, ...]


def columns_of(path: Path) -> MoleculeColumns:
    """Return the columns of a table of molecules (Parquet, CSV, TSV, gzipped or not), by the names of its columns.

    Raises
    ------
    InputError
        When the table is damaged, or its names tell nothing.
    """
    names = _names(path)
    known = next((columns for columns in KNOWN if {columns.x, columns.y, columns.gene} <= set(names)), None)
    if known is None:
        raise InputError(
            f"{path.name}: its columns ({some(map(repr, names))}) are none of a table of transcripts; call them x, y "
            "(in pixels of the image) and gene."
        )
    return known


def pool_molecules(
    path: Path,
    columns: MoleculeColumns,
    side: float,
    to_px: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Pooled:
    """Count molecules by gene over squares of ``side`` pixels.

    Parameters
    ----------
    path
        The table.
    columns
        Which of its columns to read.
    side
        Side of a square in pixels of the image.
    to_px
        Takes ``(n, 2)`` x and y as the table has them to pixels of the image.

    Raises
    ------
    InputError
        When the table is damaged, a place is no number, or no molecule is left.
    """
    genes: dict[str, int] = {}
    tally = _Tally()
    n_low = n_all = 0
    with reading(path):
        for batch in _batches(path, columns):
            xy, names, quality = _decoded(batch, columns)
            n_all += len(xy)
            good = np.ones(len(xy), dtype=bool) if quality is None else quality >= LEAST_QUALITY
            n_low += int((~good).sum())
            bad = int((~np.isfinite(xy[good]).all(axis=1)).sum())
            if bad:
                raise InputError(
                    f"{path.name}: {bad} transcripts have NaN or infinite coordinates or empty cells; remove them."
                )
            of_batch = np.array([genes.setdefault(name, len(genes)) for name in names[0]], dtype=np.int64)
            tally.add(np.floor(to_px(xy[good]) / side), of_batch[names[1][good]], path)
    return _pooled(path, tally, list(genes), n_low, n_all)


class _Tally:
    """Counts of (square, gene), merged now and then so that they never need much room."""

    def __init__(self) -> None:
        self._keys: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.int64]] = []
        self._held, self._limit = 0, _MERGED_AT

    def add(self, places: NDArray[np.float64], genes: NDArray[np.int64], path: Path) -> None:
        if len(places) and np.abs(places).max() >= _FARTHEST:
            raise InputError(
                f"{path.name}: transcripts lie a million squares apart, which no slide is wide; remove those far away."
            )
        square = (places.astype(np.int64) + _FARTHEST) @ np.array([1, 2 * _FARTHEST])
        keys, counts = np.unique((square << 21) | genes, return_counts=True)
        self._keys.append(keys)
        self._counts.append(counts.astype(np.int64))
        self._held += len(keys)
        if self._held > self._limit:
            self.merged()

    def merged(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Columns and rows of the squares ``(n, 2)``, genes ``(n,)`` and counts ``(n,)``, each pair once."""
        keys, inverse = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self._keys]), return_inverse=True)
        weights = np.concatenate([np.empty(0, dtype=np.int64), *self._counts])
        counts = np.bincount(inverse, weights=weights, minlength=len(keys)).astype(np.int64)
        self._keys, self._counts, self._held = [keys], [counts], len(keys)
        self._limit = max(_MERGED_AT, 2 * len(keys))  # so that what is sorted again stays in proportion
        square, genes = keys >> 21, keys & (2**21 - 1)
        places = np.stack([square % (2 * _FARTHEST), square // (2 * _FARTHEST)], axis=1) - _FARTHEST
        return places, genes, counts


def _pooled(path: Path, tally: _Tally, genes: list[str], n_low: int, n_all: int) -> Pooled:
    places, gene, counts = tally.merged()
    kept_genes = [name for name in genes if name and not name.startswith(CONTROLS)]
    column = np.full(len(genes) + 1, -1, dtype=np.int64)
    column[[i for i, name in enumerate(genes) if name and not name.startswith(CONTROLS)]] = np.arange(len(kept_genes))
    real = column[gene] >= 0
    if not real.any():
        raise InputError(f"{path.name} holds no transcripts of genes: {n_all} rows, {n_low} of low quality.")
    held, square, names = squares(places[real])
    matrix = sparse.csr_matrix(
        (counts[real].astype(np.float32), (square, column[gene[real]])), shape=(len(held), len(kept_genes))
    )
    n_controls = int(counts[~real].sum())
    notes = (
        [f"{n_low} of {n_all} transcripts are of a quality below {LEAST_QUALITY} and were left out."] if n_low else []
    )
    notes += [f"{n_controls} of {n_all} transcripts are of control probes and were left out."] if n_controls else []
    return Pooled(held, names, matrix, tuple(kept_genes), tuple(notes))


def _names(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        with reading(path):
            return [str(name) for name in parquet.read_schema(path).names]
    line = first_line(path)
    return [cell.strip().strip('"') for cell in line.split(delimiter_of(line))]


def _batches(path: Path, columns: MoleculeColumns) -> Iterator[Any]:
    """Yield batches of the wanted columns."""
    from pyarrow import csv, parquet

    names = [columns.x, columns.y, columns.gene]
    if columns.quality in _names(path):
        names.append(str(columns.quality))
    if path.suffix.lower() == ".parquet":
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=names)
        return
    with open_binary(path) as file:
        yield from csv.open_csv(
            file,
            read_options=csv.ReadOptions(block_size=_BATCH_BYTES),
            parse_options=csv.ParseOptions(delimiter=delimiter_of(first_line(path))),
            convert_options=csv.ConvertOptions(include_columns=names),
        )


def _decoded(
    batch: Any, columns: MoleculeColumns
) -> tuple[NDArray[np.float64], tuple[list[str], NDArray[np.int64]], NDArray[np.float64] | None]:
    """Return places, the names of genes with each molecule's position in them, and qualities."""
    import pyarrow as pa

    def numbers(name: str) -> NDArray[np.float64]:
        return np.asarray(batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)

    xy = np.column_stack([numbers(columns.x), numbers(columns.y)])
    text = batch.column(columns.gene)
    if pa.types.is_dictionary(text.type):
        text = text.cast(text.type.value_type)
    coded = text.cast(pa.string()).fill_null("").dictionary_encode()
    names = (coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64))
    held = columns.quality is not None and columns.quality in batch.schema.names
    return xy, names, numbers(str(columns.quality)) if held else None

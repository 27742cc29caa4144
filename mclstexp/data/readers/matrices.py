"""Count matrices: 10x HDF5, 10x MEX, and delimited tables of spots x genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mclstexp.data.apart.worker import opened_hdf5
from mclstexp.data.assemble import CountTable
from mclstexp.data.paths import require_file
from mclstexp.data.positions.coordinates import check_ids, naming
from mclstexp.data.readers.damage import reading
from mclstexp.data.readers.mtx import other_size, read_mtx
from mclstexp.data.tables import delimiter_of, first_line, open_binary, read_table
from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.text import duplicates, some
from mclstexp.types import StrPath


def read_counts(path: StrPath) -> CountTable:
    """Read a 10x ``.h5``, a MEX folder, or a ``.tsv`` or ``.csv`` (also gzipped) of spots x genes.

    Raises
    ------
    InputError
        When the file is missing, damaged, or of another kind.
    """
    if Path(path).is_dir():
        return read_mex(Path(path))
    path = require_file(path, "Counts")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".h5", ".hdf5")):
        return read_10x_h5(path)
    if name.endswith((".tsv", ".csv", ".txt")):
        return read_count_table(path)
    raise InputError(f"Counts {path.name}: expected .h5ad, 10x .h5, a MEX folder, or .tsv or .csv of spots x genes.")


def read_10x_h5(path: Path) -> CountTable:
    """Read ``filtered_feature_bc_matrix.h5``, gene expression only."""
    with reading(path), opened_hdf5(path) as file:
        if "matrix" not in file:
            raise InputError(
                f"{path} is no 10x feature matrix of Space Ranger: it has no group 'matrix'; copy it again."
            )
        group = file["matrix"]
        n_features, n_barcodes = (int(n) for n in group["shape"][:])
        matrix = sparse.csc_matrix(
            (group["data"][:].astype(np.float32), group["indices"][:], group["indptr"][:]),
            shape=(n_features, n_barcodes),
        )
        matrix.check_format(full_check=True)  # an index out of range would be a crash later on
        barcodes = group["barcodes"].asstr()[:]
        features = group["features"]
        names, ids = features["name"].asstr()[:], features["id"].asstr()[:]
        kinds = features["feature_type"].asstr()[:] if "feature_type" in features else None
    return _from_10x(path, matrix, barcodes, _Features(names, ids, kinds))


def read_mex(folder: Path) -> CountTable:
    """Read a MEX folder (matrix.mtx, features.tsv or genes.tsv, barcodes.tsv; gzipped or not, prefixed or not)."""
    matrix_path = _mex_part(folder, ("matrix.mtx",))
    barcodes_path = _mex_part(folder, ("barcodes.tsv",))
    features_path = _mex_part(folder, ("features.tsv", "genes.tsv"))
    barcodes = read_table(barcodes_path, header=["barcode"])["barcode"].to_numpy(dtype=str)
    width = first_line(features_path).count("\t") + 1
    features = read_table(features_path, header=["id", "name", "kind", *map(str, range(3, width))][:width])
    names = features["name" if width > 1 else "id"].to_numpy(dtype=str)
    kinds = features["kind"].to_numpy(dtype=str) if width > 2 else None
    ids = features["id"].to_numpy(dtype=str) if width > 1 else np.full(len(features), "")  # one column: the names alone
    matrix = read_mtx(matrix_path, (len(features), len(barcodes)))
    return _from_10x(matrix_path, matrix, barcodes, _Features(names, ids, kinds))


def read_count_table(path: Path) -> CountTable:
    """Read a delimited table: one spot a row, its id first, one gene a column."""
    import pyarrow as pa
    from pyarrow import csv

    header = first_line(path)
    delimiter = delimiter_of(header)
    columns = [cell.strip().strip('"') for cell in header.split(delimiter)]
    with reading(path):
        width = _second_line_fields(path, delimiter)
        genes = columns if width == len(columns) + 1 else columns[1:]  # R leaves out the name of the index
        with open_binary(path) as file:
            table = csv.read_csv(
                file,
                read_options=csv.ReadOptions(
                    column_names=[str(i) for i in range(len(genes) + 1)], skip_rows=1, block_size=2**26
                ),
                parse_options=csv.ParseOptions(delimiter=delimiter),
                convert_options=csv.ConvertOptions(column_types={"0": pa.string()}, strings_can_be_null=False),
            )
        ids = np.asarray(table.column(0).to_pylist(), dtype=np.str_)
        dense = np.empty((len(genes), len(ids)), dtype=np.float32)
        for i in range(len(genes)):
            column = table.column(i + 1)
            if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                raise InputError(
                    f"Counts {path.name}: column {genes[i]!r} is no number in some rows; correct it or copy it again."
                )
            dense[i] = column.to_numpy()
    if not len(genes) or not len(ids):
        raise InputError(f"Counts {path.name} hold {len(ids)} spots and {len(genes)} genes; some of each are needed.")
    return count_table(path, ids, sparse.csr_matrix(dense.T), genes)


@dataclass(frozen=True)
class _Features:
    names: NDArray[np.str_]
    ids: NDArray[np.str_]
    kinds: NDArray[np.str_] | None


def _from_10x(path: Path, matrix: sparse.csc_matrix, barcodes: NDArray[np.str_], features: _Features) -> CountTable:
    if matrix.shape != (len(features.names), len(barcodes)):
        raise other_size(path, matrix.shape, (len(features.names), len(barcodes)))
    by_spot = sparse.csr_matrix(matrix.T)
    names, ids, notes = features.names, features.ids, []
    if features.kinds is not None:
        expression = features.kinds == "Gene Expression"
        if not expression.all():
            notes.append(f"{int((~expression).sum())} features are not gene expression and were left out.")
            by_spot, names, ids = by_spot[:, np.flatnonzero(expression)], names[expression], ids[expression]
    table = count_table(path, np.asarray(barcodes, dtype=np.str_), by_spot, names.tolist(), ids.tolist())
    return CountTable(table.ids, table.counts, table.genes, (*notes, *table.notes))


def count_table(
    path: Path, ids: NDArray[np.str_], counts: sparse.csr_matrix, symbols: Sequence[str], ensembl: Sequence[str] = ()
) -> CountTable:
    """Build a CountTable; genes that share a symbol are summed, and those without one go by their Ensembl id.

    Raises
    ------
    InputError
        For spots that occur twice or have no name.
    """
    with naming(str(path)):
        check_ids(ids, np.arange(1, len(ids) + 1))
    repeated = duplicates(ids.tolist())
    if repeated:
        raise InputError(
            f"{path}: {len(repeated)} spot ids occur more than once, for example {repeated[0]!r}; rename them."
        )
    _check_values(path, ids, counts, symbols)
    ensembl = list(ensembl) or [""] * len(symbols)
    names = [str(symbol) or identifier for symbol, identifier in zip(symbols, ensembl, strict=True)]
    notes = []
    first: dict[str, int] = {}
    target = [first.setdefault(name, len(first)) for name in names]
    if len(first) < len(names):
        shared = duplicates(names)
        notes.append(f"{len(shared)} symbols name several genes (for example {shared[0]}); their counts were summed.")
        ones = np.ones(len(names), dtype=np.float32)
        merge = sparse.csr_matrix((ones, (np.arange(len(names)), target)), shape=(len(names), len(first)))
        counts = sparse.csr_matrix(counts @ merge)
    kept = dict(zip(names[::-1], ensembl[::-1], strict=True))  # reversed: the first gene of a symbol wins
    genes = GenePanel(tuple(first), tuple(kept[name] for name in first))
    counts.sort_indices()
    return CountTable(ids, sparse.csr_matrix(counts, dtype=np.float32), genes, tuple(notes))


def _check_values(path: Path, ids: NDArray[np.str_], counts: sparse.csr_matrix, symbols: Sequence[str]) -> None:
    """Refuse counts that are no numbers, by the first one's spot and gene."""
    bad = np.flatnonzero(~np.isfinite(counts.data) | (counts.data < 0))
    if len(bad):
        place = int(bad[0])
        spot = ids[int(np.searchsorted(counts.indptr, place, side="right")) - 1]
        gene = symbols[int(counts.indices[place])]
        raise InputError(
            f"{path}: {len(bad)} counts are NaN, infinite or negative, the first {counts.data[place]:g} of spot "
            f"{str(spot)!r} and gene {gene!r}; correct them or copy the file again."
        )


def _mex_part(folder: Path, names: tuple[str, ...]) -> Path:
    paths = sorted(path for name in names for pattern in (f"*{name}", f"*{name}.gz") for path in folder.glob(pattern))
    if not paths:
        raise InputError(f"{folder} has no {' or '.join(names)} (also with .gz): it is no MEX folder.")
    if len(paths) > 1:
        raise InputError(f"{folder} has several {names[0]}: {some(path.name for path in paths)}; keep one a folder.")
    return paths[0]


def _second_line_fields(path: Path, delimiter: str) -> int:
    with open_binary(path) as file:
        file.readline()
        return int(file.readline().count(delimiter.encode())) + 1

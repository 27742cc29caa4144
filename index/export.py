"""Spots of a reference as AnnData and Parquet, their counts read a slide at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from mclstexp.data.anndata_file import COMPRESSION, large_h5ad, plain_frame, write_plainly
from mclstexp.errors import InputError
from mclstexp.index.filter import Filter, allowed_rows, choose_genes
from mclstexp.index.store.schema import SlideEntry, matrix
from mclstexp.index.store.store import ReferenceStore
from mclstexp.notes import warn
from mclstexp.panel import GenePanel
from mclstexp.storage import new_file
from mclstexp.types import BoolArray, IdArray, Progress

_SPOT = ["spot_id", "array_row", "array_col", "x_px", "y_px", "label", "total_counts"]


@dataclass(frozen=True)
class Selection:
    """Spots and genes of a reference that are to be exported.

    Attributes
    ----------
    parts
        Each slide with the ids of its spots.
    lists
        Digests of the different lists of measured genes.
    """

    store: ReferenceStore
    parts: tuple[tuple[SlideEntry, IdArray], ...]
    genes: GenePanel
    lists: tuple[str, ...]

    @property
    def ids(self) -> IdArray:
        """Ids of all the spots, in order."""
        return np.concatenate([ids for _, ids in self.parts]) if self.parts else np.zeros(0, np.int64)

    def measured(self) -> BoolArray:
        """Return ``(genes, lists)``: which genes each list holds."""
        columns = [self.store.panels[digest].columns(self.genes) >= 0 for digest in self.lists]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.genes), 0), dtype=bool)

    def by_slide(self, values: Sequence[Any]) -> list[Any]:
        """Repeat a value a slide over its spots."""
        return [value for value, (_, ids) in zip(values, self.parts, strict=True) for _ in range(len(ids))]

    def counts(self, on_progress: Progress | None = None) -> Iterator[sparse.csr_matrix]:
        """Yield ``(n, genes)`` float32 CSR a slide."""
        for number, (entry, ids) in enumerate(self.parts, start=1):
            (piece,) = self.store.counts(ids)
            yield _onto(piece.counts, self.store.panels[entry.genes_digest], self.genes)
            if on_progress:
                on_progress("exporting slides", number, len(self.parts))


def select(store: ReferenceStore, condition: Filter | None, genes: GenePanel | Sequence[str] | None) -> Selection:
    """Choose spots and genes.

    Raises
    ------
    InputError
        When a name or a condition does not fit the reference, or no spot is left.
    """
    store.require_counts("An export")
    panel = choose_genes(store, "all" if genes is None else genes)
    allowed = allowed_rows(store, condition)
    parts = []
    for entry in store.slides():
        ids = np.arange(*entry.rows, dtype=np.int64)
        ids = ids if allowed is None else ids[allowed[ids]]
        if len(ids):
            parts.append((entry, ids))
    lists = tuple(dict.fromkeys(entry.genes_digest for entry, _ in parts))
    selection = Selection(store, tuple(parts), panel, lists)
    partial = int((~selection.measured().all(axis=1)).sum())
    if partial:
        warn(
            f"{partial:,} of {len(panel):,} genes were not measured by every slide: where gene_list says so, a zero is "
            "unknown."
        )
    return selection


def _onto(counts: sparse.csr_matrix, own: GenePanel, genes: GenePanel) -> sparse.csr_matrix:
    """Return counts with the columns of another panel."""
    target = genes.columns(own)
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    columns = target[counts.indices]
    keep = columns >= 0
    block = sparse.csr_matrix(
        (counts.data[keep], (rows[keep], columns[keep])), shape=(counts.shape[0], len(genes)), dtype=np.float32
    )
    block.indptr = block.indptr.astype(np.int64)  # so that what is appended to it may grow past 2^31 counts
    return block


def _spots(selection: Selection) -> ad.AnnData:
    """Return everything but the counts."""
    store, ids = selection.store, selection.ids
    table = store.spots(ids, [*_SPOT, "embedding"])
    entries = [entry for entry, _ in selection.parts]
    obs = pd.DataFrame(
        {
            **{name: selection.by_slide([getattr(entry, name) for entry in entries]) for name in ("cohort", "patient")},
            "slide": selection.by_slide([entry.slide_id for entry in entries]),
            "spot": table["spot_id"].to_pylist(),
            "label": [label or "" for label in table["label"].to_pylist()],
            **{name: np.asarray(table[name], dtype=np.int64) for name in ("array_row", "array_col", "total_counts")},
            "mpp": np.asarray(selection.by_slide([entry.mpp or np.nan for entry in entries]), dtype=np.float64),
            "gene_list": selection.by_slide([selection.lists.index(entry.genes_digest) for entry in entries]),
        }
    )
    obs.index = pd.Index([f"{slide}:{spot}" for slide, spot in zip(obs["slide"], obs["spot"], strict=True)])
    var = pd.DataFrame({"gene_ids": selection.genes.ensembl}, index=pd.Index(selection.genes.symbols))
    xy = np.stack([np.asarray(table["x_px"]), np.asarray(table["y_px"])], axis=1)
    return ad.AnnData(
        obs=plain_frame(obs),
        var=plain_frame(var),
        obsm={"spatial": xy, "embedding": matrix(table["embedding"], store.identity.embed_dim)},
        varm={"measured": selection.measured()},
        uns={"mclstexp_reference": _origin(store)},
    )


def _origin(store: ReferenceStore) -> dict[str, Any]:
    return {
        "reference": str(store.root),
        "version": store.version,
        "model": store.identity.model_digest,
        "panel_genes": np.asarray(store.identity.panel.symbols, dtype=object),
    }


def reference_anndata(
    store: ReferenceStore, condition: Filter | None, genes: GenePanel | Sequence[str] | None
) -> ad.AnnData:
    """Return the spots in memory; see `mclstexp.Reference.to_anndata`."""
    selection = select(store, condition, genes)
    adata = _spots(selection)
    adata.X = sparse.vstack(list(selection.counts()), format="csr")
    return adata


def write_reference(
    store: ReferenceStore,
    path: Path,
    condition: Filter | None,
    genes: GenePanel | Sequence[str] | None,
    *,
    force: bool = False,
    on_progress: Progress | None = None,
) -> int:
    """Write the spots; see `mclstexp.Reference.export`."""
    writers = {".h5ad": _write_h5ad, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise InputError(f"A reference is exported as {' or '.join(writers)}, got {path.name!r}.")
    with new_file(path, force=force) as work:
        selection = select(store, condition, genes)
        writers[path.suffix.lower()](selection, work, on_progress)
    return len(selection.ids)


def _write_h5ad(selection: Selection, path: Path, on_progress: Progress | None) -> None:
    with large_h5ad(path) as file:
        write_plainly(file, _spots(selection))
        for number, block in enumerate(selection.counts(on_progress)):
            if number == 0:
                ad.io.write_elem(file, "X", block, dataset_kwargs=COMPRESSION)
            else:
                ad.io.sparse_dataset(file["X"]).append(block)


def _write_parquet(selection: Selection, path: Path, on_progress: Progress | None) -> None:
    lists = [list(selection.store.panels[digest].symbols) for digest in selection.lists]
    origin = {**_origin(selection.store), "panel_genes": list(selection.store.identity.panel.symbols)}
    about = {b"mclstexp": json.dumps({**origin, "gene_lists": lists}).encode()}
    writer = None
    try:
        for (entry, ids), block in zip(selection.parts, selection.counts(on_progress), strict=True):
            table = _slide_table(selection, entry, ids, block).replace_schema_metadata(about)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _slide_table(selection: Selection, entry: SlideEntry, ids: IdArray, block: sparse.csr_matrix) -> pa.Table:
    """Return a slide's spots: a list of genes and a list of counts each, those that are not zero."""
    spots = selection.store.spots(ids, [*_SPOT, "embedding"])
    offsets = pa.array(block.indptr, pa.int64())
    symbols = pa.DictionaryArray.from_arrays(
        pa.array(block.indices, pa.int32()), pa.array(selection.genes.symbols, pa.string())
    ).dictionary_decode()
    same = {"cohort": entry.cohort, "patient": entry.patient, "slide": entry.slide_id}
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value, pa.string()), len(ids)) for name, value in same.items()}
    columns |= {"spot" if name == "spot_id" else name: spots[name] for name in _SPOT}
    columns |= {
        "mpp": pa.repeat(pa.scalar(entry.mpp, pa.float64()), len(ids)),
        "gene_list": pa.repeat(pa.scalar(selection.lists.index(entry.genes_digest), pa.int32()), len(ids)),
        "embedding": spots["embedding"],
        "genes": pa.LargeListArray.from_arrays(offsets, symbols),
        "counts": pa.LargeListArray.from_arrays(offsets, pa.array(block.data.astype(np.int32))),
    }
    return pa.table(columns)

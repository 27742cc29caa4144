"""Search and aggregate: what a query patch's nearest reference spots expressed, and which spots they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.config import Normalisation, RetrievalConfig, from_dict
from mclstexp.errors import InputError
from mclstexp.index.aggregate import effective_neighbours, neighbour_weights, weighted_mean
from mclstexp.index.expression import read_expression
from mclstexp.index.search import Device, Neighbors
from mclstexp.index.store import ReferenceStore
from mclstexp.types import FloatArray, GenePanel

Progress = Callable[[int, int], None]
GENE_BLOCK = 1024
ROWS_AT_A_TIME = 25_000
"""Reference spots whose counts are held at once; with blocks of genes it bounds the memory of a query."""


@dataclass(frozen=True)
class Filter:
    """Which reference spots may be neighbours.

    ``where`` is an SQL condition on the spot columns, such as ``label = 'tumour' AND total_counts > 500``.
    """

    exclude_patients: tuple[str, ...] = ()
    exclude_slides: tuple[str, ...] = ()
    only_cohorts: tuple[str, ...] = ()
    where: str | None = None


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What a query found.

    Attributes
    ----------
    neighbours
        Row ids and similarities, ``(n, k)``.
    weights
        ``(n, k)`` float32; rows sum to one.
    genes
        Predicted genes.
    mean, sd
        ``(n, len(genes))`` float32 expected expression and spread of the neighbours; NaN where too few measured it.
    missing
        Gene to why it is missing somewhere.
    n_effective
        ``(n,)`` float32 effective number of neighbours.
    provenance
        A row for each query and neighbour.
    notes
        What was assumed, one sentence each.
    """

    neighbours: Neighbors
    weights: FloatArray
    genes: GenePanel
    mean: FloatArray
    sd: FloatArray | None
    missing: dict[str, str]
    n_effective: FloatArray
    provenance: pa.Table
    normalisation: Normalisation
    notes: tuple[str, ...] = field(default=())


def allowed_rows(store: ReferenceStore, condition: Filter | None) -> NDArray[np.bool_] | None:
    """Return truth by row id for a filter; None when every spot is allowed.

    Raises
    ------
    InputError
        When the filter names what is not in the reference, or leaves no spot.
    """
    if condition is None or condition == Filter():
        return None
    entries = store.entries
    _check_names("patient", condition.exclude_patients, {entry.patient for entry in entries})
    _check_names("slide", condition.exclude_slides, {entry.slide_id for entry in entries})
    _check_names("cohort", condition.only_cohorts, {entry.cohort for entry in entries})
    mask = np.zeros(store.manifest.next_row_id, dtype=bool)
    for entry in entries:
        out = entry.patient in condition.exclude_patients or entry.slide_id in condition.exclude_slides
        if not out and (not condition.only_cohorts or entry.cohort in condition.only_cohorts):
            mask[slice(*entry.rows)] = True
    if condition.where:
        matching = np.zeros_like(mask)
        matching[store.matching(condition.where)] = True
        mask &= matching
    if not mask.any():
        raise InputError("The filter leaves no reference spot; loosen it.")
    return mask


def _check_names(kind: str, names: Sequence[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known)[:8]) + (", ..." if len(known) > 8 else "")
            raise InputError(f"The reference has no {kind} {name!r}; it has {listed}.")


def choose_genes(store: ReferenceStore, genes: GenePanel | Sequence[str] | Literal["all"] | None) -> GenePanel:
    """Return the genes to predict: the model's panel, all that were measured, or those named by symbol or Ensembl id.

    Raises
    ------
    InputError
        For a named gene that no slide of the reference measured.
    """
    if genes is None:
        return store.identity.panel
    if isinstance(genes, GenePanel):
        return genes
    if genes == "all":
        return store.genes
    known = store.genes
    by_ensembl = {name.split(".")[0]: i for i, name in enumerate(known.ensembl) if name}
    columns = []
    for name in dict.fromkeys(genes):
        column = known.position.get(name, by_ensembl.get(name.split(".")[0]))
        if column is None:
            raise InputError(f"Gene {name!r} was measured by no slide of the reference; mst info lists its genes.")
        columns.append(column)
    return known.subset(list(dict.fromkeys(columns)))


def retrieve(
    store: ReferenceStore,
    query: FloatArray,
    config: RetrievalConfig,
    *,
    genes: GenePanel | Sequence[str] | Literal["all"] | None = None,
    filter: Filter | None = None,
    normalisation: Normalisation | None = None,
    device: Device = "auto",
    on_progress: Progress | None = None,
) -> Retrieval:
    """Predict expression from the nearest reference spots.

    Parameters
    ----------
    query
        ``(n, d)`` float32 embeddings of unit length.
    genes
        Genes to predict; None takes the model's panel.
    normalisation
        None takes the reference's own.

    Raises
    ------
    InputError
        For an embedding, gene or filter that does not fit the reference.
    """
    rule = normalisation or reference_normalisation(store)
    panel = choose_genes(store, genes)
    index = store.index(device)
    found = index.search(query, config.k, allowed=allowed_rows(store, filter))
    keys = None
    if config.weights == "inverse_square":
        keys = index.keys(found.row_ids).reshape(*found.row_ids.shape, -1)
    weights = neighbour_weights(found.similarity, config, row_ids=found.row_ids, query=query, keys=keys)
    mean, sd, missing = aggregate(store, found.row_ids, weights, panel, rule, on_progress=on_progress)
    notes = []
    short = int((found.row_ids[:, -1] < 0).sum())
    if short:
        notes.append(f"{short} of {len(query)} queries have fewer than {config.k} neighbours: no more spots remain.")
    return Retrieval(
        neighbours=found,
        weights=weights,
        genes=panel,
        mean=mean,
        sd=sd,
        missing=missing,
        n_effective=effective_neighbours(weights),
        provenance=provenance(store, found, weights),
        normalisation=rule,
        notes=tuple(notes),
    )


def reference_normalisation(store: ReferenceStore) -> Normalisation:
    """Return the normalisation that the reference's model was trained with."""
    return from_dict(Normalisation, dict(store.identity.settings.get("normalisation", {})))


MIN_SHARE = 0.25


def aggregate(
    store: ReferenceStore,
    row_ids: NDArray[np.int64],
    weights: FloatArray,
    genes: GenePanel,
    rule: Normalisation,
    *,
    on_progress: Progress | None = None,
) -> tuple[FloatArray, FloatArray | None, dict[str, str]]:
    """Average the neighbours' expression, by blocks of queries and of genes."""
    n, k = row_ids.shape
    mean = np.full((n, len(genes)), np.nan, dtype=np.float32)
    sd = np.full_like(mean, np.nan)
    share = measured_share(store, row_ids, weights, genes)
    step = max(1, ROWS_AT_A_TIME // max(k, 1))
    for start in range(0, n, step):
        part = slice(start, start + step)
        asked = row_ids[part]
        # Padding has no weight; any row that is there stands in for it.
        unique, inverse = np.unique(np.where(asked < 0, asked.max(), asked), return_inverse=True)
        rows = read_expression(store, unique, genes, rule)
        positions = inverse.reshape(row_ids[part].shape)
        for first in range(0, len(genes), GENE_BLOCK):
            block = slice(first, min(first + GENE_BLOCK, len(genes)))
            result = weighted_mean(
                rows.dense(block.start, block.stop),
                positions,
                weights[part],
                share=None if share is None else share[part, block],
                min_share=MIN_SHARE,
            )
            mean[part, block] = result.mean
            if result.sd is not None:
                sd[part, block] = result.sd
        if on_progress is not None:
            on_progress(min(start + step, n), n)
    return mean, sd, missing_genes(store, mean, genes)


def measured_share(
    store: ReferenceStore, row_ids: NDArray[np.int64], weights: FloatArray, genes: GenePanel
) -> FloatArray | None:
    """Return ``(n, n_genes)`` weight of the neighbours that measured each gene; None when all slides measured all."""
    digests = sorted(store.panels)
    measured = np.array([[symbol in store.panels[digest].position for symbol in genes.symbols] for digest in digests])
    if measured.all():
        return None
    number = {digest: i for i, digest in enumerate(digests)}
    of_slide = np.array([number[entry.genes_digest] for entry in store.entries])
    group = of_slide[np.clip(store.slide_numbers(row_ids), 0, None)]
    held = np.stack([np.where((group == i) & (row_ids >= 0), weights, 0).sum(axis=1) for i in range(len(digests))], 1)
    return (held @ measured.astype(np.float64)).astype(np.float32)


def missing_genes(store: ReferenceStore, mean: FloatArray, genes: GenePanel) -> dict[str, str]:
    """Gene to the reason why it is missing at some spots."""
    lacking = np.isnan(mean).sum(axis=0)
    reasons = {}
    for column in np.flatnonzero(lacking):
        symbol = genes.symbols[column]
        if symbol not in store.genes.position:
            reasons[symbol] = "no slide of the reference measured it"
            continue
        reasons[symbol] = (
            f"at {lacking[column]} of {len(mean)} spots, neighbours that measured it hold less than "
            f"{MIN_SHARE:.0%} of the weight"
        )
    return reasons


def provenance(store: ReferenceStore, found: Neighbors, weights: FloatArray) -> pa.Table:
    """Return a row for each query and neighbour: who it is, where it lies, how similar, how heavy."""
    present = found.row_ids >= 0
    query, rank = np.nonzero(present)
    row_ids = found.row_ids[present]
    spots = store.spots(row_ids, ["spot_id", "array_row", "array_col", "x_px", "y_px"])
    numbers = store.slide_numbers(row_ids)
    names = {
        "cohort": [entry.cohort for entry in store.entries],
        "patient": [entry.patient for entry in store.entries],
        "slide": [entry.slide_id for entry in store.entries],
    }
    columns = {"query": pa.array(query, pa.int64()), "rank": pa.array(rank + 1, pa.int32())}
    columns["row_id"] = pa.array(row_ids, pa.int64())
    for name, values in names.items():
        columns[name] = pa.array(values, pa.string()).take(pa.array(numbers))
    for name in spots.column_names:
        columns[name] = spots[name]
    columns["similarity"] = pa.array(found.similarity[present], pa.float32())
    columns["weight"] = pa.array(weights[present], pa.float32())
    return pa.table(columns)

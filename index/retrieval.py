"""Search and aggregate: what a query patch's nearest reference spots expressed, and which spots they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mclstexp.config import Normalisation, RetrievalConfig
from mclstexp.errors import InputError
from mclstexp.index.search.spot_index import Neighbors, SpotIndex
from mclstexp.index.store.averaging import AverageOptions, average
from mclstexp.index.store.store import ReferenceStore
from mclstexp.panel import GenePanel
from mclstexp.predict.average import effective_neighbours, neighbour_weights
from mclstexp.types import Device, FloatArray

LEVEL_SPOTS = 256
"""Spots that a slide's mean expression is taken from."""

Progress = Callable[[int, int], None]


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
    shift
        ``(n, len(genes))`` float32 to add to ``mean`` so that all queries meet slides of the same level
        (`slide_shift`), or None where this was not asked for.
    level
        ``(len(genes),)`` float32 that level; NaN where no slide measured the gene. None as ``shift``.
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
    shift: FloatArray | None
    level: FloatArray | None
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
    mask = np.zeros(store.n_ids, dtype=bool)
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
    sd: bool = True,
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
    sd
        Whether the neighbours' spread is wanted. Without it the mean of the panel is rounded to float16 precision.

    Raises
    ------
    InputError
        For an embedding, gene or filter that does not fit the reference.
    """
    panel = choose_genes(store, genes)
    options = AverageOptions(normalisation or store.normalisation, config.min_measured, sd)
    index = store.index(device)
    allowed = allowed_rows(store, filter)
    found = index.search(query, config.k, allowed=allowed)
    weights = weights_of(index, query, found, config)
    if config.depth_weighted:
        weights = weigh_by_depth(store, found.row_ids, weights)
    result = average(store, found.row_ids, weights, panel, options, on_progress=on_progress)
    shift, level = None, None
    if config.slide_levelled:
        shift, level = slide_shift(store, (found.row_ids, weights), panel, options, allowed=allowed)
    notes = [result.note] if result.note else []
    short = int((found.row_ids[:, -1] < 0).sum())
    if short:
        notes.append(f"{short} of {len(query)} queries have fewer than {config.k} neighbours: no more spots remain.")
    return Retrieval(
        neighbours=found,
        weights=weights,
        genes=panel,
        mean=result.mean,
        sd=result.sd,
        missing=result.missing,
        shift=shift,
        level=level,
        n_effective=effective_neighbours(weights),
        provenance=provenance(store, found, weights),
        normalisation=options.rule,
        notes=tuple(notes),
    )


def weights_of(index: SpotIndex, query: FloatArray, found: Neighbors, config: RetrievalConfig) -> FloatArray:
    """Return ``(n, k)`` weights of the neighbours; embeddings are read a block of queries at a time where needed."""
    if config.weights == "softmax":
        return neighbour_weights(found.similarity, config, row_ids=found.row_ids)
    weights = np.zeros_like(found.similarity)
    step = max(1, 32_768 // found.row_ids.shape[1])
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        keys = index.keys(found.row_ids[part]).reshape(*found.row_ids[part].shape, -1)
        weights[part] = neighbour_weights(
            found.similarity[part], config, row_ids=found.row_ids[part], query=query[part], keys=keys
        )
    return weights


def weigh_by_depth(store: ReferenceStore, row_ids: NDArray[np.int64], weights: FloatArray) -> FloatArray:
    """Return weights ``(n, k)`` times t / (t + median t), t the neighbour's total counts; rows sum to one again.

    A slide whose median is below that of most slides is taken down in proportion, as when a model is trained.
    """
    unique, inverse = np.unique(row_ids[row_ids >= 0], return_inverse=True)
    total = np.asarray(store.spots(unique, ["total_counts"])["total_counts"], dtype=np.float64)
    depth = np.zeros(row_ids.shape)
    depth[row_ids >= 0] = total[inverse]
    median, of_slide = store.median_depths
    share = np.minimum(1.0, of_slide / max(float(np.median(of_slide)), 1.0))
    weighed = weights * depth / (depth + max(median, 1.0))
    weighed[row_ids >= 0] *= share[store.slide_numbers(row_ids[row_ids >= 0])]
    sums = weighed.sum(axis=1, keepdims=True)
    return np.where(sums > 0, weighed / np.where(sums > 0, sums, 1.0), weights).astype(np.float32)


def slide_shift(
    store: ReferenceStore,
    row_ids_and_weights: tuple[NDArray[np.int64], FloatArray],
    genes: GenePanel,
    options: AverageOptions,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return what to add ``(n, n_genes)`` so that a query's choice of slides does not show; the level ``(n_genes,)``.

    Slides differ as a whole, by depth and by patient: a query whose neighbours happen to lie on deep slides would seem
    to express more of everything. The mean level of each query's slides (from at most `LEVEL_SPOTS` of its allowed
    spots, evenly spread) is replaced by its mean over all queries that know the gene.
    """
    row_ids, weights = row_ids_and_weights
    numbers = np.where(row_ids >= 0, store.slide_numbers(row_ids), -1)
    slides = np.unique(numbers[numbers >= 0])
    share = np.stack([np.where(numbers == slide, weights, 0).sum(axis=1) for slide in slides], axis=1)  # (n, slides)
    sample = np.full((len(slides), LEVEL_SPOTS), -1, dtype=np.int64)
    for i, slide in enumerate(slides.tolist()):
        rows = np.arange(*store.entries[slide].rows)
        rows = rows if allowed is None else rows[allowed[rows]]
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(LEVEL_SPOTS, len(rows))).round().astype(np.int64))
        sample[i, : len(chosen)] = rows[chosen]
    equal = (sample >= 0) / (sample >= 0).sum(axis=1, keepdims=True)
    level = average(store, sample, equal.astype(np.float32), genes, replace(options, sd=False)).mean
    known = np.isfinite(level)
    held = share @ known
    total = share @ np.where(known, level, 0)  # (n, n_genes)
    mean_level = total / np.where(held > 0, held, 1)
    n_known = (held > 0).sum(axis=0)
    common = np.where(n_known > 0, mean_level.sum(axis=0) / np.maximum(n_known, 1), np.nan)
    shift = np.where(held > 0, common - mean_level, 0)
    return shift.astype(np.float32), common.astype(np.float32)


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

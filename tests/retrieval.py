"""What a store answers to embeddings alone, by the steps of the predictor: for tests that look behind a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from mclstexp.config import Normalisation, RetrievalConfig
from mclstexp.index.filter import Filter, allowed_rows, choose_genes
from mclstexp.index.source import StoreSource
from mclstexp.index.store.store import ReferenceStore
from mclstexp.panel import GenePanel
from mclstexp.predict.average import AverageOptions, average
from mclstexp.predict.levels import slide_shift
from mclstexp.predict.source import Neighbours
from mclstexp.predict.weights import by_depth, effective_neighbours, weigh
from mclstexp.types import Device, FloatArray


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Neighbours, their weights, and what they expressed. ``shift`` and ``level`` are None unless asked for."""

    neighbours: Neighbours
    weights: FloatArray
    genes: GenePanel
    mean: FloatArray
    sd: FloatArray | None
    missing: dict[str, str]
    shift: FloatArray | None
    level: FloatArray | None
    n_effective: FloatArray
    provenance: pa.Table


def retrieve(
    store: ReferenceStore,
    query: FloatArray,
    config: RetrievalConfig,
    *,
    genes: GenePanel | Sequence[str] | Literal["all"] | None = None,
    filter: Filter | None = None,
    rule: Normalisation | None = None,
    device: Device = "cpu",
    sd: bool = True,
    use_copy: bool = True,
) -> Retrieval:
    """Search, weigh, average and level, as the predictor does, without a model."""
    source = StoreSource(store, device, use_copy=use_copy)
    panel, allowed = choose_genes(store, genes), allowed_rows(store, filter)
    options = AverageOptions(rule or store.normalisation, config.min_measured, sd)
    neighbours = source.search(query, config.k, allowed=allowed)
    ids, weights = neighbours.ids, weigh(query, neighbours, config, source.keys)
    if config.depth_weighted:
        weights = by_depth(weights, source.depth(ids), source.slide_of(ids), source.depth_summary)
    result = average(source, ids, weights, panel, options)
    shift, level = None, None
    if config.slide_levelled:
        shift, level = slide_shift(source, ids, weights, panel, options, allowed=allowed)
    return Retrieval(
        neighbours=neighbours,
        weights=weights,
        genes=panel,
        mean=result.mean,
        sd=result.sd,
        missing=result.missing,
        shift=shift,
        level=level,
        n_effective=effective_neighbours(weights),
        provenance=provenance(store, neighbours, weights),
    )


def provenance(store: ReferenceStore, neighbours: Neighbours, weights: FloatArray) -> pa.Table:
    """A row for each query and neighbour: who it is, how similar, how heavy."""
    present = neighbours.ids >= 0
    query, rank = np.nonzero(present)
    ids = neighbours.ids[present]
    entries = [store.entries[number] for number in store.slide_numbers(ids)]
    spots = store.spots(ids, ["spot_id", "array_row", "array_col", "x_px", "y_px"])
    return pa.table(
        {
            "query": pa.array(query, pa.int64()),
            "rank": pa.array(rank + 1, pa.int32()),
            "row_id": pa.array(ids, pa.int64()),
            "patient": pa.array([entry.patient for entry in entries], pa.string()),
            "slide": pa.array([entry.slide_id for entry in entries], pa.string()),
            **{name: spots[name] for name in spots.column_names},
            "similarity": pa.array(neighbours.similarity[present], pa.float32()),
            "weight": pa.array(weights[present], pa.float32()),
        }
    )

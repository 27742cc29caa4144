"""The stage of `store.py` that averages the neighbours' expression, in several ways, upstream's among them."""

import argparse
import os
from typing import Any

import numpy as np
from _measure import peak_mb
from _store_atlas import simulation, timed

from mclstexp.config import RetrievalConfig
from mclstexp.index.store.store import ReferenceStore


def upstream_loop(keys: np.ndarray, expression: np.ndarray, query: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Average as upstream does: a spot at a time, L1 distance, inverse square weights, expression and embedding."""
    predicted = np.zeros((len(query), expression.shape[1]))
    embedded = np.zeros((len(query), keys.shape[1]))
    for i in range(len(query)):
        distance = np.abs(keys[found[i]] - query[i]).sum(axis=1)
        weight = 1 / distance**2
        weight /= weight.sum()
        predicted[i] = np.average(expression[found[i]], axis=0, weights=weight)
        embedded[i] = np.average(keys[found[i]], axis=0, weights=weight)
    return predicted


def bandwidth() -> float:
    """Return the bytes that this machine reads a second from memory, over 1 GB."""
    import torch

    block = torch.ones(2**28, dtype=torch.float32)
    seconds, _ = timed(block.sum, repeat=7)
    return 2**30 / seconds


def aggregate(options: argparse.Namespace) -> dict[str, Any]:
    """Average the neighbours' expression, in several ways."""
    from mclstexp.index.source import StoreSource
    from mclstexp.predict.average import AverageOptions, average, weighted_sums
    from mclstexp.predict.weights import neighbour_weights

    store = ReferenceStore.open(options.folder / "big")
    index = store.index("cpu")
    query = simulation(options).queries(options.queries)
    found = index.search(query, 200)
    weights = neighbour_weights(found.similarity, RetrievalConfig())
    values = store.expression_cache.values()
    gathered = found.ids.size * values.shape[1] * 2
    weighted_sums(values, found.ids, weights, squares=False)
    speed, runs = [], []
    for _ in range(5):  # by turns, so that a busy machine disturbs both alike
        speed.append(bandwidth())
        runs.append(timed(lambda: weighted_sums(values, found.ids, weights, squares=False), repeat=3)[0])
    quick, rate = min(runs), max(speed)
    spread, _ = timed(lambda: weighted_sums(values, found.ids, weights))
    # Upstream holds float32 matrices in memory; a part of the reference stands for them, rows scattered as before.
    n_loop, n_held = min(100, len(query)), min(200_000, len(values))
    held = np.arange(n_held)
    keys, dense = np.asarray(index.keys(held)), np.asarray(values[held], dtype=np.float32)
    local = found.ids[:n_loop] % n_held
    loop, _ = timed(lambda: upstream_loop(keys, dense, query[:n_loop], local))
    panel, rule = store.identity.panel, store.normalisation
    n_table = min(100, len(query))
    rows, part = found.ids[:n_table], weights[:n_table]
    from_table, from_copy = (StoreSource(store, "cpu", use_copy=copy) for copy in (False, True))
    table, _ = timed(lambda: average(from_table, rows, part, panel, AverageOptions(rule)), repeat=1)
    cached, _ = timed(lambda: average(from_copy, rows, part, panel, AverageOptions(rule)))
    return {
        "memory_gb_s": rate / 1e9,
        "load_average": os.getloadavg()[0],
        "mean_s": quick,
        "mean_gb_s": gathered / quick / 1e9,
        "mean_share_of_bandwidth": gathered / quick / rate,
        "distinct_rows": len(np.unique(found.ids)),
        "mean_and_sd_s": spread,
        "loop_s_scaled": loop * len(query) / n_loop,
        "times_faster_than_loop_mean": loop * len(query) / n_loop / quick,
        "times_faster_than_loop_mean_and_sd": loop * len(query) / n_loop / spread,
        "from_table_s_per_100": table * 100 / n_table,
        "from_copy_s_per_100": cached * 100 / n_table,
        "peak_mb": peak_mb(),
    }

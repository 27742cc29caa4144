"""Depth weights and slide levels, against loops."""

import dataclasses

import numpy as np
import pytest
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.index.source import StoreSource
from mclstexp.index.store.store import ReferenceStore
from mclstexp.predict.average import AverageOptions
from mclstexp.predict.levels import slide_shift

SIM = Simulation()
PLAIN = RetrievalConfig(k=15)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels") / "ref"
    return ReferenceStore.create(folder, SIM.identity(), [SIM.record(i, 20) for i in range(4)], command="mst x")


def expression(record):
    counts = record.counts.toarray()[:, : len(SIM.panel)]
    return np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)


def test_deep_neighbours_weigh_more(store):
    query = SIM.queries(7)
    plain = retrieve(store, query, PLAIN)
    weighed = retrieve(store, query, dataclasses.replace(PLAIN, depth_weighted=True))
    depth = np.concatenate([np.asarray(SIM.record(i, 20).counts.sum(axis=1)).ravel() for i in range(4)])
    of_slide = np.median(depth.reshape(4, 20), axis=1)
    for i in range(len(query)):
        rows = plain.neighbours.ids[i]
        t = depth[rows]
        share = np.minimum(1, of_slide[rows // 20] / np.median(of_slide))
        expected = plain.weights[i] * t / (t + np.median(depth)) * share
        np.testing.assert_allclose(weighed.weights[i], expected / expected.sum(), rtol=1e-4)


def test_the_shift_takes_out_what_differs_between_slides(store):
    query = SIM.queries(7)
    retrieved = retrieve(store, query, dataclasses.replace(PLAIN, slide_levelled=True))
    levels = np.stack([expression(SIM.record(i, 20)).mean(axis=0) for i in range(4)])
    met = np.zeros((len(query), len(SIM.panel)))
    for i in range(len(query)):
        for row, weight in zip(retrieved.neighbours.ids[i], retrieved.weights[i], strict=True):
            met[i] += weight * levels[row // 20]
    np.testing.assert_allclose(retrieved.shift, met.mean(axis=0) - met, atol=5e-3)
    np.testing.assert_allclose(retrieved.shift.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_array_equal(retrieved.mean, retrieve(store, query, PLAIN).mean)


def test_more_neighbours_than_spots_changes_nothing_else(store):
    config = RetrievalConfig(k=500, depth_weighted=True, slide_levelled=True)
    retrieved = retrieve(store, SIM.queries(3), config)
    assert np.isfinite(retrieved.mean).all()
    assert np.isfinite(retrieved.shift).all()
    np.testing.assert_allclose(retrieved.weights.sum(axis=1), 1, atol=1e-5)


def test_a_filter_holds_for_levels_too(store):
    allowed = np.ones(80, dtype=bool)
    allowed[::2] = False
    retrieved = retrieve(store, SIM.queries(4), dataclasses.replace(PLAIN, slide_levelled=True))
    options = AverageOptions(store.normalisation, 0.25, sd=False)
    source, ids = StoreSource(store, "cpu"), retrieved.neighbours.ids
    _, level = slide_shift(source, ids, retrieved.weights, SIM.panel, options, allowed=allowed)
    levels = np.stack([expression(SIM.record(i, 20))[1::2].mean(axis=0) for i in range(4)])
    share = np.zeros(4)
    for rows, weights in zip(retrieved.neighbours.ids, retrieved.weights, strict=True):
        np.add.at(share, rows // 20, weights)
    np.testing.assert_allclose(level, share / share.sum() @ levels, atol=5e-3)

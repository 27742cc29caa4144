"""Depth weights and slide levels, against loops."""

import dataclasses

import numpy as np
import pytest
from mclstexp.index.retrieval import retrieve, slide_shift
from mclstexp.index.store.averaging import AverageOptions
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.index.store.store import ReferenceStore

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
    found = retrieve(store, query, dataclasses.replace(PLAIN, depth_weighted=True))
    depth = np.concatenate([np.asarray(SIM.record(i, 20).counts.sum(axis=1)).ravel() for i in range(4)])
    of_slide = np.median(depth.reshape(4, 20), axis=1)
    for i in range(len(query)):
        rows = plain.neighbours.row_ids[i]
        t = depth[rows]
        share = np.minimum(1, of_slide[rows // 20] / np.median(of_slide))
        expected = plain.weights[i] * t / (t + np.median(depth)) * share
        np.testing.assert_allclose(found.weights[i], expected / expected.sum(), rtol=1e-4)


def test_the_shift_takes_out_what_differs_between_slides(store):
    query = SIM.queries(7)
    found = retrieve(store, query, dataclasses.replace(PLAIN, slide_levelled=True))
    levels = np.stack([expression(SIM.record(i, 20)).mean(axis=0) for i in range(4)])
    met = np.zeros((len(query), len(SIM.panel)))
    for i in range(len(query)):
        for row, weight in zip(found.neighbours.row_ids[i], found.weights[i], strict=True):
            met[i] += weight * levels[row // 20]
    np.testing.assert_allclose(found.shift, met.mean(axis=0) - met, atol=5e-3)
    np.testing.assert_allclose(found.shift.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_array_equal(found.mean, retrieve(store, query, PLAIN).mean)


def test_more_neighbours_than_spots_changes_nothing_else(store):
    config = RetrievalConfig(k=500, depth_weighted=True, slide_levelled=True)
    found = retrieve(store, SIM.queries(3), config)
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.shift).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, atol=1e-5)


def test_a_filter_holds_for_levels_too(store):
    allowed = np.ones(80, dtype=bool)
    allowed[::2] = False
    found = retrieve(store, SIM.queries(4), dataclasses.replace(PLAIN, slide_levelled=True))
    options = AverageOptions(store.normalisation, 0.25, sd=False)
    _, level = slide_shift(store, (found.neighbours.row_ids, found.weights), SIM.panel, options, allowed=allowed)
    levels = np.stack([expression(SIM.record(i, 20))[1::2].mean(axis=0) for i in range(4)])
    share = np.zeros(4)
    for rows, weights in zip(found.neighbours.row_ids, found.weights, strict=True):
        np.add.at(share, rows // 20, weights)
    np.testing.assert_allclose(level, share / share.sum() @ levels, atol=5e-3)

"""How much each neighbour counts, against loops: by similarity, by distance, by depth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from worlds import unit

from mclstexp.config import RetrievalConfig
from mclstexp.errors import InputError
from mclstexp.predict import weights as module
from mclstexp.predict.source import Depth, Neighbours
from mclstexp.predict.weights import by_depth, effective_neighbours, neighbour_weights, weigh


@settings(max_examples=50, deadline=None)
@given(
    similarity=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-1, 1, width=32)
    ),
    temperature=st.floats(1e-3, 10),
    missing=st.integers(0, 9),
)
def test_softmax_weights(similarity: np.ndarray, temperature: float, missing: int) -> None:
    ids = np.arange(similarity.size).reshape(similarity.shape)
    ids[:, similarity.shape[1] - min(missing, similarity.shape[1]) :] = -1
    weights = neighbour_weights(similarity, RetrievalConfig(temperature=temperature), ids=ids)
    assert weights.dtype == np.float32
    assert (weights[ids < 0] == 0).all()
    has_any = (ids >= 0).any(axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), has_any.astype(float), atol=1e-5)
    for i, row in enumerate(ids):
        present = row >= 0
        raw = np.exp((similarity[i][present].astype(float) - similarity[i][present].max(initial=-2)) / temperature)
        np.testing.assert_allclose(weights[i][present], raw / raw.sum() if present.any() else raw, atol=1e-5)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_inverse_square_weights_against_the_definition(distance: str) -> None:
    query, keys = unit((4, 16)), unit((4, 7, 16), 1)
    config = RetrievalConfig(weights="inverse_square", distance=distance)
    weights = neighbour_weights(np.zeros((4, 7), np.float32), config, query=query, keys=keys)
    for i in range(4):
        order = 1 if distance == "l1" else 2
        raw = np.array([1 / np.linalg.norm(keys[i, j].astype(float) - query[i], ord=order) ** 2 for j in range(7)])
        np.testing.assert_allclose(weights[i], raw / raw.sum(), rtol=1e-5)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_exact_matches_share_the_weight(distance: str) -> None:
    query, keys = unit((2, 16)), unit((2, 5, 16), 1)
    keys[0, 1] = keys[0, 3] = query[0]
    config = RetrievalConfig(weights="inverse_square", distance=distance)
    weights = neighbour_weights(np.zeros((2, 5), np.float32), config, query=query, keys=keys)
    assert weights[0].tolist() == [0, 0.5, 0, 0.5, 0]
    assert (weights[1] > 0).all()
    # The limit: a neighbour that comes ever closer takes ever more.
    nearly = keys.copy()
    nearly[0, 1] += 1e-4 * unit((16,), 5)
    nearly[0, 3] = keys[0, 0]
    close = neighbour_weights(np.zeros((2, 5), np.float32), config, query=query, keys=nearly)
    assert close[0, 1] > 0.999


def test_an_absent_neighbour_has_no_key_and_no_weight() -> None:
    query, keys = unit((2, 16)), unit((2, 5, 16), 1)
    ids = np.array([[3, 1, 0, -1, -1], [-1] * 5])
    keys[ids < 0] = np.nan
    config = RetrievalConfig(weights="inverse_square")
    weights = neighbour_weights(np.zeros((2, 5), np.float32), config, ids=ids, query=query, keys=keys)
    alone = neighbour_weights(np.zeros((1, 3), np.float32), config, query=query[:1], keys=keys[:1, :3])
    np.testing.assert_array_equal(weights[0], [*alone[0], 0, 0])
    assert (weights[1] == 0).all()


def test_weights_refuse_what_they_cannot_use() -> None:
    with pytest.raises(InputError, match="temperature"):
        neighbour_weights(np.zeros((1, 2), np.float32), RetrievalConfig(temperature=0))
    with pytest.raises(InputError, match="embeddings"):
        neighbour_weights(np.zeros((1, 2), np.float32), RetrievalConfig(weights="inverse_square"))


@pytest.mark.parametrize("kind", ["softmax", "inverse_square"])
def test_weighing_in_blocks_is_weighing_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys = unit((23, 8)), unit((40, 8), 1)
    ids = np.random.default_rng(0).integers(-1, 40, (23, 6))
    neighbours = Neighbours(ids, np.random.default_rng(1).uniform(-1, 1, ids.shape).astype(np.float32))
    config = RetrievalConfig(weights=kind)  # type: ignore[arg-type]
    at_once = neighbour_weights(neighbours.similarity, config, ids=ids, query=query, keys=keys[ids])
    monkeypatch.setattr(module, "KEYS_AT_A_TIME", 20)
    asked: list[int] = []

    def keys_of(some: np.ndarray) -> np.ndarray:
        asked.append(some.size)
        return keys[some]

    np.testing.assert_array_equal(weigh(query, neighbours, config, keys_of), at_once)
    assert sum(asked) == (0 if kind == "softmax" else ids.size)
    assert max(asked, default=0) <= 20


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 6),
    k=st.integers(1, 9),
    n_slides=st.integers(1, 5),
    median=st.sampled_from([0.0, 0.5, 300.0]),
    seed=st.integers(0, 999),
)
def test_depth_weights_equal_the_loop(n: int, k: int, n_slides: int, median: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k), n).astype(np.float32)
    slide = rng.integers(-1, n_slides, (n, k))
    weights[slide < 0] = 0
    depth = np.where(slide >= 0, rng.integers(0, 900, (n, k)), 0).astype(float)
    typical = Depth(median, rng.uniform(0, 600, n_slides))
    result = by_depth(weights, depth, slide, typical)
    assert result.dtype == np.float32
    for i in range(n):
        raw = []
        for j in range(k):
            share = min(1.0, typical.of_slide[slide[i, j]] / max(np.median(typical.of_slide), 1))
            factor = depth[i, j] / (depth[i, j] + max(median, 1)) * share
            raw.append(weights[i, j] * factor if slide[i, j] >= 0 else 0.0)
        # Where every neighbour is empty, depth has nothing to say.
        expected = np.array(raw) / sum(raw) if sum(raw) > 0 else weights[i]
        np.testing.assert_allclose(result[i], expected, rtol=1e-4, atol=1e-7)


def test_effective_neighbours() -> None:
    weights = np.array([[0.25] * 4, [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    assert effective_neighbours(weights).tolist() == [4, 1, 0]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_effective_neighbours_lie_between_one_and_all(n: int, k: int, seed: int) -> None:
    weights = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), n).astype(np.float32)
    effective = effective_neighbours(weights)
    assert (effective >= 1 - 1e-4).all()
    assert (effective <= k * (1 + 1e-4)).all()
    np.testing.assert_allclose(effective, [1 / sum(float(w) ** 2 for w in row) for row in weights], rtol=1e-5)

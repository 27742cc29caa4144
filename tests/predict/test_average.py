"""Weighted sums, means and spreads against loops, and genes that not every slide measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import memory_reference

from mclstexp.config import Normalisation
from mclstexp.predict import average as module
from mclstexp.predict import memory
from mclstexp.predict.average import AverageOptions, average, weighted_mean, weighted_sums

OPTIONS = AverageOptions(Normalisation(), min_measured=0.25)


def loop(values: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: one spot, one neighbour at a time."""
    means, spreads = [], []
    for rows, weight in zip(positions, weights, strict=True):
        mean = sum(w * values[i].astype(float) for i, w in zip(rows, weight, strict=True))
        second = sum(w * (values[i].astype(float) - mean) ** 2 for i, w in zip(rows, weight, strict=True))
        means.append(mean)
        spreads.append(np.sqrt(second))
    return np.array(means), np.array(spreads)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 12),
    n_genes=st.integers(1, 40),
    n_query=st.integers(1, 9),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
def test_weighted_mean_equals_the_loop(n: int, k: int, n_genes: int, n_query: int, half: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.gamma(1, 2, size=(n, n_genes)).astype(np.float16 if half else np.float32)
    positions = rng.integers(0, n, (n_query, k))
    weights = rng.dirichlet(np.ones(k), n_query).astype(np.float32)
    mean, sd = loop(values, positions, weights)
    result = weighted_mean(values, positions, weights)
    np.testing.assert_allclose(result.mean, mean, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(result.sd, sd, rtol=1e-3, atol=6e-3)
    quick = weighted_mean(values, positions, weights, sd=False)
    assert quick.sd is None
    np.testing.assert_allclose(quick.mean, mean, rtol=2e-3 if half else 2e-6, atol=1e-3 if half else 2e-6)


@settings(max_examples=20, deadline=None)
@given(
    n_query=st.integers(0, 9),
    k=st.integers(0, 7),
    n_genes=st.integers(1, 20),
    block=st.integers(1, 200),
    few=st.booleans(),
    seed=st.integers(0, 99),
)
def test_weighted_sums_equal_the_loop_whatever_the_blocks(
    n_query: int, k: int, n_genes: int, block: int, few: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.gamma(1, 2, size=(15, n_genes)).astype(np.float32)
    positions, weights = rng.integers(0, 15, (n_query, k)), rng.uniform(0, 1, (n_query, k)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SPREAD_VALUES", block)
        patch.setattr(module, "FEW_VALUES", block)
        moments = weighted_sums(values, positions, weights, few=few)
    for power, result in ((1, moments.sums), (2, moments.squares)):
        expected = np.zeros((n_query, n_genes))
        for i in range(n_query):
            for row, weight in zip(positions[i], weights[i], strict=True):
                expected[i] += float(weight) * values[row].astype(float) ** power
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("few", [True, False])
def test_columns_do_not_depend_on_their_company(few: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(1, 2, size=(500, 130)).astype(np.float16)
    positions, weights = rng.integers(0, 500, (7, 50)), rng.dirichlet(np.ones(50), 7).astype(np.float32)
    whole = weighted_sums(values, positions, weights, few=few)
    for part in (slice(0, 1), slice(3, 20), slice(100, 130)):
        alone = weighted_sums(np.ascontiguousarray(values[:, part]), positions, weights, few=few)
        assert (alone.sums == whole.sums[:, part]).all()
        assert (alone.squares == whole.squares[:, part]).all()


def test_a_failure_in_a_block_is_not_lost_and_torch_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    values, weights = np.ones((3, 2), np.float32), np.ones((4, 1), np.float32)
    monkeypatch.setattr(module, "SPREAD_VALUES", 2)
    with pytest.raises(IndexError):
        weighted_sums(values, np.array([[0], [1], [2], [3]]), weights, few=False)
    assert torch.get_num_threads() == before


def test_a_gene_that_few_measured_is_missing_not_zero() -> None:
    values = np.array([[1.0, 0.0], [3.0, 5.0]], np.float32)
    positions, weights = np.array([[0, 1], [0, 1]]), np.array([[0.9, 0.1], [0.5, 0.5]], np.float32)
    share = np.stack([weights.sum(axis=1), weights[:, 1]], axis=1)
    result = weighted_mean(values, positions, weights, share=share, min_share=0.25)
    np.testing.assert_allclose(result.mean, [[1.2, np.nan], [2.0, 5.0]], rtol=1e-6)
    assert np.isnan(result.sd[0, 1])
    assert result.sd[1, 1] == 0


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 9), n=st.integers(1, 7), min_measured=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99))
def test_the_average_over_a_reference_equals_the_loop(k: int, n: int, min_measured: float, seed: int) -> None:
    """The second of the three slides lacks the first five genes: its neighbours take no part in them."""
    reference, rng = memory_reference((9, 7, 5), seed=seed), np.random.default_rng(seed)
    ids = np.stack([rng.permutation(21)[:k] for _ in range(n)])
    ids[:, k - k // 3 :] = -1
    weights = np.where(ids >= 0, rng.uniform(0.1, 1, ids.shape), 0).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    result = average(reference, ids, weights, reference.panel, AverageOptions(reference.rule, min_measured))
    lacking = set()
    for i in range(n):
        for g, gene in enumerate(reference.panel.symbols):
            pairs = [
                (float(weights[i, j]), float(reference.values[spot, g]))
                for j, spot in enumerate(ids[i])
                if spot >= 0 and reference.known[reference.owner[spot], g]
            ]
            held = sum(w for w, _ in pairs)
            if abs(held - min_measured) < 1e-6:
                continue  # which side of the line is a matter of rounding
            if held == 0 or held < min_measured:
                assert np.isnan(result.mean[i, g])
                assert np.isnan(result.sd[i, g])
                lacking.add(gene)
            else:
                mean = sum(w * v for w, v in pairs) / held
                assert result.mean[i, g] == pytest.approx(mean, rel=1e-5)
                spread = np.sqrt(sum(w * (v - mean) ** 2 for w, v in pairs) / held)
                assert result.sd[i, g] == pytest.approx(spread, rel=1e-3, abs=5e-3)
    assert lacking <= set(result.missing)
    assert set(result.missing) == {
        reference.panel.symbols[g] for g in np.flatnonzero(np.isnan(result.mean).any(axis=0))
    }


def test_blocks_of_queries_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, rng = memory_reference(), np.random.default_rng(0)
    ids, weights = rng.integers(0, 92, (50, 6)), rng.dirichlet(np.ones(6), 50).astype(np.float32)
    whole = average(reference, ids, weights, reference.panel, OPTIONS)
    monkeypatch.setattr(memory, "QUERY_BLOCK", 7)
    parts = average(reference, ids, weights, reference.panel, OPTIONS)
    np.testing.assert_array_equal(parts.mean, whole.mean)
    np.testing.assert_array_equal(parts.sd, whole.sd)


def test_what_is_missing_is_told_by_gene() -> None:
    reference = memory_reference()
    reference.known[:, 7] = False
    ids = np.array([[0, 1], [30, 31], [30, 0], [32, 33]])  # the second slide begins at 30
    weights = np.array([[0.5, 0.5], [0.5, 0.5], [0.8, 0.2], [0.5, 0.5]], np.float32)
    result = average(reference, ids, weights, reference.panel, OPTIONS)
    few = "at 3 of 4 spots the neighbours that measured it hold less than 25% of the weight"
    expected = dict.fromkeys(reference.panel.symbols[:5], few)
    assert result.missing == {**expected, "GENE07": "no slide of the reference measured it"}


def test_no_neighbours_no_expression() -> None:
    reference = memory_reference()
    nobody, nothing = np.full((2, 3), -1), np.zeros((2, 3), np.float32)
    for ids, weights in ((nobody, nothing), (nobody[:, :0], nothing[:, :0])):
        result = average(reference, ids, weights, reference.panel, OPTIONS)
        assert result.mean.shape == (2, 20)
        assert np.isnan(result.mean).all()
    empty = average(reference, nobody[:0], nothing[:0], reference.panel, OPTIONS)
    assert empty.mean.shape == (0, 20)
    assert empty.missing == {}


def test_without_spread_there_is_none() -> None:
    reference = memory_reference()
    ids, weights = np.array([[0, 1]]), np.array([[0.5, 0.5]], np.float32)
    result = average(reference, ids, weights, reference.panel, AverageOptions(reference.rule, sd=False))
    assert result.sd is None

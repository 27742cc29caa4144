"""Weights and means against loops, and genes that not every slide measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from retrieval import retrieve
from scipy import sparse
from simulation import Simulation

from mclstexp.config import Normalisation, RetrievalConfig
from mclstexp.errors import FormatError, InputError
from mclstexp.index.source import StoreSource
from mclstexp.index.store.counts import decode_counts, encode_counts, width_for
from mclstexp.index.store.store import ReferenceStore
from mclstexp.predict.average import AverageOptions, average, weighted_mean, weighted_sums
from mclstexp.predict.weights import effective_neighbours, neighbour_weights

SIM = Simulation(n_genes=50, n_panel=30, dim=16)


def unit(shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@settings(max_examples=50, deadline=None)
@given(
    similarity=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-1, 1, width=32)
    ),
    temperature=st.floats(1e-3, 10),
    missing=st.integers(0, 9),
)
def test_softmax_weights(similarity, temperature, missing):
    row_ids = np.arange(similarity.size).reshape(similarity.shape)
    row_ids[:, similarity.shape[1] - min(missing, similarity.shape[1]) :] = -1
    weights = neighbour_weights(similarity, RetrievalConfig(temperature=temperature), ids=row_ids)
    assert weights.dtype == np.float32
    assert (weights[row_ids < 0] == 0).all()
    has_any = (row_ids >= 0).any(axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), has_any.astype(float), atol=1e-5)
    for i, row in enumerate(row_ids):
        present = row >= 0
        raw = np.exp((similarity[i][present].astype(float) - similarity[i][present].max(initial=-2)) / temperature)
        np.testing.assert_allclose(weights[i][present], raw / raw.sum() if present.any() else raw, atol=1e-5)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_inverse_square_weights_against_the_definition(distance):
    query, keys = unit((4, 16)), unit((4, 7, 16), 1)
    config = RetrievalConfig(weights="inverse_square", distance=distance)
    weights = neighbour_weights(np.zeros((4, 7), np.float32), config, query=query, keys=keys)
    for i in range(4):
        order = 1 if distance == "l1" else 2
        raw = np.array([1 / np.linalg.norm(keys[i, j].astype(float) - query[i], ord=order) ** 2 for j in range(7)])
        np.testing.assert_allclose(weights[i], raw / raw.sum(), rtol=1e-5)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_exact_matches_share_the_weight(distance):
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


def test_weights_refuse_what_they_cannot_use():
    with pytest.raises(InputError, match="temperature"):
        neighbour_weights(np.zeros((1, 2), np.float32), RetrievalConfig(temperature=0))
    with pytest.raises(InputError, match="embeddings"):
        neighbour_weights(np.zeros((1, 2), np.float32), RetrievalConfig(weights="inverse_square"))


def test_effective_neighbours():
    weights = np.array([[0.25] * 4, [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    assert effective_neighbours(weights).tolist() == [4, 1, 0]


def loop(values, positions, weights):
    """The oracle: one spot, one neighbour at a time."""
    means, spreads = [], []
    for where, weight in zip(positions, weights, strict=True):
        mean = sum(w * values[i].astype(float) for i, w in zip(where, weight, strict=True))
        second = sum(w * (values[i].astype(float) - mean) ** 2 for i, w in zip(where, weight, strict=True))
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
def test_weighted_mean_equals_the_loop(n, k, n_genes, n_query, half, seed):
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


def test_columns_do_not_depend_on_their_company():
    rng = np.random.default_rng(0)
    values = rng.gamma(1, 2, size=(500, 130)).astype(np.float16)
    positions, weights = rng.integers(0, 500, (7, 50)), rng.dirichlet(np.ones(50), 7).astype(np.float32)
    whole = weighted_sums(values, positions, weights)
    for part in (slice(0, 1), slice(3, 20), slice(100, 130)):
        alone = weighted_sums(np.ascontiguousarray(values[:, part]), positions, weights)
        assert (alone.sums == whole.sums[:, part]).all()
        assert (alone.squares == whole.squares[:, part]).all()


def test_a_gene_that_few_measured_is_missing_not_zero():
    values = np.array([[1.0, 0.0], [3.0, 5.0]], np.float32)
    positions, weights = np.array([[0, 1], [0, 1]]), np.array([[0.9, 0.1], [0.5, 0.5]], np.float32)
    share = np.stack([weights.sum(axis=1), weights[:, 1]], axis=1)
    result = weighted_mean(values, positions, weights, share=share, min_share=0.25)
    np.testing.assert_allclose(result.mean, [[1.2, np.nan], [2.0, 5.0]], rtol=1e-6)
    assert np.isnan(result.sd[0, 1])
    assert result.sd[1, 1] == 0


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Two slides that measured everything, one that measured genes 10 to 39 only."""
    records = [SIM.record(0, 60), SIM.record(1, 50), SIM.record(2, 40, genes=slice(10, 40))]
    return ReferenceStore.create(tmp_path_factory.mktemp("mixed") / "ref", SIM.identity(), records), records


@pytest.mark.parametrize("total", ["panel", "all"])
@pytest.mark.parametrize("log", ["natural", "log10"])
def test_retrieval_equals_a_loop_over_raw_counts(mixed, total, log):
    store, records = mixed
    rule = Normalisation(target_sum=1e4, total=total, log=log)
    query = SIM.queries(12)
    config = RetrievalConfig(k=15, min_measured=0.3)
    found = retrieve(store, query, config, genes="all", rule=rule)
    assert found.genes.symbols == SIM.genes.symbols
    by_slide = {record.slide_id: record for record in records}
    names = {(record.slide_id, spot): i for record in records for i, spot in enumerate(record.spot_ids.tolist())}
    rows = found.provenance.to_pylist()
    for q in range(len(query)):
        mine = [row for row in rows if row["query"] == q]
        for g, gene in enumerate(found.genes.symbols):
            pairs = []
            for row in mine:
                record = by_slide[row["slide"]]
                if gene in record.genes.position:
                    counts = record.counts[names[row["slide"], row["spot_id"]]].toarray().ravel()
                    inside = [i for i, s in enumerate(record.genes.symbols) if s in SIM.panel.position]
                    whole = counts.sum() if total == "all" else counts[inside].sum()
                    value = np.log1p(counts[record.genes.position[gene]] / whole * 1e4) if whole else 0.0
                    pairs.append((row["weight"], value / np.log(10) if log == "log10" else value))
            weight = sum(w for w, _ in pairs)
            if weight < 0.3:
                assert np.isnan(found.mean[q, g])
                assert "less than 30%" in found.missing[gene]
            else:
                mean = sum(w * v for w, v in pairs) / weight
                assert found.mean[q, g] == pytest.approx(mean, rel=1e-3, abs=1e-4)
                spread = np.sqrt(sum(w * (v - mean) ** 2 for w, v in pairs) / weight)
                assert found.sd[q, g] == pytest.approx(spread, rel=5e-3, abs=1e-2)


def test_the_copy_and_the_table_give_the_same_bits(mixed):
    store, _ = mixed
    query = SIM.queries(30)
    source, table = StoreSource(store, "cpu"), StoreSource(store, "cpu", use_copy=False)
    found = source.search(query, 20)
    weights = neighbour_weights(found.similarity, RetrievalConfig())
    panel = store.identity.panel
    rule = store.normalisation
    cached = average(source, found.ids, weights, panel, AverageOptions(rule))
    direct = average(table, found.ids, weights, panel, AverageOptions(rule))
    np.testing.assert_array_equal(cached.mean, direct.mean)
    np.testing.assert_array_equal(cached.sd, direct.sd)
    some = average(source, found.ids, weights, panel.subset([3, 1]), AverageOptions(rule))
    np.testing.assert_array_equal(some.mean, cached.mean[:, [3, 1]])


def test_a_gene_that_nobody_measured_says_so(mixed):
    store, _ = mixed
    panel = type(SIM.genes)(("GENE00001", "UNKNOWN"))
    found = retrieve(store, SIM.queries(3), RetrievalConfig(k=5), genes=panel)
    assert np.isnan(found.mean[:, 1]).all()
    assert found.missing["UNKNOWN"] == "no slide of the reference measured it"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_counts_come_back_as_they_were(data):
    n, genes = data.draw(st.integers(0, 8)), data.draw(st.sampled_from([1, 5, 300, 70_000]))
    top = data.draw(st.sampled_from([1, 255, 256, 70_000, 2**32 - 1]))
    nnz = data.draw(st.integers(0, 30)) if n else 0
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    matrix = sparse.csr_matrix(
        (rng.integers(1, top + 1, nnz).astype(float), (rng.integers(0, max(n, 1), nnz), rng.integers(0, genes, nnz))),
        shape=(n, genes),
    )
    matrix.data = np.minimum(matrix.data, top)
    matrix.sort_indices()
    widths = width_for(genes - 1), width_for(int(matrix.data.max(initial=0)))
    again = decode_counts(*encode_counts(matrix, *widths), widths, genes)
    assert again.shape == matrix.shape
    np.testing.assert_array_equal(again.indices, matrix.indices)
    np.testing.assert_array_equal(again.indptr, matrix.indptr)
    np.testing.assert_array_equal(again.data, matrix.data.astype(np.float32))


def test_contradictory_counts_are_refused():
    matrix = sparse.csr_matrix(np.array([[0, 2, 1], [3, 0, 0]]))
    genes, values = encode_counts(matrix, "u1", "u1")
    with pytest.raises(FormatError, match="out of range"):
        decode_counts(genes, values, ("u1", "u1"), 2)
    with pytest.raises(FormatError, match="broken number"):
        decode_counts(genes, values, ("u1", "u2"), 3)
    with pytest.raises(FormatError, match="differ in number"):
        decode_counts(genes, values.take([1, 0]), ("u1", "u1"), 3)

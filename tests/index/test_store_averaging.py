"""What a store's neighbours express, against loops over raw counts; counts as they are kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval import retrieve
from scipy import sparse
from simulation import Simulation

from mclstexp.config import Normalisation, RetrievalConfig
from mclstexp.errors import FormatError
from mclstexp.index.source import StoreSource
from mclstexp.index.store.counts import decode_counts, encode_counts, width_for
from mclstexp.index.store.store import ReferenceStore
from mclstexp.predict.average import AverageOptions, average
from mclstexp.predict.weights import neighbour_weights

SIM = Simulation(n_genes=50, n_panel=30, dim=16)


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

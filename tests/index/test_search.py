"""Search against brute force: exactness, ties, filters, inverted files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import Simulation
from threadpoolctl import threadpool_info

from mclstexp.errors import FormatError, InputError
from mclstexp.index.search import exact as exact_search
from mclstexp.index.search import faiss_gpu, ivf, pieces
from mclstexp.index.search.faiss_cpu import FaissBackend
from mclstexp.index.search.lancedb import ranges_of
from mclstexp.index.search.ranges import RowRanges, covers, merge_ranges, minus, overlap, total
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.index.search.vectors import recall_at_k
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify
from mclstexp.predict.source import pair_similarity

SIM = Simulation(dim=24)


def unit(n, dim=24, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def brute_force(query, keys, k):
    """The oracle: every query against every key, in float64."""
    product = query.astype(np.float64) @ keys.astype(np.float64).T
    order = np.argsort(-product, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(product, order, axis=1).astype(np.float32)


def in_memory(keys, ranges, *, tie_rank=None, backend=None):
    """Search over keys, given as the rows of ranges one after the other; elsewhere there are wrong keys."""
    rows = RowRanges(ranges)
    size = int(rows.stops.max())
    laid = np.ones((size, keys.shape[1]), dtype=np.float32)
    laid[rows.row_ids(np.arange(len(rows)))] = keys
    return SpotIndex(laid, rows.mask(size), tie_rank=tie_rank or (lambda ids: ids), backend=backend)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 300),
    n_query=st.integers(0, 9),
    k=st.integers(1, 320),
    start=st.integers(0, 50),
    seed=st.integers(0, 99),
)
def test_exact_search_equals_brute_force(n, n_query, k, start, seed):
    keys, query = unit(n, seed=seed), unit(n_query, seed=seed + 1000)
    found = in_memory(keys, ((start, start + n),)).search(query, k)
    assert found.ids.shape == found.similarity.shape == (n_query, k)
    order, similarity = brute_force(query, keys, k)
    m = min(k, n)
    assert (found.ids[:, m:] == -1).all()
    assert (found.similarity[:, m:] == 0).all()
    np.testing.assert_allclose(found.similarity[:, :m], similarity, atol=1e-6)
    same = found.ids[:, :m] - start == order
    # Where the order differs, two keys are equally near within rounding.
    np.testing.assert_allclose(found.similarity[:, :m][~same], similarity[~same], atol=1e-6)
    assert (np.diff(found.similarity[:, :m], axis=1) <= 0).all()


def test_ties_are_cut_by_rank_not_by_position():
    keys = np.repeat(unit(3), 100, axis=0)
    rank = np.random.default_rng(1).permutation(300)
    found = in_memory(keys, ((0, 300),), tie_rank=lambda ids: rank[ids]).search(keys[:1], 30)
    expected = np.arange(100)[np.argsort(rank[:100])][:30]
    assert found.ids[0].tolist() == expected.tolist()


def test_the_same_bits_in_any_company():
    keys, query = SIM.queries(5000, 1), SIM.queries(40, 2)
    index = in_memory(keys, ((0, 5000),))
    together = index.search(query, 50)
    for i in (0, 7, 39):
        alone = index.search(query[i : i + 1], 50)
        assert (alone.ids == together.ids[i]).all()
        assert (alone.similarity == together.similarity[i]).all()


def test_where_keys_lie_and_how_they_are_cut_changes_nothing(monkeypatch):
    keys, query = SIM.queries(900, 1), SIM.queries(20, 2)
    whole = in_memory(keys, ((0, 900),)).search(query, 40)
    monkeypatch.setattr(exact_search, "KEY_BLOCK", 128)
    spread = ((5, 42), (100, 600), (700, 1063))
    split = in_memory(keys, spread).search(query, 40)
    assert (RowRanges(spread).positions(split.ids.ravel()) == whole.ids.ravel()).all()
    assert (split.similarity == whole.similarity).all()


@settings(max_examples=25, deadline=None)
@given(keep=st.lists(st.booleans(), min_size=200, max_size=200), k=st.integers(1, 60))
def test_filters_are_exact(keep, k):
    allowed = np.array(keep)
    keys, query = unit(200), unit(5, seed=9)
    found = in_memory(keys, ((0, 200),)).search(query, k, allowed=allowed)
    kept = np.flatnonzero(allowed)
    m = min(k, len(kept))
    assert ((found.ids >= 0).sum(axis=1) == m).all()
    order, _ = brute_force(query, keys[kept], m)
    assert (found.ids[:, :m] == kept[order]).all()


KEY = {"reference_id": "test", "dim": 24}


def grown(folder, keys, live, choice, **options):
    pieces.update(folder, KEY, keys, live, choice=choice, **options)
    return pieces.load(folder, KEY)


def inverted(keys, parts, live, least=0):
    mask = RowRanges(live).mask(len(keys))
    backend = FaissBackend(keys, parts, pieces.outside(parts, mask)) if parts else None
    if backend is not None:
        backend.least = least
    return SpotIndex(keys, mask, tie_rank=lambda ids: ids, backend=backend)


@pytest.mark.parametrize("kind", ["ivf-sq8", "ivf-fp16", "ivf-flat"])
def test_inverted_files_reach_the_recall_they_record(tmp_path, kind):
    keys, query = SIM.queries(6000, 1), SIM.queries(60, 2)
    (part,) = parts = grown(tmp_path, keys, ((0, 6000),), kind)
    assert part.piece.recall >= 0.99
    assert part.piece.recall_k == 200
    index = inverted(keys, parts, ((0, 6000),))
    found = index.search(query, 200)
    truth = index.search(query, 200, exact=True)
    assert recall_at_k(found.ids, truth.ids) >= 0.98
    # What is found is scored exactly, whatever the codes of the inverted file.
    np.testing.assert_array_equal(found.similarity, pair_similarity(query, index.keys, found.ids))


@pytest.mark.parametrize("least", [0, ivf.EXACT_ROWS])
def test_inverted_search_is_never_short_and_its_filter_is_exact(tmp_path, least):
    keys, query = SIM.queries(6000, 1), SIM.queries(30, 2)
    index = inverted(keys, grown(tmp_path, keys, ((0, 6000),), "ivf-sq8"), ((0, 6000),), least)
    few = np.zeros(6000, dtype=bool)
    few[[5, 77, 3000]] = True
    for share in (0.9, 0.3, 0.02):
        allowed = np.random.default_rng(5).random(6000) < share
        found = index.search(query, 100, allowed=allowed)
        assert (found.ids >= 0).all()
        assert allowed[found.ids].all()
        assert all(len(set(row)) == 100 for row in found.ids.tolist())
    found = index.search(query, 10, allowed=few)
    assert set(map(tuple, np.sort(found.ids[:, :3], axis=1).tolist())) == {(5, 77, 3000)}
    assert (found.ids[:, 3:] == -1).all()


def test_what_is_as_quick_exactly_is_searched_exactly(tmp_path):
    keys, query = SIM.queries(6000, 1), SIM.queries(30, 2)
    index = inverted(keys, grown(tmp_path, keys, ((0, 6000),), "ivf-sq8"), ((0, 6000),), least=6000)
    np.testing.assert_array_equal(index.search(query, 50).ids, index.search(query, 50, exact=True).ids)


def test_new_rows_join_and_removed_rows_leave_an_inverted_index(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "FLAT_ROWS", 300)
    monkeypatch.setattr(ivf, "EXACT_ROWS", 1000)
    keys = SIM.queries(3000, 1)
    (first,) = parts = grown(tmp_path, keys, ((0, 2000),), "auto")
    assert first.piece.kind == "ivf-sq8"
    for stop in range(2200, 3001, 200):
        parts = grown(tmp_path, keys, ((0, stop),), "auto")
    assert sum(len(part) for part in parts) >= 2800
    assert len(parts) >= 2, "what outgrew the flat part has an inverted file"
    assert parts[0].piece == first.piece, "an add leaves the lists as they are"
    live = ((0, 500), (700, 3000))
    early = inverted(keys[:2100], parts, ((0, 2100),))
    assert early.search(SIM.queries(20, 2), 50).ids.max() < 2100, "a version before the last rows came"
    index = inverted(keys, parts, live)
    found = index.search(SIM.queries(20, 2), 50)
    truth = index.search(SIM.queries(20, 2), 50, exact=True)
    assert not ((found.ids >= 500) & (found.ids < 700)).any()
    assert recall_at_k(found.ids, truth.ids) > 0.97
    assert (RowRanges(live).positions(truth.ids.ravel()) >= 0).all()


def test_lists_are_trained_anew_when_they_are_outgrown_or_mostly_dead(tmp_path):
    keys = SIM.queries(3000, 1)
    (small,) = grown(tmp_path, keys, ((0, 500),), "ivf-flat")
    (large,) = grown(tmp_path, keys, ((0, 2500),), "ivf-flat")
    assert (small.piece.trained_on, large.piece.trained_on) == (500, 2500)
    assert grown(tmp_path, keys, ((0, 2000),), "ivf-flat")[0].piece == large.piece
    (rest,) = grown(tmp_path, keys, ((0, 1000),), "ivf-flat")
    assert rest.piece.trained_on == 1000
    assert [path.name for path in tmp_path.glob("ivf-*")] == [rest.piece.file], "what no record names is gone"
    assert grown(tmp_path, keys, ((0, 1000),), "exact") == []
    assert list(tmp_path.glob("ivf-*")) == []


def test_a_reference_searched_by_every_backend_gives_the_same_answers(tmp_path):
    """Approximate ones too, where they find the same candidates: here they look at every list."""
    records = [SIM.record(number, 300) for number in range(6)]
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), records, index="ivf-sq8")
    query, allowed = SIM.queries(30), np.zeros(store.n_ids, dtype=bool)
    allowed[300:1500] = True
    for mask in (None, allowed):
        truth = store.index("cpu", "exact").search(query, 40, allowed=mask)
        for name in ("faiss", "lancedb"):
            index = store.index("cpu", name)
            index.backend.least = 0
            assert type(index.backend).__name__ == {"faiss": "FaissBackend", "lancedb": "LanceBackend"}[name]
            found = index.search(query, 40, allowed=mask)
            same = found.ids == truth.ids
            assert same.mean() > (0.9 if name == "faiss" else 0.9999)
            np.testing.assert_array_equal(found.similarity[same], truth.similarity[same])


def test_lancedbs_own_index_is_searched_in_batches_and_filtered(tmp_path):
    records = [SIM.record(number, 600) for number in range(5)]
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), records)
    store.index_table()
    assert store.version == 2
    assert store.history()[-1].message == "the table's own index"
    assert verify(tmp_path / "ref").findings == []
    allowed = np.zeros(store.n_ids, dtype=bool)
    allowed[600:2400] = True
    for mask in (None, allowed):
        truth = store.index("cpu", "exact").search(SIM.queries(20), 30, allowed=mask)
        found = store.index("cpu", "lancedb").search(SIM.queries(20), 30, allowed=mask)
        assert recall_at_k(found.ids, truth.ids) > 0.9
        np.testing.assert_array_equal(
            found.similarity, pair_similarity(SIM.queries(20), store.index("cpu").keys, found.ids)
        )
        assert mask is None or mask[found.ids].all()
    assert store.add([SIM.record(8, 600)]).version == 3, "a table with an index of its own grows as any other"
    store.optimize()
    scattered = np.arange(store.n_ids) % 2 == 0
    found = store.index("cpu", "lancedb").search(SIM.queries(3), 30, allowed=scattered)
    truth = store.index("cpu", "exact").search(SIM.queries(3), 30, allowed=scattered)
    np.testing.assert_array_equal(found.ids, truth.ids)


def test_choosing_the_index_by_size():
    assert ivf.choose_kind("auto", 10) == "exact"
    assert ivf.choose_kind("auto", 10**6).startswith("ivf")
    assert ivf.choose_kind("ivf-flat", 10) == "ivf-flat"
    with pytest.raises(InputError, match="ivf-sq8"):
        ivf.choose_kind("hnsw", 10)


def test_row_ranges():
    rows = RowRanges(merge_ranges([(10, 12), (0, 3), (3, 5), (20, 21)]))
    assert rows.row_ids(np.arange(len(rows))).tolist() == [0, 1, 2, 3, 4, 10, 11, 20]
    assert rows.positions(np.array([0, 4, 5, 11, 12, 20, 21, -1])).tolist() == [0, 4, -1, 6, -1, 7, -1, -1]
    assert merge_ranges([(5, 7), (0, 2), (2, 3), (7, 7), (6, 9)]) == ((0, 3), (5, 9))


@settings(max_examples=60, deadline=None)
@given(
    one=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=6),
    other=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=6),
)
def test_ranges_are_sets(one, other):
    ranges = [merge_ranges([(start, start + n) for start, n in pairs]) for pairs in (one, other)]
    sets = [{i for start, stop in part for i in range(start, stop)} for part in ranges]
    for result, wanted in ((overlap(*ranges), sets[0] & sets[1]), (minus(*ranges), sets[0] - sets[1])):
        assert [i for start, stop in result for i in range(start, stop)] == sorted(wanted)
        assert total(result) == len(wanted)
    mask = np.isin(np.arange(60), list(sets[0]))
    assert ranges_of(mask) == ranges[0]
    assert covers(mask, ranges[0])
    assert covers(mask, ranges[1]) == (sets[1] <= sets[0])
    assert not covers(mask, ((59, 61),)), "what lies past the end of a mask is not allowed"


@pytest.mark.parametrize(
    ("query", "k", "text"),
    [
        (np.zeros((2, 24), np.float32), 3, "unit length"),
        (np.full((2, 24), np.nan, np.float32), 3, "unit length"),
        (unit(2, dim=12), 3, "length 12, the reference's 24"),
        (unit(2), 0, "at least 1"),
        (unit(2)[0], 3, "shape"),
    ],
)
def test_bad_queries_are_refused(query, k, text):
    with pytest.raises(InputError, match=text):
        in_memory(unit(10), ((0, 10),)).search(query, k)


def test_damaged_index_files_are_never_used(tmp_path):
    keys, query = unit(500), unit(5, seed=1)
    (part,) = parts = grown(tmp_path, keys, ((0, 500),), "ivf-sq8")
    truth = inverted(keys, parts, ((0, 500),)).search(query, 9, exact=True)
    data = part.path.read_bytes()
    part.path.write_bytes(b"rubbish".ljust(len(data)))
    index = inverted(keys, pieces.load(tmp_path, KEY), ((0, 500),))
    np.testing.assert_array_equal(index.search(query, 9).ids, truth.ids)
    assert "missing or damaged; run mst verify --repair. Until then every key is compared" in index.note
    part.path.write_bytes(data[:-1])
    assert pieces.load(tmp_path, KEY) == []
    part.path.write_bytes(data)
    assert [item.piece for item in pieces.load(tmp_path, KEY)] == [part.piece]
    assert pieces.load(tmp_path, {**KEY, "reference_id": "another"}) == []
    (tmp_path / pieces.RECORD).write_text("{}")
    assert pieces.load(tmp_path, KEY) == []
    with pytest.raises(FormatError, match="damaged"):
        ivf.read(tmp_path / pieces.RECORD, mapped=True)


def test_what_numpy_picks_is_what_torch_picks(monkeypatch):
    keys, query = SIM.queries(3000, 1), SIM.queries(20, 2)
    allowed = np.arange(3000) % 7 > 0
    search = exact_search.ExactBackend(keys)
    monkeypatch.setattr(exact_search, "KEY_BLOCK", 700)
    for k in (1, 40, 5000):
        ids, similarity = search.candidates(query, k, allowed, int(allowed.sum()))
        with monkeypatch.context() as patch:
            patch.setattr(exact_search, "FEW_PRODUCTS", 0)
            others, theirs = search.candidates(query, k, allowed, int(allowed.sum()))
        np.testing.assert_allclose(similarity, theirs, atol=1e-6)
        assert (np.sort(ids, axis=1) == np.sort(others, axis=1)).mean() > 0.999
        assert allowed[ids].all()


def test_faiss_uses_the_processors_kernels():
    ivf.load_faiss()
    if "avx2" in ivf._cpu_flags():
        blas = [pool for pool in threadpool_info() if pool.get("user_api") == "blas" and "faiss" in pool["filepath"]]
        assert not {pool.get("architecture") for pool in blas} & {"Prescott", "Core2", "Katmai", "Generic"}


def test_a_gpu_that_is_not_there_is_said():
    if faiss_gpu.count_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="FAISS sees no GPU"):
        faiss_gpu.choose_device("cuda")
    assert faiss_gpu.choose_device("auto") == ("cpu", "no GPU is available")


@pytest.mark.parametrize(
    ("room", "text"),
    [(0, r"The index takes 0.0 GB, the GPU has 0.0 GB for it, so the CPU searches"), (10**9, "so the CPU searches")],
)
def test_a_gpu_that_cannot_hold_the_index_leaves_it_to_the_cpu(tmp_path, monkeypatch, room, text):
    """As if there were a GPU: without room for the index, and one that FAISS fails on."""
    if faiss_gpu.count_gpus():
        pytest.skip("there is a GPU")
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), SIM.records(2, 50))
    truth = store.index("cpu").search(SIM.queries(4), 7)
    monkeypatch.setattr(faiss_gpu, "count_gpus", lambda: 1)
    monkeypatch.setattr(faiss_gpu, "free_memory", lambda: room)
    index = store.index("auto")
    assert text in index.note
    np.testing.assert_array_equal(index.search(SIM.queries(4), 7).ids, truth.ids)


class PretendedGpu:
    """The calls of FAISS that the GPU backends make, answered by FAISS on the CPU."""

    METRIC_INNER_PRODUCT = 0

    def __init__(self):
        self.faiss = ivf.load_faiss()
        self.SearchParametersIVF = self.faiss.SearchParametersIVF

    def StandardGpuResources(self):
        return "resources"

    def GpuIndexFlatIP(self, resources, dim):
        return self.faiss.IndexFlatIP(dim)

    def index_cpu_to_gpu(self, resources, device, index):
        return index

    def knn_gpu(self, resources, query, keys, k, metric):
        return self.faiss.knn(query, keys, k, metric=metric)


@pytest.mark.parametrize("backend", ["flat", "inverted"])
def test_the_gpu_backends_find_what_the_oracle_finds(tmp_path, monkeypatch, backend):
    """FAISS's calls are pretended; what is around them (ids, filters, rows that this version lacks) is not."""
    keys, query = SIM.queries(3000, 1), SIM.queries(20, 2)
    monkeypatch.setattr(faiss_gpu, "load_faiss", PretendedGpu)
    parts = grown(tmp_path, keys, ((0, 2900),), "ivf-sq8")
    room = {"flat": 3000 * 24 * 4, "inverted": parts[0].piece.n_bytes}[backend]
    monkeypatch.setattr(faiss_gpu, "free_memory", lambda: room / faiss_gpu.ROOM + 1)
    allowed = np.arange(3000) % 3 > 0
    for live in (((0, 3000),), ((0, 500), (700, 3000))):
        mask = RowRanges(live).mask(3000)
        found_backend, note = faiss_gpu.on_gpu(keys, mask, parts)
        assert f"{'flat' if backend == 'flat' else 'ivf-sq8'} on the GPU" in found_backend.name
        assert bool(note) == (backend == "inverted")
        index = SpotIndex(keys, mask, tie_rank=lambda ids: ids, backend=found_backend)
        for condition in (None, allowed):
            found = index.search(query, 30, allowed=condition)
            truth = index.search(query, 30, allowed=condition, exact=True)
            assert recall_at_k(found.ids, truth.ids) >= (1 if backend == "flat" else 0.98)


@pytest.mark.gpu
def test_the_gpu_gives_the_same_answers():
    if not faiss_gpu.count_gpus():
        pytest.skip("no GPU is available")
    keys, query = SIM.queries(50_000, 1), SIM.queries(300, 2)
    live = np.ones(50_000, dtype=bool)
    backend, note = faiss_gpu.on_gpu(keys, live, [])
    assert note == ""
    on_cpu = in_memory(keys, ((0, 50_000),))
    on_gpu = in_memory(keys, ((0, 50_000),), backend=backend)
    for allowed in (None, np.arange(50_000) % 3 > 0):
        one, other = (index.search(query, 200, allowed=allowed) for index in (on_cpu, on_gpu))
        assert (one.ids == other.ids).all()
        assert (one.similarity == other.similarity).all()

"""Search against brute force: exactness, ties, filters, inverted files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import Simulation
from threadpoolctl import threadpool_info

from mclstexp.errors import FormatError, InputError
from mclstexp.index.search import growth as segments
from mclstexp.index.search import ivf
from mclstexp.index.search import spot_index as search
from mclstexp.index.search.keys import SegmentWriter
from mclstexp.index.search.ranges import RowRanges, merge_ranges
from mclstexp.index.search.segment import LoadedSegment, Segment
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.predict.source import pair_similarity
from mclstexp.storage import sha256_bytes

SIM = Simulation(dim=24)


def unit(n, dim=24, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def brute_force(query, keys, k):
    """The oracle: every query against every key, in float64."""
    product = query.astype(np.float64) @ keys.astype(np.float64).T
    order = np.argsort(-product, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(product, order, axis=1).astype(np.float32)


def in_memory(keys, ranges, *, tie_rank=None, device="cpu"):
    segment = Segment(keys="", keys_sha256="", ranges=ranges)
    return SpotIndex(
        [LoadedSegment(segment, keys)], ranges, dim=keys.shape[1], tie_rank=tie_rank or (lambda ids: ids), device=device
    )


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


def test_cutting_keys_into_segments_changes_nothing(monkeypatch):
    keys, query = SIM.queries(900, 1), SIM.queries(20, 2)
    whole = in_memory(keys, ((0, 900),)).search(query, 40)
    monkeypatch.setattr(search, "KEY_BLOCK", 128)
    pieces = [((600, 900),), ((0, 37), (100, 600)), ((37, 100),)]
    parts = [
        LoadedSegment(Segment("", "", ranges), np.concatenate([keys[a:b] for a, b in ranges])) for ranges in pieces
    ]
    split = SpotIndex(parts, ((0, 900),), dim=24, tie_rank=lambda ids: ids, device="cpu").search(query, 40)
    assert (split.ids == whole.ids).all()
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


def build_inverted(folder, keys, kind, ranges=None):
    with SegmentWriter(folder) as writer:
        writer.add(keys, 0)
    ranges = ranges or ((0, len(keys)),)
    return segments.rebuild(folder, [writer.segment], ranges, kind=kind, dim=keys.shape[1])


def opened(folder, parts, live, dim=24):
    loaded = [LoadedSegment.open(folder, part, dim) for part in parts]
    return SpotIndex(loaded, live, dim=dim, tie_rank=lambda ids: ids, device="cpu")


@pytest.mark.parametrize("kind", ["ivf-sq8", "ivf-fp16", "ivf-flat"])
def test_inverted_files_reach_the_recall_they_record(tmp_path, kind):
    keys, query = SIM.queries(6000, 1), SIM.queries(60, 2)
    (part,) = build_inverted(tmp_path, keys, kind)
    assert part.recall >= 0.99
    assert part.recall_k == 200
    index = opened(tmp_path, [part], ((0, 6000),))
    found = index.search(query, 200, method="inverted")
    truth = index.search(query, 200, method="exact")
    assert segments.recall_at_k(found.ids, truth.ids) >= 0.98
    # What is found is scored exactly, whatever the codes of the inverted file.
    np.testing.assert_array_equal(found.similarity, pair_similarity(query, index.keys, found.ids))


def test_inverted_search_is_never_short_and_its_filter_is_exact(tmp_path):
    keys, query = SIM.queries(6000, 1), SIM.queries(30, 2)
    (part,) = build_inverted(tmp_path, keys, "ivf-sq8")
    index = opened(tmp_path, [part], ((0, 6000),))
    for share in (0.9, 0.3, 0.02):
        allowed = np.random.default_rng(5).random(6000) < share
        found = index.search(query, 100, allowed=allowed, method="inverted")
        assert (found.ids >= 0).all()
        assert allowed[found.ids].all()
        assert all(len(set(row)) == 100 for row in found.ids.tolist())
    few = np.zeros(6000, dtype=bool)
    few[[5, 77, 3000]] = True
    found = index.search(query, 10, allowed=few, method="inverted")
    assert set(map(tuple, np.sort(found.ids[:, :3], axis=1).tolist())) == {(5, 77, 3000)}
    assert (found.ids[:, 3:] == -1).all()


def test_new_rows_join_and_removed_rows_leave_an_inverted_index(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "FLAT_ROWS", 300)
    monkeypatch.setattr(ivf, "EXACT_ROWS", 1000)
    monkeypatch.setattr(search, "EXACT_ROWS", 1000)
    keys = SIM.queries(3000, 1)
    with SegmentWriter(tmp_path) as writer:
        writer.add(keys[:2000], 0)
    parts = segments.update(tmp_path, [writer.segment], ((0, 2000),), choice="auto", dim=24)
    assert [part.kind for part in parts] == ["ivf-sq8"]
    for start in range(2000, 3000, 200):
        with SegmentWriter(tmp_path) as writer:
            writer.add(keys[start : start + 200], start)
        live = ((0, start + 200),)
        parts = segments.update(tmp_path, [*parts, writer.segment], live, choice="auto", dim=24)
    assert sum(part.n_rows for part in parts) == 3000
    assert len([part for part in parts if part.ivf]) >= 2, "what outgrew the flat part has an inverted file"
    live = ((0, 500), (700, 3000))
    index = opened(tmp_path, parts, live)
    assert not index.exact
    found = index.search(SIM.queries(20, 2), 50)
    truth = index.search(SIM.queries(20, 2), 50, method="exact")
    assert not ((found.ids >= 500) & (found.ids < 700)).any()
    assert segments.recall_at_k(found.ids, truth.ids) > 0.97
    assert (RowRanges(live).positions(truth.ids.ravel()) >= 0).all()


def test_small_segments_merge(tmp_path):
    parts: tuple[Segment, ...] = ()
    for number in range(20):
        with SegmentWriter(tmp_path) as writer:
            writer.add(unit(10, seed=number), 10 * number)
        parts = segments.update(tmp_path, [*parts, writer.segment], ((0, 10 * number + 10),), choice="exact", dim=24)
    assert len(parts) <= 5
    index = opened(tmp_path, parts, ((0, 200),))
    np.testing.assert_array_equal(index.keys(np.arange(200)), np.concatenate([unit(10, seed=i) for i in range(20)]))
    for part in parts:
        assert sha256_bytes((tmp_path / part.keys).read_bytes()) == part.keys_sha256


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


def test_damaged_index_files_are_refused(tmp_path):
    (part,) = build_inverted(tmp_path, unit(500), "ivf-sq8")
    (tmp_path / str(part.ivf)).write_bytes(b"rubbish")
    with pytest.raises(FormatError, match="damaged"):
        LoadedSegment.open(tmp_path, part, 24)
    (tmp_path / part.keys).write_bytes(b"short")
    with pytest.raises(FormatError, match="5 bytes, expected 48000"):
        LoadedSegment.open(tmp_path, part, 24)
    (tmp_path / part.keys).unlink()
    with pytest.raises(FormatError, match="missing"):
        LoadedSegment.open(tmp_path, part, 24)


def test_faiss_uses_the_processors_kernels():
    ivf.load_faiss()
    if "avx2" in ivf._cpu_flags():
        blas = [pool for pool in threadpool_info() if pool.get("user_api") == "blas" and "faiss" in pool["filepath"]]
        assert not {pool.get("architecture") for pool in blas} & {"Prescott", "Core2", "Katmai", "Generic"}


def test_a_gpu_that_is_not_there_is_said():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="torch sees no GPU"):
        in_memory(unit(3), ((0, 3),), device="cuda")
    assert in_memory(unit(3), ((0, 3),), device="auto").device == "cpu"


@pytest.mark.gpu
def test_the_gpu_gives_the_same_answers():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU is available")
    keys, query = SIM.queries(50_000, 1), SIM.queries(300, 2)
    on_cpu = in_memory(keys, ((0, 50_000),)).search(query, 200)
    on_gpu = in_memory(keys, ((0, 50_000),), device="cuda").search(query, 200)
    assert (on_cpu.ids == on_gpu.ids).all()
    assert (on_cpu.similarity == on_gpu.similarity).all()

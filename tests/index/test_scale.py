"""What must not grow with a reference: the copy of the expression has a limit, medians are counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.errors import MclstexpWarning
from mclstexp.index.store import depths
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.store import ReferenceStore

SIM = Simulation(n_genes=30, n_panel=20, dim=16)


@settings(max_examples=60, deadline=None)
@given(
    slides=st.lists(st.lists(st.integers(0, 2**40), min_size=1, max_size=9), max_size=7),
    cut=st.integers(1, 5),
    at_a_time=st.integers(1, 8),
)
def test_counted_medians_are_numpys(slides, cut, at_a_time):
    flat = np.array([value for slide in slides for value in slide], dtype=np.int64)
    batches = [flat[i : i + cut] for i in range(0, len(flat), cut)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depths, "ROWS_AT_A_TIME", at_a_time)
        median, of_slide = depths.median_depths(batches, [len(slide) for slide in slides])
    assert median == (np.median(flat) if len(flat) else 0.0)
    assert of_slide.tolist() == [np.median(slide) for slide in slides]


def test_medians_are_read_once_a_version(tmp_path, monkeypatch):
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), SIM.records(3, 20))
    totals = [np.asarray(SIM.record(number, 20).counts.sum(axis=1)).ravel() for number in range(3)]
    for _ in range(2):
        median, of_slide = ReferenceStore.open(tmp_path / "ref").median_depths
        assert median == np.median(np.concatenate(totals))
        assert of_slide.tolist() == [np.median(total) for total in totals]
        monkeypatch.setattr(Snapshot, "spot_batches", None)
    monkeypatch.undo()
    store.add([SIM.record(3, 20)])
    assert len(store.median_depths[1]) == 4, "another version has its own"


@pytest.mark.parametrize(("limit", "said"), [("1e-6", "its limit is 1e-06 GB; MST_COPY_GB=1 makes it"), ("x", "'x'")])
def test_beyond_its_limit_the_copy_is_not_made_and_the_answer_is_the_same(tmp_path, monkeypatch, limit, said):
    monkeypatch.setenv("MST_COPY_GB", limit)
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), SIM.records(3, 40))
    with pytest.warns(MclstexpWarning, match=r"There is no copy of the expression.*read from the table") as warned:
        from_table = retrieve(store, SIM.queries(9), RetrievalConfig(k=15))
    assert said in str(warned[0].message)
    assert not list((tmp_path / "ref" / "derived").glob("expression-*"))
    monkeypatch.delenv("MST_COPY_GB")
    from_copy = retrieve(ReferenceStore.open(tmp_path / "ref"), SIM.queries(9), RetrievalConfig(k=15))
    assert list((tmp_path / "ref" / "derived").glob("expression-*"))
    np.testing.assert_array_equal(from_table.mean, from_copy.mean)
    monkeypatch.setenv("MST_COPY_GB", "0")
    again = retrieve(ReferenceStore.open(tmp_path / "ref"), SIM.queries(9), RetrievalConfig(k=15))
    np.testing.assert_array_equal(again.mean, from_copy.mean)
    assert ReferenceStore.open(tmp_path / "ref").add([SIM.record(5, 40)]).notes, "the next add says that it is partial"

"""What is derived, in a bucket: put there once, fetched by hash, and never believed when it is stale or damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from simulation import Simulation

from mclstexp.index.search import ivf, pieces
from mclstexp.index.store import shared
from mclstexp.index.store.place import Place
from mclstexp.index.store.snapshot import Snapshot
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify
from mclstexp.storage import digested, parse_digested

SIM = Simulation(dim=24)
S3 = pytest.mark.parametrize("where", ["s3"], indirect=True)


@pytest.fixture
def small(monkeypatch):
    """Files as those of a large reference, in little: several of each kind."""
    monkeypatch.setattr(pieces, "PIECE_ROWS", 200)
    monkeypatch.setattr(pieces, "FLAT_ROWS", 90)
    monkeypatch.setattr(shared, "SHARD_BYTES", 200 * 24 * 4)
    monkeypatch.setattr(ivf, "EXACT_ROWS", 0)


def build(uri, n=4, index="ivf-sq8"):
    return ReferenceStore.create(uri, SIM.identity(), SIM.records(n, 100), index=index)


def another_machine(monkeypatch, tmp_path, name="other"):
    """From here on the cache is another, empty one."""
    cache = tmp_path / name
    shutil.rmtree(cache, ignore_errors=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def from_table(monkeypatch):
    """Count what is read from the table of embeddings and counts."""
    read = []
    for name in ("embeddings", "counts"):
        plain = getattr(Snapshot, name)

        def counting(self, row_ids, *rest, plain=plain, name=name):
            read.append((name, len(row_ids)))
            return plain(self, row_ids, *rest)

        monkeypatch.setattr(Snapshot, name, counting)
    return read


def answers(uri, k=40):
    """What a reader finds, by inverted files and in the copy of the expression."""
    store = ReferenceStore.open(uri)
    found = store.index("cpu").search(SIM.queries(20), k)
    assert store.fill_cache() == ""
    values = np.asarray(store.expression_cache.values()[found.ids[:, 0]])
    return found, values, store.median_depths, [part.piece for part in store.pieces()]


def same(one, other):
    np.testing.assert_array_equal(one[0].ids, other[0].ids)
    np.testing.assert_array_equal(one[0].similarity, other[0].similarity)
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_array_equal(one[2][1], other[2][1])
    assert one[2][0] == other[2][0]


@S3
@pytest.mark.usefixtures("small")
def test_a_reader_fetches_what_the_writer_derived_and_reads_no_table_for_it(where, monkeypatch, tmp_path):
    build(where())
    wanted = answers(where())
    names = Place(where()).names("derived")
    assert sum(name.endswith(".bin") for name in names) >= 4
    assert sum(name.endswith(".faiss") for name in names) == len(wanted[3]) == 2
    another_machine(monkeypatch, tmp_path)
    read = from_table(monkeypatch)
    found = answers(where())
    same(found, wanted)
    assert found[3] == wanted[3], "the inverted files are the writer's"
    assert read == []
    before = Place(where()).names("derived")
    answers(where())
    assert Place(where()).names("derived") == before, "a reader puts nothing there"
    assert verify(where()).findings == []


@S3
@pytest.mark.usefixtures("small")
def test_an_add_puts_what_is_new_and_optimize_joins_it(where, monkeypatch, tmp_path):
    store = build(where(), 3)
    first = set(Place(where()).names("derived"))
    for number in range(3, 5):
        store.add([SIM.record(number, 100)])
    assert first - set(Place(where()).names("derived")) == set(), "an add removes nothing"
    another_machine(monkeypatch, tmp_path)
    read = from_table(monkeypatch)
    grown = answers(where())
    assert read == []
    assert (grown[0].ids >= 300).any()
    ReferenceStore.open(where()).optimize()
    names = Place(where()).names("derived")
    assert sum(name.startswith("derived/keys-24/rows-") and name.endswith(".bin") for name in names) <= 5
    assert sum("/pieces-" in name for name in names) == 1
    assert {name.rpartition("/")[2] for name in names if name.endswith(".faiss")} == {
        part.piece.file for part in ReferenceStore.open(where()).pieces()
    }
    another_machine(monkeypatch, tmp_path, "third")
    read.clear()
    fresh = answers(where())
    assert read == []
    np.testing.assert_array_equal(fresh[1][:, 0] >= 0, grown[1][:, 0] >= 0)


KINDS, HOW = (".bin", ".faiss", ".json"), ("gone", "cut", "flipped", "rubbish")


def damage(place, name, how):
    data = place.read(name)
    if how == "gone":
        place.remove(name)
    elif how == "cut":
        place.write(name, data[:-1])
    elif how == "flipped":
        place.write(name, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    else:
        place.write(name, b"rubbish")


@S3
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "how",
    [
        {".bin": "flipped", ".faiss": "cut"},
        {".bin": "gone", ".faiss": "flipped"},
        {".json": "rubbish"},
        *([{kind: how} for kind in KINDS for how in HOW] if os.environ.get("MST_SHARED_FILES") else []),
    ],
    ids=str,
)
def test_what_is_missing_or_damaged_is_derived_from_the_table(where, monkeypatch, tmp_path, how):
    build(where(), 2)
    wanted = answers(where())
    place = Place(where())
    for name in place.names("derived"):
        if Path(name).suffix in how:
            damage(place, name, how[Path(name).suffix])
    another_machine(monkeypatch, tmp_path)
    same(answers(where()), wanted)


@S3
@pytest.mark.usefixtures("small")
def test_a_true_hash_of_another_reference_or_slide_is_not_believed(where, monkeypatch, tmp_path):
    build(where())
    wanted = answers(where())
    place = Place(where())
    for name in place.names("derived"):
        if not name.endswith(".json") or "/rows-" not in name:
            continue
        values = parse_digested(place.read(name))
        if "keys" in name:
            values["key"] = {**values["key"], "reference_id": "0" * 32}
        else:
            values["slides"] = {start: {**slide, "content_hash": "0" * 64} for start, slide in values["slides"].items()}
        place.write(name, digested(values))
    another_machine(monkeypatch, tmp_path)
    read = from_table(monkeypatch)
    same(answers(where()), wanted)
    assert {name for name, _ in read} == {"embeddings", "counts"}


@S3
@pytest.mark.usefixtures("small")
def test_a_download_that_ends_half_way_goes_on_where_it_was(where, monkeypatch, tmp_path):
    build(where())
    wanted = answers(where())
    another_machine(monkeypatch, tmp_path)
    fetched, plain = [], Place.read

    def failing(self, name):
        if name.endswith(".bin"):
            if fetched:
                raise KeyboardInterrupt
            fetched.append(name)
        return plain(self, name)

    store = ReferenceStore.open(where())
    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", failing)
        with pytest.raises(KeyboardInterrupt):
            store.keys.sum()
    monkeypatch.setattr(Place, "read", lambda self, name: (fetched.append(name), plain(self, name))[1])
    same(answers(where()), wanted)
    data = [name for name in fetched if name.endswith(".bin")]
    assert len(data) == len(set(data))


@S3
@pytest.mark.usefixtures("small")
def test_a_bucket_that_refuses_is_said_and_the_commit_stands(where, monkeypatch, tmp_path):
    store = build(where(), 4)

    def full(self, *_):
        raise OSError("When completing multiple part upload: AWS Error ACCESS_DENIED")

    with monkeypatch.context() as patch:
        patch.setattr(Place, "put_file", full)
        report = store.add([SIM.record(number, 100) for number in range(4, 6)])
    assert report.version == 2
    assert any("could not be put there" in note and "refuses access" in note for note in report.notes)
    another_machine(monkeypatch, tmp_path)
    assert (answers(where())[0].ids >= 0).all()


def test_nothing_is_shared_of_a_folder(tmp_path):
    store = build(tmp_path / "ref", 2)
    assert shared.put_derived(store.snapshot, anew=True) == ""
    assert not list((tmp_path / "ref" / "derived").rglob("rows-*"))


def test_records_are_plain_json():
    values = {"b": 1, "a": [1.5, "x"]}
    assert parse_digested(digested(values)) == values
    assert json.loads(digested(values))["a"] == [1.5, "x"]
    assert parse_digested(digested(values)[:-1]) is None
    assert parse_digested(b"[]") is None
    assert parse_digested(b"") is None

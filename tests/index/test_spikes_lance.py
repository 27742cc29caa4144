"""What the store takes for granted of Lance, LanceDB and S3, tried on a table of its own without the store.

When a new version of one of them breaks one of these, the store's promises break with it.
"""

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lance import LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

DIM = 8
BOTH = pytest.mark.parametrize("where", ["local", "s3"], indirect=True)
SCHEMA = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("spot_id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), DIM), nullable=False),
        pa.field("image_embedding", pa.binary(4 * DIM)),
    ],
    metadata={"reference": "1"},
)


def rows(slide, n):
    vectors = np.random.default_rng(len(slide) + n).normal(size=n * DIM).astype(np.float32)
    columns = {
        "slide_id": [slide] * n,
        "spot_id": [str(i) for i in range(n)],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIM),
        "image_embedding": pa.array([None] * n, pa.binary(4 * DIM)),
    }
    return pa.table(columns, schema=SCHEMA)


def fragments(uri, slides, mode="append", schema=SCHEMA):
    data = pa.concat_tables([rows(slide, n) for slide, n in slides]).cast(schema)
    return write_fragments(data, uri, mode=mode, schema=schema, enable_stable_row_ids=True)


def commit(uri, version, operation, message="", **options):
    transaction = Transaction(version, operation, transaction_properties={"message": message})
    return LanceDataset.commit(uri, transaction, enable_stable_row_ids=True, **options)


def change(dataset, slides=(), gone=None, message="", new=None):
    """Append slides and delete one, in one commit that names the first fragment."""
    new = fragments(dataset.uri, slides) if new is None and slides else new or []
    removed, updated = [], []
    for fragment in dataset.get_fragments() if gone else []:
        left = fragment.delete(f"slide_id = '{gone}'")
        if left is None:
            removed.append(fragment.fragment_id)
        elif left.num_deletions != fragment.metadata.num_deletions:
            updated.append(left)
    first = dataset.get_fragments()[0]
    if first.fragment_id not in {*removed, *(left.id for left in updated)}:
        updated.append(first.metadata)
    operation = LanceOperation.Update(removed_fragment_ids=removed, updated_fragments=updated, new_fragments=new)
    return commit(dataset.uri, dataset.version, operation, message)


def ids(dataset):
    """Slide to its ids."""
    table = dataset.to_table(columns=["slide_id"], with_row_id=True)
    found = {}
    for slide, row_id in zip(table["slide_id"].to_pylist(), table["_rowid"].to_pylist(), strict=True):
        found.setdefault(slide, []).append(row_id)
    return found


@pytest.fixture
def dataset(where):
    uri = f"{where()}/spots.lance"
    new = fragments(uri, [("A", 10), ("B", 5)], "create")
    return commit(uri, 0, LanceOperation.Overwrite(SCHEMA, new), "build", max_retries=0)


@BOTH
def test_the_first_commit_carries_message_and_metadata(dataset):
    assert dataset.version == 1
    assert dataset.has_stable_row_ids
    assert dataset.schema.metadata == {b"reference": b"1"}
    assert dataset.read_transaction(1).transaction_properties == {"message": "build"}
    assert dataset.config() == {}, "no clean-up that takes away the history by itself"


@BOTH
def test_a_first_commit_without_retries_replaces_no_table(dataset):
    new = fragments(dataset.uri, [("Z", 1)])
    with pytest.raises(OSError, match="not found"):
        commit(dataset.uri, 0, LanceOperation.Overwrite(SCHEMA, new), max_retries=0)
    assert set(ids(lance.dataset(dataset.uri))) == {"A", "B"}


@BOTH
def test_an_append_and_a_replacement_are_one_commit_each(dataset):
    appended = change(dataset, [("C", 4)], message="add C")
    assert (appended.version, len(appended.versions())) == (2, 2)
    assert appended.read_transaction(2).transaction_properties == {"message": "add C"}
    replaced = change(appended, [("B", 7)], gone="B", message="replace B")
    assert replaced.version == 3
    assert {slide: len(rows) for slide, rows in ids(replaced).items()} == {"A": 10, "C": 4, "B": 7}
    assert {slide: len(rows) for slide, rows in ids(appended).items()} == {"A": 10, "B": 5, "C": 4}, (
        "readers keep theirs"
    )


@BOTH
def test_ids_are_stable_consecutive_and_never_given_out_again(dataset):
    assert ids(dataset) == {"A": list(range(10)), "B": list(range(10, 15))}
    added = change(dataset, [("C", 4)])
    replaced = change(added, [("B", 6)], gone="B")
    wanted = {"A": list(range(10)), "C": list(range(15, 19)), "B": list(range(19, 25))}
    assert ids(replaced) == wanted
    compacted = compact(replaced)
    assert len(compacted.get_fragments()) == 1
    assert compacted.read_transaction(compacted.version).transaction_properties == {"message": "compact"}
    assert ids(compacted) == wanted
    table = compacted.to_table(columns=["slide_id", "_row_created_at_version"], with_row_id=True)
    assert np.all(np.diff(np.asarray(table["_rowid"])) > 0), "rows stay in the order of their ids"
    assert sorted(set(table["_row_created_at_version"].to_pylist())) == [1, 2, 3]
    restored = commit(dataset.uri, compacted.version, LanceOperation.Restore(1), "restore")
    assert ids(restored) == ids(dataset)
    assert ids(change(restored, [("D", 2)]))["D"] == [25, 26]
    overwritten = commit(
        dataset.uri, restored.version + 1, LanceOperation.Overwrite(SCHEMA, fragments(dataset.uri, [("E", 3)]))
    )
    assert ids(overwritten) == {"E": [27, 28, 29]}


def compact(dataset):
    import json

    from lance.fragment import FragmentMetadata
    from lance.optimize import Compaction

    tasks = Compaction.plan(dataset, {"target_rows_per_fragment": 1000}).tasks
    done = [json.loads(task.execute(dataset).json()) for task in tasks]

    def read(name, result):
        return [FragmentMetadata.from_json(json.dumps(item)) for item in result[name]]

    groups = [LanceOperation.RewriteGroup(read("original_fragments", r), read("new_fragments", r)) for r in done]
    return commit(dataset.uri, dataset.version, LanceOperation.Rewrite(groups, []), "compact")


@BOTH
def test_two_commits_from_one_version_cannot_both_pass(dataset):
    """Both name the first fragment, whatever else they do; the fragments of who lost can be committed later."""
    mine, theirs = fragments(dataset.uri, [("C", 4)]), fragments(dataset.uri, [("D", 4)])
    first = change(dataset, new=mine)
    with pytest.raises(CommitConflictError, match="preempted by concurrent transaction"):
        change(dataset, new=theirs)
    assert set(ids(change(first, new=theirs))) == {"A", "B", "C", "D"}


@BOTH
@pytest.mark.parametrize("how", ["remove", "remove the first fragment", "compact", "restore", "rebuild"])
def test_no_commit_passes_over_another_change(dataset, how):
    dataset = change(dataset, [("C", 4)])
    dataset = change(dataset, [("E", 4)])
    mine = fragments(dataset.uri, [("D", 4)])
    if how == "remove":
        change(dataset, gone="C")
    elif how == "remove the first fragment":
        change(change(dataset, gone="A"), gone="B")
    elif how == "compact":
        compact(dataset)
    elif how == "restore":
        commit(dataset.uri, dataset.version, LanceOperation.Restore(2))
    else:
        commit(dataset.uri, dataset.version, LanceOperation.Overwrite(SCHEMA, fragments(dataset.uri, [("Z", 1)])))
    with pytest.raises(CommitConflictError):
        change(dataset, new=mine)


@BOTH
def test_a_rebuild_without_retries_passes_over_nothing(dataset):
    new = fragments(dataset.uri, [("Z", 1)], "overwrite")
    change(dataset, [("C", 4)])
    with pytest.raises(CommitConflictError):
        commit(dataset.uri, 1, LanceOperation.Overwrite(SCHEMA, new), max_retries=0)
    assert ids(commit(dataset.uri, 2, LanceOperation.Overwrite(SCHEMA, new), max_retries=0)) == {"Z": [19]}


@BOTH
def test_many_writers_at_once_all_land(dataset):
    def add(number):
        new = fragments(dataset.uri, [(f"slide{number}", 3)])
        while True:
            try:
                return change(lance.dataset(dataset.uri), new=new).version
            except CommitConflictError:
                continue

    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(add, range(12)))
    assert sorted(versions) == list(range(2, 14))
    found = ids(lance.dataset(dataset.uri))
    assert {slide: len(rows) for slide, rows in found.items()} == {
        "A": 10,
        "B": 5,
        **{f"slide{i}": 3 for i in range(12)},
    }
    assert len({row for rows in found.values() for row in rows}) == 51


def killed(uri):
    write_fragments(rows("C", 5000), uri, mode="append", schema=SCHEMA, enable_stable_row_ids=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_is_killed_leaves_the_version_before_it(dataset):
    """Its fragments belong to no version, and can be told from those that do."""
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(dataset.uri,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = lance.dataset(dataset.uri)
    assert ids(again) == ids(dataset)
    there = set(again.all_files().read_all()["path"].to_pylist())
    tracked = set(again.tracked_files().read_all()["path"].to_pylist())
    (orphan,) = (name for name in there - tracked if name.startswith("data/"))
    assert change(again, [("C", 4)]).version == 2
    assert orphan


@BOTH
def test_tags_and_checkout(dataset):
    change(dataset, [("C", 4)])
    dataset.tags.create("paper", 1)
    with pytest.raises(ValueError, match="already exists"):
        dataset.tags.create("paper", 2)
    assert set(ids(lance.dataset(dataset.uri, version="paper"))) == {"A", "B"}
    dataset.tags.update("paper", 2)
    assert {name: tag["version"] for name, tag in dataset.tags.list().items()} == {"paper": 2}
    dataset.tags.delete("paper")
    assert dataset.tags.list() == {}


@BOTH
def test_lancedb_opens_searches_and_filters_the_table(dataset, where):
    """`embedding` is the only column that it takes for vectors, so it need not be told which to search."""
    change(dataset, [("C", 40)])
    table = lancedb.connect(str(where())).open_table("spots")
    vector = rows("A", 10)["embedding"][3].as_py()
    found = table.search(vector).where("slide_id = 'A'").limit(3).with_row_id(True).to_arrow()
    assert set(found["slide_id"].to_pylist()) == {"A"}
    assert found["_rowid"].to_pylist()[0] == 3
    by_id = table.search(vector).where("_rowid >= 15 AND _rowid < 20", prefilter=True).limit(9).to_arrow()
    assert (set(by_id["slide_id"].to_pylist()), len(by_id)) == ({"C"}, 5)
    batch = table.search([vector, vector]).limit(4).with_row_id(True).to_arrow()
    assert sorted(set(batch["query_index"].to_pylist())) == [0, 1]


def test_columns_that_are_the_same_in_a_slide_cost_nearly_nothing(tmp_path):
    names = [f"{'0123456789abcdef' * 4}{i}" for i in range(40)]
    table = pa.table({"hash": [name for name in names for _ in range(2500)]})
    lance.write_dataset(table, tmp_path / "x.lance", data_storage_version="2.2")
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.lance") if path.is_file())
    assert size / len(table) < 0.2

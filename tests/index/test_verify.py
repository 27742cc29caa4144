"""Verify finds every corruption of every file, and repair mends what can be derived."""

import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.errors import FormatError, InputError
from mclstexp.index.familiarity import reference_scores
from mclstexp.index.search import ivf, pieces
from mclstexp.index.search.ranges import RowRanges
from mclstexp.index.store import fragments
from mclstexp.index.store import table as tables
from mclstexp.index.store.hashes import record_name, record_version
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.files import HINT
from mclstexp.index.verify.run import verify

SIM = Simulation(n_genes=24, n_panel=12, dim=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A reference with a history of every kind of change, a tag, a model, a scale, and an inverted file."""

    def save(folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    root = tmp_path_factory.mktemp("whole") / "ref"
    store = ReferenceStore.create(root, SIM.identity(), SIM.records(3, 12), index="ivf-flat", save_model=save)
    store.add([SIM.record(1, 9, variant=1), SIM.record(4, 12)], replace=True)
    store.tag("good")
    store.remove(slides=["slide0002"])
    store.optimize()
    store.add([SIM.record(7, 5)])
    reference_scores(store, k=3)
    assert verify(root).findings == []
    return root


@pytest.fixture
def root(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "ref")
    return tmp_path / "ref"


def all_files(root):
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".lock"))


def answers(root, version=None):
    found = retrieve(ReferenceStore.open(root, version=version), SIM.queries(5), RetrievalConfig(k=6), device="cpu")
    return found.mean, found.sd, found.neighbours.ids


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "delete", "grow"])
def test_every_corruption_of_every_file_is_found(root, how):
    for path in all_files(root):
        data = path.read_bytes()
        damaged = {
            "flip": bytes([*data[: len(data) // 2], data[len(data) // 2] ^ 0x40, *data[len(data) // 2 + 1 :]]),
            "truncate": data[: len(data) // 2],
            "empty": b"",
            "grow": data + b"\0",
        }
        if how == "delete":
            path.unlink()
        else:
            path.write_bytes(damaged[how])
        name = path.relative_to(root).as_posix()
        if name == HINT and how == "delete":
            expected = True  # derived by Lance from the listing; its absence is a normal state
        elif path.name == "values" and how == "grow":
            expected = True  # rows that no record claims are as good as absent
        elif path.parent.name == "derived" and how == "delete":
            expected = True  # computed again when it is next wanted
        else:
            expected = False
        assert verify(root).ok is expected, f"{how} {name}"
        path.write_bytes(data)
    assert verify(root).findings == []


def test_what_is_derived_or_copied_is_mended(root):
    before, old = answers(root), answers(root, "good")
    version = ReferenceStore.open(root).version
    derived = root / "derived"
    files = {
        "newest version": root / tables.manifest_name(version),
        "old version": root / tables.manifest_name(2),
        "transaction": next(root.glob("spots.lance/_transactions/2-*")),
        "tag": root / "spots.lance/_refs/tags/good.json",
        "hashes": root / record_name(version),
        "keys": derived / "keys-8/values",
        "keys' record": derived / "keys-8/filled.json",
        "inverted file": next(derived.glob("keys-8/ivf-*")),
        "inverted files' record": derived / "keys-8" / pieces.RECORD,
        "expression": next(derived.glob("expression-*/values")),
        "expression's record": next(derived.glob("expression-*/filled.json")),
        "slides": next(derived.glob(f"slides-{version}-*")),
        "scale": next(derived.glob("familiarity-*")),
        "hint": root / HINT,
    }
    for name, path in files.items():
        for data in (b"rubbish", None):
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data)
            report = verify(root, repair=True)
            assert report.ok, f"{name}: {report.findings}"
            assert verify(root).findings == [], name
            for now, then in ((answers(root), before), (answers(root, "good"), old)):
                np.testing.assert_array_equal(now[0], then[0])
                np.testing.assert_array_equal(now[1], then[1])
    np.testing.assert_array_equal(answers(root)[2], before[2])


def test_everything_derived_lost_at_once(root):
    before = answers(root)
    shutil.rmtree(root / "derived")
    assert verify(root).findings == [], "what is derived may be deleted at any time"
    np.testing.assert_array_equal(answers(root)[0], before[0])


def test_what_cannot_be_mended_is_said_and_an_older_version_is_the_way_back(root):
    newest = ReferenceStore.open(root)
    fragment = newest.table.dataset.get_fragments()[-1].metadata.files[0].path
    (root / "spots.lance/data" / fragment).write_bytes(b"rubbish")
    report = verify(root, repair=True)
    assert not report.ok
    (finding,) = report.of("damaged")
    assert fragment in finding.path
    assert "does not use it" not in finding.message
    answers(root, newest.version - 1)
    newest.restore(newest.version - 1)
    report = verify(root)
    assert [found.kind for found in report.findings] == ["damaged"]
    assert "does not use it" in report.findings[0].message


def test_a_lost_old_version_does_not_stop_the_newest(root):
    (root / tables.manifest_name(2)).unlink()
    (root / record_name(2)).unlink()
    store = ReferenceStore.open(root)
    with pytest.raises(InputError, match="no version 2"):
        ReferenceStore.open(root, version=2)
    store.add([SIM.record(8, 5)])
    assert [commit.version for commit in store.history()] == [1, 3, 4, 5, 6]


def test_debris_is_found_and_removed(root):
    debris = [
        "spots.lance/data/orphan.lance",
        "spots.lance/_versions/.tmp_x.manifest",
        "spots.lance/_deletions/0-1-2.arrow",
        "spots.lance/_transactions/9-x.txn",
        "hashes/.tmp-12-00000001.json",
        "genes/.tmp-12-x.tsv",
        "models/other/config.json",
    ]
    derived = ["derived/keys-8/ivf-0123.faiss", "derived/keys-8/.tmp-ivf", "derived/.tmp-1-familiarity-1-1.json"]
    for name in [*debris, *derived]:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    report = verify(root)
    assert sorted(finding.path for finding in report.of("orphan")) == sorted(debris)
    assert sorted(finding.path for finding in report.of("derived")) == sorted(derived)
    assert verify(root, repair=True).ok
    assert verify(root).findings == []


def test_tags_are_checked(root):
    store = ReferenceStore.open(root)
    store.tag("far", 2)
    (root / tables.manifest_name(2)).unlink()
    found = [finding.message for finding in verify(root).of("tag")]
    assert found == [f"tag {name} names version 2, which does not exist" for name in ("far", "good")]


def test_a_tag_that_another_program_made_has_no_hash_yet(root):
    ReferenceStore.open(root).table.dataset.tags.create("theirs", 1)
    assert [finding.kind for finding in verify(root).findings] == ["unhashed"]
    assert verify(root, repair=True).ok
    assert verify(root).findings == []
    assert ReferenceStore.open(root).tags()["theirs"] == 1


def rewrite_spots(root, change):
    """Commit other rows of a slide under valid hashes: what no hash can find."""
    store = ReferenceStore.open(root)
    dataset = store.table.dataset
    rows = dataset.to_table(filter="slide_id = 'slide0004'")
    batch = pa.Table.from_pylist(change(rows.to_pylist()), schema=dataset.schema)
    new = fragments.write(store.place, dataset.schema, batch.to_batches(), "append")
    record_version(store.table.change(new, ["slide0004"], {}))


@pytest.mark.parametrize(
    ("column", "value", "kind", "text"),
    [
        ("embedding", [0.5] + [0.0] * 7, "norm", "not unit vectors"),
        ("image_embedding", None, "norm", "image_embedding"),
        ("total_counts", 1, "counts", "total_counts"),
        ("panel_counts", 1, "counts", "panel_counts"),
        ("count_values", b"\x01", "counts", "cannot be decoded"),
        ("slide_id", "other", "table", "no longer whole slides"),
        ("n_spots", 1, "table", "no longer whole slides"),
        ("patient", "other", "spots", "another patient"),
        ("mpp", None, "spots", "another mpp"),
        ("n_genes", 5, "slides", "another number of genes"),
        ("spot_id", "1x0", "duplicate-spot", "more than once"),
        ("genes_digest", "0" * 64, "table", "gene list .* is missing"),
    ],
)
def test_contradictions_behind_valid_hashes(root, column, value, kind, text):
    rewrite_spots(root, lambda rows: [{**rows[0], column: value}, *rows[1:]])
    found = verify(root).of(kind)
    assert found
    assert any(re.search(text, finding.message) for finding in found)


def test_keys_and_expression_of_other_rows_are_found_and_made_again(root):
    before = answers(root)
    store = ReferenceStore.open(root)
    for held in (store.keys_file, store.expression_cache):
        shutil.rmtree(held.folder)
        held.fill(store.entries, lambda entry, held=held: np.ones((entry.n_spots, held.width)))
    found = verify(root).of("derived")
    assert len(found) == 2 * len(store.entries)
    assert all("are not those of the table" in finding.message for finding in found)
    assert verify(root, repair=True).ok
    assert verify(root).findings == []
    np.testing.assert_array_equal(answers(root)[0], before[0])


def test_an_inverted_file_of_other_rows_is_found(root):
    store = ReferenceStore.open(root)
    (part,) = store.pieces()
    index = ivf.read(part.path, mapped=False)
    index.reset()
    ivf.fill(index, np.tile(SIM.queries(1), (5000, 1)), RowRanges(((1000, 1000 + part.piece.n_rows),)))
    ivf.write(index, part.path)
    values = pieces.read_digested(store.index_folder / pieces.RECORD)
    values["pieces"][0] |= {"sha256": pieces.sha256_file(part.path), "n_bytes": part.path.stat().st_size}
    pieces.write_digested(store.index_folder / pieces.RECORD, values)
    assert ["does not hold the ids" in finding.message for finding in verify(root).findings] == [True]
    assert verify(root, repair=True).ok
    assert verify(root).findings == []


def test_what_is_no_reference(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is not a reference"):
            verify(folder)


def test_a_table_that_cannot_be_opened_at_all(root):
    for path in (root / "spots.lance/_versions").glob("*.manifest"):
        path.write_bytes(b"rubbish")
    with pytest.raises(FormatError, match="run mst verify"):
        ReferenceStore.open(root)
    assert not verify(root).ok
    assert verify(root, repair=True).ok, "every version has a copy"
    assert verify(root).findings == []


@pytest.mark.parametrize("where", ["s3"], indirect=True)
def test_a_reference_in_a_bucket_is_verified_and_mended(where):
    store = ReferenceStore.create(where(), SIM.identity(), SIM.records(3, 12), index="ivf-flat")
    store.add([SIM.record(5, 9)])
    before = answers(where())
    assert verify(where()).findings == []
    fragment = store.table.dataset.get_fragments()[-1].metadata.files[0].path
    debris, version, data = "spots.lance/data/x.lance", tables.manifest_name(2), f"spots.lance/data/{fragment}"
    store.place.write(debris, b"x")
    store.place.write(version, b"rubbish")
    (store.keys_file.folder / "values").write_bytes(b"rubbish")
    assert {finding.path for finding in verify(where()).findings} >= {version}
    assert verify(where(), repair=True).ok
    assert verify(where()).findings == []
    np.testing.assert_array_equal(answers(where())[0], before[0])
    store.place.write(data, store.place.read(data)[:-9])
    assert [finding.path for finding in verify(where()).of("damaged")] == [data]

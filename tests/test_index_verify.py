"""Verify finds every corruption of every file, and repair mends what can be derived."""

import json
import shutil
from dataclasses import replace

import lance
import numpy as np
import pytest
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.errors import FormatError, InputError
from mclstexp.index.familiarity import reference_scores
from mclstexp.index.search import ivf
from mclstexp.index.search.keys import SegmentWriter
from mclstexp.index.store.commit import LANCE_HINT, finish, writing
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.tables import range_condition, table_version
from mclstexp.index.verify.run import verify
from mclstexp.storage import canonical_json, sha256_bytes, sha256_file, write_atomic

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
    reference_scores(store)
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
        if path.name == LANCE_HINT and how == "delete":
            expected = True  # derived by Lance from the listing; its absence is a normal state
        elif path.parent.name.startswith("expression") and path.name == "values.f16" and how == "grow":
            expected = True  # rows that no record claims are as good as absent
        elif path.name.startswith("familiarity") and how == "delete":
            expected = True  # computed again when it is next wanted
        else:
            expected = False
        assert verify(root).ok is expected, f"{how} {path.relative_to(root)}"
        path.write_bytes(data)
    assert verify(root).findings == []


def test_what_is_derived_is_mended(root):
    before, old = answers(root), answers(root, "good")
    store = ReferenceStore.open(root)
    derived = {
        "manifest": root / "manifest.json",
        "record": root / f"history/{store.version:08d}.json",
        "keys": root / store.manifest.segments[0].keys,
        "tree": root / str(store.manifest.segments[0].ivf),
        "expression": next((root / "cache").glob("expression-*/values.f16")),
        "expression record": next((root / "cache").glob("expression-*/filled.json")),
        "scale": next((root / "cache").glob("familiarity-*")),
        "hint": root / "spots.lance/_versions" / LANCE_HINT,
    }
    for name, path in derived.items():
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
    (root / "manifest.json").unlink()
    shutil.rmtree(root / "index")
    shutil.rmtree(root / "cache")
    (root / "index").mkdir()
    report = verify(root, repair=True)
    assert not report.ok, "with its index files gone no record is whole"
    assert "cannot be derived" in report.findings[-1].message


def test_an_index_that_is_lost_for_good_is_built_again(root):
    before = answers(root)
    shutil.rmtree(root / "index")
    shutil.rmtree(root / "cache")
    report = verify(root, repair=True)
    assert report.ok, report.findings
    assert verify(root).findings == []
    np.testing.assert_array_equal(answers(root)[0], before[0])


def test_what_cannot_be_mended_is_said_and_an_older_version_is_the_way_back(root):
    newest = ReferenceStore.open(root)
    fragment = newest._spots.dataset.get_fragments()[-1].metadata.files[0].path
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


def test_a_lost_record_of_an_old_version_does_not_stop_the_newest(root):
    (root / "history/00000002.json").unlink()
    report = verify(root, repair=True)
    assert [finding.kind for finding in report.findings if finding.level == "error"] == ["history"]
    store = ReferenceStore.open(root)
    store.add([SIM.record(8, 5)])
    with pytest.raises(InputError, match="no version 2"):
        ReferenceStore.open(root, version=2)
    with pytest.raises(FormatError, match="record of version 2 is missing"):
        store.history()


def test_debris_is_found_and_removed(root):
    debris = [
        "spots.lance/data/orphan.lance",
        "spots.lance/_versions/.tmp_x.manifest",
        "index/keys-0123.f32",
        "index/.tmp-keys",
        "history/00000099.json",
        ".tmp-12-manifest.json",
        "models/other/config.json",
        "cache/.tmp-1-familiarity-1-1.npy",
    ]
    for name in debris:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "spots-77.lance").mkdir()
    report = verify(root)
    assert sorted(finding.path for finding in report.of("orphan")) == sorted([*debris, "spots-77.lance"])
    assert verify(root, repair=True).ok
    assert verify(root).findings == []


def test_tags_are_checked(root):
    with writing(root, "test") as opened:
        finish(replace_before(opened, tags={"far": 99}), opened.before, message="test")
    assert [finding.message for finding in verify(root).of("tag")] == ["tag far names version 99, which does not exist"]


def replace_before(opened, **values):
    opened.before = replace(opened.before, **values)
    return opened


def rewrite_spots(root, change):
    """Commit other spots under valid hashes: what no hash can find."""
    with writing(root, "test") as opened:
        before = opened.before
        dataset = lance.dataset(str(root / before.spots.path), version=before.spots.version)
        table = dataset.to_table()
        schema = dataset.schema
        dataset.delete(range_condition(((0, 10**9),)))
        rows = change(table.to_pylist())
        batch = type(table).from_pylist(rows, schema=schema)
        version = lance.write_dataset(batch, str(root / before.spots.path), mode="append").version
        finish(opened, replace(before, spots=table_version(root, before.spots.path, version)), message="test")


@pytest.mark.parametrize(
    ("column", "value", "kind", "text"),
    [
        ("embedding", [0.5] + [0.0] * 7, "norm", "not unit vectors"),
        ("image_embedding", None, "norm", "image_embedding"),
        ("total_counts", 1, "counts", "total_counts"),
        ("panel_counts", 1, "counts", "panel_counts"),
        ("count_values", b"\x01", "counts", "cannot be decoded"),
        ("slide_id", "other", "spots", "another slide"),
        ("patient", "other", "spots", "another patient"),
        ("spot_id", "1x0", "duplicate-spot", "more than once"),
        ("row_id", 999, "rows", "not those"),
    ],
)
def test_contradictions_behind_valid_hashes(root, column, value, kind, text):
    rewrite_spots(root, lambda rows: [{**rows[0], column: value}, *rows[1:]])
    found = verify(root).of(kind)
    assert found
    assert text in found[0].message


def test_an_index_of_other_vectors_is_found_and_rebuilt(root):
    before = answers(root)
    with writing(root, "test") as opened:
        (segment, *others) = opened.before.segments
        with SegmentWriter(root) as writer:
            writer.add(SIM.queries(segment.n_rows), 0)
        wrong = replace(writer.segment, ranges=segment.ranges)
        finish(opened, replace(opened.before, segments=(wrong, *others)), message="test")
    assert [finding.kind for finding in verify(root).findings] == ["vector"]
    assert verify(root, repair=True).ok
    assert verify(root).findings == []
    np.testing.assert_array_equal(answers(root)[0], before[0])


def test_an_inverted_file_of_other_rows_is_found(root):
    with writing(root, "test") as opened:
        (segment, *others) = opened.before.segments
        index = ivf.empty_copy(root / segment.ivf)
        ivf.fill(index, SIM.queries(segment.n_rows), np.arange(segment.n_rows) + 1000)
        ivf.write(index, root / "index/ivf-wrong.faiss")
        digest = sha256_file(root / "index/ivf-wrong.faiss")
        wrong = replace(segment, ivf="index/ivf-wrong.faiss", ivf_sha256=digest)
        finish(opened, replace(opened.before, segments=(wrong, *others)), message="test")
    assert [finding.kind for finding in verify(root).findings] == ["index"]
    assert verify(root, repair=True).ok
    assert verify(root).findings == []


def test_a_reference_of_a_newer_format_is_refused_not_repaired(root):
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["format_version"] = 99
    manifest.pop("digest")
    manifest["digest"] = sha256_bytes(canonical_json(manifest).encode())
    write_atomic(root / "manifest.json", json.dumps(manifest).encode())
    for look in (lambda: ReferenceStore.open(root), lambda: verify(root), lambda: verify(root, repair=True)):
        with pytest.raises(FormatError, match="format version 99, this program reads up to 1; update mclstexp"):
            look()


def test_what_is_no_reference(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is not a reference"):
            verify(folder)

"""The store's contract: what is added comes back, what must be refused is, every version stays."""

import os
import shutil
from dataclasses import replace

import lancedb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.errors import ExistsAlreadyError, FormatError, InputError, MclstexpWarning, MismatchError, StorageError
from mclstexp.index.familiarity import familiarity, reference_scores
from mclstexp.index.filter import Filter
from mclstexp.index.store import fragments
from mclstexp.index.store.record import SlideRecord, content_hash
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.table import manifest_name
from mclstexp.index.verify.run import verify
from mclstexp.panel import GenePanel
from mclstexp.slide import SpotTable

SIM = Simulation()
CONFIG = RetrievalConfig(k=12)
BOTH = pytest.mark.parametrize("where", ["local", "s3"], indirect=True)


def records(*numbers, n_spots=20):
    return [SIM.record(number, n_spots) for number in numbers]


@pytest.fixture
def store(where):
    return ReferenceStore.create(where(), SIM.identity(), records(0, 1, 2, 9), message="first", command="mst x")


def answers(store, genes=None, **options):
    """Everything that a prediction shows, apart from row ids and versions."""
    found = retrieve(store, SIM.queries(9), CONFIG, genes=genes, **options)
    return found.mean, found.sd, found.provenance.drop_columns(["row_id"])


def same(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert one[2].equals(other[2])


@BOTH
def test_what_is_added_comes_back(store):
    for number in (0, 1, 2, 9):
        record = SIM.record(number, 20)
        (entry,) = store.find_slide(record.content_hash)
        row_ids = np.arange(*entry.rows)
        table = store.spots(row_ids, ["spot_id", "x_px", "y_px", "array_row", "array_col", "patient", "label"])
        assert table["spot_id"].to_pylist() == record.spot_ids.tolist()
        np.testing.assert_array_equal(np.stack([table["x_px"], table["y_px"]], axis=1), record.xy_px)
        np.testing.assert_array_equal(table["array_row"], record.array_row)
        assert set(table["patient"].to_pylist()) == {record.patient}
        assert table["label"].null_count == 20
        np.testing.assert_array_equal(store.embeddings(row_ids), record.embedding)
        np.testing.assert_array_equal(store.embeddings(row_ids, "image_embedding"), record.image_embedding)
        (piece,) = store.counts(row_ids)
        np.testing.assert_array_equal(piece.counts.toarray(), record.counts.toarray())
        assert store.panels[entry.genes_digest] == record.genes
        assert (entry.mpp, entry.mpp_source, entry.spot_context) == (0.5, "given", "whole slide")
    assert store.n_spots == len(store) == 80
    assert verify(store.root).ok


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row_ids=st.lists(st.integers(0, 79), max_size=30))
def test_spots_come_in_the_asked_order_with_repeats(store, row_ids):
    table = store.spots(np.array(row_ids, dtype=np.int64), ["_rowid", "slide_id"])
    assert table["_rowid"].to_pylist() == row_ids
    names = [store.entries[i].slide_id for i in store.slide_numbers(np.array(row_ids, dtype=np.int64))]
    assert table["slide_id"].to_pylist() == names


def test_unknown_rows_are_refused(store):
    store.remove(slides=["slide0001"])
    for row in (25, 80, -1):
        with pytest.raises(InputError, match=f"Row id {row} is not in version 2"):
            store.spots(np.array([0, row]), ["spot_id"])


@BOTH
def test_lancedb_opens_the_table_and_may_be_asked(store):
    """What docs/store.md shows."""
    table = lancedb.connect(store.root).open_table("spots")
    assert table.count_rows() == 80
    (vector,) = SIM.queries(1)
    found = table.search(vector).where("patient = 'patient0003'").limit(5).to_arrow()
    assert set(found["slide_id"].to_pylist()) == {"slide0009"}
    allowed = np.zeros(store.n_ids, dtype=bool)
    allowed[store.matching("patient = 'patient0003'")] = True
    (nearest,) = store.index("cpu").search(vector[None], 5, allowed=allowed).ids
    assert found["spot_id"].to_pylist() == store.spots(nearest, ["spot_id"])["spot_id"].to_pylist()
    totals = table.search().where("cohort = 'cohort001' AND mpp < 0.6").select(["total_counts"]).to_arrow()
    assert len(totals) == 20
    assert store.lance_table().version == store.version


@pytest.mark.parametrize("condition", ["", "  ", "total_counts > 0; slide_id = 'x'", "1=1; drop table spots"])
def test_a_condition_is_one_condition(store, condition):
    with pytest.raises(InputError, match=r"cannot be used: it (is empty|holds a semicolon)"):
        store.matching(condition)


def test_a_semicolon_in_a_name_is_no_second_condition(store):
    assert len(store.matching("slide_id != 'a;b'")) == 80


def test_labels_and_slides_without_image(where):
    plain = SIM.record(0, 20, image=False)
    labelled = replace(SIM.record(1, 20), labels=np.array(["tumour", "stroma"] * 10))
    store = ReferenceStore.create(where(), SIM.identity(), [plain, labelled])
    assert [entry.has_image for entry in store.slides()] == [False, True]
    assert np.isnan(store.embeddings(np.arange(20), "image_embedding")).all()
    found = retrieve(store, SIM.queries(3), CONFIG, filter=Filter(where="label = 'tumour'"))
    assert set(found.provenance["slide"].to_pylist()) == {"slide0001"}
    assert (found.neighbours.ids[:, 10:] == -1).all()
    assert verify(store.root).ok


@BOTH
def test_adding_one_by_one_gives_the_answers_of_building_at_once(store, where):
    whole = ReferenceStore.create(where("whole"), SIM.identity(), records(2, 9, 0, 5, 1, 7))
    store.add(records(5))
    store.add(records(7))
    same(answers(store, "all"), answers(whole, "all"))


@BOTH
def test_slides_that_are_there_are_skipped_refused_or_replaced(store):
    before = store.version
    report = store.add(records(0, 1))
    assert (report.skipped, report.added, store.version) == (["slide0000", "slide0001"], [], before)
    with pytest.raises(ExistsAlreadyError, match=r"slide0001 is in the reference with other content.*--replace"):
        store.add([SIM.record(5, 20), SIM.record(1, 20, variant=1)])
    assert store.version == ReferenceStore.open(store.root).version == before
    moved = replace(SIM.record(1, 20), patient="someone else")
    with pytest.raises(ExistsAlreadyError, match="patient 'patient0000' of cohort 'cohort000', now 'someone else'"):
        store.add([moved])
    report = store.add([SIM.record(1, 30, variant=1), SIM.record(4, 20)], replace=True)
    assert (report.replaced, report.added) == (["slide0001"], ["slide0004"])
    assert store.version == before + 1
    assert store.n_spots == 80 - 20 + 30 + 20
    assert verify(store.root).ok


def test_probable_duplicates_are_reported(store):
    twin = replace(SIM.record(0, 20), slide_id="another name")
    report = store.add([twin])
    assert report.duplicates == {"another name": ["slide0000"]}
    found = verify(store.root)
    assert found.ok
    assert "another name, slide0000" in found.of("duplicate")[0].message


def test_one_bad_slide_spoils_the_whole_add(store):
    def going_wrong():
        yield SIM.record(5, 20)
        raise FileNotFoundError("the image of slide 6")

    for bad, error, text in (
        (going_wrong(), FileNotFoundError, "the image of slide 6"),
        (iter([SIM.record(5, 20), SIM.record(5, 20)]), InputError, "slide0005 is given twice"),
        (iter([SIM.record(5, 20), Simulation(dim=8).record(6, 20)]), InputError, "length 8, the reference's 32"),
    ):
        with pytest.raises(error, match=text):
            store.add(bad)
    assert ReferenceStore.open(store.root).version == 1
    assert verify(store.root).findings == [], "nothing is left behind"
    assert store.add(records(5)).added == ["slide0005"]


def test_removing(store):
    with pytest.raises(InputError, match="no patient 'nobody'; it has patient0000, patient0003"):
        store.remove(patients=["nobody"])
    with pytest.raises(InputError, match="Nothing was named"):
        store.remove()
    with pytest.raises(InputError, match="leaves no reference"):
        store.remove(cohorts=["cohort000", "cohort001"])
    gone = store.remove(patients=["patient0000"])
    assert [entry.slide_id for entry in gone] == ["slide0000", "slide0001", "slide0002"]
    assert [entry.slide_id for entry in store.slides()] == ["slide0009"]
    assert store.history()[-1].message == "remove slide0000, slide0001, slide0002"


@BOTH
def test_every_version_stays_and_answers_the_same_bits(store):
    first = answers(store)
    store.tag("paper", 1)
    store.add(records(5))
    second = answers(store)
    store.remove(slides=["slide0000"])
    store.optimize()
    for name in (1, "1", "paper"):
        old = ReferenceStore.open(store.root, version=name)
        same(answers(old), first)
        with pytest.raises(InputError, match="mst restore 1"):
            old.add(records(7))
    same(answers(ReferenceStore.open(store.root, version=2)), second)
    store.restore("paper")
    assert store.version == 5
    same(answers(store), first)
    store.restore(2)
    same(answers(store), second)
    store.add(records(7))
    assert [record.version for record in store.history()] == list(range(1, 8))
    assert [record.message for record in store.history()][:4] == ["first", "add", "remove slide0000", "optimize"]
    assert store.history()[0].command == "mst x"
    assert verify(store.root).ok


def test_row_ids_are_never_used_again(store):
    store.add(records(5))
    (gone,) = store.find_slide(SIM.record(5, 20).content_hash)
    store.restore(1)
    store.add(records(7))
    (new,) = store.find_slide(SIM.record(7, 20).content_hash)
    assert new.row_start >= gone.rows[1]


def test_versions_and_tags_that_do_not_exist(store):
    for name, text in ((7, "no version 7; the newest is 1"), (0, "no version 0"), ("nope", "no tag 'nope'")):
        with pytest.raises(InputError, match=text):
            ReferenceStore.open(store.root, version=name)
    with pytest.raises(InputError, match="newest already"):
        store.restore(1)
    with pytest.raises(InputError, match="cannot be used"):
        store.tag("../evil")
    store.tag("a.b")
    with pytest.raises(ExistsAlreadyError, match="for version 1"):
        store.tag("a.b")
    store.add(records(5))
    store.tag("a.b", force=True)
    assert store.tags() == {"a.b": 2}
    with pytest.raises(InputError, match=r"no tag 'c'; tags: a.b"):
        store.untag("c")
    store.untag("a.b")
    assert store.tags() == {}
    assert verify(store.root).findings == []


@BOTH
def test_readers_keep_their_version(store):
    reader = ReferenceStore.open(store.root)
    before = answers(reader)
    late = ReferenceStore.open(store.root)
    store.remove(slides=["slide0000"])
    store.add(records(5, 6))
    store.optimize()
    same(answers(reader), before)
    same(answers(late), before)
    assert late.version == 1


def test_a_build_replaces_only_when_forced_and_stays_restorable(store):
    first = answers(store)
    with pytest.raises(ExistsAlreadyError, match="--force"):
        ReferenceStore.create(store.root, SIM.identity(), records(5))
    rebuilt = ReferenceStore.create(store.root, SIM.identity(), records(5, 0), force=True)
    assert (rebuilt.version, rebuilt.n_spots) == (2, 40)
    assert verify(store.root).ok
    rebuilt.restore(1)
    same(answers(rebuilt), first)
    rebuilt.restore(2)
    again = ReferenceStore.create(store.root, SIM.identity(), records(6), force=True)
    assert [record.version for record in again.history()] == [1, 2, 3, 4, 5]
    same(answers(ReferenceStore.open(store.root, version=1)), first)
    assert verify(store.root).ok


@BOTH
def test_a_build_of_another_model_replaces_the_old_one(where):
    """The length of the embeddings, the panel and the settings may all change; versions before keep theirs."""
    other = Simulation(dim=8, n_panel=20)
    store = ReferenceStore.create(where(), SIM.identity(), records(0, 1))
    rebuilt = ReferenceStore.create(where(), other.identity(), [other.record(0, 20)], force=True)
    assert (rebuilt.identity.embed_dim, len(rebuilt.identity.panel)) == (8, 20)
    assert rebuilt.index("cpu").search(other.queries(2), 3).ids.min() >= 40, "ids are never given out again"
    old = ReferenceStore.open(where(), version=1)
    same(answers(old), answers(store))
    with pytest.raises(MismatchError, match="embedding length 8"):
        rebuilt.check_identity(old.identity)
    assert verify(where()).ok


@pytest.mark.parametrize("what", ["file", "foreign"])
def test_a_build_touches_nothing_of_the_users(tmp_path, what):
    target = tmp_path / "mine"
    if what == "file":
        target.write_text("precious")
    else:
        (target / "spots.lance").mkdir(parents=True)
        (target / "spots.lance" / "precious").write_text("precious")
    for force in (False, True):
        with pytest.raises(ExistsAlreadyError, match=r"is a file|is not a reference"):
            ReferenceStore.create(target, SIM.identity(), records(0), force=force)
    assert (target if what == "file" else target / "spots.lance" / "precious").read_text() == "precious"


def test_a_failed_build_leaves_no_folder(tmp_path):
    def going_wrong():
        yield SIM.record(0, 20)
        raise InputError("no such image")

    for bad, text in ((going_wrong(), "no such image"), ([], "at least one slide")):
        with pytest.raises(InputError, match=text):
            ReferenceStore.create(tmp_path / "ref", SIM.identity(), bad)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="does not exist"):
        ReferenceStore.create(tmp_path / "no" / "ref", SIM.identity(), records(0))
    with pytest.raises(InputError, match="one of auto, exact"):
        ReferenceStore.create(tmp_path / "ref", SIM.identity(), records(0), index="best")


@BOTH
def test_the_model_is_part_of_the_commit(where, tmp_path):
    def save(folder):
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"weights")

    store = ReferenceStore.create(where(), SIM.identity(), records(0), save_model=save)
    assert (store.model_folder / "weights.safetensors").read_bytes() == b"weights"
    again = ReferenceStore.create(where(), SIM.identity(), records(1), save_model=save, force=True)
    assert again.model_folder == store.model_folder
    copy = f"models/{SIM.identity().model_digest[:20]}/weights.safetensors"
    store.place.write(copy, b"damaged")
    assert [finding.kind for finding in verify(store.root).findings] == ["damaged"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_digest": "f" * 64}, "model 000000000000, but this model has ffffffffffff"),
        ({"embed_dim": 64}, "embedding length 32, but this model has 64"),
        ({"panel": GenePanel(("A", "B"))}, r"gene panel .* \(40 genes\), but this model has .* \(2 genes\)"),
        ({"settings": {"patch": {"mpp": 1.0}}}, r'patch \{"mpp":0.5\}, but this model has \{"mpp":1.0\}'),
        ({"settings": {"patch": {"mpp": 0.5}, "spot_context": "6 rings"}}, 'spot context null, .* "6 rings"'),
    ],
)
def test_another_model_is_refused_with_both_values(where, change, text):
    identity = replace(SIM.identity(), settings={"patch": {"mpp": 0.5}})
    store = ReferenceStore.create(where(), identity, records(0))
    store.check_identity(replace(identity))
    with pytest.raises(MismatchError, match=text):
        store.check_identity(replace(identity, **change))


def test_filters_by_patient_slide_and_cohort(store):
    def slides(**names):
        return set(retrieve(store, SIM.queries(9), CONFIG, filter=Filter(**names)).provenance["slide"].to_pylist())

    assert slides(exclude_patients=("patient0000",)) == {"slide0009"}
    assert slides(exclude_slides=("slide0009", "slide0001")) <= {"slide0000", "slide0002"}
    assert slides(only_cohorts=("cohort001",)) == {"slide0009"}
    assert slides(where="array_row < 2 AND slide_id != 'slide0000'") <= {"slide0001", "slide0002", "slide0009"}
    for names, text in (
        ({"exclude_patients": ("nobody",)}, "no patient 'nobody'"),
        ({"only_cohorts": ("nowhere",)}, "no cohort 'nowhere'"),
        ({"where": "colour = 'red'"}, "columns: slide_id, patient"),
        ({"where": "not sql at all ("}, "cannot be used"),
        ({"where": "array_row > 1000"}, "leaves no reference spot"),
        ({"exclude_patients": ("patient0000", "patient0003")}, "leaves no reference spot"),
    ):
        with pytest.raises(InputError, match=text):
            slides(**names)


def test_a_filter_never_leaves_a_query_short(store):
    found = retrieve(store, SIM.queries(9), RetrievalConfig(k=20), filter=Filter(exclude_patients=("patient0000",)))
    assert (found.neighbours.ids >= 0).all()


def test_a_slide_is_found_by_content_and_by_file(store):
    record = SIM.record(9, 20)
    assert [entry.slide_id for entry in store.find_slide(record.content_hash)] == ["slide0009"]
    assert [entry.slide_id for entry in store.find_slide(next(iter(record.sources.values())))] == ["slide0009"]
    assert store.find_slide("f" * 64) == []


def test_genes_by_symbol_and_ensembl(where):
    panel = GenePanel(SIM.genes.symbols, tuple(f"ENSG{i:011d}.3" for i in range(len(SIM.genes))))
    store = ReferenceStore.create(where(), SIM.identity(), [replace(SIM.record(0, 20), genes=panel)])
    found = retrieve(store, SIM.queries(2), CONFIG, genes=["GENE00055", "ENSG00000000003", "GENE00003"])
    assert found.genes.symbols == ("GENE00055", "GENE00003")
    with pytest.raises(InputError, match="'ERBB9' was measured by no slide"):
        retrieve(store, SIM.queries(2), CONFIG, genes=["ERBB9"])


def test_no_queries_and_no_genes(store):
    none = retrieve(store, np.zeros((0, SIM.dim), np.float32), CONFIG)
    assert none.mean.shape == (0, 40)
    assert none.provenance.num_rows == 0
    assert retrieve(store, SIM.queries(2), CONFIG, genes=[]).mean.shape == (2, 0)


def familiar(store, query):
    return familiarity(store, store.index("cpu").search(query, 5))


def test_familiarity_ranks_patches(store):
    rng = np.random.default_rng(0)
    strange = rng.normal(size=(30, SIM.dim)).astype(np.float32)
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    known = familiar(store, SIM.queries(30))
    unknown = familiar(store, strange)
    assert ((known >= 0) & (known <= 100)).all()
    assert np.median(known) > np.median(unknown) + 20
    np.testing.assert_array_equal(familiar(store, SIM.queries(30)), known)
    # The scale: each patch against the slides that are not its own.
    entry = store.slides()[0]
    others = np.ones(80, dtype=bool)
    others[slice(*entry.rows)] = False
    patches = store.embeddings(np.arange(*entry.rows), "image_embedding")
    scores = store.index("cpu").search(patches, 5, allowed=others).similarity.mean(axis=1)
    assert np.isin(scores.astype(np.float32).round(6), reference_scores(store, k=5).round(6)).all()


def test_familiarity_without_a_scale(where):
    alone = ReferenceStore.create(where("a"), SIM.identity(), records(0))
    assert np.isnan(familiar(alone, SIM.queries(3))).all()
    blind = ReferenceStore.create(where("b"), SIM.identity(), [SIM.record(i, 20, image=False) for i in range(2)])
    assert np.isnan(familiar(blind, SIM.queries(3))).all()


def spot_table(record, order, genes):
    return SpotTable(
        record.spot_ids[order],
        record.xy_px[order],
        record.array_row[order],
        record.array_col[order],
        record.counts[order][:, genes],
        record.genes.subset(genes),
    )


def test_the_content_hash_knows_content_and_nothing_else():
    record = SIM.record(0, 20)
    straight = spot_table(record, np.arange(20), np.arange(60))
    turned = spot_table(record, np.arange(20)[::-1], np.arange(60)[::-1])
    assert content_hash(straight) == content_hash(turned)
    assert content_hash(straight) != content_hash(straight, "image")
    assert content_hash(straight) != content_hash(spot_table(record, np.arange(19), np.arange(60)))
    assert content_hash(straight) != content_hash(spot_table(record, np.arange(20), np.arange(59)))
    moved = replace(straight, xy_px=straight.xy_px + 1)
    assert content_hash(straight) != content_hash(moved)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"embedding": np.zeros((20, 32), np.float32)}, "20 of 20 rows are not finite or not of unit length"),
        ({"embedding": np.ones((19, 32), np.float32)}, r"shape \(19, 32\)"),
        ({"image_embedding": np.full((20, 32), np.nan)}, "image_embedding"),
        ({"content_hash": ""}, "content hash"),
        ({"spot_ids": np.array(["a"] * 20)}, "more than once"),
    ],
)
def test_bad_records_are_refused(change, text):
    values = {**SIM.record(0, 20).__dict__, **change}
    with pytest.raises(InputError, match=text):
        SlideRecord(**values)


def test_what_is_not_a_reference(tmp_path, store):
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"is not a reference: it has no table spots.lance"):
            ReferenceStore.open(folder)
    lancedb.connect(tmp_path / "other").create_table("spots", [{"name": "something else"}])
    with pytest.raises(InputError, match="its table was not written by mst build-index"):
        ReferenceStore.open(tmp_path / "other")


def test_what_is_derived_may_be_deleted_at_any_time(store):
    before = answers(store)
    shutil.rmtree(store.derived)
    same(answers(ReferenceStore.open(store.root)), before)
    shutil.rmtree(store.derived)
    store.add(records(5))
    store.restore(1)
    same(answers(store), before)
    assert verify(store.root).findings == []


def test_where_nothing_can_be_kept_answers_are_the_same(store):
    before = answers(store)
    shutil.rmtree(store.derived)
    store.derived.write_text("a file in the way")
    reader = ReferenceStore.open(store.root)
    with pytest.warns(MclstexpWarning, match="There is no copy of the expression.*: .* a file, not a folder"):
        same(answers(reader), before)


def test_an_index_of_another_reference_is_never_used(store, where):
    other = ReferenceStore.create(where("other"), SIM.identity(), records(9, 2, 1, 0))
    before = answers(store)
    shutil.rmtree(store.derived)
    shutil.copytree(other.derived, store.derived)
    same(answers(ReferenceStore.open(store.root)), before)


def test_a_table_that_another_program_changed(store):
    """Rows that are added or taken away by hand are said, not guessed at; the way back is a restore."""
    table = lancedb.connect(store.root).open_table("spots")
    table.add(table.search().where("slide_id = 'slide0000' AND array_row = 0").to_arrow().select(table.schema.names))
    with pytest.raises(FormatError, match="was changed by another program"):
        _ = ReferenceStore.open(store.root).entries
    assert [finding.kind for finding in verify(store.root).findings if finding.level == "error"] == [
        *["unhashed"] * 3,
        "table",
    ]
    ReferenceStore.open(store.root).restore(1)
    assert ReferenceStore.open(store.root).n_spots == 80
    assert "Append by another program" in ReferenceStore.open(store.root).history()[1].message


def test_a_damaged_table_version_is_found_when_opened(store):
    name = manifest_name(1)
    data = bytearray(store.place.read(name))
    data[len(data) // 2] ^= 1
    store.place.write(name, bytes(data))
    damaged = r"version 1 of the table is damaged|newest version of its table cannot be read"
    with pytest.raises(FormatError, match=damaged):
        ReferenceStore.open(store.root).spots(np.array([0]), ["spot_id"])


def test_a_data_file_that_was_cut_short_is_not_committed(tmp_path, monkeypatch):
    """Lance's local writer loses the error of its last write: a full disk cut the file, and the commit went on."""
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), SIM.records(2, 8))
    data = tmp_path / "ref" / "spots.lance" / "data"
    before = sorted(data.iterdir())

    def cut(path):
        if path.parent == data:
            os.truncate(path, path.stat().st_size - 100)

    monkeypatch.setattr(fragments, "sync_file", cut)
    with pytest.raises(StorageError, match="could be written: the disk is full"):
        store.add([SIM.record(4, 8)])
    assert sorted(data.iterdir()) == before
    assert ReferenceStore.open(tmp_path / "ref").version == store.version

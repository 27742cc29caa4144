"""Format versions: what is of another is refused with what helps; the archive of this one is read for ever."""

import json
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.errors import ExistsAlreadyError, FormatError, InputError
from mclstexp.index.store.format import FORMAT_VERSION, METADATA
from mclstexp.index.store.hashes import VersionRecord, record_version
from mclstexp.index.store.place import OWN, Place
from mclstexp.index.store.schema import SlideEntry, spots_schema
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.store.table import Table
from mclstexp.index.verify.run import verify

ARCHIVES = Path(__file__).parents[1] / "archives"
DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
SIM = Simulation(n_genes=24, n_panel=12, dim=8)


def unpacked(version, folder):
    shutil.unpack_archive(ARCHIVES / f"reference-v{version}.zip", folder)
    return folder


def test_a_reference_of_version_1_is_refused_with_the_command_that_builds_it_again(tmp_path):
    root = unpacked(1, tmp_path) / "ref"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    model = next((root / "models").iterdir())
    text = rf"format version 1, this program reads 2; build it again .*: mst build-index REFS --model {model} -o NEW"
    for look in (
        lambda: ReferenceStore.open(root),
        lambda: ReferenceStore.create(root, SIM.identity(), SIM.records(1, 8), force=True),
        lambda: verify(root),
        lambda: verify(root, repair=True),
    ):
        with pytest.raises(FormatError, match=text):
            look()
    with pytest.raises(ExistsAlreadyError, match="exists already"):
        ReferenceStore.create(root, SIM.identity(), SIM.records(1, 8))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_the_archive_gives_the_answers_that_it_gave(tmp_path):
    folder = unpacked(FORMAT_VERSION, tmp_path)
    expected = json.loads((folder / "expected.json").read_text())
    assert verify(folder / "ref").findings == []
    for version, answer in expected.items():
        store = ReferenceStore.open(folder / "ref", version=version)
        query = np.array(answer["query"], dtype=np.float32)
        found = retrieve(store, query, RetrievalConfig(k=6), genes="all", device="cpu")
        mean = np.array([[np.nan if value is None else value for value in row] for row in answer["mean"]])
        np.testing.assert_allclose(found.mean, mean, atol=2e-5)
        assert found.provenance["slide"].to_pylist() == answer["slides"]
        assert found.provenance["spot_id"].to_pylist() == answer["spots"]


def test_version_2_gives_the_answers_of_version_1(tmp_path):
    """Both archives were made of the same slides by the same steps."""
    one, two = (json.loads((unpacked(v, tmp_path / str(v)) / "expected.json").read_text()) for v in (1, 2))
    for version in one:
        for name in ("query", "slides", "spots"):
            assert one[version][name] == two[version][name]
        np.testing.assert_allclose(
            np.array(one[version]["mean"], dtype=float), np.array(two[version]["mean"], dtype=float), atol=1e-4
        )


def test_the_archive_can_grow(tmp_path):
    root = unpacked(FORMAT_VERSION, tmp_path) / "ref"
    store = ReferenceStore.open(root)
    n_spots = store.n_spots
    store.add([SIM.record(8, 7)])
    assert store.n_spots == n_spots + 7
    store.restore("four-slides")
    assert len(store.entries) == 4
    assert verify(root).ok


@pytest.fixture
def store(tmp_path):
    return ReferenceStore.create(tmp_path / "ref", SIM.identity(patch={"mpp": 0.5}), SIM.records(2, 8))


def rewrite(store, change):
    """Commit other metadata, with their hashes."""
    values = json.loads(store.table.metadata[METADATA])
    dataset = lance.dataset(store.place.table_uri)
    dataset.update_schema_metadata({METADATA.decode(): json.dumps(change(values))}, replace=True)
    record_version(Table.open(store.place))


def test_other_formats_are_refused(store):
    rewrite(store, lambda values: {**values, "format_version": 99})
    for look in (
        lambda: ReferenceStore.open(store.root),
        lambda: verify(store.root),
        lambda: verify(store.root, repair=True),
    ):
        with pytest.raises(FormatError, match="format version 99, this program reads 2; update mclstexp"):
            look()


@pytest.mark.parametrize("field", ["format_version", "reference_id", "index", "identity"])
def test_metadata_that_lack_a_field_are_refused(store, field):
    rewrite(store, lambda values: {name: value for name, value in values.items() if name != field})
    with pytest.raises(FormatError, match="the table's metadata is damaged"):
        ReferenceStore.open(store.root)


def test_every_byte_of_the_newest_version_counts(store):
    (path,) = (store.root / "spots.lance/_versions").glob("*.manifest")
    data = path.read_bytes()
    for i in range(0, len(data), 7):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0x04]) + data[i + 1 :])
        with pytest.raises((FormatError, InputError)):
            ReferenceStore.open(store.root)


def test_the_document_names_every_file_and_every_column():
    text = DOCUMENT.read_text()
    names = [*spots_schema(4).names, *OWN, "format_version", "reference_id", "index", "identity"]
    names += [*VersionRecord.__dataclass_fields__, "message", "command", "package_version", "time", "n_slides"]
    assert [name for name in names if f"`{name}" not in text] == []
    derived = {"row_start", "n_spots", "total_counts", "added_version"}
    assert {*SlideEntry.__dataclass_fields__} - derived <= set(spots_schema(4).names)


def test_the_place_of_a_reference():
    assert Place("a/b").root == Path("a/b")
    place = Place("s3://bucket/ref/")
    assert (place.root, place.table_uri) == ("s3://bucket/ref", "s3://bucket/ref/spots.lance")
    assert place.derived("x") != place.derived("y")

"""References of every format version are read for ever; the manifest is checked before it is believed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.errors import FormatError, InputError
from mclstexp.index.search.ranges import merge_ranges
from mclstexp.index.store import manifest as reference_format
from mclstexp.index.store.manifest import FORMAT_VERSION, Manifest, read_manifest
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify
from mclstexp.storage import canonical_json, sha256_bytes

ARCHIVES = Path(__file__).parent / "archives"
SIM = Simulation(n_genes=24, n_panel=12, dim=8)


@pytest.fixture(params=range(1, FORMAT_VERSION + 1))
def archive(request, tmp_path):
    shutil.unpack_archive(ARCHIVES / f"reference-v{request.param}.zip", tmp_path)
    return tmp_path


def test_archives_give_the_answers_that_they_gave(archive):
    expected = json.loads((archive / "expected.json").read_text())
    assert verify(archive / "ref").findings == []
    for version, answer in expected.items():
        store = ReferenceStore.open(archive / "ref", version=version)
        query = np.array(answer["query"], dtype=np.float32)
        found = retrieve(store, query, RetrievalConfig(k=6), genes="all", device="cpu")
        mean = np.array([[np.nan if value is None else value for value in row] for row in answer["mean"]])
        np.testing.assert_allclose(found.mean, mean, atol=2e-5)
        assert found.provenance["slide"].to_pylist() == answer["slides"]
        assert found.provenance["spot_id"].to_pylist() == answer["spots"]


def test_archives_can_grow(archive):
    store = ReferenceStore.open(archive / "ref")
    n_spots = store.n_spots
    store.add([SIM.record(8, 7)])
    assert store.n_spots == n_spots + 7
    store.restore("four-slides")
    assert len(store.entries) == 4
    assert verify(archive / "ref").ok


@pytest.fixture
def store(tmp_path):
    return ReferenceStore.create(tmp_path / "ref", SIM.identity(patch={"mpp": 0.5}), SIM.records(2, 8))


def rewrite(store, change):
    """Write the manifest again with valid digest."""
    path = store.root / "manifest.json"
    values = change(json.loads(path.read_text()))
    values.pop("digest")
    values["digest"] = sha256_bytes(canonical_json(values).encode())
    path.write_text(json.dumps(values, indent=1) + "\n")


def test_the_manifest_comes_back_as_it_was_written(store):
    again = read_manifest(store.root / "manifest.json", store.root)
    assert again.to_bytes() == store.manifest.to_bytes() == (store.root / "manifest.json").read_bytes()
    assert again.identity.differences(store.identity) == []


def test_every_byte_of_the_manifest_counts(store):
    path = store.root / "manifest.json"
    data = path.read_bytes()
    for i in range(0, len(data), 7):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0x04]) + data[i + 1 :])
        with pytest.raises((FormatError, InputError)):
            ReferenceStore.open(store.root)


def test_other_formats_are_refused(store):
    rewrite(store, lambda values: {**values, "format": "something-else"})
    with pytest.raises(FormatError, match="its manifest says 'something-else'"):
        ReferenceStore.open(store.root)
    rewrite(store, lambda values: {**values, "format": "mclstexp-reference", "format_version": 2})
    with pytest.raises(FormatError, match="format version 2, this program reads up to 1; update mclstexp"):
        ReferenceStore.open(store.root)


@pytest.mark.parametrize("field", list(Manifest.__dataclass_fields__))
def test_a_manifest_that_lacks_a_field_is_refused(store, field):
    rewrite(store, lambda values: {name: value for name, value in values.items() if name != field})
    with pytest.raises(FormatError, match="lacks or garbles a field"):
        ReferenceStore.open(store.root)


def test_migrations_run_one_after_the_other(store, monkeypatch):
    """A reference as an older program might have left it: without tags, its command under another name."""

    def rename_command(values):
        values["command"] = values.pop("made_by")
        return values

    def add_tags(values):
        return {**values, "tags": {"old": 1}}

    def older(values):
        values["made_by"] = values.pop("command")
        values.pop("tags")
        return {**values, "format_version": -1}

    rewrite(store, older)
    monkeypatch.setattr(reference_format, "MIGRATIONS", {-1: rename_command, 0: add_tags})
    assert ReferenceStore.open(store.root).tags() == {"old": 1}


def test_every_format_version_has_a_migration_to_the_next():
    assert sorted(reference_format.MIGRATIONS) == list(range(1, FORMAT_VERSION))
    assert all((ARCHIVES / f"reference-v{version}.zip").is_file() for version in range(1, FORMAT_VERSION + 1))


def test_the_document_names_every_field():
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    fields = [*Manifest.__dataclass_fields__, "format", "format_version", "digest"]
    assert [name for name in fields if f"`{name}`" not in text] == []
    from mclstexp.index.store.tables import SLIDES_SCHEMA, spots_schema

    columns = [*SLIDES_SCHEMA.names, *spots_schema(4).names]
    assert [name for name in columns if f"`{name}`" not in text] == []


def test_ranges_join():
    assert merge_ranges([(5, 7), (0, 2), (2, 3), (7, 7), (6, 9)]) == ((0, 3), (5, 9))

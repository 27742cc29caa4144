"""What somebody else publishes is checked before it is used."""

import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Folder, Hub, Site, serving
from references import Library

from mclstexp.data.fetch import download
from mclstexp.errors import DownloadError, FormatError, InputError, MclstexpError, MclstexpWarning, StorageError
from mclstexp.index.published import copy as copies
from mclstexp.index.published.copy import fetch_reference, local_copy
from mclstexp.index.reference import Reference
from mclstexp.storage import sha256_bytes

HTTP = {"allow_http": "true"}


@pytest.fixture(scope="module")
def tree(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "all"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        Reference.open(library.folder, device="cpu", cache=False).publish(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    return tmp_path / "user-cache" / "mclstexp" / "published"


@pytest.fixture
def site(tree: Path, cache: Path) -> Iterator[Site]:
    files = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    with serving(Site(files), Folder) as running:
        yield running


def refused(site: Site, kind: type[MclstexpError], match: str) -> None:
    """Refused in one line; no copy is whole, and nothing was written beside the copies."""
    with pytest.raises(kind, match=match) as caught:
        local_copy(site.endpoint, HTTP)
    assert "\n" not in str(caught.value)
    assert not list(copies.copies_folder().glob("*/*/published.json"))


def listed(site: Site, change: Any) -> None:
    """Change the list of what is published."""
    values = json.loads(site.files["published.json"])
    change(values)
    site.files["published.json"] = json.dumps(values).encode()


def test_another_file_than_the_listed_one_is_not_used(site: Site) -> None:
    name = next(name for name in site.files if "/data/" in name)
    whole = site.files[name]
    site.files[name] = whole[:-1] + bytes([whole[-1] ^ 1])
    refused(site, DownloadError, "is not what was published: .* nothing of it was kept")
    site.files[name] = whole[:-7]
    refused(site, DownloadError, r"cannot be reached|not what was published")
    del site.files[name]
    refused(site, DownloadError, r"does not exist \(404\)")
    site.status["published.json"] = 403
    refused(site, DownloadError, "it is not open to everybody")


@pytest.mark.parametrize(
    "name",
    ["../x", "spots.lance/../../x", "/etc/x", "spots.lance//x", "x", "models", ".lock", "hashes/.hidden", "genes/a\\b",
     "genes/C:x", "published.json", "spots.lance/\u202ex", "genes/" + "a" * 300, "", "README.md/x"],
)  # fmt: skip
def test_no_name_in_the_list_leaves_the_copy(site: Site, name: str) -> None:
    def add(values: dict[str, Any]) -> None:
        values["files"].append({"path": name, "size": 1, "sha256": sha256_bytes(b"x")})

    listed(site, add)
    refused(site, FormatError, "is not to be trusted: published.json")
    assert [path for _, path, _ in site.requests] == ["/published.json"]


@pytest.mark.parametrize("twice", [lambda name: name, str.upper, lambda name: f"{name}/x"])
def test_a_name_that_is_there_twice_is_refused(site: Site, twice: Any) -> None:
    name = next(name for name in site.files if name.startswith("genes/"))
    head = "genes/"
    other = head + twice(name.removeprefix(head))
    listed(site, lambda values: values["files"].append({"path": other, "size": 1, "sha256": "0" * 64}))
    refused(site, FormatError, "is not to be trusted: published.json names a file")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"<html>", "is no published reference: published.json cannot be read"),
        (b"[1]", "is no published reference"),
        (b"[" * 100_000, "is no published reference"),
        (b'{"format": "mclstexp-published", "format_version": 2}', "published in format version 2, this program reads"),
        (b'{"format": "mclstexp-published", "format_version": 1}', "is not to be trusted: published.json is damaged"),
        (b'{"format": "mclstexp-published", "format_version": 1, "files": [{"path": 1}]}', "damaged or forged"),
        (b'{"format": "mclstexp-published", "format_version": 1, "files": []}', "damaged or forged"),
    ],
)
def test_a_list_that_is_none_is_one_line(site: Site, text: bytes, match: str) -> None:
    site.files["published.json"] = text
    refused(site, FormatError, match)


def test_sizes_are_held_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in site.files if name.startswith("genes/"))
    whole = site.files[name]
    site.files[name] = whole + b"x" * 30_000_000
    refused(site, DownloadError, "is not what was published")
    site.files[name] = whole

    def huge(size: int) -> Any:
        return lambda values: next(file for file in values["files"] if file["path"] == name).update(size=size)

    listed(site, huge(2**49))
    refused(site, StorageError, r"has 5\d\d.* to fetch, and .* are free")
    listed(site, huge(2**60))
    refused(site, FormatError, "damaged or forged")
    listed(site, huge(-1))
    refused(site, FormatError, "damaged or forged")
    monkeypatch.setattr("mclstexp.index.published.sources.MOST_BYTES", 100)
    refused(site, DownloadError, "has over 100 bytes")


@pytest.mark.parametrize(
    ("uri", "match"),
    [
        ("http://example.org/ref", "is not encrypted; allow it with --storage-option allow_http=true"),
        ("https://me:secret@example.org/ref", "^https://example.org: credentials do not belong into an address"),
        ("https://example.org/ref?token=x", "is written https://host/folder"),
        ("https://example.org/../x", "is written https://host/folder"),
        ("https://", "is written https://host/folder"),
        ("hf://lab", "is written hf://owner/name@revision"),
        ("hf://lab/../x", "is written hf://owner/name@revision"),
        ("hf://lab/x@../y", "is written hf://owner/name@revision"),
        ("hf://lab/x/y", "is written hf://owner/name@revision"),
    ],
)
def test_an_address_is_encrypted_and_holds_no_secret(uri: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        Reference.open(uri)
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="of no use for hf://"):
        Reference.open("hf://lab/x", storage_options={"aws_region": "x"})
    with pytest.raises(InputError, match=r"http://example.org is not encrypted"):
        Reference.open("hf://lab/x", storage_options={"endpoint": "http://example.org"})


def test_another_server_is_not_followed(site: Site) -> None:
    name = next(name for name in site.files if name.startswith("genes/"))
    with serving(Site(dict(site.files)), Folder) as other:
        for path in (name, "published.json"):
            site.moved = {path: f"{other.endpoint}/{path}"}
            refused(site, DownloadError, "leads to another server, http://127.0.0.1:")
            assert other.requests == []
    site.moved = {name: "file:///etc/passwd"}
    refused(site, DownloadError, "leads to another server|refused|cannot be reached")


def test_a_link_in_a_published_folder_is_not_copied(tree: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tree, tmp_path / "sent")
    inner = next((tmp_path / "sent" / "genes").iterdir())
    inner.rename(tmp_path / "secret")
    inner.symlink_to(tmp_path / "secret")
    with pytest.raises(DownloadError, match=r"is not to be trusted: .* is a link or missing"):
        fetch_reference(tmp_path / "sent", tmp_path / "own")
    inner.unlink()
    with pytest.raises(DownloadError, match="is a link or missing"):
        fetch_reference(tmp_path / "sent", tmp_path / "own")
    assert not (tmp_path / "own").exists()
    with pytest.raises(InputError, match=r"is no published reference: it has no published.json"):
        fetch_reference(tmp_path, tmp_path / "own")


@pytest.mark.parametrize(("status", "match"), [(403, "accept its licence at"), (401, "hf auth login"), (404, "check")])
def test_a_dataset_that_is_gated_is_one_line(cache: Path, status: int, match: str) -> None:
    with serving(Site({}), Hub) as hub:
        hub.status["/api/datasets/"] = status
        with pytest.raises(DownloadError, match=match) as caught:
            Reference.open("hf://lab/x", storage_options={**HTTP, "endpoint": hub.endpoint})
        assert "\n" not in str(caught.value)
    assert not list(cache.glob("*/*/published.json"))


def test_a_pickle_for_a_model_is_not_run(site: Site, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "run",)

    name = next(name for name in site.files if name.endswith(".safetensors"))
    site.files[name] = pickle.dumps(Evil())

    def forge(values: dict[str, Any]) -> None:
        entry = next(file for file in values["files"] if file["path"] == name)
        entry.update(size=len(site.files[name]), sha256=sha256_bytes(site.files[name]))

    listed(site, forge)
    with pytest.raises(FormatError, match=r"is damaged: weights.safetensors has hash"):
        _ = Reference.open(site.endpoint, storage_options=HTTP, device="cpu").model
    assert not (tmp_path / "run").exists()

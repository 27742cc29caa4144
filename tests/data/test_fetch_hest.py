"""Fetching samples of HEST-1k through the hub's client, from a hub on loopback."""

import socket

import pytest
from huggingface_hub import constants as hub_constants
from layouts import save_hest
from loopback import Hub, Site, serving

from mclstexp.data.fetch import HestFilter, download, fetch_hest
from mclstexp.data.readers import read_slides
from mclstexp.errors import DownloadError, InputError, MclstexpWarning


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Two tables, and a sample of each of two organs, one without its metadata."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
    made = save_hest(tmp_path / "made")
    rows = "id,organ,species,st_technology,oncotree_code,patient\nTENX1,Breast,Homo sapiens,Visium,IDC,Patient 3\n"
    files = {
        "HEST_v1_1_0.csv": (rows + "TENX2,Kidney,Mus musculus,Xenium,,\n").encode(),
        "HEST_v1_0_10.csv": b"id\nOLD\n",
        "README.md": b"#",
        "st/TENX1.h5ad": (made / "st" / "TENX1.h5ad").read_bytes(),
        "wsis/TENX1.tif": (made / "wsis" / "TENX1.tif").read_bytes(),
        "metadata/TENX1.json": b'{"patient": "Patient 3"}',
        "patches/TENX1.h5": b"large",
        "st/TENX2.h5ad": b"other",
    }
    with serving(Site(files), Hub) as site:
        yield site


def _files(folder):
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not path.parts[0].startswith("."))


def test_an_organ_is_fetched_and_read(hub, tmp_path):
    seen = []
    folder = tmp_path / "refs" / "hest"
    done = fetch_hest(folder, HestFilter(organ="breast"), endpoint=hub.endpoint, on_progress=lambda *a: seen.append(a))
    assert _files(folder) == ["HEST_v1_1_0.csv", "metadata/TENX1.json", "st/TENX1.h5ad", "wsis/TENX1.tif"]
    assert (done.fetched, done.kept, seen[-1]) == (3, 1, ("fetching", 4, 4))  # the table was fetched to choose by
    (slide,) = read_slides(tmp_path / "refs")
    assert (slide.slide_id, slide.patient, slide.layout) == ("TENX1", "Patient 3", "hest")
    asked = len(hub.asked("TENX1.tif"))
    assert fetch_hest(folder, HestFilter(ids=("TENX1",)), endpoint=hub.endpoint).kept == 4
    assert len(hub.asked("TENX1.tif")) == asked
    (folder / "st" / "TENX1.h5ad").write_bytes(b"half")
    assert fetch_hest(folder, HestFilter(organ="Breast"), images=False, endpoint=hub.endpoint).fetched == 1
    assert (folder / "st" / "TENX1.h5ad").read_bytes() == hub.files["st/TENX1.h5ad"]


def test_a_dry_run_lists_files_and_bytes(hub, tmp_path):
    with pytest.warns(MclstexpWarning, match=r"lacks 2 files of these samples \(metadata/TENX2.json, wsis/TENX2.tif\)"):
        done = fetch_hest(tmp_path / "h", HestFilter(organ="Kidney"), endpoint=hub.endpoint, dry_run=True)
    assert {file.path: file.size for file in done.files} == {
        "HEST_v1_1_0.csv": len(hub.files["HEST_v1_1_0.csv"]), "st/TENX2.h5ad": 5,
    }  # fmt: skip
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(
    ("which", "match"),
    [
        (HestFilter(organ="Brian"), r"No sample of HEST-1k has organ 'Brian' \(--organ\); there are Breast, Kidney"),
        (HestFilter(organ="Breast", species="Mus musculus"), r"species 'Mus musculus' .*there are Homo sapiens"),
        (HestFilter(ids=("X",)), "HEST-1k has no sample 'X'; it has TENX1, TENX2"),
    ],
)
def test_a_choice_of_nothing_names_what_there_is(hub, tmp_path, which, match):
    with pytest.raises(InputError, match=match):
        fetch_hest(tmp_path / "h", which, endpoint=hub.endpoint)


@pytest.mark.parametrize("place", ["/tree/", "/resolve/"])
@pytest.mark.parametrize("status", [401, 403])
def test_without_licence_or_token_the_line_says_what_to_do(hub, tmp_path, place, status):
    hub.status[place] = status
    with pytest.raises(DownloadError, match=r"accept its licence at https://huggingface.co/.*hf auth login") as caught:
        fetch_hest(tmp_path / "h", HestFilter(organ="Breast"), endpoint=hub.endpoint)
    assert "\n" not in str(caught.value)


def test_content_that_is_wrong_is_not_kept(hub, tmp_path, monkeypatch):
    entry = Hub.entry
    monkeypatch.setattr(Hub, "entry", lambda self, name: {**entry(self, name), "lfs": {
        "oid": "0" * 64, "size": len(hub.files[name]), "pointerSize": 130}})  # fmt: skip
    with pytest.raises(DownloadError, match="is not what the hub says"):
        fetch_hest(tmp_path / "h", HestFilter(organ="Breast"), endpoint=hub.endpoint)
    assert _files(tmp_path / "h") == []


def test_a_file_that_breaks_off_is_fetched_whole(hub, tmp_path):
    get = Hub.file
    cuts = iter([300])

    def cut_once(self, data, **headers):
        if len(data) > 600:
            self.site.cut_after = next(cuts, None)
        get(self, data, **headers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hub, "file", cut_once)
        fetch_hest(tmp_path / "h", HestFilter(organ="Breast"), endpoint=hub.endpoint)
    for name in _files(tmp_path / "h"):
        assert (tmp_path / "h" / name).read_bytes() == hub.files[name]


def test_without_network_it_is_one_line_at_once(tmp_path, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError, match=r"cannot be reached \(.*name resolution\); check the network"):
        fetch_hest(tmp_path / "h", HestFilter(organ="Breast"), endpoint="https://huggingface.co")

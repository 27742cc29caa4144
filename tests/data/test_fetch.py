"""Fetching the HER2+ cohort: whole files with the right content, or one line; what was interrupted goes on."""

import errno
import socket

import pytest
from layouts import make_her2st
from loopback import GitHub, Site, git_sha1, serving

from mclstexp.data.fetch import download, fetch_her2st
from mclstexp.data.fetch.download import RemoteFile, fetch_files
from mclstexp.data.readers import read_slides
from mclstexp.errors import DownloadError, ExistsAlreadyError, InputError, MclstexpWarning, StorageError

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setattr(download, "_BLOCK", 4096)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def cohort(tmp_path):
    """Two sections as the repository has them, served: data/ for most, res/ for labels, other files beside them."""
    root = make_her2st(tmp_path / "made", names=("A1", "B2"))
    files = {f"data/{path.relative_to(root).as_posix()}": path.read_bytes() for path in root.rglob("*.*")}
    files["res/ST-pat/lbl/A1_labeled_coordinates.tsv"] = b"x\ty\tlabel\n0\t0\tDCIS\n"
    files["res/ST-pat/lbl/J1_labeled_coordinates.tsv"] = b"x\ty\tlabel\n"
    files["README.md"] = b"#"
    files["res/ST-cluster/markers/de_markers.xlsx"] = b"x"
    with serving(Site(files), GitHub) as site:
        yield site


@pytest.fixture
def one():
    with serving(Site({"f.bin": CONTENT}), GitHub) as site:
        yield site


def _file(site, **facts):
    facts = {"size": len(CONTENT), "git_sha1": git_sha1(CONTENT), **facts}
    return RemoteFile("sub/f.bin", f"{site.endpoint}/o/r/HEAD/f.bin", **facts)


def _files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_cohort_is_fetched_and_read(cohort, tmp_path):
    seen = []
    folder = tmp_path / "refs" / "her2st"
    with pytest.warns(MclstexpWarning, match=r"5 files \(.*\) are others than those that this program was developed"):
        done = fetch_her2st(folder, endpoint=cohort.endpoint, on_progress=lambda *a: seen.append(a))
    assert _files(done.folder) == [
        "ST-cnts/A1.tsv.gz", "ST-cnts/B2.tsv.gz", "ST-imgs/A/A1/whatever.jpg", "ST-pat/lbl/A1_labeled_coordinates.tsv",
        "ST-spotfiles/A1_selection.tsv", "ST-spotfiles/B2_selection.tsv",
    ]  # fmt: skip
    assert (done.fetched, done.kept) == (6, 0)
    assert seen[-1] == ("kB fetched", done.size // 1000, done.size // 1000)
    a1, b2 = read_slides(tmp_path / "refs")
    assert (a1.image is not None, a1.spots.labels.tolist()[:2], b2.patient) == (True, ["DCIS", ""], "B")
    asked = len(cohort.requests)
    with pytest.warns(MclstexpWarning):
        again = fetch_her2st(done.folder, endpoint=cohort.endpoint)
    assert (again.fetched, again.kept, len(cohort.requests)) == (0, 6, asked + 1)  # the list alone


def test_sections_are_chosen_and_a_dry_run_fetches_nothing(cohort, tmp_path):
    done = fetch_her2st(tmp_path / "h", slides=["B2"], endpoint=cohort.endpoint, dry_run=True)
    assert [file.path for file in done.files] == ["ST-cnts/B2.tsv.gz", "ST-spotfiles/B2_selection.tsv"]
    assert not (tmp_path / "h").exists()
    with pytest.raises(InputError, match="no section 'Z9'; it has A1, B2"):
        fetch_her2st(tmp_path / "h", slides=["Z9"], endpoint=cohort.endpoint)


def test_a_download_that_breaks_off_goes_on_where_it_stopped(one, tmp_path):
    one.cut_after = 100_000
    assert fetch_files([_file(one)], tmp_path).fetched == 1
    assert one.asked("f.bin") == [None, "bytes=100000-"]
    assert (tmp_path / "sub" / "f.bin").read_bytes() == CONTENT
    assert _files(tmp_path) == ["sub/f.bin"]


def test_the_next_run_goes_on_where_this_one_was_stopped(one, tmp_path, monkeypatch):
    def stop(step, done, total):
        if done > 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_files([_file(one)], tmp_path, on_progress=stop)
    part = tmp_path / ".parts" / "sub" / "f.bin"
    held = part.stat().st_size
    assert _files(tmp_path) == [".parts/sub/f.bin"]
    assert 0 < held < len(CONTENT)
    fetch_files([_file(one)], tmp_path)
    assert one.asked("f.bin")[-1] == f"bytes={held}-"
    assert (tmp_path / "sub" / "f.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("begin", [b"other" * 100, CONTENT + b"more", CONTENT, b""])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_another_version_is_no_harm(one, tmp_path, begin, ranges):
    one.ranges = ranges
    part = tmp_path / ".parts" / "sub" / "f.bin"
    part.parent.mkdir(parents=True)
    part.write_bytes(begin)
    fetch_files([_file(one)], tmp_path)
    assert (tmp_path / "sub" / "f.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("facts", [{"git_sha1": "0" * 40}, {"sha256": "0" * 64, "git_sha1": None}, {"size": 7}])
def test_content_that_is_wrong_is_not_kept(one, tmp_path, facts):
    with pytest.raises(DownloadError, match=r"f.bin is not what was published: .* nothing of it was kept") as caught:
        fetch_files([_file(one, **facts)], tmp_path)
    assert "\n" not in str(caught.value)
    assert _files(tmp_path) == []


def test_what_is_there_is_not_replaced_unasked(one, tmp_path):
    target = tmp_path / "sub" / "f.bin"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(ExistsAlreadyError, match="another file than the published one; --force replaces it"):
        fetch_files([_file(one)], tmp_path)
    assert target.read_bytes() == b"mine"
    fetch_files([_file(one)], tmp_path, force=True)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "match", "attempts"),
    [
        (404, r"f.bin does not exist \(404\)", 1),
        (403, r"refused \(403 .*too many requests", 1),
        (500, "127.0.0.1 cannot be reached", download.ATTEMPTS),
    ],
)
def test_refusals_are_one_line(one, tmp_path, status, match, attempts):
    one.status["f.bin"] = status
    with pytest.raises(DownloadError, match=match) as caught:
        fetch_files([_file(one)], tmp_path)
    assert "\n" not in str(caught.value)
    assert len(one.requests) == attempts
    assert _files(tmp_path) == []


def test_a_server_that_always_breaks_off_ends_in_one_line_and_keeps_what_came(one, tmp_path, monkeypatch):
    monkeypatch.setattr(type(one), "cut_after", property(lambda self: 50_000, lambda self, value: None), raising=False)
    del one.__dict__["cut_after"]
    with pytest.raises(DownloadError, match="What came is kept; the same command goes on from there"):
        fetch_files([_file(one)], tmp_path)
    assert (tmp_path / ".parts" / "sub" / "f.bin").stat().st_size == 50_000 * download.ATTEMPTS


def test_without_network_it_is_one_line_at_once(tmp_path, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        DownloadError, match=r"api.github.com cannot be reached \(.*name resolution\); check the network"
    ):
        fetch_her2st(tmp_path / "h")
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("endpoint", ["nowhere", "ftp://example.org", "file:///etc"])
def test_an_endpoint_that_is_none(tmp_path, endpoint):
    with pytest.raises(DownloadError, match="is no address of the web"):
        fetch_her2st(tmp_path / "h", endpoint=endpoint)


def test_a_list_that_is_none(cohort, tmp_path, monkeypatch):
    for answer in ({"message": "Not Found"}, ["a"], {"tree": [], "truncated": True}):
        monkeypatch.setattr(GitHub, "do_GET", lambda self, answer=answer: self.json(answer))
        with pytest.raises(DownloadError, match="did not list the files of almaan/her2st"):
            fetch_her2st(tmp_path / "h", endpoint=cohort.endpoint)
    monkeypatch.setattr(GitHub, "do_GET", lambda self: self.answer(200, b"<html>"))
    with pytest.raises(DownloadError, match="something else than GitHub's list"):
        fetch_her2st(tmp_path / "h", endpoint=cohort.endpoint)


def test_a_full_disk_is_one_line_and_nothing_half_written(one, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        fetch_files([_file(one)], tmp_path)
    assert not (tmp_path / "sub" / "f.bin").exists()


def test_from_a_copy(tmp_path):
    make_her2st(tmp_path / "clone" / "data", names=("A1", "C4"))  # of C4 no hash is known
    with pytest.warns(MclstexpWarning, match=r"no hash known for 2 files \(ST-cnts/C4.tsv.gz, .*: unchecked"):
        done = fetch_her2st(tmp_path / "h", source=tmp_path / "clone", slides=["C4"])
    assert _files(done.folder) == ["ST-cnts/C4.tsv.gz", "ST-spotfiles/C4_selection.tsv"]


def test_a_copy_that_is_not_what_was_published_is_refused(tmp_path):
    make_her2st(tmp_path / "clone", names=("A1",))  # A1's counts are made up, and their SHA-256 is known
    with (
        pytest.raises(DownloadError, match=r"ST-cnts/A1.tsv.gz is not what was published"),
        pytest.warns(MclstexpWarning),
    ):
        fetch_her2st(tmp_path / "h", source=tmp_path / "clone")
    with pytest.raises(InputError, match="holds no files of the HER2\\+ cohort"):
        fetch_her2st(tmp_path / "h", source=tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        fetch_her2st(tmp_path / "h", source=tmp_path / "none")


@pytest.mark.shared
def test_the_real_copy_is_what_was_published(shared, tmp_path):
    done = fetch_her2st(tmp_path / "h", source=shared / "her2st", slides=["C6"])
    assert (done.fetched, [file.path.split("/")[0] for file in done.files]) == (
        4, ["ST-cluster", "ST-cnts", "ST-imgs", "ST-spotfiles"],
    )  # fmt: skip
    assert all(file.sha256 for file in done.files)


def test_a_file_that_is_shorter_than_it_says_is_refused(one, tmp_path):
    with pytest.raises(DownloadError, match="is not what was published"):
        fetch_files([_file(one, size=len(CONTENT) + 7)], tmp_path)
    assert _files(tmp_path) == []
